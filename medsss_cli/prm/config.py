"""Which reward model scores, and how it is read: the options of every command that scores with one. Opens nothing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from ..models import Dtype
from ..settings import Opt, check


class Format(StrEnum):
    """How a reward model reads an answer: question and steps -> tokens, and where the scores are."""

    AUTO = "auto"  # as the files of the model tell
    MEDSSS = "medsss"  # ours (`layout.py`); all others stand in `others.py`
    QWEN = "qwen"  # Qwen2.5-Math-PRM, Qwen2.5-Math-7B-PRM800K
    MATH_SHEPHERD = "math-shepherd"  # arXiv 2312.08935
    RLHFLOW = "rlhflow"  # Llama3.1-8B-PRM-Deepseek-Data, -Mistral-Data
    SKYWORK = "skywork"  # Skywork-o1-Open-PRM
    MED_PRM = "med-prm"  # arXiv 2506.11474
    TRL = "trl"  # TRL's PRMTrainer (up to 1.13) with its default separator


@dataclass(frozen=True, slots=True)
class PrmConfig:
    """A reward model and how it is run. `prm` None: there is none."""

    GROUP: ClassVar[str] = "Reward model"

    prm: Annotated[
        str | None, Opt("The reward model: a folder of `train-prm`, or a hub name.", metavar="MODEL", group="")
    ] = None
    prm_format: Annotated[Format, Opt("How it reads an answer; auto: as its files tell.")] = Format.AUTO
    prm_device: Annotated[
        str, Opt("Where it runs: cpu, cuda, cuda:1; auto: a GPU where there is one.", metavar="D")
    ] = "auto"
    prm_dtype: Annotated[Dtype, Opt("The numbers it computes with.")] = Dtype.AUTO
    batch_tokens: Annotated[int, Opt("Tokens in one pass of it.", least=1, metavar="N")] = 16384

    def __post_init__(self) -> None:
        check(self)

    def identity(self) -> dict[str, Any]:
        """What the scores depend on."""
        return {"prm": self.prm, "prm_format": str(self.prm_format), "prm_dtype": str(self.prm_dtype)}
