"""Hold the tree to published vectors and to a plain reading of the RFC."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sarguard.audit.proof import merkle

# The test vectors of Certificate Transparency (RFC 6962).
LEAVES = [
    bytes.fromhex(text)
    for text in (
        *("", "00", "10", "2021", "3031", "40414243", "5051525354555657"),
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
PATH_OF_FIRST = [
    "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
    "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
    "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
]
GROWTH_6_TO_8 = [
    "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
    "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
]


def plain_root(data: list[bytes]) -> bytes:
    """Return the root as RFC 6962, 2.1 writes it down."""
    if not data:
        return sha256(b"").digest()
    if len(data) == 1:
        return sha256(b"\x00" + data[0]).digest()
    split = 1
    while split * 2 < len(data):
        split *= 2
    left, right = plain_root(data[:split]), plain_root(data[split:])
    return sha256(b"\x01" + left + right).digest()


def hashes(data: list[bytes]) -> list[bytes]:
    return [merkle.leaf_hash(leaf) for leaf in data]


@pytest.mark.parametrize("size", range(1, 9))
def test_the_published_roots(size: int) -> None:
    assert merkle.root_of(hashes(LEAVES[:size])).hex() == ROOTS[size - 1]


def test_the_published_proofs() -> None:
    def subtree(low: int, high: int) -> bytes:
        return plain_root(LEAVES[low:high])

    assert [h.hex() for h in merkle.inclusion_proof(0, 8, subtree)] == PATH_OF_FIRST
    assert [h.hex() for h in merkle.consistency_proof(1, 8, subtree)] == PATH_OF_FIRST
    assert [h.hex() for h in merkle.consistency_proof(6, 8, subtree)] == GROWTH_6_TO_8


def test_the_root_of_nothing() -> None:
    assert merkle.root_of([]) == merkle.EMPTY_ROOT == sha256(b"").digest()


@given(st.lists(st.binary(max_size=4), min_size=1, max_size=70), st.data())
def test_proofs_hold_for_what_they_prove_only(
    data: list[bytes], draw: st.DataObject
) -> None:
    size = len(data)
    index = draw.draw(st.integers(0, size - 1))
    root = plain_root(data)
    assert merkle.root_of(hashes(data)) == root

    def subtree(low: int, high: int) -> bytes:
        return plain_root(data[low:high])

    proof = merkle.inclusion_proof(index, size, subtree)
    leaf = merkle.leaf_hash(data[index])
    assert merkle.verify_inclusion(leaf, index, size, proof, root)
    other = merkle.leaf_hash(b"another record")
    assert not merkle.verify_inclusion(other, index, size, proof, root)
    assert not merkle.verify_inclusion(leaf, index, size, [*proof, leaf], root)
    if proof:
        assert not merkle.verify_inclusion(leaf, index, size, proof[1:], root)
        bent = [bytes(32), *proof[1:]]
        assert not merkle.verify_inclusion(leaf, index, size, bent, root)


@given(st.lists(st.binary(max_size=4), min_size=1, max_size=70), st.data())
def test_growth_is_proven_and_a_rewrite_is_not(
    data: list[bytes], draw: st.DataObject
) -> None:
    new = len(data)
    old = draw.draw(st.integers(1, new))
    proof = merkle.consistency_proof(
        old, new, lambda low, high: plain_root(data[low:high])
    )
    before, after = plain_root(data[:old]), plain_root(data)
    assert merkle.verify_consistency(old, new, proof, before, after)
    rewritten = plain_root([b"another", *data[1:]])
    if rewritten != after:
        assert not merkle.verify_consistency(old, new, proof, before, rewritten)


@given(st.integers(0, 40), st.integers(0, 5))
def test_a_full_subtree_stands_for_its_leaves(count: int, level: int) -> None:
    data = [bytes([n]) for n in range(((count >> level) + 1) << level)]
    base = (count >> level) << level
    tree = merkle.Frontier()
    for leaf in hashes(data[:base]):
        tree.append(leaf)
    tree.append(plain_root(data[base:]), level)
    assert tree.root() == plain_root(data)
    assert tree.size == len(data)


def test_a_subtree_stands_on_its_boundary_only() -> None:
    tree = merkle.Frontier()
    tree.append(bytes(32))
    with pytest.raises(ValueError, match="cannot follow"):
        tree.append(bytes(32), 3)


@pytest.mark.parametrize(("index", "size"), [(-1, 4), (4, 4), (0, 0)])
def test_no_proof_for_a_leaf_that_is_not_there(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="not in a tree"):
        merkle.inclusion_proof(index, size, lambda low, high: b"")
    assert not merkle.verify_inclusion(b"", index, size, [], b"")


@pytest.mark.parametrize(("old", "new"), [(0, 4), (5, 4)])
def test_no_proof_of_a_growth_that_was_not(old: int, new: int) -> None:
    with pytest.raises(ValueError, match="no tree"):
        merkle.consistency_proof(old, new, lambda low, high: b"")
    assert not merkle.verify_consistency(old, new, [], b"", b"")
