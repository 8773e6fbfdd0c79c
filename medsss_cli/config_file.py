"""Options from a file and from the environment: `--config run.toml`, and variables that begin with MEDSSS_.

The first that says an option counts: the command line, the environment, the file, the default. A file:

    policy = "out/P0"                # for every command that has --policy

    [search]                         # for one command; it wins
    inputs = ["seed.jsonl"]
    max-nodes = 40
    strict = true

MEDSSS_POLICY is for every command that has --policy, MEDSSS_SEARCH_POLICY for search; it wins. Lists are split
at blanks.

This module knows what parameters a command has, through click's own objects, and nothing of what they mean.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from .errors import UsageError

PREFIX = "MEDSSS_"


def prepare(command: str, params: list[Any]) -> None:
    """Let the parameters of a command be read from the environment, and give it --config."""
    from typer.core import TyperOption

    option = TyperOption(
        param_decls=["--config"],
        type=str,
        metavar="FILE",
        is_eager=True,
        expose_value=False,
        callback=_take_file,
        help="Take options from this TOML file; the command line and MEDSSS_* variables come before it.",
    )
    params.append(option)
    for param in params:
        param.envvar = [f"{PREFIX}{scope}{name}" for scope in (_variable(command) + "_", "") for name in _names(param)]
        param.show_envvar = False  # or --help and errors would list them all


def _names(param: Any) -> list[str]:
    """The endings of its variables: MAX_TOKENS for --max-tokens, N for -n, INPUTS for the files to read."""
    return [_variable(name) for name in _long_names(param)]


def _variable(name: str) -> str:
    return _plain(name).upper()


def _plain(name: str) -> str:
    return name.lstrip("-").replace("-", "_")


def _long_names(param: Any) -> list[str]:
    if param.param_type_name == "argument":
        return list(dict.fromkeys(["inputs", param.name]))
    # `-n` stands alone in some commands and is short for --count in another.
    return [opt for opt in param.opts if opt.startswith("--") or _plain(opt) == param.name]


# The file


class _Key(NamedTuple):
    """What a key of the file stands for. `negated`: `full = true` is --full, which is --lora's opposite."""

    param: Any
    negated: bool = False


def _keys(params: Iterable[Any]) -> dict[str, _Key]:
    """By their names with underscores: the keys that a file may have for a command of these parameters."""
    keys: dict[str, _Key] = {}
    for param in params:
        if not param.expose_value:
            continue
        keys |= {_plain(name): _Key(param) for name in _long_names(param)}
        keys |= {_plain(name): _Key(param, negated=True) for name in param.secondary_opts}
    return keys


def _take_file(ctx: Any, param: Any, path: str | None) -> None:
    """The callback of --config: click looks into `default_map` for what neither command line nor environment say."""
    if path is not None and not ctx.resilient_parsing:
        ctx.meta[PREFIX] = path
        ctx.default_map = read_defaults(path, ctx)


def read_defaults(path: str, ctx: Any) -> dict[str, Any]:
    """What the file says for the command of this context, by the names of its parameters.

    Raises UsageError for a file that cannot be read, a table that names no command, a key that names no option (at the
    top level: of no command), and a value that the option does not take. Tables of other commands are left alone.
    """
    content = _load(path)
    own = _keys(ctx.command.params)
    commands = {_plain(name): name for name in ctx.parent.command.list_commands(ctx.parent)}
    found: dict[str, Any] = {}
    top = {name: value for name, value in content.items() if not isinstance(value, dict)}
    everywhere: dict[str, _Key] | None = None
    for name in list(top):
        if _plain(name) in own:
            continue
        if everywhere is None:
            everywhere = _keys(each for _, params in _all_commands(ctx) for each in params)
        if _plain(name) not in everywhere:
            raise _no_option(path, name, "any command", everywhere | dict.fromkeys(commands, _Key(None)))
        del top[name]
    found |= _values(path, "", top, own, ctx)
    for name in (name for name, value in content.items() if isinstance(value, dict)):
        if _plain(name) not in commands:
            raise UsageError(f"{path}: [{name}] names no command", hint=_near(name, commands) or _list(commands))
        if commands[_plain(name)] != ctx.info_name:
            continue
        for key in content[name]:
            if _plain(key) not in own:
                raise _no_option(path, f"{name}.{key}", f"`medsss {ctx.info_name}`", own)
        found |= _values(path, f"{name}.", content[name], own, ctx)
    return found


def _load(path: str) -> dict[str, Any]:
    import tomllib

    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise UsageError(f"cannot read --config {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 ({error})") from None
    except RecursionError:
        raise UsageError(f"{path}: nested too deeply to be a file of options") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(
            f"{path}: not TOML: {error}", hint='policy = "out/P0", or a table [search] with such lines'
        ) from None


def _no_option(path: str, name: str, of: str, keys: Mapping[str, _Key]) -> UsageError:
    return UsageError(
        f"{path}: {name} is no option of {of}",
        hint=_near(name.rpartition(".")[2], keys) or "the names are those of --help, without the dashes",
    )


