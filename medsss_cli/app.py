"""The program `medsss`: the table of commands, and the one place where errors become messages and exit codes.

A command's module is named here as a string and imported when it is the one that was asked for, so that `medsss --help`
and the commands without a model never wait for torch.

Exit status: 0 all done; 1 some records failed; 2 wrong usage; 130 interrupted (Ctrl-C), 143 terminated (SIGTERM).
A reader that goes away (`medsss clinic | head -1`) ends the program quietly with 0: the reader has what it wanted, and
a script under `set -o pipefail` goes on.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from difflib import get_close_matches
from typing import Any, NamedTuple, NoReturn

from . import __version__, config_file, signals
from .errors import MedsssError


class Entry(NamedTuple):
    """A row of the table: the module that defines `run`, and the line in `medsss --help`."""

    module: str
    help: str


COMMANDS: dict[str, Entry] = {
    "load": Entry("medsss_cli.commands.load", "Read public data sets as problems, and keep test sets out of pools."),
    "sample": Entry("medsss_cli.commands.sample", "Draw answers to problems, and rate how often they are right."),
    "search": Entry("medsss_cli.commands.search", "Grow a tree of reasoning steps for each problem."),
    "label": Entry("medsss_cli.commands.label", "Turn trees into training data: sft, preference or prm."),
    "train-policy": Entry("medsss_cli.commands.train_policy", "Train the policy on sft or preference records."),
    "train-prm": Entry("medsss_cli.commands.train_prm", "Train a process reward model on prm records."),
    "bon": Entry("medsss_cli.commands.bon", "Score candidates with a reward model and select the best of n."),
    "eval": Entry("medsss_cli.commands.eval", "Accuracy, intervals and best-of-k curves of answers."),
    "clinic": Entry("medsss_cli.commands.clinic", "Make problems of the built-in clinic."),
    "report": Entry("medsss_cli.commands.report", "Put several eval reports into one table."),
    "view": Entry("medsss_cli.commands.view", "Look at records: in the terminal, or on a page of their own."),
    "convert": Entry("medsss_cli.commands.convert", "Turn the authors' tree files into tree records, and back."),
}

HELP = """Make a small language model reason better about medicine, by its own search (MedS3).

Each command reads and writes JSON lines, so the whole loop is a shell pipe. INPUT is a file or stdin, OUTPUT stdout or
-o FILE; progress and messages go to stderr."""


def main() -> NoReturn:
    """Run `sys.argv` and leave with its exit status."""
    sys.exit(run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    """Run one command line; returns its exit status, with every message on stderr."""
    signals.take_over()
    _fill_standard_descriptors()
    try:
        return _dispatch(argv)
    except MedsssError as error:
        _complain(str(error), error.hint)
        return error.exit_code
    except BrokenPipeError:
        _drop_stdout()
        return 0
    except KeyboardInterrupt:
        signals.next_is_final()
        with contextlib.suppress(KeyboardInterrupt):
            _complain("terminated" if signals.terminated() else "interrupted", None)
        return 143 if signals.terminated() else 130


def _dispatch(argv: list[str]) -> int:
    from typer._click.exceptions import BadParameter, ClickException
    from typer.exceptions import Abort, Exit

    try:
        group = _group()
        if instruction := os.environ.get(COMPLETE_VARIABLE):
            return _complete(group, instruction)
        with group.make_context("medsss", list(argv)) as context:
            group.invoke(context)
    except Exit as done:
        return done.exit_code
    except Abort:
        return 130
    except ClickException as error:
        if isinstance(error, BadParameter) and error.ctx is not None and error.param is not None:
            place = config_file.origin(error.ctx, error.param)
            error.message += f" (from {place})" if place.startswith(config_file.PREFIX) else ""
        error.show(sys.stderr)
        return error.exit_code
    return 0


COMPLETE_VARIABLE = "_MEDSSS_COMPLETE"
"""How a shell's completion function asks: click's protocol, whose name for the variable is made from the program's."""


def _complete(group: Any, instruction: str) -> int:
    from typer._completion_classes import completion_init
    from typer.completion import shell_complete

    completion_init()
    return shell_complete(group, {}, "medsss", COMPLETE_VARIABLE, instruction)


