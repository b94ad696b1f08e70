"""From an encoder's name to the loaded encoder, once per process."""

from __future__ import annotations

import threading
from pathlib import Path

from retrieval.errors import ModelRefused
from workers.encode.encoder import Encoder

EMBEDDED = "cloister-embedded"
CLASSIC = "cloister-classic"
REPORTS = "cloister-reports"
SHIPPED = (EMBEDDED, CLASSIC, REPORTS)

_loaded: dict[tuple[str, str | None, str | None], Encoder] = {}
_loading = threading.RLock()  # a private head loads its base


def load(
    name: str,
    *,
    source: str | None = None,
    digest: str | None = None,
    weights_sha256: str | None = None,
) -> Encoder:
    """Return the encoder of an EncoderVersion row, loaded on first use and kept warm.

    name: one of SHIPPED, or any other name for the model in the folder `source`: one of
    open_clip, one of timm, another encoder in cheaper arithmetic, or a private head on another.
    digest: sha256 (hex) all its files were recorded with; None only when it is first imported.
    weights_sha256: what the weights' publisher says of their file, asked when it is imported.
    Raises ModelRefused if files are missing, altered or of a refused format.
    """
    key = (name, source, digest)
    with _loading:
        # One that was loaded before was perhaps held against no digest.
        if key not in _loaded or weights_sha256 is not None:
            if name in SHIPPED and source is None:
                encoder = _shipped(name)
            else:
                encoder = _from_folder(name, source, weights_sha256)
            if digest is not None and encoder.digest != digest:
                raise ModelRefused(f"the weights of {name} are not those it was recorded with")
            _loaded[key] = encoder
        return _loaded[key]


# Imported on use: a model library takes seconds and hundreds of megabytes to import, and a
# process that never encodes must not pay for it.


def _shipped(name: str) -> Encoder:
    if name == CLASSIC:
        from workers.encode.classic import ClassicEncoder  # noqa: PLC0415

        return ClassicEncoder()
    if name == REPORTS:
        from workers.encode.reports import ReportEncoder  # noqa: PLC0415

        return ReportEncoder()
    from workers.encode.embedded import EmbeddedEncoder  # noqa: PLC0415

    return EmbeddedEncoder()


def _from_folder(name: str, source: str | None, weights_sha256: str | None) -> Encoder:
    if name in SHIPPED:
        raise ModelRefused(f"{name} ships with Cloister: a folder's model needs another name")
    if source is None:
        raise ModelRefused(f"{name} names no model folder")
    folder = Path(source)
    if is_private_head(folder):
        return _private_head(name, folder)
    if is_cheaper(folder):
        return _cheaper(name, folder)
    if _is_timm(folder):
        from workers.encode.timm_backbone import TimmEncoder  # noqa: PLC0415

        return TimmEncoder(name, folder, weights_sha256=weights_sha256)
    from workers.encode.openclip import OpenClipEncoder  # noqa: PLC0415

    return OpenClipEncoder(name, folder, weights_sha256=weights_sha256)


def _is_timm(folder: Path) -> bool:
    """The image tower of an open_clip model is published with both configurations."""
    is_open_clip = (folder / "open_clip_config.json").is_file()
    return (folder / "config.json").is_file() and not is_open_clip


def is_private_head(folder: Path) -> bool:
    """Whether the folder's model was trained on images here: it comes with a certificate only."""
    return (folder / "private_head.json").is_file()


def _private_head(name: str, folder: Path) -> Encoder:
    from workers.encode.private_head import CONFIG_FILE, PrivateHead, read_config  # noqa: PLC0415

    config = read_config(folder)
    if config.base_source and (Path(config.base_source) / CONFIG_FILE).exists():
        raise ModelRefused(f"{name} rests on another private head")
    base = load(config.base, source=config.base_source or None, digest=config.base_digest)
    return PrivateHead(name, folder, base, config)


def is_cheaper(folder: Path) -> bool:
    """Whether the folder holds no model of its own, but another one's cheaper arithmetic."""
    return (folder / "precision.json").is_file()


def _cheaper(name: str, folder: Path) -> Encoder:
    from workers.encode.precision import CheaperEncoder, read_config  # noqa: PLC0415

    config = read_config(folder)
    source = Path(config.base_source) if config.base_source else None
    # What learned from images is certified under its own row: no other one stands in for it.
    if source is not None and (is_private_head(source) or is_cheaper(source)):
        raise ModelRefused(f"{name} rests on what is no plain model itself")
    base = load(config.base, source=config.base_source or None, digest=config.base_digest)
    return CheaperEncoder(name, folder, base, config)
