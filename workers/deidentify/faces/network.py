"""From a weights file to something that finds boxes: the digest is checked, then it is loaded."""

import hashlib
import importlib.util
from pathlib import Path
from typing import Protocol

import onnxruntime

from retrieval.errors import ModelRefused
from workers import cores
from workers.deidentify.faces.boxes import Boxes
from workers.deidentify.faces.face import Pixels

# The first of these that this machine's onnxruntime has; a processor is everywhere.
_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")


class Network(Protocol):
    """A network of one family, which looks at canvases of a size that it is given."""

    @property
    def name(self) -> str:
        """Stored with every face it found."""
        ...

    def look(self, batch: Pixels, threshold: float) -> list[Boxes]:
        """batch: (N, H, W, 3) uint8 RGB, N views of one size.

        Returns N arrays of boxes in pixels of their view, with scores above `threshold`; the
        same face may have several.
        """
        ...


def weights_in_wheel(package: str, name: str, digest: str) -> bytes:
    """Return a file of an installed package, found without importing that: it may load OpenCV.

    Raises ModelRefused unless the file's SHA-256 is `digest`.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModelRefused(f"the weights of {package} are not installed")
    return read_weights(Path(spec.submodule_search_locations[0], name), digest, package)


def read_weights(file: Path, digest: str, name: str) -> bytes:
    """Return what is in `file`. Raises ModelRefused unless its SHA-256 (hex) is `digest`."""
    try:
        weights = file.read_bytes()
    except OSError as error:
        raise ModelRefused(f"the weights of {name} cannot be read") from error
    if hashlib.sha256(weights).hexdigest() != digest.lower():
        raise ModelRefused(f"the weights of {name} are not those of the digest")
    return weights


def session(model: bytes, name: str) -> onnxruntime.InferenceSession:
    """Load a model for this machine's accelerator, or its processor. Raises ModelRefused."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores.threads()
    options.inter_op_num_threads = 1
    # A thread that spins while it waits takes the core that another process needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    there = onnxruntime.get_available_providers()
    try:
        return onnxruntime.InferenceSession(
            model, options, providers=[provider for provider in _PROVIDERS if provider in there]
        )
    except Exception as error:  # onnxruntime's own errors share no base but this
        raise ModelRefused(f"the weights of {name} cannot be loaded") from error
