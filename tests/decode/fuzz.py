"""Decode damaged files for a long while: `python -m tests.decode.fuzz FILES SEED [KEEP]`.

Prints the counts, and every file that was not answered as it should be: by pixels or a typed
reason, in 5 s. Such files are written into the folder KEEP.
"""

import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

from retrieval.errors import Rejected
from tests.decode import mutations, samples
from workers.decode import sandbox

ANSWER_S = 5.0


def main() -> None:
    files, seed = int(sys.argv[1]), int(sys.argv[2])
    keep = Path(sys.argv[3]) if len(sys.argv) > 3 else None
    seeds = mutations.seeds()
    good = samples.picture("astronaut.png")
    sandbox.decode(good)  # the decoder's own start is no file's time
    verdicts: Counter[str] = Counter()
    bad = 0
    slowest = 0.0
    started = time.monotonic()
    for number in range(files):
        random = Random(f"{seed}/{number}")  # noqa: S311 - to be repeated
        name = random.choice(sorted(seeds))
        content = mutations.damaged(seeds[name], seeds[random.choice(sorted(seeds))], random)
        begun = time.monotonic()
        try:
            sandbox.decode(content)
            verdict = "pixels"
        except Rejected as exc:
            verdict = exc.reason.value
        except Exception as exc:  # noqa: BLE001 - this is what is looked for
            verdict = f"UNTYPED {type(exc).__name__}"
        seconds = time.monotonic() - begun
        slowest = max(slowest, seconds)
        verdicts[verdict] += 1
        if seconds > ANSWER_S or verdict.startswith("UNTYPED"):
            bad += 1
            sys.stdout.write(f"{number}: {name}: {verdict} after {seconds:.2f} s\n")
            if keep:
                (keep / f"{seed}-{number}").write_bytes(content)
        if number % 500 == 499:
            assert sandbox.decode(good).pixels.shape == (512, 512, 3)
            sys.stdout.write(f"{number + 1} files, {time.monotonic() - started:.0f} s\n")
            sys.stdout.flush()
    sys.stdout.write(f"{files} files, {bad} bad, slowest {slowest:.2f} s, {dict(verdicts)}\n")
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
