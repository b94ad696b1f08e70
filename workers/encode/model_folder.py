"""A model's folder on this machine: what it must hold, whoever built the architecture.

A configuration as JSON; the weights as one *.safetensors file; and the licence, as "licence" in
that configuration, as the first line of a file LICENSE or LICENCE, or at the head of README.md, as
model cards state it. Pickled weights (.bin, .pt, .pth) are refused: loading one can run code.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import safetensors

from retrieval.errors import ModelRefused
from workers.encode.weights_file import combined_digest, read

LICENCE_FILES = ("LICENSE", "LICENCE", "LICENSE.txt", "LICENCE.txt", "LICENSE.md")
MODEL_CARD = "README.md"
SHAPING_SUFFIXES = {".json", ".txt", ".model", ".safetensors"}

DOES_NOT_FIT: Final = (
    OSError,
    ValueError,
    RuntimeError,
    TypeError,
    AttributeError,
    LookupError,
    AssertionError,
    ImportError,
    safetensors.SafetensorError,
)
"""What the model libraries raise over a configuration or weights that are not theirs."""


def read_shaping_files(folder: Path) -> dict[str, bytes]:
    """Return every file a vector can depend on, by name, in a fixed order. Raises ModelRefused."""
    if not folder.is_dir():
        raise ModelRefused("the model folder is missing")
    return {
        path.name: read(path)
        for path in sorted(folder.iterdir())
        if path.suffix in SHAPING_SUFFIXES and path.name not in LICENCE_FILES
    }


@contextmanager
def copied(files: Mapping[str, bytes]) -> Iterator[Path]:
    """A folder of this process' own with all but the weights, for a library that reads by itself.

    It reads what the digest was taken of, whatever becomes of the operator's folder meanwhile.
    """
    with tempfile.TemporaryDirectory(prefix="cloister-model-") as name:
        for file, content in files.items():
            if not file.endswith(".safetensors"):
                Path(name, file).write_bytes(content)
        yield Path(name)


def digest_of(files: Mapping[str, bytes]) -> str:
    """One sha256 (hex) over the names and contents of all."""
    return combined_digest(
        f"{name} {hashlib.sha256(content).hexdigest()}" for name, content in files.items()
    )


def config_in(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """Raises ModelRefused where the file `name` is no JSON object."""
    try:
        config = json.loads(files[name])
    except (KeyError, ValueError) as exc:
        raise ModelRefused(f"{name} is missing or not JSON") from exc
    if not isinstance(config, dict):
        raise ModelRefused(f"{name} is not a JSON object")
    return config


def weights_in(
    files: Mapping[str, bytes], sha256: str | None = None, *, published_as: str
) -> bytes:
    """The safetensors file: the one there is, or of several the one that is `published_as`.

    `sha256` (hex): what it must have, where that is known. Raises ModelRefused where there is
    none or it cannot be told which, and for another digest.
    """
    found = {name: content for name, content in files.items() if name.endswith(".safetensors")}
    match [found[published_as]] if published_as in found else list(found.values()):
        case [only]:
            if sha256 is not None and hashlib.sha256(only).hexdigest() != sha256.lower():
                raise ModelRefused("the weights do not have the SHA-256 that was given")
            return only
        case []:
            raise ModelRefused("no .safetensors file in the folder; pickled weights are refused")
        case _:
            raise ModelRefused(f"several .safetensors files in the folder, none {published_as}")


def licence_of(folder: Path, config: Mapping[str, Any]) -> str:
    """What the configuration or the licence file states. Raises ModelRefused where neither does."""
    stated = config.get("licence") or config.get("license")
    if stated:
        return str(stated)
    for name in LICENCE_FILES:
        if (folder / name).is_file():
            first_line, _, _ = read(folder / name).decode(errors="replace").strip().partition("\n")
            if first_line:
                return first_line.strip()
    if (folder / MODEL_CARD).is_file() and (of_card := _of_model_card(read(folder / MODEL_CARD))):
        return of_card
    raise ModelRefused("the folder states no licence: add a file LICENSE that names it")


def _of_model_card(content: bytes) -> str | None:
    """`license` of the lines between --- at its head; `license_name` where that is "other"."""
    head = re.match(r"---\s*\n(.*?)\n---", content.decode(errors="replace"), re.DOTALL)
    told = (
        re.findall(r"^(license(?:_name)?):[ \t]*(\S.*?)\s*$", head[1], re.MULTILINE) if head else []
    )
    stated = {name: value.strip("'\"") for name, value in told}
    return stated.get("license_name") or stated.get("license")
