"""Any open_clip architecture from a folder on this machine; nothing is ever downloaded.

The folder is as `model_folder` says, its configuration open_clip_config.json, as open_clip
publishes it or {"architecture": name}.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import huggingface_hub.constants
import numpy as np
import open_clip
import safetensors.torch
import torch
from PIL import Image
from torch.nn import functional

from retrieval.errors import ModelRefused
from workers.encode import model_folder
from workers.encode.device import best_device, busy_when_out_of_memory
from workers.encode.encoder import Pixels, Vectors
from workers.encode.image_network import Normalised, placed, unit_rows

# open_clip fetches a missing tokenizer or text configuration; here that must fail instead. Set
# on the module because the environment variable is read only once, perhaps before this import.
huggingface_hub.constants.HF_HUB_OFFLINE = True

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
TOKENIZER_SETTINGS = {"clean", "strip_sep_token"}
"""Those of open_clip's own configurations. Others reach transformers: one of them has it run Python
files of the folder."""
FROM_THE_HUB = {"hf_model_name", "hf_tokenizer_name"}
"""Of the texts of an architecture that open_clip has: what only the hub has."""
MOST_ELONGATED = 4  # long side over short side


class OpenClipEncoder:
    """A contrastive model of words and images, of the operator's choice."""

    def __init__(
        self,
        name: str,
        folder: Path,
        device: torch.device | None = None,
        *,
        weights_sha256: str | None = None,
    ) -> None:
        """Load the model in `folder`.

        Raises ModelRefused if a file is missing or only pickled, the licence is not stated, the
        architecture is unknown or wants the network, or the weights do not fit it or have another
        digest than `weights_sha256`.
        """
        self.name = name
        self._device = device or best_device()
        files = model_folder.read_shaping_files(folder)
        config = model_folder.config_in(files, CONFIG_FILE)
        self.licence = model_folder.licence_of(folder, config)
        weights = model_folder.weights_in(files, weights_sha256, published_as=WEIGHTS_FILE)
        self.digest = model_folder.digest_of(files)
        with model_folder.copied(files) as copy:
            architecture = _architecture(copy, config)
            try:
                model, _, transform = open_clip.create_model_and_transforms(
                    architecture, load_weights=False, pretrained_text=False
                )
                self._tokenizer = _tokenizer(architecture, config)
                model.load_state_dict(safetensors.torch.load(weights))
            except model_folder.DOES_NOT_FIT as exc:
                refused = f"the files of {name} are not a model open_clip can build"
                raise ModelRefused(refused) from exc
        # Ends in ToTensor and Normalize, which are done on the device here.
        steps = list(cast(Any, transform).transforms)
        self._cut: list[Any] = steps[:-2]
        normalise = steps[-1]
        self.image_network = placed(
            Normalised(model.visual, normalise.mean, normalise.std), self._device
        )
        self._model: Any = placed(model, self._device)
        try:
            self.side = self.preprocess([np.zeros((1, 1, 3), np.uint8)]).shape[-1]
            # A tokenizer with more words than the tower has is told by this, too.
            self.dimensions = self.encode_texts(["a"]).shape[1]
        except model_folder.DOES_NOT_FIT as exc:
            raise ModelRefused(f"{name} cannot read a picture and a word") from exc

    def preprocess(self, images: Sequence[Pixels]) -> torch.Tensor:
        """See Encoder; size and crop are the model's own."""
        return torch.from_numpy(np.stack([self._squared(image) for image in images])).permute(
            0, 3, 1, 2
        )

    def _squared(self, image: Pixels) -> Pixels:
        picture = _not_too_elongated(image)
        for step in self._cut:
            picture = step(picture)
        return np.asarray(picture)

    def encode_images(self, batch: torch.Tensor) -> Vectors:
        """See Encoder."""
        return unit_rows(self.image_network, batch, self._device)

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """See Encoder."""
        with busy_when_out_of_memory():
            ids = self._tokenizer(list(texts)).to(self._device)
            return _unit_rows(self._model.encode_text(ids))


def _architecture(folder: Path, config: dict[str, Any]) -> str:
    """Return what open_clip builds from: this folder, or one of its built-in names."""
    if "model_cfg" in config:
        _require_nothing_else(config["model_cfg"])
        return f"local-dir:{folder}"
    architecture = config.get("architecture")
    # A name with a scheme such as hf-hub: would be looked up elsewhere.
    if architecture not in open_clip.list_models():
        raise ModelRefused(f"{CONFIG_FILE} names no architecture open_clip has")
    # Those would be read from whatever hub's cache this machine has: the digest is not of it.
    if open_clip.get_model_config(architecture)["text_cfg"].keys() & FROM_THE_HUB:
        raise ModelRefused(f"{architecture} reads words by files that are not in the folder")
    return str(architecture)


def _require_nothing_else(model_cfg: Any) -> None:
    """Raise ModelRefused for what would run code, or fetch what the digest is not of."""
    text = model_cfg.get("text_cfg") if isinstance(model_cfg, dict) else None
    settings = text.get("tokenizer_kwargs", {}) if isinstance(text, dict) else None
    if not isinstance(text, dict) or not isinstance(settings, dict):
        raise ModelRefused(f"{CONFIG_FILE} describes no model of open_clip")
    if not settings.keys() <= TOKENIZER_SETTINGS:
        raise ModelRefused(f"{CONFIG_FILE} sets more of its tokenizer than how words are cleaned")
    if "hf_model_name" in text:
        raise ModelRefused(f"{CONFIG_FILE} names a text tower that is not in the folder")
    image = model_cfg.get("vision_cfg")
    # With a scheme such as local-dir: timm reads its configuration elsewhere.
    if isinstance(image, dict) and ":" in str(image.get("timm_model_name")):
        raise ModelRefused(f"{CONFIG_FILE} names an image tower that is not in the folder")


def _tokenizer(architecture: str, config: dict[str, Any]) -> Any:
    """Raises ValueError where the folder's tokenizer is Python code of its own."""
    if not config.get("model_cfg", {}).get("text_cfg", {}).get("hf_tokenizer_name"):
        return open_clip.get_tokenizer(architecture)
    # Unless told, transformers asks whoever is at the terminal whether to run it.
    return open_clip.get_tokenizer(architecture, trust_remote_code=False)


def _not_too_elongated(image: Pixels) -> Image.Image:
    """Squeeze a strip of pixels first: scaled up by its short side it would not fit in memory."""
    picture = Image.fromarray(image)
    width, height = picture.size
    short = max(1, -(-max(width, height) // MOST_ELONGATED))
    return picture.resize((max(width, short), max(height, short)))


def _unit_rows(rows: torch.Tensor) -> Vectors:
    found: Vectors = functional.normalize(rows.float(), dim=-1).cpu().numpy()
    return found
