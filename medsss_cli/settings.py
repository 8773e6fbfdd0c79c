"""A number of the program is said once: as a field of a dataclass, with what it means and where it may lie.

    @dataclass(frozen=True, slots=True)
    class SearchConfig:
        GROUP: ClassVar[str] = "Search"
        children: Annotated[int, Opt("Draws per expansion.", least=1, metavar="N")] = 3

        def __post_init__(self) -> None:
            check(self)

`commands/_options.py` makes the command's options of such fields. Nothing here knows a command line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from .errors import UsageError


@dataclass(frozen=True, slots=True)
class Opt:
    """What a value means, how a command line spells it, and its range.

    `names` are the option's spellings ("--top-p"); none: made of the field's name. A two-way flag is one spelling,
    "--lora/--full". `least` and `most` bound the value, `above` bounds it from below without being allowed itself. A
    field of a tuple type may be given several times. `group` is the heading in `--help`: None takes the dataclass's
    `GROUP`, "" is the first group, which has no heading. `parse` makes the value of a text, and raises UsageError.
    `argument` is for what stands on the command line without a name. `shown` stands in `--help` as the default
    where the default alone says little; "" shows none.
    """

    help: str
    names: tuple[str, ...] = ()
    least: float | None = None
    above: float | None = None
    most: float | None = None
    metavar: str | None = None
    group: str | None = None
    parse: Callable[[str], Any] | None = None
    argument: bool = False
    shown: str | None = None

    def spelling(self, field: str) -> str:
        """How a message names the option of `field`."""
        if self.argument:
            return self.metavar or field
        long = [name for name in self.names if name.startswith("--")]
        return (long or self.names or ("--" + field.replace("_", "-"),))[0].partition("/")[0]

    def check(self, field: str, value: object) -> None:
        """Raise UsageError where the number `value` is outside the range; anything else is let pass."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return
        low = self.least is None or value >= self.least
        low = low and (self.above is None or value > self.above)
        if not (low and (self.most is None or value <= self.most)):  # so that nan is outside too
            raise UsageError(f"{self.spelling(field)} must be {self.range()}, got {value}")

    def range(self) -> str:
        """The range in words: "above 0 and at most 1"."""
        bounds = (("at least", self.least), ("above", self.above), ("at most", self.most))
        return " and ".join(f"{words} {bound:g}" for words, bound in bounds if bound is not None) or "a number"


def options_of(settings: type) -> Mapping[str, tuple[Any, Opt]]:
    """The fields of a dataclass that are options: their types, and what is said of them."""
    found = {}
    for name, hint in get_type_hints(settings, include_extras=True).items():
        for said in getattr(hint, "__metadata__", ()):
            if isinstance(said, Opt):
                found[name] = (hint.__origin__, said)
    return found


def check(settings: Any) -> None:
    """Raise UsageError for the first field of a dataclass that lies outside its range."""
    for name, (_, said) in options_of(type(settings)).items():
        said.check(name, getattr(settings, name))
