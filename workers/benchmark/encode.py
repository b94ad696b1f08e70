"""Encoders: words and pictures, how near a worker comes to what its device can do, what cheaper
arithmetic gains and costs; and unpacking, which comes before."""

import csv
import io
import json
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import safetensors.torch
import skimage
import torch
from PIL import Image

from workers import cores
from workers.benchmark.table import Cell, Setting, Table
from workers.decode.sandbox import decode, decode_reduced
from workers.encode import precision
from workers.encode.batches import Load, batch_size, under_way_together, vectors_of
from workers.encode.device import best_device, share_cores
from workers.encode.encoder import Encoder, Pixels, Vectors, encode_all, encode_batch
from workers.encode.precision import Precision
from workers.encode.registry import EMBEDDED, load
from workers.previews import HEADROOM

_PICTURES = Path(skimage.__file__).parent / "data"
_WORDS = ("a dog runs on the beach", "fracture of the left wrist", "stars in the night sky")
_QUERIES = 100
_IMAGES = {"cpu": 64, "cuda": 8192}
_RECALLED = 300
_TWELVE_MEGAPIXELS = (4000, 3000)
_DECODED = 10
_BACKBONE = "resnet50"
_COMPARED = 16
_IMITATED = 2
"""Pictures in bf16 where the machine has no instructions for it: torch imitates them, slowly."""


def tables(setting: Setting) -> Iterator[Table]:
    """Yield each table as soon as it is measured; the first of each kind is not counted.

    Random weights are as fast as others, and nothing has to be downloaded. Cores are shared out as
    in a worker, before an encoder is loaded.
    """
    device = best_device()
    share_cores()
    most = setting.files or _IMAGES[device.type]
    embedded = load(EMBEDDED)
    queries = min(_QUERIES, setting.files or _QUERIES)
    words = _times(lambda at: embedded.encode_texts([_WORDS[at % len(_WORDS)]]), queries)
    yield Table("queries, words", (words,), _name(device))
    files, source = _files(setting, most)
    with tempfile.TemporaryDirectory(prefix="cloister-benchmark-") as name:
        folder = Path(name)
        tower = _open_clip(folder, "ViT-B-32")
        others = [_timm(folder)]
        if device.type == "cuda":
            others.append(_open_clip(folder, "ViT-L-14"))
        rows = [_throughput(each, files, device) for each in (embedded, tower, *others)]
        said = f"{len(files)} pictures from {source}; {_name(device)}"
        yield Table("images", tuple(rows), f"{said}; ViT-L-14 on a GPU only")
        cheaper = {
            (base.name, kind): _cheaper(base, kind, folder)
            for base in (embedded, tower)
            for kind in Precision
        }
        pictures = [decode(file).pixels for file in files[:_COMPARED]]
        yield _arithmetic((embedded, tower), cheaper, pictures, device)
        kinds = {kind: cheaper[embedded.name, kind] for kind in Precision}
        yield _recall(embedded, kinds, setting, device)
    yield _unpacking(min(_DECODED, setting.files or _DECODED), embedded)


