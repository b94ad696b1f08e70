"""A program that asks the same again and again with small changes is feeling its way to a vector.

Of each query's vector a token leaves a signature for an hour: on which side of random planes it
lies (SimHash; Charikar 2002, STOC, section 3). Vectors at an angle θ differ in each bit with
probability θ/π, so near ones share most bits. The planes are drawn from the key file: without it
a signature tells nothing of the query.
"""

import time
from functools import lru_cache
from typing import Final

import numpy as np

from retrieval import audit, keys, officer, queue
from retrieval.errors import LimitReached
from retrieval.models import Kind, Purpose, User

SIGNATURE_BITS: Final = 128
NEAR_BITS: Final = 8
"""Of 128: vectors whose cosine is 0.98 differ in 8.2 on average, those of 0.9 in 18."""
MAX_NEAR: Final = 20
WINDOW_S: Final = 3600
REMEMBERED: Final = 1000
"""Signatures of one series of tokens."""


def watch(vector: np.ndarray, *, actor: User, purpose: Purpose) -> None:
    """Remember what a program asks, and refuse what it asked MAX_NEAR times in the last hour.

    vector: (dimensions,) float32, as it is ranked by. People are not watched: they look again.
    Raises LimitReached, on the log as an alert; EncoderUnavailable where nothing can be
    remembered: an unwatched query is not answered.
    """
    if actor.token is None:
        return
    now = int(time.time())
    signature = _signature(vector)
    earlier = queue.remember(
        f"probes:{actor.token.series}",
        now.to_bytes(8) + signature,
        most=REMEMBERED,
        lifetime_s=WINDOW_S,
    )
    near = sum(
        int.from_bytes(entry[:8]) > now - WINDOW_S and _differing(entry[8:], signature) <= NEAR_BITS
        for entry in earlier
    )
    if near < MAX_NEAR:
        return
    number = audit.record(Kind.TOKEN_PROBES, actor=actor, purpose=purpose, near=near)
    if near == MAX_NEAR:
        officer.tell(
            f"token {actor.token.pk} probes",
            f"Token {actor.token.pk} asks the same again and again (entry {number} of the log)."
            " It is refused for now. Revoke it under API tokens unless its owner can explain it.",
        )
    raise LimitReached("the same was asked too often", WINDOW_S)


def _signature(vector: np.ndarray) -> bytes:
    return np.packbits(_planes(len(vector)) @ vector > 0).tobytes()


@lru_cache(maxsize=4)
def _planes(dimensions: int) -> np.ndarray:
    """(SIGNATURE_BITS, dimensions) float32, the same for as long as the key file is the same."""
    seed = int(keys.keyed_hash(str(dimensions), use="probe signatures"), 16)
    drawn = np.random.default_rng(seed).normal(size=(SIGNATURE_BITS, dimensions))
    return drawn.astype(np.float32)


def _differing(a: bytes, b: bytes) -> int:
    return (int.from_bytes(a) ^ int.from_bytes(b)).bit_count()
