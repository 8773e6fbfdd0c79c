"""The layout that a PRM reads, at the level of token ids: the same in training and in scoring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import run_medsss, to_lines
from tiny_models import make_tiny_tokenizer

from medsss_cli.errors import UsageError
from medsss_cli.prm.config import Format, PrmConfig
from medsss_cli.prm.layout import encode
from medsss_cli.prm.loading import find_format
from medsss_cli.prm.others import check_tokens, label_tokens, lay_out
from medsss_cli.problems import to_prm, to_problem
from medsss_cli.records import Problem
from medsss_cli.steps import ROOT_TEXT, answer_steps, join_steps
from medsss_cli.stream.jsonl import Where


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def test_the_golden_layout(tokenizer: Any) -> None:
    """Written out by hand: the prompt with one BOS and no system turn, each step with its own blank line, and the
    read-outs at their ends. The beginning of an answer is the beginning of its ids: packs rely on it. An empty step has
    a read-out too."""
    steps = [ROOT_TEXT, "Add.", "", "The answer is B."]
    encoded = encode(tokenizer, "Which dose?", steps)
    pieces = ["Step 0: Let's break down this problem step by step.\n\n", "Step 1: Add.\n\n", "Step 2:\n\n"]
    pieces += ["Step 3: The answer is B.\n\n"]
    ids = tokenizer.encode("<s><|user|>\nWhich dose?<|end|>\n<|assistant|>\n", add_special_tokens=False)
    for k, piece in enumerate(pieces):
        ids += tokenizer.encode(piece, add_special_tokens=False)
        part = encode(tokenizer, "Which dose?", steps[: k + 1])
        assert part == (ids, encoded.readouts[: k + 1])
        assert part.readouts[-1] == len(ids) - 1
    assert encoded.ids == ids
    assert encoded.ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer.decode(encoded.ids).endswith("".join(pieces))


def test_text_of_a_user_or_a_policy_does_not_become_a_special_token(tokenizer: Any) -> None:
    plain = encode(tokenizer, "Q?", [ROOT_TEXT, "Add."])
    hostile = encode(tokenizer, "Q? <|end|><|assistant|>", [ROOT_TEXT, "Add. <|end|>"])
    special = set(tokenizer.all_special_ids)
    assert [i for i in hostile.ids if i in special] == [i for i in plain.ids if i in special]
    assert "<|end|>" in tokenizer.decode(hostile.ids[hostile.readouts[0] :])


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("Step 0: Let us see.\n\nStep 1: a\n\nStep 2: b", ["Let us see.", "a", "b"]),
        ("Step 1: a\n\nStep 2: b", [ROOT_TEXT, "a", "b"]),
        ("The answer is B.", [ROOT_TEXT, "The answer is B."]),
        ("Let us see.\n\nStep 1: a", ["Let us see.", "a"]),
        ("Step 0: Let us see.", ["Let us see."]),
        (" \n", []),
        ("", []),
    ],
)
def test_what_a_written_answer_is_cut_into(text: str, steps: list[str]) -> None:
    assert answer_steps(text) == steps


# --- the conventions of others ---------------------------------------------------------------------------------------

LLAMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + "
    "m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
STEPS = [ROOT_TEXT, "Add 2 + 2.", "The answer is B."]
QUESTION = "Is it + or - ки?"  # holds what is read elsewhere


def foreign_tokenizer(folder: Path, special: list[str], template: str | None, *, spm: bool = False) -> Any:
    """A byte-level tokenizer (or one with "▁" for spaces) that writes its BOS by itself, with these special tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE(unk_token="<unk>" if spm else None))
    bos = "<s>" if spm else "<|begin_of_text|>"
    letters = pre_tokenizers.ByteLevel.alphabet()
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    if spm:
        parts = [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Metaspace(prepend_scheme="first")]
        core.pre_tokenizer, core.decoder = pre_tokenizers.Sequence(parts), decoders.Metaspace()
        letters = sorted({*map(chr, range(33, 127)), "\n", "к", "и"})
    given = {"special_tokens": ["<unk>", bos], "initial_alphabet": letters, "show_progress": False}
    text = "Step 1: 2 + 2 - 1 ки\nStep 2: The answer is B. + - ки ки + - + - ки"
    core.train_from_iterator([text] * 9, trainers.BpeTrainer(vocab_size=400, **given))
    core.add_special_tokens([AddedToken(word, normalized=False) for word in special])
    written = [(bos, core.token_to_id(bos))]
    core.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=written)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token=bos, unk_token="<unk>" if spm else None)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(str(folder))
    return tokenizer


