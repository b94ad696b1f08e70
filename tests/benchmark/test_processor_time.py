"""Processor time goes to the program that spent it, or to whoever started what has no name."""

import subprocess
import sys
import time

from workers.benchmark.processor_time import seconds_by_program, since

_SPENDS = """
import subprocess, sys, time
if sys.argv[1:]:
    subprocess.run([sys.executable, "-c", sys.argv[1]])
while time.process_time() < 0.2: pass
print(flush=True)
time.sleep(60)
"""
_ENDS = "import time\nwhile time.process_time() < 0.2: pass"


def test_a_worker_s_time_is_its_own_and_its_decoder_s_with_it() -> None:
    before = seconds_by_program()
    worker = subprocess.Popen(
        [sys.executable, "-c", _SPENDS, _ENDS, "-n", "deidentify-2@here"], stdout=subprocess.PIPE
    )
    try:
        assert worker.stdout is not None
        worker.stdout.readline()
        spent = since(before)
    finally:
        worker.kill()
        worker.wait()
        worker.stdout.close() if worker.stdout else None

    assert spent["deidentify"] >= 0.35
    assert spent["this"] < spent["deidentify"]


def test_own_time_is_counted_under_no_program() -> None:
    before = seconds_by_program()
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass

    assert since(before)["this"] >= 0.08
