"""`train-policy --method grpo`: problems in, a policy that is rewarded for right answers (GRPO, arXiv 2402.03300).

An update draws `generations` answers to each of its problems, at temperature 1 from the whole distribution. A right
answer is worth 1, any other 0; those above the mean of their group become likelier:

    advantage_i = (r_i - mean of the group) / standard deviation of the group

`beta` above 0 keeps the policy close to the model without its adapter, so it needs --lora. This is TRL's GRPOTrainer as
it comes, with its default loss (DAPO's), given prompts as ids and our order of rows.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..answers import judge
from ..engines.rendering import end_tokens, render
from ..problems import to_problem
from ..prompts import answer_messages
from ..records import Problem, Verdict, dump, parse
from ..requests import Prompt
from .config import PolicyConfig
from .rows import Counts, OnBad, Row, Source, in_order, usable
from .run import Recipe, lora_config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Trainer

SHOWN = {
    "reward": "reward",
    "frac_reward_zero_std": "zero-variance",
    "completions/mean_length": "length",
    "tokens": "tokens",
}


def recipe(config: PolicyConfig, rows: Source, on_bad: OnBad) -> Recipe:
    return Recipe(
        method="grpo",
        columns={"prompt": "[int32]", "problem": "string"},
        read=lambda tokenizer, base, counts: problem_rows(config, rows, tokenizer, counts, on_bad),
        arguments=lambda **given: trainer_arguments(config, given),
        build=lambda *given: build_trainer(config, *given),
        shown=SHOWN,
    )


def problem_rows(
    config: PolicyConfig, rows: Source, tokenizer: PreTrainedTokenizerBase, counts: Counts, on_bad: OnBad
) -> Iterable[Row]:
    """The problems of any records as prompts. A row is as long as its prompt and the longest answer."""
    for problem in usable(rows, to_problem, counts, on_bad):
        prompt = render(tokenizer, Prompt(answer_messages(problem, config.prompting)))
        columns = {"prompt": prompt, "problem": json.dumps(dump(problem), ensure_ascii=False)}
        yield Row(problem.id, len(prompt) + config.max_tokens, columns)


def reward(completions: Sequence[str], problem: Sequence[str], **_: Any) -> list[float | None]:
    """1 for each completion that is right, else 0. TRL calls it by these names, with the columns of the data set."""
    asked = [parse(Problem, json.loads(text)) for text in problem]
    return [float(judge(each, text).verdict is Verdict.CORRECT) for each, text in zip(asked, completions, strict=True)]


def trainer_arguments(config: PolicyConfig, given: dict[str, Any]) -> Any:
    with warnings.catch_warnings(action="ignore"):  # of every vLLM that TRL was not tried with
        from trl.trainer.grpo_config import GRPOConfig
    return GRPOConfig(
        **given,
        num_generations=config.generations,
        max_completion_length=config.max_tokens,
        beta=config.closeness,
        shuffle_dataset=False,  # the order is ours
    )


def build_trainer(
    config: PolicyConfig, arguments: Any, model: Any, tokenizer: PreTrainedTokenizerBase, dataset: Any
) -> Trainer:
    with warnings.catch_warnings(action="ignore"):
        from trl.trainer.grpo_trainer import GRPOTrainer
    # An answer ends where the engines end it.
    model.generation_config.eos_token_id = sorted(end_tokens(tokenizer, model.generation_config, model.config))
    rows = in_order(dataset, config, copies=config.generations)
    lengths = [len(prompt) for prompt in rows["prompt"]]

    class Ready(GRPOTrainer):  # type: ignore[misc,unused-ignore]
        """TRL has no other way to be given ids."""

        def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[Any], None, dict[str, Any]]:
            return prompts, None, {}

        def log(self, logs: dict[str, float], *more: Any) -> None:
            """`tokens`: how many were generated so far; TRL counts those of the prompts with them."""
            asked = self.state.global_step * arguments.generation_batch_size // config.generations
            prompts = config.generations * sum(lengths[:asked])
            super().log(logs | {"tokens": self.state.num_input_tokens_seen - prompts}, *more)

    trainer: Trainer = Ready(
        model=model,
        reward_funcs=reward,
        args=arguments,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=lora_config(config, "CAUSAL_LM"),
    )
    return trainer
