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
from typing import TYPE_CHECKING, Any, ClassVar

from ..answers import judge
from ..engines.rendering import end_tokens, render
from ..problems import to_problem
from ..prompts import answer_messages
from ..records import Problem, Verdict, dump, parse
from ..requests import Prompt
from .config import PolicyConfig
from .rows import Row, usable
from .run import Training

if TYPE_CHECKING:
    from transformers import Trainer


class GrpoTraining(Training):
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