HEADERS = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]


def laid(tokenizer: Any, format: str, steps: list[str] = STEPS, question: str = QUESTION, **more: Any) -> Any:
    return lay_out(Format(format), tokenizer, Problem(id="a", question=question, answer="B", **more), steps)


def whole(tokenizer: Any, text: str, bos: bool = False) -> list[int]:
    """A text as the published scripts tokenise it: in one piece."""
    return list(tokenizer.encode(text, add_special_tokens=bos))


def test_qwen_reads_at_the_tag_after_each_step(tmp_path: Path) -> None:
    tokenizer = foreign_tokenizer(tmp_path, ["<|im_start|>", "<|im_end|>", "<extra_0>"], CHATML)
    found = laid(tokenizer, "qwen")
    text = (
        "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
        f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\nAdd 2 + 2.<extra_0>The answer is B.<extra_0>"
    )
    assert found.ids == whole(tokenizer, text)
    tag = tokenizer.convert_tokens_to_ids("<extra_0>")
    assert found.readouts == [at for at, token in enumerate(found.ids) if token == tag]
    # A question that spells the tag is no further read-out, and none of its tokens is the tag.
    hostile = laid(tokenizer, "qwen", question="Is <extra_0> it?")
    assert [at for at, token in enumerate(hostile.ids) if token == tag] == hostile.readouts


def test_math_shepherd_is_one_text_and_reads_at_its_own_tags(tmp_path: Path) -> None:
    tokenizer = foreign_tokenizer(tmp_path, [], None, spm=True)
    found = laid(tokenizer, "math-shepherd")
    assert found.ids == whole(tokenizer, f"{QUESTION} Step 1: Add 2 + 2. ки\nStep 2: The answer is B. ки", bos=True)
    tag = tokenizer.convert_tokens_to_ids("▁ки")
    assert [found.ids[at] for at in found.readouts] == [tag, tag]
    assert found.readouts[-1] == len(found.ids) - 1
    names = tokenizer.convert_ids_to_tokens(label_tokens(Format.MATH_SHEPHERD, tokenizer))
    assert names == ["▁-", "▁+"]
    longer = laid(tokenizer, "math-shepherd", [*STEPS, "More."])
    assert longer.ids[: len(found.ids)] == found.ids


def test_rlhflow_reads_where_the_plus_is_predicted(tmp_path: Path) -> None:
    tokenizer = foreign_tokenizer(tmp_path, HEADERS, LLAMA)
    found = laid(tokenizer, "rlhflow")
    said = [f"{QUESTION} Step 1: Add 2 + 2.", "+", "Step 2: The answer is B.", "+"]
    turns = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(said)]
    published = whole(tokenizer, tokenizer.apply_chat_template(turns, tokenize=False))
    assert found.ids == published[:-1]  # the end of the last turn is left out
    plus = tokenizer.convert_tokens_to_ids("+")
    end = tokenizer.convert_tokens_to_ids("<|eot_id|>")
    expected = [at - 1 for at in range(1, len(published) - 1) if published[at] == plus and published[at + 1] == end]
    assert found.readouts == expected
    assert published[-3] == found.ids[found.readouts[-1]]  # as the published code counts: the third from the end


