"""The options that commands share, so that each has one spelling and one help text everywhere.

A command takes `seed: Seed = 0` and the like; the default stands in its signature. Options that go together are a
function that takes them and returns one value: `@grouped(options=stream_options)` gives the command `options` and the
user what `stream_options` takes.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from contextvars import ContextVar
from dataclasses import MISSING, fields, is_dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from medsss_cli.answers import Extract as Extract
from medsss_cli.errors import UsageError
from medsss_cli.settings import Opt, options_of
from medsss_cli.stream.run import StreamOptions
from medsss_cli.stream.shard import Shard

if TYPE_CHECKING:
    from medsss_cli.engines.base import EngineConfig

Inputs = Annotated[
    list[str] | None,
    typer.Argument(metavar="[INPUT]...", help="Files of records, `-` or nothing for stdin.", show_default=False),
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Write here instead of stdout. Run again, it goes on where it stopped.",
        show_default=False,
    ),
]
Errors = Annotated[
    str | None,
    typer.Option("--errors", metavar="FILE", help="Write a record for each failure here.", show_default=False),
]
ShardOpt = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Take the I-th of N parts (0 <= I < N) by a hash of the id; `auto` reads SLURM's array variables.",
        show_default=False,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        min=0,
        metavar="N",
        help="Take the first N records and say what the rest would take; 0 checks all, without a model.",
        show_default=False,
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first bad line or failed record.")]
Ordered = Annotated[bool, typer.Option("--ordered", help="Write in the order of the input.")]
Restart = Annotated[bool, typer.Option("--restart", help="Overwrite OUTPUT instead of going on with it.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes on stderr; errors stay.")]
Seed = Annotated[int, typer.Option("--seed", metavar="S", help="Where every random draw derives from.")]

PolicyOpt = Annotated[
    str, typer.Option("--policy", metavar="MODEL", help="A model folder, a hub name, or builtin:clinic.")
]
Adapter = Annotated[
    str | None,
    typer.Option("--adapter", metavar="DIR", help="A LoRA adapter on top of --policy.", show_default=False),
]
EngineOpt = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="NAME",
        help="auto, hf, vllm, http, or scripted:FILE.jsonl. auto: http with --base-url, vllm on a GPU, else hf.",
    ),
]
BaseUrl = Annotated[
    list[str] | None,
    typer.Option(
        "--base-url",
        metavar="URL",
        help="http: an OpenAI-compatible server (http://host:8000/v1); may be repeated. Default and key: "
        "OPENAI_BASE_URL, OPENAI_API_KEY.",
        show_default=False,
    ),
]
EngineArgs = Annotated[
    list[str] | None,
    typer.Option(
        "-E",
        "--engine-arg",
        metavar="KEY=VALUE",
        help="What else the engine's library can be told (docs/engines.md); may be repeated.",
        show_default=False,
    ),
]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option("--device", help="Where the model runs.")]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    typer.Option("--dtype", help="The numbers it computes with."),
]
BatchSize = Annotated[
    int | None,
    typer.Option("--batch-size", min=1, metavar="N", help="Sequences at once; default by device.", show_default=False),
]
MaxContext = Annotated[
    int | None,
    typer.Option(
        "--max-context",
        "--max-model-len",
        min=1,
        metavar="N",
        help="Longest prompt with its completion, in tokens.",
        show_default=False,
    ),
]
Concurrency = Annotated[
    int | None,
    typer.Option("--concurrency", min=1, metavar="N", help="Records in flight; default by engine.", show_default=False),
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Let a model run the code that comes with it.")
]

Temperature = Annotated[
    float, typer.Option("--temperature", "-T", min=0.0, metavar="T", help="Sampling temperature; 0 is greedy.")
]
TopP = Annotated[float, typer.Option("--top-p", min=0.0, max=1.0, metavar="P", help="Nucleus sampling.")]
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, metavar="N", help="Most tokens in one completion.")]
PromptingOpt = Annotated[
    Literal["native", "instruct"],
    typer.Option("--prompting", help='native: the policy writes "Step k: ..." by itself; instruct: it is told how.'),
]
ExtractOpt = Annotated[
    Extract,
    typer.Option(
        "--extract",
        help="Read answers with all readers; those of a statement; as the authors did; or with one reader.",
    ),
]


def stream_options(
    inputs: Inputs = None,
    output: Output = None,
    errors: Errors = None,
    shard: ShardOpt = None,
    limit: Limit = None,
    strict: Strict = False,
    ordered: Ordered = False,
    restart: Restart = False,
    quiet: Quiet = False,
) -> StreamOptions:
    """The options of the stream. Raises UsageError for a shard that cannot be."""
    return StreamOptions(
        inputs=tuple(inputs or ()),
        output=None if output == "-" else output,
        errors=errors,
        shard=None if shard is None else Shard.parse(shard),
        limit=limit,
        strict=strict,
        ordered=ordered,
        restart=restart,
        quiet=quiet,
    )


def engine_spec(
    policy: PolicyOpt = "builtin:clinic",
    adapter: Adapter = None,
    engine: EngineOpt = "auto",
    base_url: BaseUrl = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    batch_size: BatchSize = None,
    max_context: MaxContext = None,
    engine_args: EngineArgs = None,
) -> EngineConfig:
    """The model that writes, and what runs it."""
    from medsss_cli.engines.base import Device, Dtype, EngineConfig

    return EngineConfig(
        engine=engine,
        policy=policy,
        adapter=adapter,
        device=Device(device),
        dtype=Dtype(dtype),
        batch_size=batch_size,
        max_context=max_context,
        base_url=tuple(base_url or ()),
        engine_args=tuple(engine_args or ()),
    )


def refuse(ctx: typer.Context, names: Collection[str], why: str, hint: str | None = None) -> None:
    """Raise UsageError for one of the options where it stands on the command line and this run does not look at it: a
    mistake, not a wish to be passed over. (In a file or the environment it may be meant for others.)"""
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is not None and source.name == "COMMANDLINE":
            raise UsageError(f"{parameter.opts[0]} {why}", hint=hint)


_FIRST = ("inputs", "output", "policy")  # in every --help


def grouped(**groups: Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command whose parameter `name` is what `groups[name]` makes of options of its own, which stand in its place."""

    def wrap(command: Callable[..., None]) -> Callable[..., None]:
        parameters: list[inspect.Parameter] = []
        for name, own in _parameters(command, leave=groups).items():
            parameters.extend(_parameters(groups[name]).values() if name in groups else [own])
        parameters.sort(key=lambda each: _FIRST.index(each.name) if each.name in _FIRST else len(_FIRST))
        members = {name: tuple(_parameters(function)) for name, function in groups.items()}

        def run(**given: Any) -> None:
            made = {name: groups[name](**{each: given.pop(each) for each in members[name]}) for name in groups}
            command(**given, **made)

        functools.update_wrapper(run, command, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
        del run.__wrapped__  # type: ignore[attr-defined]  # its parameters are not those that the user has
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return run

    return wrap


def _parameters(function: Callable[..., Any], leave: Collection[str] = ()) -> dict[str, inspect.Parameter]:
    """Its parameters with their annotations evaluated, but for those to `leave`, whose types may not be imported."""
    own = inspect.signature(function).parameters
    written = {name: each.annotation for name, each in own.items() if name not in leave}
    globals_ = function.__globals__
    hints = get_type_hints(SimpleNamespace(__annotations__=written, __globals__=globals_), include_extras=True)
    return {
        name: each.replace(annotation=hints.get(name), kind=inspect.Parameter.KEYWORD_ONLY)
        for name, each in own.items()
    }


# Options from dataclasses


def options(command: Callable[..., None]) -> Callable[..., None]:
    """The command as Typer reads it: a parameter whose type is a dataclass stands as the options of its fields.

    Typer has no flattening of its own, so the signature that it sees is made here, and nowhere else. The command gets
    the dataclass. Raises TypeError where two options would have one name.
    """
    hints = get_type_hints(command, include_extras=True)
    asked = {name: (hints[name], each.default) for name, each in inspect.signature(command).parameters.items()}
    made = {
        name: hint
        for name, (hint, _) in asked.items()
        if isinstance(hint, type) and is_dataclass(hint) and options_of(hint)
    }
    parameters: dict[str, inspect.Parameter] = {}
    for name, (hint, default) in asked.items():
        for each in _of_dataclass(made[name]) if name in made else [_parameter(name, hint, default)]:
            if each.name in parameters:
                raise TypeError(f"two options {each.name!r} of {command.__module__}")
            parameters[each.name] = each

    def run(ctx: typer.Context, **given: Any) -> None:
        _context.set(ctx)
        for name, kind in made.items():
            values = {field: given.pop(field) for field in options_of(kind)}
            given[name] = kind(**{field: _given(kind, field, value) for field, value in values.items()})
        for name, (hint, _) in asked.items():
            if name in given and (said := _said(hint)):
                said.check(name, given[name])
        command(**given)

    functools.update_wrapper(run, command, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
    del run.__wrapped__  # type: ignore[attr-defined]  # its parameters are not those that the user has
    context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    seen = [context, *parameters.values()]
    run.__annotations__ = {each.name: each.annotation for each in seen}
    run.__signature__ = inspect.Signature(seen)  # type: ignore[attr-defined]
    return run


_context: ContextVar[typer.Context] = ContextVar("context")


def was_given(name: str) -> bool:
    """Whether the option of this name (as the field is called) stands on the command line of the command that runs."""
    source = _context.get().get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def refuse_given(names: Collection[str], why: str, hint: str | None = None) -> None:
    """Raise UsageError for one of the options where it stands on the command line and this run does not look at it: a
    mistake, not a wish to be passed over. (In a file or the environment it may be meant for others.)"""
    for parameter in _context.get().command.params:
        if parameter.name and parameter.name in names and was_given(parameter.name):
            raise UsageError(f"{parameter.opts[0]} {why}", hint=hint)


def _of_dataclass(kind: type) -> list[inspect.Parameter]:
    """A parameter for each field that is an option, in their order."""
    defaults = {}
    for field in fields(kind):
        factory = field.default_factory
        defaults[field.name] = factory() if factory is not MISSING else field.default
    group = getattr(kind, "GROUP", "")
    return [
        _parameter(name, Annotated[hint, said], defaults[name], group)
        for name, (hint, said) in options_of(kind).items()
    ]


def _parameter(name: str, hint: Any, default: Any, group: str = "") -> inspect.Parameter:
    """What Typer reads for one option: its type without tuples, and a `typer.Option` of what `Opt` says."""
    said = _said(hint)
    if said is not None:
        kind = hint.__origin__
        required = default is MISSING or default is inspect.Parameter.empty
        if get_origin(kind) is tuple:
            kind, default = list[get_args(kind)[0]], list(default) or None  # type: ignore[misc]
            kind = kind | None
        # Typer shows a text in place of the default, and nothing for False.
        shown = said.shown if said.shown is not None else not required and default is not None
        about: dict[str, Any] = {
            "help": said.help,
            "metavar": said.metavar,
            "parser": said.parse,
            "show_default": shown,
            "rich_help_panel": said.group if said.group is not None else group,
        }
        make = typer.Argument if said.argument else typer.Option
        names = () if said.argument else said.names or ("--" + name.replace("_", "-"),)
        hint = Annotated[kind, make(*names, **about)]
        default = ... if required else default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=hint, default=default)


def _said(hint: Any) -> Opt | None:
    return next((each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Opt)), None)


def _given(kind: type, field: str, value: Any) -> Any:
    """A value as the field holds it: Typer gives lists, and None for none of them."""
    return tuple(value or ()) if get_origin(options_of(kind)[field][0]) is tuple else value
