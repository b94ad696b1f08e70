"""Any timm backbone from a folder on this machine: images only, and nothing is ever downloaded.

The folder is as `model_folder` says, its configuration config.json, as timm publishes it or
{"architecture": name}. What the backbone gives before its classifier is the vector.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import timm
import torch
from PIL import Image
from torch import nn

from retrieval.errors import ModelRefused, NoTextTower
from workers.encode import model_folder
from workers.encode.device import best_device
from workers.encode.encoder import Pixels, Vectors
from workers.encode.image_network import Normalised, placed, unit_rows

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
MAX_SIDE = 1024  # pixels; no published backbone reads larger ones
INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class TimmEncoder:
    """A backbone of the operator's choice: finds images by images."""

    def __init__(
        self,
        name: str,
        folder: Path,
        device: torch.device | None = None,
        *,
        weights_sha256: str | None = None,
    ) -> None:
        """Load the model in `folder`. Raises ModelRefused as OpenClipEncoder."""
        self.name = name
        self._device = device or best_device()
        files = model_folder.read_shaping_files(folder)
        config = model_folder.config_in(files, CONFIG_FILE)
        stated = config.get("pretrained_cfg")
        stated = stated if isinstance(stated, dict) else {}
        self.licence = model_folder.licence_of(folder, {**stated, **config})
        weights = model_folder.weights_in(files, weights_sha256, published_as=WEIGHTS_FILE)
        self.digest = model_folder.digest_of(files)
        model = _built(config, weights)
        given = _input(_published(model) | stated)
        self.side, mean, scale, self._resample = given
        self.image_network = placed(Normalised(model, mean, scale), self._device)
        empty = torch.zeros(1, 3, self.side, self.side, dtype=torch.uint8)
        try:
            self.dimensions = self.encode_images(empty).shape[1]
        except (RuntimeError, AssertionError, IndexError) as exc:
            raise ModelRefused("the backbone gives no vector for an image of that size") from exc

    def preprocess(self, images: Sequence[Pixels]) -> torch.Tensor:
        """See Encoder. The whole picture is squeezed into the square: a centre crop would make
        what lies at the edge unfindable."""
        size = (self.side, self.side)
        resized = [
            np.asarray(Image.fromarray(image).resize(size, self._resample)) for image in images
        ]
        return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2)

    def encode_images(self, batch: torch.Tensor) -> Vectors:
        """See Encoder."""
        return unit_rows(self.image_network, batch, self._device)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Raises NoTextTower."""
        raise NoTextTower("the encoder in use reads images only: ask with an image")


def _built(config: Mapping[str, Any], weights: bytes) -> nn.Module:
    """The architecture without its classifier, with these weights. Raises ModelRefused."""
    architecture = config.get("architecture")
    # A name with a scheme such as hf-hub: would be looked up elsewhere.
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise ModelRefused(f"{CONFIG_FILE} names no architecture timm has")
    arguments = config.get("model_args") or {}
    if not isinstance(arguments, dict) or not all(_is_known(*each) for each in arguments.items()):
        raise ModelRefused(f"{CONFIG_FILE} changes the architecture by model_args")
    try:
        model: nn.Module = timm.create_model(
            architecture, **arguments | {"pretrained": False, "num_classes": 0}
        )
        state = safetensors.torch.load(weights)
        model.load_state_dict(_without(_classifiers(model), state))
    except model_folder.DOES_NOT_FIT as exc:
        raise ModelRefused("the files are not a backbone timm can build") from exc
    return model


def _is_known(argument: str, value: object) -> bool:
    """Whether it is one timm writes into every configuration: others may name files."""
    match argument:
        case "in_chans":
            return value == 3  # noqa: PLR2004
        case "num_classes":
            return isinstance(value, int)
        case "global_pool":
            return isinstance(value, str)
        case "img_size":
            sides = value if isinstance(value, list) else [value]
            return all(isinstance(side, int) and 1 <= side <= MAX_SIDE for side in sides)
    return False


def _published(model: Any) -> dict[str, Any]:
    """What timm itself says of the architecture."""
    return dict(model.default_cfg)


def _classifiers(model: nn.Module) -> list[str]:
    named = _published(model).get("classifier") or ()
    return [named] if isinstance(named, str) else list(named)


def _without(parts: Iterable[str], state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    prefixes = tuple(f"{part}." for part in parts)
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefixes)}


def _input(
    stated: Mapping[str, Any],
) -> tuple[int, list[float], list[float], Image.Resampling]:
    """Side in pixels, mean and scale of the three channels. Raises ModelRefused."""
    try:
        channels, height, width = stated["input_size"]
        mean, scale = ([float(value) for value in stated[key]] for key in ("mean", "std"))
        resample = INTERPOLATIONS[stated.get("interpolation", "bicubic")]
        is_fit = channels == 3 and height == width and 1 <= int(side := width) <= MAX_SIDE  # noqa: PLR2004
    except (KeyError, TypeError, ValueError, RuntimeError) as exc:
        raise ModelRefused(f"{CONFIG_FILE} does not say what its input looks like") from exc
    is_fit = is_fit and len(mean) == len(scale) == channels
    if not is_fit or min(scale) <= 0:
        raise ModelRefused(f"{CONFIG_FILE} asks for an input that is no square RGB image")
    return int(side), mean, scale, resample