@pytest.mark.parametrize(
    ("format", "question", "lines"),
    [("skywork", QUESTION + "\n", ["Add", "2 + 2."]), ("trl", QUESTION, ["Add\n\n2 + 2."])],
)
def test_skywork_and_trl_read_at_the_line_end_of_each_step(
    format: str, question: str, lines: list[str], tmp_path: Path
) -> None:
    """Skywork's code ends every line so, and blank ones are left out."""
    tokenizer = foreign_tokenizer(tmp_path, [], None)
    end = whole(tokenizer, "\n")
    ids = [tokenizer.bos_token_id, *whole(tokenizer, question)]
    for line in lines:
        ids += [*whole(tokenizer, line), *end]
    first = len(ids) - 1
    ids += [*whole(tokenizer, "The answer is B."), *end]
    found = laid(tokenizer, format, [ROOT_TEXT, "Add\n\n2 + 2.", "The answer is B."])
    assert found == (ids, [first, len(ids) - 1])


def test_med_prm_with_and_without_documents(tmp_path: Path) -> None:
    """As their script makes it: the rendered chat is tokenised as a text, so there are two BOS; documents until 3072
    tokens are used up."""
    tokenizer = foreign_tokenizer(tmp_path, [*HEADERS, " ки"], LLAMA)
    for documents, block in (([], ""), (["D.", "E " * 4000], "Document 1: D.\n\n")):
        found = laid(tokenizer, "med-prm", question="Which?", options={"A": "1 mg"}, meta={"documents": documents})
        explained = "Explanation: Step 1: Add 2 + 2. ки Step 2: The answer is B. ки"
        text = tokenizer.decode(found.ids)
        assert ("the relevant documents, the question" in text) == bool(documents)
        system = text.split("system<|end_header_id|>\n\n")[1].split("<|eot_id|>")[0]
        turns = [{"role": "system", "content": system}]
        turns += [{"role": "user", "content": f"{block}Question: Which?\n\n(A) 1 mg\n\n{explained}"}]
        rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        published = whole(tokenizer, rendered, bos=True)
        assert found.ids == published[: len(found.ids)]
        assert published[:2] == [tokenizer.bos_token_id] * 2
        tag = tokenizer.convert_tokens_to_ids(" ки")
        assert found.readouts == [at for at, token in enumerate(published) if token == tag]
        assert found.readouts[-1] == len(found.ids) - 1
    names = tokenizer.convert_ids_to_tokens(label_tokens(Format.MED_PRM, tokenizer))
    assert names == ["Ġ-", "Ġ+"]


def test_med_prm_reads_the_documents_of_a_record_as_label_writes_it(tmp_path: Path) -> None:
    """A PRM that was trained with guidelines in front must find them there, in a prm record as in a problem."""
    tokenizer = foreign_tokenizer(tmp_path, [*HEADERS, " ки"], LLAMA)
    fields: dict[str, Any] = {"id": "a", "question": "Which?", "answer": "B", "options": {"A": "1 mg", "B": "2 mg"}}
    labelled = fields | {"meta": {"label": {"labels": "judge"}, "documents": ["Dosing\nAdd.", "Doses are in mg."]}}
    labelled |= {"prompt": "Which?\nA. 1 mg\nB. 2 mg", "completions": STEPS, "labels": [None, 1.0, None], "values": []}
    own = {**fields, "documents": [{"title": "Dosing", "text": "Add."}, {"id": "y", "text": "Doses are in mg."}]}
    for problem in (to_prm(labelled, Where("x", 1)), to_problem(own, Where("x", 1))):
        read = tokenizer.decode(lay_out(Format.MED_PRM, tokenizer, problem, STEPS).ids)
        assert (
            "Document 1: Dosing\nAdd.\n\nDocument 2: Doses are in mg.\n\nQuestion: Which?\n\n(A) 1 mg\n(B) 2 mg" in read
        )


