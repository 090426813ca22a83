"""A Merkle tree over records, and proofs of what is in it (RFC 6962, RFC 9162).

A leaf is hashed as SHA-256(0x00 ‖ record), a node as SHA-256(0x01 ‖ left ‖ right),
so that no record can be taken for a node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256

EMPTY_ROOT = sha256(b"").digest()
"""The root of a tree without leaves."""

Subtree = Callable[[int, int], bytes]
"""A function from two indexes to the root over the leaves [low, high)."""


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of a node over its two children."""
    return sha256(b"\x01" + left + right).digest()


class Frontier:
    """Tree that grows leaf by leaf; its memory grows with its height only."""

    def __init__(self) -> None:
        self.size = 0
        self.peaks: list[bytes] = []
        """Roots of the full subtrees that the leaves make up, largest first."""

    def append(self, leaf: bytes, level: int = 0) -> None:
        """Add a leaf's hash, or the root of a full subtree of 2**level leaves.

        Raises:
            ValueError: if a subtree would not begin at a multiple of its size.
        """
        if self.size % (1 << level):
            raise ValueError(
                f"a subtree of {1 << level} leaves cannot follow {self.size} leaves"
            )
        # Each set bit of the size is a peak; adding one carries over the low ones.
        place = self.size >> level
        while place & 1:
            leaf = node_hash(self.peaks.pop(), leaf)
            place >>= 1
        self.peaks.append(leaf)
        self.size += 1 << level

    def root(self) -> bytes:
        """Return the root over the leaves so far."""
        return _fold(self.peaks)


class TiledTree:
    """Tree that grows leaf by leaf, and gives the root of each tile that fills.

    A leaf is hashed into the open tile only: a full tile is added as a whole.
    """

    def __init__(self, level: int) -> None:
        """Begin an empty tree whose tiles have 2**level leaves."""
        self._level = level
        self._full = Frontier()
        self._open = Frontier()

    @property
    def size(self) -> int:
        """Return the number of leaves so far."""
        return self._full.size + self._open.size

    def append(self, leaf: bytes) -> bytes | None:
        """Add a leaf's hash; return the root of the tile that it fills, if any."""
        tile = self._open
        tile.append(leaf)
        if not tile.size >> self._level:
            return None
        root = tile.root()
        self._open = Frontier()
        self._full.append(root, self._level)
        return root

    def append_tile(self, root: bytes) -> None:
        """Add the root of a full tile, after full tiles only."""
        self._full.append(root, self._level)

    def root(self) -> bytes:
        """Return the root over the leaves so far."""
        # Each peak of the full tiles is larger than all of the open one, so together
        # they are the peaks of one tree.
        return _fold([*self._full.peaks, *self._open.peaks])


def _fold(peaks: Sequence[bytes]) -> bytes:
    if not peaks:
        return EMPTY_ROOT
    *rest, root = peaks
    # From the right: the smaller subtrees are joined first, as the tree of RFC 6962
    # splits at the largest power of two.
    for peak in reversed(rest):
        root = node_hash(peak, root)
    return root


def root_of(leaves: Iterable[bytes]) -> bytes:
    """Return the root over leaf hashes."""
    frontier = Frontier()
    for leaf in leaves:
        frontier.append(leaf)
    return frontier.root()


def largest_power_below(size: int) -> int:
    """Return the largest power of two smaller than a size of at least two."""
    # Of size - 1, so that a power of two gives its half.
    return int(1 << (size - 1).bit_length() - 1)


def inclusion_proof(index: int, size: int, subtree: Subtree) -> list[bytes]:
    """Return the hashes that lead from a leaf to the root of a tree (2.1.3.1).

    Args:
        index: the leaf's index, from 0.
        size: the leaves in the tree.
        subtree: gives the root over a range of leaves.

    Raises:
        ValueError: if the leaf is not in the tree.
    """
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size}")
    proof: list[bytes] = []
    low, high = 0, size
    while high - low > 1:
        split = low + largest_power_below(high - low)
        if index < split:
            proof.append(subtree(split, high))
            high = split
        else:
            proof.append(subtree(low, split))
            low = split
    # Found from the root down; a proof lists its hashes from the leaf up.
    return proof[::-1]


def consistency_proof(old: int, new: int, subtree: Subtree) -> list[bytes]:
    """Return the hashes that show that a tree grew from an older one (2.1.4.1).

    Raises:
        ValueError: unless 0 < old <= new.
    """
    if not 0 < old <= new:
        raise ValueError(f"no tree of {new} leaves grew from one of {old}")
    return _subproof(old, 0, new, True, subtree)


# `whole` says that the range is still the old tree from its first leaf.
def _subproof(
    old: int, low: int, high: int, whole: bool, subtree: Subtree
) -> list[bytes]:
    size = high - low
    if old == size:
        # `whole`: this is the old tree itself, whose root the verifier has.
        return [] if whole else [subtree(low, high)]
    split = largest_power_below(size)
    if old <= split:
        inner = _subproof(old, low, low + split, whole, subtree)
        return [*inner, subtree(low + split, high)]
    inner = _subproof(old - split, low + split, high, False, subtree)
    return [*inner, subtree(low, low + split)]


def verify_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> bool:
    """Return whether a proof leads from a leaf hash to a root (2.1.3.2)."""
    if not 0 <= index < size:
        return False
    place, last, found = index, size - 1, leaf
    for step in proof:
        if last == 0:
            return False
        # The last node of a level may have no sibling: it rises until it is a right
        # child.
        if place & 1 or place == last:
            found = node_hash(step, found)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            found = node_hash(found, step)
        place, last = place >> 1, last >> 1
    return last == 0 and found == root


def verify_consistency(
    old: int, new: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes
) -> bool:
    """Return whether a proof shows that a tree grew from an older one (2.1.4.2)."""
    if not 0 < old <= new:
        return False
    if old == new:
        return not proof and old_root == new_root
    steps = list(proof)
    # A full old tree is a node of the new one, so that the proof leaves it out.
    if old & (old - 1) == 0:
        steps.insert(0, old_root)
    if not steps:
        return False
    place, last = old - 1, new - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    first = second = steps[0]
    for step in steps[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            first, second = node_hash(step, first), node_hash(step, second)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            second = node_hash(second, step)
        place, last = place >> 1, last >> 1
    return last == 0 and first == old_root and second == new_root
