"""Packs: the trie against brute force on random sequences, and a model's numbers on packs against single sequences."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tiny_models import make_tiny_model

from medsss_cli.models import load_model
from medsss_cli.prm.attention import Tree, open_tree
from medsss_cli.prm.packing import Part, blocks, pack, split
from medsss_cli.training.prm import collate, plan, step_loss

# Two or three ids and short sequences: most share beginnings, some are equal, some end where others go on.
SEQUENCES = st.lists(st.lists(st.integers(0, 2), max_size=10), max_size=9)
FILLED = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=14), min_size=1, max_size=8)


def prefixes(sequences: list[list[int]]) -> list[tuple[int, ...]]:
    """The nodes of the trie: every beginning of every sequence, once, depth first."""
    return sorted({tuple(s[: n + 1]) for s in sequences for n in range(len(s))})


def test_the_example_of_the_module() -> None:
    packed = pack([list(b"pqrs"), list(b"pqtu"), list(b"pv")])
    assert bytes(packed.ids.tolist()) == b"pqrstuv"
    assert packed.positions.tolist() == [0, 1, 2, 3, 2, 3, 1]
    assert packed.ends.tolist() == [7, 6, 4, 4, 6, 6, 7]
    assert [path.tolist() for path in packed.paths] == [[0, 1, 2, 3], [0, 1, 4, 5], [0, 6]]
    assert packed.ancestors(5).tolist() == [0, 1, 4]


@settings(deadline=None)
@given(SEQUENCES)
def test_a_pack_is_the_trie(sequences: list[list[int]]) -> None:
    """Every sequence comes out as it went in; a token stands once for each beginning that there is; its position is
    its depth; and it is an ancestor of exactly the tokens that go on from it."""
    packed = pack(sequences)
    assert [packed.ids[path].tolist() for path in packed.paths] == sequences
    nodes = prefixes(sequences)
    assert len(packed) == len(nodes)
    name = {
        int(i): tuple(s[: p + 1]) for s, path in zip(sequences, packed.paths, strict=True) for p, i in enumerate(path)
    }
    assert sorted(name) == list(range(len(nodes)))
    for i in name:
        assert packed.positions[i] == len(name[i]) - 1
        assert [name[int(j)] for j in packed.ancestors(i)] == [name[i][:n] for n in range(1, len(name[i]))]
        for j in name:
            assert (i <= j < packed.ends[i]) == (name[j][: len(name[i])] == name[i])


@settings(deadline=None)
@given(SEQUENCES, st.integers(1, 30), st.one_of(st.none(), st.integers(1, 4)))
def test_a_trie_is_split_along_its_branches(sequences: list[list[int]], tokens: int, paths: int | None) -> None:
    """Nothing is lost, nothing is twice, and no part is over a limit unless it is one sequence."""
    parts = split(sequences, tokens, paths)
    assert sorted(member for part in parts for member in part.members) == list(range(len(sequences)))
    for part in parts:
        assert part.tokens == len(pack([sequences[member] for member in part.members]))
        assert part.tokens <= tokens or len(part.members) == 1
        assert paths is None or len(part.members) <= paths


def test_splitting_by_hand() -> None:
    """[1 2 3], [1 2 4], [1 5] are 5 tokens. Of at most 4: the first two share [1 2], the third has its own 1 again."""
    sequences = [[1, 5], [1, 2, 4], [1, 2, 3]]
    assert split(sequences, 4) == [Part([2, 1], 4), Part([0], 2)]
    assert split(sequences, 5) == [Part([2, 1, 0], 5)]
    assert split(sequences, 5, 1) == [Part([2], 3), Part([1], 3), Part([0], 2)]


@settings(deadline=None)
@given(FILLED, st.floats(0, 20), st.floats(0, 200), st.integers(1, 6))
def test_blocks_cover_all_queries_with_all_their_keys(
    sequences: list[list[int]], per_key: float, per_block: float, piece: int
) -> None:
    """Wherever the costs make cuts fall, each token is in one block, whose keys hold all its ancestors and itself."""
    packed = pack(sequences)
    found = blocks(packed, per_key=per_key, per_block=per_block, piece=piece)
    assert [block.begin for block in found] == [0, *(block.end for block in found[:-1])]
    assert found[-1].end == len(packed)
    for block in found:
        keys = block.keys.tolist()
        assert keys == sorted(set(keys))
        for query in range(block.begin, block.end):
            assert {*packed.ancestors(query).tolist(), query} <= set(keys)
    assert len(blocks(packed, per_key=0, per_block=1e9, piece=piece)) == 1


# --- models ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    names = ("llama", "gpt2", "mistral-sliding")
    return {name: make_tiny_model(tmp_path_factory.mktemp(name), name, hidden=16, spread=0.1) for name in names}


@pytest.fixture(params=["llama", "gpt2", "mistral-sliding"])
def model(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Any:
    """In float64, without dropout: gradients are compared, and dropout draws anew for each token that it meets. The
    norms of Llama and Mistral round to float32 whatever the model is; torch's own does not."""
    import torch

    model = load_model(str(folders[request.param]), dtype=torch.float64, head="steps").eval()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__.endswith("RMSNorm"):
                norm = torch.nn.RMSNorm(len(child.weight), eps=child.variance_epsilon, dtype=torch.float64)
                norm.weight = child.weight
                setattr(parent, name, norm)
    return model


