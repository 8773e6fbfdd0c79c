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
    """What a value means, how a command line spells it, and its range. A field of a tuple type may be given several
    times."""

    help: str
    names: tuple[str, ...] = ()  # spellings, "--top-p" or "--lora/--full"; none: made of the field's name
    least: float | None = None
    above: float | None = None  # a bound that is not allowed itself
    most: float | None = None
    metavar: str | None = None
    group: str | None = None  # the heading in --help: None is the dataclass's GROUP, "" the first, without heading
    parse: Callable[[str], Any] | None = None  # makes the value of a text, and raises UsageError
    argument: bool = False  # stands on the command line without a name
    shown: str | None = None  # in --help as the default, where that alone says little; "" shows none

    def check(self, field: str, value: object) -> None:
        """Raise UsageError where the number `value` is outside the range; anything else is let pass."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return
        bounds = (("at least", self.least), ("above", self.above), ("at most", self.most))
        low = (self.least is None or value >= self.least) and (self.above is None or value > self.above)
        if not (low and (self.most is None or value <= self.most)):  # so that nan is outside too
            long = [each.partition("/")[0] for each in self.names if each.startswith("--")]
            name = [*long, *self.names, "--" + field.replace("_", "-")][0]
            wanted = " and ".join(f"{words} {bound:g}" for words, bound in bounds if bound is not None)
            raise UsageError(f"{name} must be {wanted or 'a number'}, got {value}")


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
