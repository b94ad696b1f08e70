"""Words that were encoded lately, in this process's memory and nowhere else."""

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import numpy as np

from workers.encode.encoder import Encoder

CAPACITY: Final = 4096


class RememberedWords:
    """The vectors of the last CAPACITY words, under keyed hashes: the words are not kept.

    Each asker has entries of their own. Shared ones would answer sooner what somebody else has
    asked, and so tell everybody that it was asked.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._vectors: OrderedDict[bytes, np.ndarray] = OrderedDict()

    def encode(self, encoder: Encoder, asked: Sequence[tuple[int, str]]) -> list[np.ndarray]:
        """Unit vectors, (dimensions,) float32, of each asker's words; the unknown in one batch.

        Raises as `Encoder.encode_texts`.
        """
        known = {(asker, words): self._hash(encoder.digest, asker, words) for asker, words in asked}
        unknown = [each for each, key in known.items() if key not in self._vectors]
        found = {key: self._vectors[key] for key in known.values() if key in self._vectors}
        if unknown:
            rows = encoder.encode_texts([words for _, words in unknown])
            found |= {known[each]: row.copy() for each, row in zip(unknown, rows, strict=True)}
        for key, vector in found.items():
            self._vectors[key] = vector
            self._vectors.move_to_end(key)
        while len(self._vectors) > CAPACITY:
            self._vectors.popitem(last=False)
        return [found[known[each]] for each in asked]

    def _hash(self, encoder_digest: str, asker: int, words: str) -> bytes:
        content = f"{encoder_digest}\n{asker}\n{words}".encode("utf-8", "surrogatepass")
        return hmac.new(self._key, content, hashlib.sha256).digest()