def labelled(ids: list[int]) -> Any:
    """The ids with labels at some of their places."""
    return st.tuples(
        st.just(ids), st.dictionaries(st.integers(0, len(ids) - 1), st.sampled_from([0.0, 0.3, 1.0]), min_size=1)
    )


ROWS = st.lists(st.lists(st.integers(5, 7), min_size=1, max_size=16).flatmap(labelled), min_size=1, max_size=7)
PHASES = [Phase.explicit, Phase.reuse, Phase.generate]  # to shrink a failure would take minutes


def test_loss_and_gradients_are_those_of_single_sequences(model: Any) -> None:
    """Random tries, hard and soft labels that differ between paths through one step, in the model's own blocks and in
    the smallest: loss and every gradient within 1e-10 in float64 and 1e-5 in float32, relative to the largest."""
    import torch

    usual = model.config._attn_implementation
    assert open_tree(model) == ""
    ours = model.config._attn_implementation

    def gradients(rows: list[dict[str, Any]], piece: int | None, packed: bool) -> tuple[float, dict[str, Any]]:
        model.zero_grad()
        model.set_attn_implementation(ours if packed else usual)
        total = torch.zeros((), dtype=torch.float64)
        for some in [rows] if packed else [[row] for row in rows]:  # one by one: no padding, no batch
            given = collate(some, packed)
            labels = given.pop("labels")
            if packed and piece is not None:
                given["tree"] = Tree.of(pack([row["input_ids"] for row in rows]), piece=piece)
            total = total + step_loss(model(**given).logits, labels)
        total.backward()
        found = {name: p.grad.double().clone() for name, p in model.named_parameters() if p.grad is not None}
        return total.item(), found

    @settings(max_examples=25, deadline=None, phases=PHASES)
    @given(ROWS, st.sampled_from([None, 2, 5]))
    def compare(pairs: list[tuple[list[int], dict[int, float]]], piece: int | None) -> None:
        rows = [{"input_ids": ids, "readouts": list(y), "labels": list(y.values())} for ids, y in pairs]
        for dtype, near in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
            model.to(dtype)
            loss, expected = gradients(rows, None, packed=False)
            packed_loss, found = gradients(rows, piece, packed=True)
            assert packed_loss == pytest.approx(loss, rel=near)
            largest = max(float(value.abs().max()) for value in expected.values())
            for name, value in expected.items():
                # Where labels of both kinds cancel, float32 leaves rounding: it is set against the largest gradient.
                scale = max(float(value.abs().max()), (1e-1 if dtype is torch.float32 else 1e-6) * largest)
                assert float((value - found[name]).abs().max()) <= near * scale, (name, dtype)

    compare()