def _throughput(encoder: Encoder, files: Sequence[bytes], device: torch.device) -> dict[str, Cell]:
    """Images a second of each part by itself, and of them together as a worker runs them."""
    size, lanes = batch_size(), under_way_together() // batch_size()
    pictures = [decode(file).pixels for file in files[: min(size, len(files))]]
    decoded = [pictures[at % len(pictures)] for at in range(len(files))]
    batch = encoder.preprocess(pictures)
    batches = -(-len(decoded) // len(batch))
    with ThreadPoolExecutor(lanes) as computing:

        def compute(count: int) -> None:
            list(computing.map(lambda _: encode_batch(encoder, batch), range(count)))

        compute(lanes)  # not counted: kernels are chosen, memory is taken
        forward = _rate(batches * len(batch), lambda: compute(batches))
    unpack = partial(_unpacked, encoder.side)
    with ThreadPoolExecutor(cores.there()) as threads:
        loading = _rate(
            len(files),
            lambda: list(threads.map(lambda file: encoder.preprocess([unpack(file)]), files)),
        )
    from_pixels = _rate(len(files), lambda: _all_of(encoder, decoded))
    from_files = _rate(
        len(files),
        lambda: _vectors(encoder, [partial(_unpacked_one, encoder.side, each) for each in files]),
    )
    found: dict[str, Cell] = {
        "encoder": encoder.name,
        "batches": f"{lanes} of {size}",
        "forward only, images/s": round(forward, 1),
        "decoded": round(from_pixels, 1),
        "of forward": round(from_pixels / forward, 2),
        "unpacking only": round(loading, 1),
        "from files": round(from_files, 1),
        "of the slower": round(from_files / min(loading, forward), 2),
    }
    if device.type == "cpu":
        # The same cores do both: more than one after the other cannot be had.
        found["of both in turn"] = round(from_files * (1 / loading + 1 / forward), 2)
    return found


def _rate(count: int, call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return count / (time.perf_counter() - started)


def _unpacked(side: int, file: bytes) -> Pixels:
    return decode_reduced(file, round(HEADROOM * side))


def _all_of(encoder: Encoder, pictures: Sequence[Pixels]) -> Vectors:
    return _vectors(encoder, [partial(_one, each) for each in pictures])


def _one(pixels: Pixels) -> list[Pixels]:
    return [pixels]


def _vectors(encoder: Encoder, loads: Sequence[Load]) -> Vectors:
    """(pictures, dimensions), as a worker computes them."""
    found = []
    for rows in vectors_of(encoder, loads):
        if isinstance(rows, Exception):
            raise rows
        found.append(rows)
    return np.concatenate(found)


def _is_imitated(kind: Precision | None, device: torch.device) -> bool:
    return kind is Precision.BF16 and precision.fastest_here(device) is not kind


def _arithmetic(
    bases: Sequence[Encoder],
    cheaper: Mapping[tuple[str, Precision], Encoder],
    pictures: Sequence[Pixels],
    device: torch.device,
) -> Table:
    rows: list[dict[str, Cell]] = []
    for base in bases:
        exact = encode_all(base, pictures, batch_size=batch_size())
        for kind in (None, *Precision):
            encoder = base if kind is None else cheaper[base.name, kind]
            imitated = _is_imitated(kind, device)
            shown = pictures[:_IMITATED] if imitated else pictures
            # Twice, as the first time kernels are chosen.
            cosines = (
                encode_all(encoder, shown, batch_size=batch_size()) * exact[: len(shown)]
            ).sum(1)
            rate = _rate(len(shown), partial(encode_all, encoder, shown, batch_size=batch_size()))
            rows.append(
                {
                    "encoder": base.name,
                    "images in": f"{kind or 'fp32'}{', imitated' if imitated else ''}",
                    "pictures": len(shown),
                    "images/s": round(rate, 1),
                    "least cosine to fp32": round(float(cosines.min()), 5),
                }
            )
    chosen = precision.fastest_here(device)
    return Table(
        "cheaper arithmetic, one batch at a time",
        tuple(rows),
        f"`encoder reduce` takes {chosen} on this machine; int8 is computed on the CPU",
    )


def _recall(
    embedded: Encoder, cheaper: Mapping[Precision, Encoder], setting: Setting, device: torch.device
) -> Table:
    """Words to image among the first photographs of Flickr8k val, in each arithmetic."""
    title = "words to image, recall of the embedded encoder"
    archive, table = (setting.data / "flickr8k" / name for name in ("val.zip", "val.tsv"))
    if not archive.is_file() or not table.is_file():
        return Table(title, ({"images in": None, "recall@10": None},), "no flickr8k in --data")
    with table.open(newline="") as lines:
        captions = [(row["file"], row["caption"]) for row in csv.DictReader(lines, delimiter="\t")]
    names = list(dict.fromkeys(name for name, _ in captions))[: setting.files or _RECALLED]
    with zipfile.ZipFile(archive) as photographs:
        files = [photographs.read(name) for name in names]
    place = {name: at for at, name in enumerate(names)}
    asked = [(place[name], words) for name, words in captions if name in place]
    owner = np.array([own for own, _ in asked])
    texts = np.concatenate(
        [
            embedded.encode_texts([w for _, w in asked[at : at + 64]])
            for at in range(0, len(asked), 64)
        ]
    )
    rows: list[dict[str, Cell]] = []
    for kind in (None, *Precision):
        if _is_imitated(kind, device):
            continue
        encoder = embedded if kind is None else cheaper[kind]
        loads = [partial(_unpacked_one, encoder.side, file) for file in files]
        scores = texts @ _vectors(encoder, loads).T
        rank = (scores > scores[np.arange(len(owner)), owner][:, None]).sum(1)
        found = {f"recall@{k}": round(float((rank < k).mean()), 4) for k in (1, 5, 10)}
        rows.append({"images in": kind or "fp32", **found})
    said = f"{len(asked)} captions among {len(names)} photographs"
    if _is_imitated(Precision.BF16, device):
        said += "; bf16 is imitated here, at a picture in seconds: its cosine is above"
    return Table(title, tuple(rows), said)


def _unpacked_one(side: int, file: bytes) -> list[Pixels]:
    return [_unpacked(side, file)]


def _unpacking(count: int, encoder: Encoder) -> Table:
    """A JPEG of 12 megapixels, unpacked and resized as the encoder wants it."""
    photograph = _photograph()
    size = (encoder.side, encoder.side)

    def plain(_: int) -> object:
        with Image.open(io.BytesIO(photograph)) as opened:
            return opened.convert("RGB").resize(size, Image.Resampling.BICUBIC)

    def reduced(_: int) -> object:
        with Image.open(io.BytesIO(photograph)) as opened:
            wanted = round(HEADROOM * encoder.side)
            opened.draft(None, (wanted, wanted))
            return opened.convert("RGB").resize(size, Image.Resampling.BICUBIC)

    ways: dict[str, Callable[[int], object]] = {
        "Pillow, whole": plain,
        "Pillow, reduced": reduced,
        "sandbox, whole": lambda _: encoder.preprocess([decode(photograph).pixels]),
        "sandbox, reduced": lambda _: encoder.preprocess([_unpacked(encoder.side, photograph)]),
    }
    rows = tuple({"way": name, **_times(call, count)} for name, call in ways.items())
    return Table("a JPEG of 12 megapixels, unpacked and resized", rows, "one at a time")


def _cheaper(base: Encoder, kind: Precision, folder: Path) -> Encoder:
    made = folder / f"{base.name}-{kind}"
    source = "" if base.name == EMBEDDED else str(folder / base.name)
    precision.write(made, base, base_source=source, precision=kind)
    return load(made.name, source=str(made))


# The libraries of models take seconds to import, so nobody does who only wants a part of this.


def _open_clip(folder: Path, architecture: str) -> Encoder:
    import open_clip  # noqa: PLC0415

    model = open_clip.create_model(architecture, load_weights=False)
    return _imported(folder / architecture, model, "open_clip_config.json", architecture)


def _timm(folder: Path) -> Encoder:
    import timm  # noqa: PLC0415

    model = timm.create_model(_BACKBONE, pretrained=False)
    return _imported(folder / _BACKBONE, model, "config.json", _BACKBONE)


def _imported(folder: Path, model: torch.nn.Module, config: str, architecture: str) -> Encoder:
    """As `encoder import` would: the folder is read, checked and loaded."""
    folder.mkdir()
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")
    stated = {"architecture": architecture, "licence": "none: random weights"}
    (folder / config).write_text(json.dumps(stated))
    return load(architecture, source=str(folder))


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = torch.cpu.get_capabilities().get("cpu_name", "CPU")
    return f"{name}, {cores.there()} cores, {torch.get_num_threads()} for a batch, no GPU"


def _times(call: Callable[[int], object], count: int) -> dict[str, Cell]:
    """Call once unmeasured and `count` times more; milliseconds by the clock."""
    call(0)
    seconds = []
    for at in range(count):
        started = time.perf_counter()
        call(at)
        seconds.append(time.perf_counter() - started)
    p50, p95 = (round(float(ms), 1) for ms in 1000 * np.percentile(seconds, (50, 95)))
    return {"times": count, "p50 ms": p50, "p95 ms": p95}


def _files(setting: Setting, count: int) -> tuple[list[bytes], str]:
    """So many JPEG files, some of them several times where there are fewer."""
    archive = setting.data / "flickr8k" / "val.zip"
    if archive.is_file():
        with zipfile.ZipFile(archive) as photographs:
            names = sorted(n for n in photographs.namelist() if n.endswith(".jpg"))[:count]
            found, source = [photographs.read(name) for name in names], "Flickr8k"
    else:
        found = [path.read_bytes() for path in sorted(_PICTURES.glob("*.jpg"))]
        source = "a wheel: no flickr8k in --data"
    return [found[at % len(found)] for at in range(count)], source


def _photograph() -> bytes:
    """Return a JPEG of 12 megapixels, as smooth and as grainy as a camera's."""
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    out = io.BytesIO()
    large = Image.fromarray(noise).resize(_TWELVE_MEGAPIXELS, Image.Resampling.BICUBIC)
    large.save(out, "JPEG", quality=90)
    return out.getvalue()
