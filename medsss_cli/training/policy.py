"""Train the policy over TRL: sft or preference records, or problems with rewards -> a model folder.

Rows are laid out here, token for token as the engines lay out what they ask (`engines.rendering`), and TRL is given
ids: TRL renders prompt and completion as one chat by the template, which some templates change, and closes every turn.

A turn is closed where the answer is complete. Preference pairs of `kind: "step"` (rule a) are beginnings of answers:
they stay open unless their last step states the answer, and end with the tokens that running text has: where the
tokenizer merges the step's last character with the blank line (Llama 3: "." + "\\n\\n"), with the merged one.

The loss falls on the completion alone. sft: mean negative log-likelihood per token, over all tokens of an update. dpo:

    - log sigmoid(beta * [(log p(chosen) - log p_ref(chosen)) - (log p(rejected) - log p_ref(rejected))])

with beta .1; `sft_weight` w adds w times the sft loss of the chosen one. The reference is the policy before training
and takes no memory of its own: under LoRA it is the model without its adapter, in a full training its log-probabilities
are computed before the first step. grpo (arXiv 2402.03300): an update draws `generations` answers to each of its
problems, at temperature 1 from the whole distribution. A right answer is worth 1, any other 0; those above the mean of
their group become likelier (TRL's default loss, DAPO's):

    advantage_i = (r_i - mean of the group) / standard deviation of the group
"""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ..answers import judge, states_answer
from ..engines.loading import generation_config_of
from ..engines.rendering import encode_text, end_tokens, render
from ..errors import BadRecord, UsageError
from ..models import adapter_base
from ..problems import to_problem
from ..prompts import answer_messages
from ..records import Message, Preference, Problem, Sft, Verdict, dump, parse
from ..requests import Prompt
from ..steps import SEPARATOR, split_steps
from ..stream.jsonl import Where
from .config import Method, PolicyConfig
from .folder import Row, usable
from .run import Training

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Trainer

R = TypeVar("R", Sft, Preference)


class SftTraining(Training):
    """On sft records, or bare rows of TRL's prompt-completion layout."""

    kind: ClassVar = {"kind": "policy", "method": "sft"}

    def rows(self) -> Iterable[Row]:
        """`input_ids` and `labels`, -100 on the prompt."""
        end = turn_end(self.tokenizer, self.base)
        for record, (text,) in usable(self.source, parsed(Sft), self.counts, self.on_bad):
            asked, ids = turn_ids(self.tokenizer, tuple(record.prompt), text, end)
            yield Row(record.id, len(asked + ids), {"input_ids": asked + ids, "labels": [-100] * len(asked) + ids})

    def arguments(self, **given: Any) -> Any:
        from trl.trainer.sft_config import SFTConfig

        return SFTConfig(**given, max_length=None, dataset_kwargs={"skip_prepare_dataset": True})

    def trainer(self, model: Any, arguments: Any, dataset: Any) -> Trainer:
        from trl.trainer.sft_trainer import SFTTrainer

        return SFTTrainer(**self.for_trl(model, arguments, dataset))


class DpoTraining(Training):
    """On preference records, or bare rows of TRL's preference layout."""

    kind: ClassVar = {"kind": "policy", "method": "dpo"}
    shown: ClassVar = {"rewards/margins": "margin", "rewards/accuracies": "accuracy", "logps/chosen": "logp-chosen"}
    config: PolicyConfig

    def rows(self) -> Iterable[Row]:
        """`prompt_ids`, `chosen_ids`, `rejected_ids`."""
        end = turn_end(self.tokenizer, self.base)
        for record, texts in usable(self.source, parsed(Preference), self.counts, self.on_bad):
            (asked, good), (_, poor) = (
                turn_ids(self.tokenizer, tuple(record.prompt), text, end if is_complete(record.kind, text) else None)
                for text in texts
            )
            columns = {"prompt_ids": asked, "chosen_ids": good, "rejected_ids": poor}
            yield Row(record.id, len(asked) + max(len(good), len(poor)), columns)

    def arguments(self, **given: Any) -> Any:
        from trl.trainer.dpo_config import DPOConfig

        losses = given.pop("loss_type", "sigmoid")
        losses = [losses] if isinstance(losses, str) else list(losses)
        weights = [1.0] * len(losses)
        if self.config.sft_weight > 0:
            losses, weights = [*losses, "sft"], [*weights, self.config.sft_weight]
        return DPOConfig(
            **given,
            max_length=None,
            beta=self.config.closeness,
            loss_type=losses,
            loss_weights=weights,
            precompute_ref_log_probs=not self.config.lora,
        )

    def trainer(self, model: Any, arguments: Any, dataset: Any) -> Trainer:
        from trl.trainer.dpo_trainer import DPOTrainer

        class Ready(DPOTrainer):  # type: ignore[misc,unused-ignore]
            """TRL has no other way to be given ids."""

            def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
                return dataset

        return Ready(**self.for_trl(model, arguments, dataset))


