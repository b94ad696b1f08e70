"""The Merkle tree over the log (RFC 6962, section 2.1): heads, proofs, and what checks them.

Hashes are SHA-256, 32 bytes. A leaf is hashed with 0x00 before it and a node with 0x01, so that
neither passes for the other.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()


def leaf_hash(entry: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes | bytearray, right: bytes | bytearray) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """All complete subtrees, one row of hashes per level: 64 bytes an entry in all.

    An entry is appended in constant time (amortised), the head of any earlier size and every
    proof take O(log² n) hashes.
    """

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self._levels: list[bytearray] = [bytearray()]
        for leaf in leaves:
            self.append(leaf)

    @property
    def size(self) -> int:
        return len(self._levels[0]) // HASH_BYTES

    def append(self, leaf: bytes) -> None:
        """Add a leaf's hash, as `leaf_hash` makes it."""
        node, level = leaf, 0
        while True:
            row = self._levels[level]
            row += node
            if len(row) // HASH_BYTES % 2:
                return
            node, level = (
                node_hash(row[-2 * HASH_BYTES : -HASH_BYTES], row[-HASH_BYTES:]),
                level + 1,
            )
            if level == len(self._levels):
                self._levels.append(bytearray())

    def leaf(self, index: int) -> bytes:
        return self._node(0, index)

    def leaves(self, start: int, end: int) -> bytes:
        """The hashes of the leaves from `start` to before `end`, one after another."""
        return bytes(self._levels[0][start * HASH_BYTES : end * HASH_BYTES])

    def root(self, size: int | None = None) -> bytes:
        """The head of the first `size` leaves, or of all."""
        size = self.size if size is None else self._within(size)
        return self._subtree(0, size) if size else EMPTY_ROOT

    def inclusion_proof(self, index: int, size: int | None = None) -> list[bytes]:
        """The audit path of leaf `index` in the tree of the first `size` leaves (2.1.1)."""
        size = self.size if size is None else self._within(size)
        if not 0 <= index < size:
            raise IndexError("the tree has no such leaf")
        start, end, path = 0, size, []
        while end - start > 1:
            middle = start + _left_leaves(end - start)
            if index < middle:
                path.append(self._subtree(middle, end))
                end = middle
            else:
                path.append(self._subtree(start, middle))
                start = middle
        return path[::-1]

    def consistency_proof(self, first: int, second: int | None = None) -> list[bytes]:
        """That the tree of `first` leaves is the beginning of the one of `second` (2.1.2)."""
        second = self.size if second is None else self._within(second)
        if not 0 <= first <= second:
            raise IndexError("the first tree is not the smaller one")
        if first in (0, second):
            return []
        start, end, path, is_whole = 0, second, [], True
        while first != end:
            middle = start + _left_leaves(end - start)
            if first <= middle:
                path.append(self._subtree(middle, end))
                end = middle
            else:
                path.append(self._subtree(start, middle))
                start, is_whole = middle, False
        if not is_whole:
            path.append(self._subtree(start, end))
        return path[::-1]

    def _within(self, size: int) -> int:
        if not 0 <= size <= self.size:
            raise IndexError("the tree is not that large")
        return size

    def _node(self, level: int, index: int) -> bytes:
        return bytes(self._levels[level][index * HASH_BYTES : (index + 1) * HASH_BYTES])

    def _subtree(self, start: int, end: int) -> bytes:
        """The head of the leaves from `start` to `end`, where a subtree of an RFC tree begins."""
        width = end - start
        if width & (width - 1) == 0:
            level = width.bit_length() - 1
            return self._node(level, start >> level)
        middle = start + _left_leaves(width)
        return node_hash(self._subtree(start, middle), self._subtree(middle, end))


def _left_leaves(width: int) -> int:
    """The largest power of two below `width`."""
    return 1 << (width - 1).bit_length() - 1


def verify_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> bool:
    """Whether `proof` leads from the leaf's hash to `root` (RFC 9162, section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    position, last, found = index, size - 1, leaf
    for node in proof:
        if last == 0:
            return False
        if position & 1 or position == last:
            found = node_hash(node, found)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            found = node_hash(found, node)
        position, last = position >> 1, last >> 1
    return last == 0 and found == root


def verify_consistency(
    first: int, second: int, first_root: bytes, second_root: bytes, proof: Sequence[bytes]
) -> bool:
    """Whether the first tree is the beginning of the second (RFC 9162, section 2.1.4.2)."""
    if not 0 <= first <= second:
        return False
    if first == second:
        return not proof and first_root == second_root
    if first == 0:
        return not proof and first_root == EMPTY_ROOT
    nodes = list(proof)
    if first & (first - 1) == 0:
        nodes.insert(0, first_root)
    if not nodes:
        return False
    position, last = first - 1, second - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    old = new = nodes[0]
    for node in nodes[1:]:
        if last == 0:
            return False
        if position & 1 or position == last:
            old, new = node_hash(node, old), node_hash(node, new)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            new = node_hash(new, node)
        position, last = position >> 1, last >> 1
    return last == 0 and old == first_root and new == second_root
