"""The Merkle tree of RFC 6962, section 2.1, over the hashes of the log's records.

A record's hash is its leaf hash already. node = SHA-256( 0x01 | left | right ); the root of the empty tree is SHA-256(
"" ).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

EMPTY_ROOT = hashlib.sha256(b"").digest()


def node(left: bytes, right: bytes) -> bytes:
    """The hash above two hashes."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """The root of the tree over these leaf hashes."""
    peaks: list[bytes] = []
    for size, leaf in enumerate(leaves):
        # One peak for each bit of the size that is set; the new leaf completes as many subtrees as it has ones at its
        # end.
        top = leaf
        while size & 1:
            top = node(peaks.pop(), top)
            size >>= 1
        peaks.append(top)
    if not peaks:
        return EMPTY_ROOT
    top = peaks.pop()
    while peaks:
        top = node(peaks.pop(), top)
    return top


def verify_inclusion(index: int, size: int, leaf: bytes, path: Sequence[bytes], root: bytes) -> bool:
    """Whether a path proves that the leaf at an index is in the tree of this size and root (RFC 6962, 2.1.1)."""
    if not 0 <= index < size or not _are_hashes(leaf, root, *path):
        return False
    # Up to where the way from the leaf meets the way from the last leaf both kinds of siblings occur; above, only left
    # ones.
    inner = (index ^ (size - 1)).bit_length()
    if len(path) != inner + (index >> inner).bit_count():
        return False
    top = leaf
    for level, sibling in enumerate(path):
        is_left = level < inner and not index >> level & 1
        top = node(top, sibling) if is_left else node(sibling, top)
    return top == root


def verify_consistency(first: int, second: int, first_root: bytes, second_root: bytes, path: Sequence[bytes]) -> bool:
    """Whether a path proves that the tree of the first size is the beginning of that of the second (RFC 6962, 2.1.2).

    From the empty tree nothing can be proven: whoever has seen nothing has nothing to compare.
    """
    if not 0 < first <= second:
        return False
    if first == second:
        return not path and first_root == second_root
    if not _are_hashes(first_root, second_root, *path):
        return False
    # The largest subtree that ends at the first size is complete in both trees: the proof begins with its hash, or with
    # the first root itself where that subtree is the whole first tree.
    shift = (first & -first).bit_length() - 1
    index = (first - 1) >> shift
    inner = (index ^ ((second - 1) >> shift)).bit_length()
    start, siblings = (first_root, path) if first == 1 << shift else (path[0] if path else b"", path[1:])
    if not start or len(siblings) != inner + (index >> inner).bit_count():
        return False
    old = new = start
    for level, sibling in enumerate(siblings):
        if level < inner and not index >> level & 1:
            new = node(new, sibling)
        else:
            old, new = node(sibling, old), node(sibling, new)
    return old == first_root and new == second_root


def _are_hashes(*values: bytes) -> bool:
    return all(len(value) == 32 for value in values)