def other(kind: str, **more: Any) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForTokenClassification

    torch.manual_seed(0)
    size = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.2}
    return AutoModelForTokenClassification.from_config(AutoConfig.for_model(kind, **size, **tokens, **more))


CAPPED = {"intermediate_size": 32, "num_key_value_heads": 2, "head_dim": 4, "sliding_window": 8}


@pytest.mark.parametrize(
    ("kind", "more", "why"),
    [
        ("phi3", {"intermediate_size": 32}, None),
        ("falcon", {"alibi": False}, ""),  # attention of its own
        ("bloom", {}, ""),  # positions made from the mask
        ("bert", {"intermediate_size": 32}, "differ by"),  # sees what comes after, too
        ("gemma2", CAPPED, "softcap"),  # caps its attention
        ("mpt", {"d_model": 16, "n_heads": 4, "n_layers": 2}, "differ by"),
    ],
)
def test_each_architecture_is_tried_out(kind: str, more: dict[str, Any], why: str | None) -> None:
    """A model that would silently give wrong scores on packs is found out before it gives any, and left as it was."""
    model = other(kind, **more)
    before = model.config._attn_implementation
    said = open_tree(model)
    assert (said == "") == (why is None), said
    assert (why or "") in said
    assert (model.config._attn_implementation == before) == (why is not None)
    assert model.training


def test_a_model_opened_for_packs_is_saved_as_it_was(folders: dict[str, Path], tmp_path: Path) -> None:
    """Nobody else's transformers knows our attention. bfloat16 is no reason to refuse packs."""
    import torch

    model = load_model(str(folders["llama"]), dtype=torch.bfloat16, head="steps")
    assert open_tree(model) == ""
    model.save_pretrained(tmp_path)
    assert "medsss_tree" not in (tmp_path / "config.json").read_text()


# --- which rows make an update ---------------------------------------------------------------------------------------


def parts_of(sizes: list[tuple[int, int]]) -> list[Part]:
    """Tries of so many rows and tokens."""
    starts = [sum(paths for paths, _ in sizes[:at]) for at in range(len(sizes))]
    return [Part(list(range(at, at + paths)), tokens) for at, (paths, tokens) in zip(starts, sizes, strict=True)]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 500)), min_size=1, max_size=40),
    st.integers(1, 4),
    st.integers(1, 12),
    st.integers(1, 3),
)
def test_every_row_is_in_one_update(sizes: list[tuple[int, int]], slots: int, per_update: int, epochs: int) -> None:
    """In each epoch no row is lost or doubled, and no update is empty. Another number of processes makes the same
    updates in the same order."""
    parts = parts_of(sizes)
    rows = sum(len(part.members) for part in parts)
    each = min(len(parts), max(1, round(rows / per_update)))
    updates, others = (
        [[member for slot in update for member in slot] for update in plan(parts, slots + more, per_update, epochs, 3)]
        for more in (0, 1)
    )
    assert len(updates) == each * epochs
    assert all(updates)
    for epoch in range(epochs):
        assert sorted(chain.from_iterable(updates[epoch * each : (epoch + 1) * each])) == list(range(rows))
    assert list(map(sorted, updates)) == list(map(sorted, others))


def test_updates_hold_about_the_rows_that_were_asked_for() -> None:
    """100 tries of 3 to 13 paths, 32 rows an update: no update is further off than the largest trie, and another epoch
    mixes them anew."""
    parts = parts_of([(3 + i * 7 % 11, 100) for i in range(100)])
    updates = plan(parts, 4, 32, 2.0, seed=0)
    counts = [sum(map(len, update)) for update in updates]
    assert sum(counts) == 2 * sum(len(part.members) for part in parts)
    assert all(abs(count - 32) <= 13 for count in counts), counts
    assert updates[: len(updates) // 2] != updates[len(updates) // 2 :]
    assert len(plan(parts, 4, 32, 0.5, seed=0)) == round(len(updates) / 4)