def _group() -> Any:
    """The typer group, whose commands are imported one at a time."""
    from typer.core import TyperCommand, TyperGroup
    from typer.main import get_command_from_info
    from typer.models import CommandInfo

    settings = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

    class Command(TyperCommand):
        """A command whose stdout is kept for its records."""

        def invoke(self, ctx: Any) -> Any:
            from .dry_run import DryRunDone
            from .stream.jsonl import guarded_stdout

            _tell(ctx)
            with guarded_stdout():
                try:
                    return super().invoke(ctx)
                except DryRunDone:
                    return None

    class Group(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            return list(COMMANDS)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            entry = COMMANDS.get(cmd_name)
            if entry is None:
                return None
            module = importlib.import_module(entry.module)
            command = get_command_from_info(
                CommandInfo(
                    name=cmd_name,
                    cls=Command,
                    callback=module.run,
                    help=module.run.__doc__ or module.__doc__,
                    context_settings=settings,
                ),
                pretty_exceptions_short=False,
                rich_markup_mode=None,
            )
            config_file.prepare(cmd_name, command.params)
            return command

        def shell_complete(self, ctx: Any, incomplete: str) -> Any:
            """From the table: to ask every command for its help would import them all."""
            from typer._click.shell_completion import CompletionItem

            named = [
                CompletionItem(name, help=row.help) for name, row in COMMANDS.items() if name.startswith(incomplete)
            ]
            return named + super(TyperGroup, self).shell_complete(ctx, incomplete)

        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            if args[0] not in COMMANDS and not args[0].startswith("-"):
                close = get_close_matches(args[0], COMMANDS)
                maybe = f" Did you mean {' or '.join(close)}?" if close else ""
                ctx.fail(f"No such command: {args[0]}.{maybe}")
            return super().resolve_command(ctx, args)

        def format_commands(self, ctx: Any, formatter: Any) -> None:
            with formatter.section("Commands"):
                formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])

    return Group(
        name="medsss",
        help=HELP,
        params=_eager_options(),
        context_settings=settings,
        rich_markup_mode=None,
        no_args_is_help=True,
    )


def _eager_options() -> list[Any]:
    """The options of `medsss` itself: each does its work at once and ends the program."""
    import typer

    def show_version(ctx: Any, param: Any, wanted: bool) -> None:
        if wanted:
            sys.stdout.write(f"medsss {__version__}\n")
            raise typer.Exit

    def install(ctx: Any, param: Any, wanted: bool) -> None:
        from typer.completion import install_callback

        install_callback(ctx, param, wanted)

    def show(ctx: Any, param: Any, wanted: bool) -> None:
        from typer.completion import show_callback

        show_callback(ctx, param, wanted)

    return [
        typer.core.TyperOption(
            param_decls=[name],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=callback,
            help=text,
            type=bool,
            default=False,
            show_default=False,
        )
        for name, callback, text in (
            ("--version", show_version, "Show the version and exit."),
            ("--install-completion", install, "Let the shell that this runs in (bash, zsh, fish) complete medsss."),
            ("--show-completion", show, "Show what that would install."),
        )
    ]


def _tell(ctx: Any) -> None:
    """What is said before a command begins: of variables that name no option, and with -v where each option is from."""
    if not ctx.params.get("quiet"):
        strays = config_file.stray_variables(ctx)
        if strays:
            from .console import warn

            for line in strays:
                warn(line)
    if ctx.params.get("verbose") and not ctx.params.get("quiet"):
        from . import console

        console.be_verbose()
        console.note(f"{ctx.info_name}: {_versions('engine' in ctx.params)}")
        for line in config_file.resolved(ctx):
            console.note(f"  {line}")


def _versions(with_engine: bool) -> str:
    """What runs: this program, Python, and the libraries below an engine as far as they are installed."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    parts = [f"medsss {__version__}", f"Python {platform.python_version()}"]
    for name in ("torch", "transformers", "vllm", "openai") if with_engine else ():
        with contextlib.suppress(PackageNotFoundError):
            parts.append(f"{name} {version(name)}")
    return ", ".join(parts)


def _complain(message: str, hint: str | None) -> None:
    from .console import say

    say(f"medsss: {message}")
    if hint:
        say(f"  {hint}")


def _fill_standard_descriptors() -> None:
    """Put /dev/null where stdin, stdout or stderr were closed (`medsss ... 2>&-`), or the next file that is opened
    gets the number, and the messages of some library end up in it. `sys.stdout` stays None, by which we know."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _drop_stdout() -> None:
    """Let what is still in the buffer of `sys.stdout` go nowhere, or Python complains of it on its way out."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)


if __name__ == "__main__":
    main()