def _near(name: str, known: Iterable[str]) -> str | None:
    close = get_close_matches(_plain(name), list(known))
    return f"did you mean {' or '.join(each.replace('_', '-') for each in close)}?" if close else None


def _list(commands: Mapping[str, str]) -> str:
    return f"commands: {', '.join(commands.values())}"


def _values(path: str, table: str, given: Mapping[str, Any], keys: Mapping[str, _Key], ctx: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    named: dict[str, str] = {}
    for name, value in given.items():
        key = keys[_plain(name)]
        where = f"{path}: {table}{name}"
        before = named.setdefault(key.param.name, name)
        if before != name:
            raise UsageError(f"{path}: {table}{before} and {table}{name} say the same option", hint="leave one out")
        found[key.param.name] = _checked(where, key, value, ctx)
    return found


def _checked(where: str, key: _Key, value: Any, ctx: Any) -> Any:
    """The value as click wants it. Raises UsageError if it is of another type than the option's, or out of range."""
    from typer._click.exceptions import BadParameter

    param = key.param
    many = param.multiple or param.nargs != 1
    if many and not isinstance(value, list) and (param.multiple or param.nargs == -1):
        value = [value]
    kind, types = _wanted(param)
    items = value if many and isinstance(value, list) else [value]
    if (many and not isinstance(value, list)) or not all(type(item) in types for item in items):
        raise UsageError(f"{where} = {_shown(value)}: wants {'a list of ' if many else ''}{kind}")
    if key.negated:
        value = not value
    try:
        param.type_cast_value(ctx, value)
    except BadParameter as error:
        raise UsageError(f"{where}: {error.message}") from None
    return value


def _wanted(param: Any) -> tuple[str, tuple[type, ...]]:
    """What values a parameter takes: in words, and as types of TOML. `True` is an int to Python, and none here."""
    from typer._click import types

    if isinstance(param.type, types.BoolParamType):
        return "true or false", (bool,)
    if isinstance(param.type, types.IntParamType):
        return "a whole number", (int,)
    if isinstance(param.type, types.FloatParamType):
        return "a number", (int, float)
    return 'text in quotes, "..."' if param.nargs == 1 and not param.multiple else 'text, ["...", "..."]', (str,)


def _shown(value: Any) -> str:
    """A value about as TOML writes it."""
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)


def _all_commands(ctx: Any) -> Iterator[tuple[str, list[Any]]]:
    """Every command with its parameters; imports their modules (a tenth of a second), so only where it is needed."""
    group = ctx.parent.command
    for name in group.list_commands(ctx.parent):
        yield name, group.get_command(ctx.parent, name).params


# The environment, and where values came from


def stray_variables(ctx: Any) -> list[str]:
    """A line for each MEDSSS_ variable that names no option of any command: a slip of the pen, most likely."""
    given = {name for name in os.environ if name.startswith(PREFIX)}
    given -= _variables(ctx.command.params)
    if not given:
        return []
    known = {variable for _, params in _all_commands(ctx) for variable in _variables(params)}
    lines = []
    for name in sorted(given - known):
        close = get_close_matches(name, known, n=1)
        maybe = f"; did you mean {close[0]}?" if close else ""
        lines.append(f"{name} in the environment names no option{maybe}")
    return lines


def _variables(params: Iterable[Any]) -> set[str]:
    return {name for param in params for name in param.envvar or ()}


def origin(ctx: Any, param: Any) -> str:
    """Where a parameter's value came from: "command line", the variable, the file's name, or "default"."""
    from typer._click.core import ParameterSource

    match ctx.get_parameter_source(param.name):
        case ParameterSource.COMMANDLINE:
            return "command line"
        case ParameterSource.ENVIRONMENT:
            return str(next(name for name in param.envvar if os.environ.get(name)))
        case ParameterSource.DEFAULT_MAP:
            return str(ctx.meta[PREFIX])
        case _:
            return "default"


def resolved(ctx: Any) -> list[str]:
    """The options that a command runs with, a line for each place that they came from; what was not set is left out."""
    by_origin: dict[str, list[str]] = {}
    for param in ctx.command.params:
        text = _as_written(param, ctx.params.get(param.name))
        if text:
            by_origin.setdefault(origin(ctx, param), []).append(text)
    defaults = by_origin.pop("default", [])
    lines = [f"from {place}: {', '.join(options)}" for place, options in by_origin.items()]
    return [*lines, f"by default: {', '.join(defaults)}"] if defaults else lines


def _as_written(param: Any, value: Any) -> str:
    """An option with its value as on a command line; nothing for one that is not set, or a flag that is not raised."""
    if not param.expose_value or value in (None, (), []):
        return ""
    if isinstance(value, bool):
        return str(_long_names(param)[0]) if value else " ".join(param.secondary_opts)
    name = "INPUT" if param.param_type_name == "argument" else _long_names(param)[0]
    return f"{name} {' '.join(map(str, value)) if isinstance(value, (list, tuple)) else value}"
