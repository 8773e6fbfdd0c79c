"""Draw whole answers from a policy and judge them: `answers`, and `SamplingConfig`, which says how to draw.

Its neighbours: choosing the hard problems by their answers is `problems/curriculum.py`, having wrong answers put right
`correction.py`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar

from msgspec import UNSET

from .answers import Extract, judge
from .errors import UsageError
from .prompts import Prompting, Template, answer_messages
from .records import Problem, Response, Samples, Verdict, pass_rate, problem_fields
from .requests import Completion, Engine, Prompt, Sampling, derive_seed
from .settings import Opt, check
from .thoughts import in_steps, refusal


@dataclass(frozen=True, slots=True)
class SamplingConfig:
    """How answers are asked for, drawn and read. Raises UsageError for a number outside its range, and for options at
    odds."""

    GROUP: ClassVar[str] = "Sampling"

    n: Annotated[
        int | None,
        Opt(
            "Answers to each problem (or tries at each wrong answer); 8, or 1 with --greedy or --correct.",
            names=("-n",),
            least=1,
            metavar="N",
            group="",
        ),
    ] = None
    greedy: Annotated[bool, Opt("The likeliest answer: temperature 0, one answer.", group="")] = False
    temperature: Annotated[
        float, Opt("Sampling temperature; 0 is greedy.", names=("--temperature", "-T"), least=0, metavar="T")
    ] = 1.0
    top_p: Annotated[float, Opt("Nucleus sampling.", above=0, most=1, metavar="P")] = 0.95
    max_tokens: Annotated[int, Opt("Most tokens in one answer.", least=1, metavar="N")] = 512
    seed: Annotated[int, Opt("Where every random draw derives from.", metavar="S")] = 0
    prompting: Annotated[
        Prompting, Opt('native: the policy writes "Step k: ..." by itself; instruct: it is told how.')
    ] = Prompting.NATIVE
    template: Annotated[Template | None, Opt("instruct: ask for a long thought: plan, chain, check.")] = None
    reveal_answer: Annotated[
        bool, Opt("instruct: show the gold answer to the policy; answers that betray it are refused.")
    ] = False
    extract: Annotated[Extract, Opt("Read answers from a statement or the last line; a statement; as the authors.")] = (
        Extract.FLEXIBLE
    )

    def __post_init__(self) -> None:
        check(self)
        if self.greedy and (self.n or 1) > 1:
            raise UsageError("--greedy gives one answer, and -n asks for more", hint="leave one of the two out")
        for option, given in (("--template", self.template), ("--reveal-answer", self.reveal_answer)):
            if given and self.prompting is not Prompting.INSTRUCT:
                hint = "--prompting instruct; a native policy writes its own steps, so leave it out there"
                raise UsageError(f"{option} is an instruction, and --prompting native gives none", hint=hint)

    @property
    def count(self) -> int:
        """How many answers to each problem."""
        return self.n or (1 if self.greedy else 8)

    def request(self, *purpose: object) -> Sampling:
        """The sampling of the requests that are for this purpose (a problem's id, what is asked)."""
        return Sampling(
            temperature=0.0 if self.greedy else self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
            seed=derive_seed(self.seed, *purpose),
        )

    def as_record(self) -> dict[str, Any]:
        """What a resumed run is compared with: the numbers, and of the rest what is not the default."""
        told = asdict(self) | {"n": self.count, "temperature": 0.0 if self.greedy else self.temperature}
        usual = {"greedy": self.greedy, "extract": Extract.FLEXIBLE, "template": None, "reveal_answer": False}
        return {name: value for name, value in told.items() if name not in usual or value != usual[name]}


async def answers(
    problem: Problem, engine: Engine, config: SamplingConfig, *, policy: str | None = None
) -> list[Response]:
    """`config.count` answers to a problem, judged by rule; `policy` signs them. Raises EngineError, and BadRecord where
    the gold answer cannot be read."""
    prompt = Prompt(answer_messages(problem, config.prompting, config.template, reveal=config.reveal_answer))
    drawn = await engine.complete(prompt, config.request(problem.id, "answer"), config.count)
    formed = config.template is not None or config.reveal_answer
    return [judged(problem, each, config, policy=policy, formed=formed) for each in drawn]


def judged(
    problem: Problem, written: Completion, config: SamplingConfig, *, policy: str | None, formed: bool
) -> Response:
    """What was written, with its verdict. A `formed` answer was asked for in steps of a form: it is kept as `in_steps`
    reads it, and where it must not be learnt from (`refusal`) it counts as no answer, and its `form` says why."""
    text = in_steps(written.text) if formed else written.text
    judgement = judge(problem, text, config.extract)
    refused = refusal(text, revealed=config.reveal_answer) if formed else None
    return Response(
        text=text,
        answer=None if refused else judgement.answer,
        verdict=Verdict.NO_ANSWER if refused else judgement.verdict,
        form=refused or judgement.how,
        finish_reason=str(written.finish_reason),
        tokens=written.tokens,
        logprob=written.logprob,
        policy=UNSET if policy is None else policy,
        revealed=True if config.reveal_answer else UNSET,
    )


def with_responses(problem: Problem, responses: list[Response]) -> Samples:
    """The problem with its responses and their pass rate."""
    return Samples(**problem_fields(problem), responses=responses, pass_rate=pass_rate(responses))
