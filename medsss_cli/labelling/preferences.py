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
from collections.abc import Sequence
from typing import NamedTuple

from msgspec import UNSET

from ..records import Samples, Tree, Verdict
from .labels import EPSILON
from .trajectories import Trajectory, path_text, path_to, trajectories
from .written import in_form

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
    found = trajectories(tree)
    if all(each.correct for each in found) or not any(each.correct for each in found):
        return []
    # (-margin, rule, chosen node, rejected node): what the pairs are sorted by is all that they are made of.
    ranked = sorted(_trajectory_pairs(found, margin) + _step_pairs(tree, found, margin))
    written: dict[int, str] = {}
    seen: set[tuple[str, str]] = set()
    pairs: list[Pair] = []
    for difference, rule, high, low in ranked:
        if most is not None and len(pairs) >= most:
            break
        for node in (high, low):
            if node not in written:
                written[node] = path_text(tree, path_to(tree, node))
        texts = written[high], written[low]
        if texts[0] != texts[1] and texts not in seen:
            seen.add(texts)
            pairs.append(Pair(*texts, -difference, STEP if rule else TRAJECTORY, (high, low)))
    return pairs


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


_Ranked = tuple[float, bool, int, int]


def _step_pairs(tree: Tree, found: Sequence[Trajectory], margin: float) -> list[_Ranked]:
    """Rule (a)."""
    nodes = tree.nodes
    listed = sorted({index for each in found for index in each.nodes[1:]})
    children = Counter(nodes[index].parent for index in listed)
    by_depth: dict[int, list[tuple[float, int, int]]] = {}
    for index in listed:
        node = nodes[index]
        if children[node.parent] > 1:
            by_depth.setdefault(node.depth, []).append((node.value, index, node.parent))
    pairs = []
    for level in by_depth.values():
        level.sort()
        for value, high, parent in reversed(level):
            below = value - margin - EPSILON
            for other, low, other_parent in level:
                if other >= below:
                    break
                if parent != other_parent:
                    pairs.append((_rounded(other - value), True, high, low))
    return pairs


def _trajectory_pairs(found: Sequence[Trajectory], margin: float) -> list[_Ranked]:
    """Rule (b)."""
    wrong = sorted((each.min_value, each.nodes[-1]) for each in found if not each.correct)
    pairs = []
    for good in found:
        below = good.min_value - margin - EPSILON
        for smallest, low in wrong:
            if not good.correct or smallest >= below:
                break
            pairs.append((_rounded(smallest - good.min_value), False, good.nodes[-1], low))
    return pairs


def _rounded(margin: float) -> float:
    """Without the residue of floating point, which would order equal margins by chance."""
    return round(margin, 9)
