"""Sequences that share beginnings -> one packed sequence in which every shared token stands once. Pure: no torch.

The trie over token ids is written depth first, so that a token and all that follows from it stand side by side:

    three sequences   p q r s     packed   p q r s t u v      positions  0 1 2 3 2 3 1
                      p q t u              0 1 2 3 4 5 6      ends       7 6 4 4 6 6 7
                      p v
Token i is an ancestor of token j, or j itself, where i <= j < ends[i]: this is all that attention has to know. A
position is the depth in the trie, which is the place in the sequence. Sequences of several problems go into one pack
alike; they share what their chat template writes first, if anything.

A run of packed tokens from a to b has all its ancestors among those of a and the run itself (a token before a whose
descendants reach into the run has a among them). So attention can take a pack in blocks of consecutive queries, each
with few keys: `blocks` chooses where to cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Packed:
    """A pack of N tokens. `ids`, `positions` and `ends` are [N], see above; `ends` lie in [1, N]. `paths[s][p]` is
    the packed index of token p of sequence s, `owners[i]` the sequence that brought token i."""

    ids: Ints
    positions: Ints
    ends: Ints
    owners: Ints
    paths: list[Ints]

    def __len__(self) -> int:
        return len(self.ids)

    def ancestors(self, index: int) -> Ints:
        """The packed indices of what comes before token `index` in its sequences, in their order."""
        return self.paths[int(self.owners[index])][: int(self.positions[index])]


def pack(sequences: Sequence[Sequence[int]]) -> Packed:
    """The trie of sequences of token ids as one pack. Equal sequences cost nothing, empty ones have no tokens."""
    arrays = [np.asarray(sequence, dtype=np.int64) for sequence in sequences]
    ids, positions, ends, owners = (np.zeros(sum(map(len, arrays)), dtype=np.int64) for _ in range(4))
    paths: list[Ints] = [np.zeros(0, dtype=np.int64)] * len(arrays)
    before = path = np.zeros(0, dtype=np.int64)  # the sequence before, and where its tokens stand
    count = 0
    for index in depth_first(sequences):
        array = arrays[index]
        same = shared(before, array)
        new = slice(count, count + len(array) - same)
        ends[path[same:]] = count
        ids[new], positions[new], owners[new] = array[same:], np.arange(same, len(array)), index
        path = paths[index] = np.concatenate([path[:same], np.arange(new.start, new.stop)])
        count, before = new.stop, array
    ends[path] = count
    return Packed(ids[:count], positions[:count], ends[:count], owners[:count], paths)


def depth_first(sequences: Sequence[Sequence[int]]) -> list[int]:
    """The sequences' numbers in the order in which the trie meets them: sorted by their ids."""
    return sorted(range(len(sequences)), key=lambda index: list(sequences[index]))


def shared(a: Ints, b: Ints) -> int:
    """How many ids two sequences have in common from the beginning."""
    length = min(len(a), len(b))
    differ = np.flatnonzero(a[:length] != b[:length])
    return int(differ[0]) if differ.size else length


class Part(NamedTuple):
    """Some of the sequences, by number, and how many tokens their pack has."""

    members: list[int]
    tokens: int


def split(sequences: Sequence[Sequence[int]], max_tokens: int, max_paths: int | None = None) -> list[Part]:
    """Cut a trie along its branches into parts of at most so many packed tokens and paths; each sequence is in
    exactly one, with its whole beginning. A sequence that is longer than `max_tokens` by itself is a part of its
    own. Equal ones count as one path each."""
    parts: list[Part] = []
    before: Ints = np.zeros(0, dtype=np.int64)
    for index in depth_first(sequences):
        array = np.asarray(sequences[index], dtype=np.int64)
        last = parts[-1] if parts else Part([], max_tokens)
        tokens = last.tokens + len(array) - shared(before, array)
        if tokens > max_tokens or not last.members or (max_paths is not None and len(last.members) >= max_paths):
            parts.append(Part([index], len(array)))
        else:
            parts[-1] = Part([*last.members, index], tokens)
        before = array
    return parts


class Block(NamedTuple):
    """The queries begin..end of a pack and the packed indices of their keys, in the pack's order: the ancestors of the
    first query, then the queries themselves."""

    begin: int
    end: int
    keys: Ints


def blocks(packed: Packed, *, per_key: float, per_block: float, piece: int) -> list[Block]:
    """Cut a pack into blocks of queries at the least cost, in units of one query that meets one key:

        queries x keys  +  per_key x keys  +  per_block

    since keys have to be gathered, and calls cost time whatever their size. Cuts may fall where a branch begins, and
    within a branch every `piece` tokens. A small pack comes out as one block: plain attention with a mask.
    """
    if not len(packed):
        return []
    at = _cuts(packed, piece)
    depth = np.append(packed.positions[at[:-1]], 0)
    best = np.zeros(len(at))
    came = np.zeros(len(at), dtype=np.int64)
    for j in range(1, len(at)):
        queries = at[j] - at[:j]
        cost = best[:j] + (queries + per_key) * (depth[:j] + queries) + per_block
        came[j] = int(np.argmin(cost))
        best[j] = cost[came[j]]
    found: list[Block] = []
    j = len(at) - 1
    while j > 0:
        begin, end = int(at[came[j]]), int(at[j])
        found.append(Block(begin, end, np.concatenate([packed.ancestors(begin), np.arange(begin, end)])))
        j = int(came[j])
    return found[::-1]


def _cuts(packed: Packed, piece: int) -> Ints:
    """Where a block may begin or end, 0 and N included: where a branch begins, where the first of its brothers does,
    and every `piece` tokens from there on."""
    total = len(packed)
    cuts = {0, total}
    for begin in np.flatnonzero(np.diff(packed.owners, prepend=-1)):
        cuts.add(int(begin))
        before = packed.ancestors(int(begin))
        cuts.add(int(before[-1]) + 1 if len(before) else 0)
    marks = sorted(cuts)
    for left, right in pairwise(marks):
        cuts.update(range(left + piece, right, piece))
    return np.array(sorted(cuts), dtype=np.int64)
