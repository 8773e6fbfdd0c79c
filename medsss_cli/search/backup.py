"""What a new value means for the nodes above it."""

from __future__ import annotations

from .tree import GrowingTree


def back_up(tree: GrowingTree, index: int, value: float) -> None:
    """Give the leaf `index` its value in [0, 1] and carry it up to the root (paper, section 3.2, back-propagation).

    On the whole path N += 1. The leaf takes v = `value`; every node above it, from below to above,

        v <- (v + sum(N_c v_c) / sum(N_c)) / 2,   c over its children.

    Children that have not been visited weigh nothing, so backing up siblings one by one gives the same whether the
    later ones stand in the tree already or not. A node is closed when all its children are.
    """
    tree[index].visits += 1
    tree[index].value = value
    for above in tree.upward(tree[index].parent):
        node = tree[above]
        node.visits += 1
        visits = sum(tree[child].visits for child in node.children)
        mean = sum(tree[child].visits * tree[child].value for child in node.children) / visits
        node.value = (node.value + mean) / 2
    close(tree, tree[index].parent)


def close(tree: GrowingTree, index: int) -> None:
    """Close `index` and the nodes above it as far as all their children are closed. A leaf is left as it is."""
    for above in tree.upward(index):
        children = tree[above].children
        if not children or not all(tree[child].closed for child in children):
            return
        tree[above].closed = True