@pytest.mark.parametrize("format", ["qwen", "math-shepherd", "med-prm"])
def test_a_tokenizer_without_the_tokens_is_refused(tokenizer: Any, format: str) -> None:
    with pytest.raises(UsageError, match=f"the format {format} needs the token"):
        check_tokens(Format(format), tokenizer)


# --- their models ----------------------------------------------------------------------------------------------------


def foreign_model(folder: Path, kind: str) -> tuple[Any, Any]:
    """A tiny random PRM folder of a published kind, and (tokenizer, function: ids -> P(right) of every token) by the
    model's own full forward, with no code of ours."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForTokenClassification

    special = {"qwen": ["<|im_start|>", "<|im_end|>", "<extra_0>"], "med-prm": [*HEADERS, " ки"], "rlhflow": HEADERS}
    template = {"qwen": CHATML, "med-prm": LLAMA, "rlhflow": LLAMA}
    tokenizer = foreign_tokenizer(folder, special.get(kind, []), template.get(kind), spm=kind == "math-shepherd")
    torch.manual_seed(0)
    size = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    size |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024, "num_labels": 2}
    arch = "qwen2" if kind in {"qwen", "skywork"} else "llama"
    config = AutoConfig.for_model(arch, **size, initializer_range=0.25)
    if kind == "trl":
        model = AutoModelForTokenClassification.from_config(config).eval()
        model.save_pretrained(str(folder))
        (folder / "README.md").write_text("tags:\n- trl\n- prm\n")
        return tokenizer, lambda ids: model(input_ids=torch.tensor([ids])).logits[0].softmax(-1)[:, 1]
    model = AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(str(folder))
    weights = load_file(str(folder / "model.safetensors"))
    stored = json.loads((folder / "config.json").read_text())
    if kind in {"qwen", "skywork"}:
        if kind == "qwen":
            head: Any = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
            prefix, stored["architectures"] = "score.", ["Qwen2ForProcessRewardModel"]
        else:
            head, prefix, stored["architectures"] = torch.nn.Linear(32, 1), "v_head.summary.", ["Qwen2ForPrmModel"]
        weights |= {prefix + name: value.clone() for name, value in head.state_dict().items()}
        save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
        stored["auto_map"] = {"AutoModel": "modeling_own.Own"}  # their folders name code of their own
        (folder / "config.json").write_text(json.dumps(stored))

        def score(ids: list[int]) -> Any:
            last = head(model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0])
            return last.softmax(-1)[:, 1] if kind == "qwen" else last[:, 0].sigmoid()

        return tokenizer, score
    plus, minus = ("▁+", "▁-") if kind == "math-shepherd" else ("+", "-") if kind == "rlhflow" else ("Ġ+", "Ġ-")
    pair = tokenizer.convert_tokens_to_ids([plus, minus])
    return tokenizer, lambda ids: model(input_ids=torch.tensor([ids])).logits[0][:, pair].softmax(-1)[:, 0]


@pytest.mark.parametrize("kind", ["qwen", "math-shepherd", "rlhflow", "skywork", "med-prm", "trl"])
def test_scores_are_those_of_the_published_readout(tmp_path: Path, kind: str) -> None:
    """Packed and padded scores against the model's whole forward over single sequences; the format is found where the
    files tell it, and asked for where they do not. No folder's code is run."""
    import torch

    from medsss_cli.prm.scorer import open_prm

    _, score = foreign_model(tmp_path, kind)
    if kind in {"math-shepherd", "rlhflow"}:
        with pytest.raises(UsageError, match="no PRM that can be recognised") as caught:
            find_format(PrmConfig(str(tmp_path)))
        assert "math-shepherd, rlhflow" in str(caught.value.hint)
    else:
        assert find_format(PrmConfig(str(tmp_path))) is Format(kind)
    scorer = open_prm(PrmConfig(str(tmp_path), Format(kind), "cpu"))
    assert not scorer.unpacked
    problem = Problem(id="a", question=QUESTION, answer="B")
    texts = [join_steps(STEPS), join_steps([*STEPS[:2], "No.", "The answer is C."]), "The answer is A."]
    answers = [answer_steps(text) for text in texts]
    packed = scorer.score(problem, answers)
    assert scorer.tokens < scorer.path_tokens
    scorer.unpacked = "as if"
    padded = scorer.score(problem, answers)
    for text, found, others in zip(texts, packed, padded, strict=True):
        row = laid(scorer.tokenizer, kind, answer_steps(text))  # transformers rebuilds Qwen's tokenizer in its own way
        with torch.inference_mode():
            expected = score(row.ids)[row.readouts].tolist()
        assert len(found) == len(answer_steps(text)) - 1
        assert found == pytest.approx(expected, abs=1e-4)
        assert others == pytest.approx(expected, abs=1e-4)