class GrpoTraining(Training):
    """On the problems of any records, each of which an update answers `generations` times."""

    kind: ClassVar = {"kind": "policy", "method": "grpo"}
    shown: ClassVar = {
        "reward": "reward",
        "frac_reward_zero_std": "zero-variance",
        "completions/mean_length": "length",
        "tokens": "tokens",
    }
    config: PolicyConfig

    def rows(self) -> Iterable[Row]:
        """The problems of any records as prompts. A row is as long as its prompt and the longest answer."""
        for problem in usable(self.source, to_problem, self.counts, self.on_bad):
            prompt = render(self.tokenizer, Prompt(answer_messages(problem, self.config.prompting)))
            columns = {"prompt": prompt, "problem": json.dumps(dump(problem), ensure_ascii=False)}
            yield Row(problem.id, len(prompt) + self.config.max_tokens, columns)

    def arguments(self, **given: Any) -> Any:
        with warnings.catch_warnings(action="ignore"):  # of every vLLM that TRL was not tried with
            from trl.trainer.grpo_config import GRPOConfig
        return GRPOConfig(
            **given,
            num_generations=self.config.generations,
            max_completion_length=self.config.max_tokens,
            beta=self.config.closeness,
            shuffle_dataset=False,  # the order is ours
        )

    def trainer(self, model: Any, arguments: Any, dataset: Any) -> Trainer:
        with warnings.catch_warnings(action="ignore"):
            from trl.trainer.grpo_trainer import GRPOTrainer
        # An answer ends where the engines end it.
        model.generation_config.eos_token_id = sorted(end_tokens(self.tokenizer, model.generation_config, model.config))
        copies = self.config.generations
        given = self.for_trl(model, arguments, dataset, copies)
        lengths = [len(prompt) for prompt in given["train_dataset"]["prompt"]]

        class Ready(GRPOTrainer):  # type: ignore[misc,unused-ignore]
            """TRL has no other way to be given ids."""

            def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[Any], None, dict[str, Any]]:
                return prompts, None, {}

            def log(self, logs: dict[str, float], *more: Any) -> None:
                """`tokens`: how many were generated so far; TRL counts those of the prompts with them."""
                asked = self.state.global_step * arguments.generation_batch_size // copies
                tokens = self.state.num_input_tokens_seen - copies * sum(lengths[:asked])
                super().log(logs | {"tokens": tokens}, *more)

        return Ready(**given, reward_funcs=reward)


def reward(completions: Sequence[str], problem: Sequence[str], **_: Any) -> list[float | None]:
    """1 for each completion that is right, else 0. TRL calls it by these names, with the columns of the data set."""
    asked = [parse(Problem, json.loads(text)) for text in problem]
    return [float(judge(each, text).verdict is Verdict.CORRECT) for each, text in zip(asked, completions, strict=True)]


POLICY_TRAININGS = {Method.SFT: SftTraining, Method.DPO: DpoTraining, Method.GRPO: GrpoTraining}


# --- rows to ids -----------------------------------------------------------------------------------------------------


def turn_end(tokenizer: PreTrainedTokenizerBase, base: str) -> list[int]:
    """The ids that close an assistant turn: what the chat template writes after its text, up to the first token at
    which the engines stop; the tokenizer's EOS where it writes none."""
    stops = end_tokens(tokenizer, generation_config_of(adapter_base(base)))
    if not stops:
        raise UsageError(f"neither the tokenizer nor the generation settings of {base} name an end of text")
    mark = "\ue000end\ue000"
    chat = [{"role": "user", "content": "x"}, {"role": "assistant", "content": mark}]
    rendered = str(tokenizer.apply_chat_template(chat, tokenize=False))
    tail: list[int] = tokenizer.encode(rendered.rpartition(mark)[2], add_special_tokens=False)
    for at, token in enumerate(tail):
        if token in stops:
            return tail[: at + 1]
    return [tokenizer.eos_token_id if tokenizer.eos_token_id in stops else min(stops)]


def turn_ids(
    tokenizer: PreTrainedTokenizerBase, prompt: tuple[Message, ...], text: str, end: list[int] | None
) -> tuple[list[int], list[int]]:
    """The ids of a prompt and of the assistant's text after it. `end` closes the turn; None leaves it open, see
    above."""
    asked = render(tokenizer, Prompt(prompt))

    def after(written: str) -> list[int]:
        whole = render(tokenizer, Prompt(prompt, written))
        # Where the text merges with the template's end, it is tokenised apart: an engine starts from `asked` too.
        return whole[len(asked) :] if whole[: len(asked)] == asked else encode_text(tokenizer, written)

    ids = after(text)
    if end is not None:
        return asked, ids + end
    running = after(text + SEPARATOR + "Step")
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(ids, running, strict=False)))
    if same < len(ids):
        # The last token of the step is another one in running text. Take as many as it needs to spell the step.
        same += 1
        while same < len(running) and len(str(tokenizer.decode(running[:same]))) < len(text):
            same += 1
        ids = running[:same]
    return asked, ids


def parsed(kind: type[R]) -> Callable[[dict[str, Any], Where], tuple[R, list[str]]]:
    """Reads a record, or a bare row of TRL's, with its texts, each of which is one assistant turn."""
    name = kind.__name__.lower()
    fields = ["completion"] if kind is Sft else ["chosen", "rejected"]
    more = {"min_value": 0.0} if kind is Sft else {"margin": 1.0, "kind": "trajectory"}

    def read(data: dict[str, Any], where: Where) -> tuple[R, list[str]]:
        if fields[0] not in data:
            raise BadRecord(
                f"not a {name} record: found the keys {', '.join(data) or '(none)'}",
                hint=f"make them with `medsss label --to {name}`",
            )
        record = parse(kind, {"id": str(where), "question": "", "answer": "", **more, **data})
        texts = []
        for field in fields:
            turns: list[Message] = getattr(record, field)
            if [turn.role for turn in turns] != ["assistant"] or not turns[0].content.strip():
                raise BadRecord(f"record {record.id}: `{field}` must be one assistant turn, and not empty")
            texts.append(turns[0].content)
        if len(set(texts)) < len(texts):
            raise BadRecord(f"record {record.id}: chosen and rejected are the same text")
        return record, texts

    return read


def is_complete(kind: str, text: str) -> bool:
    """Whether an answer ends here, so that its turn is to be closed. Of rule (a), only one whose last step states
    it."""
    if kind != "step":
        return True
    steps = split_steps(text)
    return bool(steps) and states_answer(steps[-1])
