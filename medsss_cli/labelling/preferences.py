"""Preference pairs: out of one tree by the two rules of the paper (section 3), or out of answers and their corrections.

(a) "step": two nodes of equal depth whose values differ by more than the margin, with different parents that have more
    than one child each. Chosen and rejected are the partial trajectories from the root to the nodes.
(b) "trajectory": a correct and a wrong trajectory whose smallest values along the trace (root left out) differ by more
    than the margin, the correct one's being the larger.
"correction" (MedCritical, arXiv 2509.23368, stage 2): a wrong answer and a correct correction of it, both in our form
    of steps, so that the pair tells nothing but the mistake.

As in the authors' code (`ls_obtain_dataset`) nodes and children that are on no trajectory do not count, and a tree
without a correct or without a wrong trajectory gives no pairs. Where both are silent: the largest margin comes first;
of equal margins rule (b) before (a), then the order of the tree. Pairs of equal texts count once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import permutations
from typing import NamedTuple

from msgspec import UNSET

from ..records import Samples, Tree, Verdict
from .labels import EPSILON
from .trajectories import Trajectory, in_form, path_text, path_to, trajectories

STEP = "step"
TRAJECTORY = "trajectory"
CORRECTION = "correction"


class Pair(NamedTuple):
    """Two answers, or beginnings of answers, of which the first is better by `margin`, in (0, 1]. `kind` names the
    rule. `nodes` are the last node of the chosen and of the rejected path, or the indices of the two responses."""

    chosen: str
    rejected: str
    margin: float
    kind: str
    nodes: tuple[int, int]


def preference_pairs(tree: Tree, *, margin: float = 0.8, most: int | None = None) -> list[Pair]:
    """The pairs of `tree`, the largest margin first, at most `most` of them. Raises BadRecord as `path_text` does."""
    text = cache(lambda node: path_text(tree, path_to(tree, node)))
    pairs: dict[tuple[str, str], Pair] = {}
    for loss, rule, high, low in sorted(_ranked(tree, trajectories(tree), margin)):
        if len(pairs) == most:
            break
        texts = text(high), text(low)
        if texts[0] != texts[1]:
            pairs.setdefault(texts, Pair(*texts, -loss, STEP if rule else TRAJECTORY, (high, low)))
    return list(pairs.values())


def _ranked(tree: Tree, found: Sequence[Trajectory], margin: float) -> Iterator[tuple[float, bool, int, int]]:
    """(-margin, rule, chosen node, rejected node): what the pairs are sorted by is all that they are made of. Margins
    are without the residue of floating point, which would order equal ones by chance."""
    right, wrong = ([each for each in found if each.correct is good] for good in (True, False))
    for good in right:
        for bad in wrong:
            if bad.min_value < good.min_value - margin - EPSILON:
                yield round(bad.min_value - good.min_value, 9), False, good.nodes[-1], bad.nodes[-1]
    if not (right and wrong):
        return
    nodes = tree.nodes
    listed = sorted({index for each in found for index in each.nodes[1:]})
    children = Counter(nodes[index].parent for index in listed)
    levels: dict[int, list[int]] = {}
    for index in listed:
        if children[nodes[index].parent] > 1:
            levels.setdefault(nodes[index].depth, []).append(index)
    for level in levels.values():
        for high, low in permutations(level, 2):
            if nodes[low].value < nodes[high].value - margin - EPSILON and nodes[high].parent != nodes[low].parent:
                yield round(nodes[low].value - nodes[high].value, 9), True, high, low


def correction_pairs(samples: Samples, *, most: int | None = None) -> list[Pair]:
    """Each correct correction against the wrong response that it puts right, in the order of the record, at most `most`
    of them; margin 1, that of their verdicts. Pairs of equal texts count once."""
    pairs: dict[tuple[str, str], Pair] = {}
    for index, response in enumerate(samples.responses):
        if response.corrects is UNSET or response.verdict is not Verdict.CORRECT:
            continue
        original = samples.responses[response.corrects]
        chosen, rejected = in_form(response.text), in_form(original.text)
        if original.verdict is Verdict.CORRECT or chosen is None or rejected is None or chosen == rejected:
            continue
        pairs.setdefault((chosen, rejected), Pair(chosen, rejected, 1.0, CORRECTION, (index, response.corrects)))
    return list(pairs.values())[:most]