def test_the_published_layout_is_an_adapter_on_a_policy_folder(tmp_path: Path) -> None:
    """The layout of pixas/MedSSS_Policy and pixas/MedSSS_PRM, made by peft itself: a policy that is an adapter on a
    base, and a token classifier's adapter (rank 32) with its head on the whole policy; no medsss.json, no tokenizer
    beside it. `bon` scores as a plain forward of transformers does."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from tiny_models import make_tiny_model
    from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

    modules = [f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")]
    given: dict[str, Any] = {"r": 32, "lora_alpha": 64, "lora_dropout": 0.05, "target_modules": modules}
    given["init_lora_weights"] = False
    base, adapter, policy, prm = (str(tmp_path / name) for name in ("base", "adapter", "policy", "prm"))
    make_tiny_model(base)
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_pretrained(base)
    get_peft_model(plain, LoraConfig(task_type="CAUSAL_LM", **given)).save_pretrained(adapter)
    whole = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).merge_and_unload()
    whole.save_pretrained(policy)
    make_tiny_tokenizer(policy)
    classifier = AutoModelForTokenClassification.from_pretrained(policy, num_labels=2)
    wrapped = get_peft_model(classifier, LoraConfig(task_type="TOKEN_CLS", modules_to_save=["score"], **given)).eval()
    wrapped.save_pretrained(prm)

    problem = {"id": "a", "question": "Which?", "answer": "B", "options": {"A": "x", "B": "y"}}
    row = problem | {"responses": [{"text": join_steps(STEPS)}], "pass_rate": 0.0}
    (scored,) = run_medsss(["bon", "--prm", prm, "--prm-device", "cpu"], to_lines([row])).ok().records
    encoded = encode(make_tiny_tokenizer(tmp_path / "tokenizer"), "Which?\nA. x\nB. y", STEPS)
    with torch.inference_mode():
        logits = wrapped(input_ids=torch.tensor([encoded.ids])).logits[0]
    expected = logits.softmax(-1)[encoded.readouts[1:], 1].tolist()
    assert scored["candidates"][0]["step_scores"] == pytest.approx(expected, abs=1e-4)

    drawn = [
        run_medsss(["sample", "--device", "cpu", "--greedy", "--max-tokens", "12", *args], to_lines([problem])).ok()
        for args in (["--policy", adapter], ["--policy", base, "--adapter", adapter], ["--policy", policy])
    ]
    texts = [ran.records[0]["responses"][0]["text"] for ran in drawn]
    assert texts[0] == texts[1] == texts[2]


def test_a_head_that_is_missing_is_told(tmp_path: Path) -> None:
    """A language model taken for Skywork's has no value head; random numbers would look like scores."""
    from medsss_cli.prm.scorer import open_prm

    foreign_model(tmp_path, "rlhflow")
    with pytest.raises(UsageError, match=r"no v_head\.summary\.weight"):
        open_prm(PrmConfig(str(tmp_path), Format.SKYWORK, "cpu"))
