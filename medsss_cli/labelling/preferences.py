"""Preference pairs out of one tree, by the two rules of the paper (section 3).

(a) "step": two nodes of equal depth whose values differ by more than the margin, with different parents that have more
    than one child each. Chosen and rejected are the partial trajectories from the root to the nodes.
(b) "trajectory": a correct and a wrong trajectory whose smallest values along the trace (root left out) differ by more
    than the margin, the correct one's being the larger. Chosen and rejected are the whole trajectories.

Where the paper is silent: pairs come with the largest margin first; of equal margins rule (b) before (a), then in the
order of the tree. Two pairs of equal texts count once (the first), and a pair of one text with itself is none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..records import Tree
from .labels import EPSILON
from .trajectories import Trajectory, path_to, trajectories

STEP = "step"
TRAJECTORY = "trajectory"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two paths (node indices from the root) of which the first is better by `margin`, in (0, 1]. `kind` names the
    rule."""

    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    margin: float
    kind: str


def preference_pairs(
    tree: Tree,
    text: Callable[[tuple[int, ...]], str],
    *,
    margin: float = 0.8,
    most: int | None = None,
    found: Sequence[Trajectory] | None = None,
) -> list[Pair]:
    """The pairs of `tree`, the largest margin first, at most `most` of them.

    `text` writes a path out; it decides which pairs are equal, and is asked only for pairs that are kept or dropped as
    doubles. `found` are the trajectories of the tree, if they are at hand.
    """
    pairs = _trajectory_pairs(trajectories(tree) if found is None else found, margin)
    pairs += _step_pairs(tree, margin)
    pairs.sort(key=lambda pair: (-pair.margin, pair.kind == STEP, pair.chosen[-1], pair.rejected[-1]))
    written: dict[tuple[int, ...], str] = {}
    seen: set[tuple[str, str]] = set()
    kept: list[Pair] = []
    for pair in pairs:
        if most is not None and len(kept) >= most:
            break
        for path in (pair.chosen, pair.rejected):
            if path not in written:
                written[path] = text(path)
        texts = written[pair.chosen], written[pair.rejected]
        if texts[0] != texts[1] and texts not in seen:
            seen.add(texts)
            kept.append(pair)
    return kept


def _step_pairs(tree: Tree, margin: float) -> list[Pair]:
    """Rule (a)."""
    children = [0] * len(tree.nodes)
    for node in tree.nodes[1:]:
        children[node.parent] += 1
    by_depth: dict[int, list[int]] = {}
    for index, node in enumerate(tree.nodes):
        if index and children[node.parent] > 1:
            by_depth.setdefault(node.depth, []).append(index)
    pairs = []
    for level in by_depth.values():
        level.sort(key=lambda index: -tree.nodes[index].value)
        for high in level:
            for low in reversed(level):
                difference = tree.nodes[high].value - tree.nodes[low].value
                if difference <= margin + EPSILON:
                    break
                if tree.nodes[high].parent != tree.nodes[low].parent:
                    pairs.append(Pair(path_to(tree, high), path_to(tree, low), _rounded(difference), STEP))
    return pairs


def _trajectory_pairs(found: Sequence[Trajectory], margin: float) -> list[Pair]:
    """Rule (b)."""
    wrong = sorted((each for each in found if not each.correct), key=lambda each: each.min_value)
    pairs = []
    for good in (each for each in found if each.correct):
        for bad in wrong:
            difference = good.min_value - bad.min_value
            if difference <= margin + EPSILON:
                break
            pairs.append(Pair(good.nodes, bad.nodes, _rounded(difference), TRAJECTORY))
    return pairs


def _rounded(margin: float) -> float:
    """Without the residue of floating point, which would order equal margins by chance."""
    return round(margin, 9)
