"""Options made of annotated dataclasses: a parameter of a command whose type is a dataclass stands as one option for
each of its fields that says `Opt` (settings.py). So each option has one spelling, one help text and one range
everywhere."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from contextvars import ContextVar
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from medsss_cli.errors import UsageError
from medsss_cli.settings import Opt, options_of

Inputs = Annotated[
    tuple[str, ...], Opt("Files of records, `-` or nothing for stdin.", argument=True, metavar="INPUT...")
]
Output = Annotated[str | None, Opt("Write here instead of stdout.", names=("--output", "-o"), metavar="FILE")]
Restart = Annotated[bool, Opt("Overwrite the output that is there.")]
Strict = Annotated[bool, Opt("Stop at the first bad line.")]
Quiet = Annotated[bool, Opt("No progress and no notes; errors stay.", names=("--quiet", "-q"))]
"""Of the commands that are no stream of records; what a stream has is said in `StreamOptions`."""


def options(command: Callable[..., None]) -> Callable[..., None]:
    """The command as Typer reads it: a parameter whose type is a dataclass stands as the options of its fields.

    Typer has no flattening of its own, so the signature that it sees is made here, and nowhere else. The command gets
    the dataclass. Raises TypeError where two options would have one name.
    """
    hints = get_type_hints(command, include_extras=True)
    owned = {name: options_of(hint) for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)}
    parameters: dict[str, inspect.Parameter] = {}
    for name, asked in inspect.signature(command).parameters.items():
        for each in _of_dataclass(hints[name]) if name in owned else [_parameter(name, hints[name], asked.default)]:
            if each.name in parameters:
                raise TypeError(f"two options {each.name!r} of {command.__module__}")
            parameters[each.name] = each

    def run(ctx: typer.Context, **given: Any) -> None:
        _context.set(ctx)
        for name, fields_ in owned.items():
            own = {field: _given(hint, given.pop(field)) for field, (hint, _) in fields_.items()}
            given[name] = hints[name](**own)
        for name, hint in hints.items():
            if name in given and name not in owned:
                given[name] = _given(hint.__origin__, given[name])
                _said(hint).check(name, given[name])
        command(**given)

    functools.update_wrapper(run, command, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
    del run.__wrapped__  # type: ignore[attr-defined]  # its parameters are not those that the user has
    context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    seen = [context, *parameters.values()]
    run.__annotations__ = {each.name: each.annotation for each in seen}
    run.__signature__ = inspect.Signature(seen)  # type: ignore[attr-defined]
    return run


_context: ContextVar[typer.Context] = ContextVar("context")


def refuse_given(names: Collection[str], why: str, hint: str | None = None) -> None:
    """Raise UsageError for one of the options (named as their fields) where it stands on the command line and this run
    does not look at it: a mistake, not a wish to be passed over. (In a file or the environment it may be meant for
    others.)"""
    context = _context.get()
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name)) if parameter.name in names else None
        if source is not None and source.name == "COMMANDLINE":
            said = parameter.opts[0] if parameter.opts[0].startswith("-") else "an input"
            raise UsageError(f"{said} {why}", hint=hint)


def _of_dataclass(kind: type) -> list[inspect.Parameter]:
    """A parameter for each field that is an option, in their order."""
    defaults = {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(kind)
    }
    group = getattr(kind, "GROUP", "")
    return [
        _parameter(name, Annotated[hint, said], defaults[name], group)
        for name, (hint, said) in options_of(kind).items()
    ]


def _parameter(name: str, hint: Any, default: Any, group: str = "") -> inspect.Parameter:
    """What Typer reads for one option: its type without tuples, and a `typer.Option` of what `Opt` says."""
    said, kind = _said(hint), hint.__origin__
    required = default is MISSING or default is inspect.Parameter.empty
    if get_origin(kind) is tuple:
        kind, default = list[get_args(kind)[0]] | None, list(default) or None  # type: ignore[misc]
    # Typer shows a text in place of the default, and nothing for False.
    shown = said.shown if said.shown is not None else not required and default is not None
    about: dict[str, Any] = {
        "help": said.help,
        "metavar": said.metavar,
        "parser": said.parse,
        "show_default": shown or False,
        "rich_help_panel": said.group if said.group is not None else group,
    }
    make = typer.Argument if said.argument else typer.Option
    names = () if said.argument else said.names or ("--" + name.replace("_", "-"),)
    hint = Annotated[kind, make(*names, **about)]
    default = ... if required else default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=hint, default=default)


def _said(hint: Any) -> Opt:
    return next(each for each in hint.__metadata__ if isinstance(each, Opt))


def _given(kind: Any, value: Any) -> Any:
    """A value of this type as Typer gives it: a list for a tuple, and None for none."""
    return tuple(value or ()) if get_origin(kind) is tuple else value
