"""The tree against a naive one of the RFC's own words, and against its published test vectors."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.audit import merkle
from retrieval.audit.merkle import EMPTY_ROOT, Tree, verify_consistency, verify_inclusion

# Leaves and heads of the reference implementation's tests (Certificate Transparency, RFC 6962).
VECTOR_LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
VECTOR_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def naive_root(leaves: list[bytes]) -> bytes:
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    pair = naive_root(leaves[:k]) + naive_root(leaves[k:])
    return hashlib.sha256(b"\x01" + pair).digest()


def leaves_of(count: int) -> list[bytes]:
    return [merkle.leaf_hash(str(n).encode()) for n in range(count)]


@pytest.mark.parametrize("size", range(9))
def test_the_heads_are_those_of_the_published_vectors(size: int) -> None:
    tree = Tree(merkle.leaf_hash(entry) for entry in VECTOR_LEAVES)

    assert tree.root(size).hex() == VECTOR_ROOTS[size]


def test_the_proofs_are_those_of_the_published_vectors() -> None:
    tree = Tree(merkle.leaf_hash(entry) for entry in VECTOR_LEAVES)

    assert [node.hex() for node in tree.inclusion_proof(0, 8)] == [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ]
    assert [node.hex() for node in tree.consistency_proof(6, 8)] == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 130), st.data())
def test_every_head_and_proof_holds_at_every_size(size: int, data: st.DataObject) -> None:
    leaves = leaves_of(size)
    tree = Tree(leaves)
    first = data.draw(st.integers(0, size))

    assert tree.root(first) == naive_root(leaves[:first])
    proof = tree.consistency_proof(first)
    assert verify_consistency(first, size, tree.root(first), tree.root(), proof)
    if size:
        index = data.draw(st.integers(0, size - 1))
        path = tree.inclusion_proof(index)
        assert verify_inclusion(leaves[index], index, size, path, tree.root())


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 70), st.data())
def test_no_proof_holds_for_another_leaf_place_head_or_path(size: int, data: st.DataObject) -> None:
    leaves = leaves_of(size)
    tree = Tree(leaves)
    index = data.draw(st.integers(0, size - 1))
    other = data.draw(st.integers(0, size - 1).filter(lambda n: n != index))
    path, root = tree.inclusion_proof(index), tree.root()

    assert not verify_inclusion(leaves[other], index, size, path, root)
    assert not verify_inclusion(leaves[index], other, size, path, root)
    assert not verify_inclusion(leaves[index], index, size, path[:-1], root)
    assert not verify_inclusion(leaves[index], index, size, [*path, root], root)
    assert not verify_inclusion(leaves[index], size, size, path, root)
    assert not verify_inclusion(leaves[index], index, size, path, EMPTY_ROOT)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 70), st.data())
def test_a_rewritten_beginning_is_consistent_with_nothing(size: int, data: st.DataObject) -> None:
    leaves = leaves_of(size)
    first = data.draw(st.integers(1, size - 1))
    changed = data.draw(st.integers(0, first - 1))
    before = Tree(leaves[:first]).root()
    leaves[changed] = merkle.leaf_hash(b"rewritten")
    after = Tree(leaves)

    proof = after.consistency_proof(first)

    assert not verify_consistency(first, size, before, after.root(), proof)
    assert not verify_consistency(first, size, before, before, proof)
    assert not verify_consistency(first, size, before, after.root(), proof[1:])
    assert not verify_consistency(size, first, after.root(), before, proof)


def test_a_leaf_does_not_pass_for_a_node() -> None:
    left, right = leaves_of(2)

    assert merkle.leaf_hash(left + right) != merkle.node_hash(left, right)
    assert merkle.leaf_hash(b"\x01" + left + right) != merkle.node_hash(left, right)


@pytest.mark.parametrize(
    "ask",
    [
        lambda t: t.root(4),
        lambda t: t.inclusion_proof(3),
        lambda t: t.consistency_proof(4),
        lambda t: t.consistency_proof(-1),
    ],
)
def test_what_the_tree_does_not_have_is_refused(ask: object) -> None:
    with pytest.raises(IndexError):
        ask(Tree(leaves_of(3)))  # type: ignore[operator]
