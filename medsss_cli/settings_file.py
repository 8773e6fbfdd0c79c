"""Options from `--config FILE` and from MEDSSS_* variables.

The first that says an option counts: the command line; MEDSSS_SEARCH_POLICY, for one command; MEDSSS_POLICY, for every
command that has --policy; the file, its table [search] before its top level; the default. Keys are options without the
dashes, and `inputs`. Typer reads variables (`envvar`) and defaults from a dict (`default_map`) by itself; here is what
it lacks: a variable for all commands, and an error for a key or a variable that is misspelt."""

from __future__ import annotations

import os
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from typer.core import TyperOption

from .errors import UsageError

PREFIX = "MEDSSS_"


def prepare(command: Any) -> None:
    """Let the options of a Typer command be read from variables, and give it --config."""
    command.params.append(
        TyperOption(
            param_decls=["--config"],
            type=str,
            metavar="FILE",
            is_eager=True,
            expose_value=False,
            callback=_take_file,
            help="Take options from this TOML file; MEDSSS_* variables and the command line come before it.",
        )
    )
    for param in command.params:
        keys = [key.upper() for key in _keys([param], hidden=True)]
        param.envvar = [PREFIX + scope + key for scope in (_plain(command.name).upper() + "_", "") for key in keys]
        param.show_envvar = False  # or --help would name two for each option


def origin(error: Any) -> str:
    """Where the value that Typer found wrong came from, if not from the command line: " (from run.toml)"."""
    context, param = getattr(error, "ctx", None), getattr(error, "param", None)
    if context is None or param is None:
        return ""
    match getattr(context.get_parameter_source(param.name), "name", None):
        case "DEFAULT_MAP":
            return f" (from {context.meta.get(PREFIX)})"
        case "ENVIRONMENT":
            return f" (from {next(name for name in param.envvar if os.environ.get(name))})"
        case _:
            return ""


def _take_file(ctx: Any, param: Any, path: str | None) -> None:
    """The callback of --config, which every command line passes: looks at the variables, and reads the file."""
    if ctx.resilient_parsing:
        return
    scope = f"{PREFIX}{_plain(ctx.command.name).upper()}_"
    known = [name for each in ctx.command.params for name in each.envvar]
    for name in os.environ:
        if name.startswith(scope) and name not in known:
            raise UsageError(f"the variable {name} names no option", hint=_near(name, known))
    if path is not None:
        ctx.meta[PREFIX] = path
        ctx.default_map = _read(path, ctx)


def _read(path: str, ctx: Any) -> dict[str, Any]:
    """What the file says for the command of this context, by the names of its parameters. Raises UsageError for a file
    that cannot be read, a table that names no command, and a key that names no option."""
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read --config {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, UnicodeDecodeError, nested too deeply
        raise UsageError(f"{path}: not TOML: {error}") from None
    group, own = ctx.parent.command, _keys(ctx.command.params)
    commands = {_plain(name): group.get_command(ctx.parent, name) for name in group.list_commands(ctx.parent)}
    tables = {_plain(name): content.pop(name) for name in list(content) if isinstance(content[name], dict)}
    for name in tables:
        if name not in commands:
            raise UsageError(f"{path}: [{name}] names no command", hint=_near(name, commands))
    everywhere = {key for command in commands.values() for key in _keys(command.params)}
    found: dict[str, Any] = {}
    for scope, table in (("", content), (f"[{ctx.command.name}] ", tables.get(_plain(ctx.command.name), {}))):
        for key, value in table.items():
            if (param := own.get(_plain(key))) is not None:
                found[param.name] = _value(f"{path}: {scope}{key} = {value!r}", param, key, value)
            elif scope or _plain(key) not in everywhere:
                raise UsageError(f"{path}: {scope}{key} is no option", hint=_near(key, own))
    return found


def _value(said: str, param: Any, key: str, value: Any) -> Any:
    """A value of the file as Typer takes it."""
    many = param.nargs == -1 or getattr(param, "multiple", False)
    if many != isinstance(value, list):
        raise UsageError(said, hint="a list: [...]" if many else "one value, no list")
    if getattr(param, "is_flag", False):
        if not isinstance(value, bool):
            raise UsageError(said, hint="true or false")
        return value != (_plain(key) in map(_plain, param.secondary_opts))  # full = true is --full, --lora's opposite
    return value


def _keys(params: list[Any], hidden: bool = False) -> dict[str, Any]:
    """The parameters by the keys that name them: max_tokens for --max-tokens, inputs for the files to read."""
    found: dict[str, Any] = {}
    for param in params:
        if param.expose_value or hidden:
            opts = [*param.opts, *(() if hidden else param.secondary_opts)]
            long = [_plain(opt) for opt in opts if opt.startswith("--") or _plain(opt) == param.name]
            found |= dict.fromkeys(["inputs"] if param.param_type_name == "argument" else long, param)
    return found


def _plain(name: str | None) -> str:
    return (name or "").lstrip("-").replace("-", "_")


def _near(name: str, known: Any) -> str | None:
    close = get_close_matches(name, known, n=1) or get_close_matches(_plain(name), known, n=1)
    return f"did you mean {close[0]}?" if close else None
