"""The program `medsss`: the table of commands, and the one place where errors become messages and exit statuses.

A command's module is imported when it is the one that was asked for, so `medsss --help` never waits for torch.

Exit status: 0 all done; 1 some records failed; 2 wrong usage; 130 interrupted (Ctrl-C), 143 terminated (SIGTERM). A
reader that goes away (`medsss clinic | head -1`) ends the program quietly with 0: it has what it wanted."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import threading
from difflib import get_close_matches
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_command_from_info
from typer.models import CommandInfo

from . import __version__, settings_file, signals
from .console import say
from .errors import Finished, MedsssError

COMMANDS = {
    "load": "Read public data sets as problems, and keep test sets out of pools.",
    "sample": "Draw answers to problems, and rate how often they are right.",
    "search": "Grow a tree of reasoning steps for each problem.",
    "label": "Turn trees into training data: sft, preference or prm.",
    "train-policy": "Train the policy on sft or preference records.",
    "train-prm": "Train a process reward model on prm records.",
    "bon": "Score candidates with a reward model and select the best of n.",
    "eval": "Accuracy, intervals and best-of-k curves of answers.",
    "clinic": "Make problems of the built-in clinic.",
    "report": "Put several eval reports into one table.",
    "view": "Look at records: in the terminal, or on a page of their own.",
}
"""Of each command the line in `medsss --help`; `run` in its module of `commands/` is the command."""

ENGINE_THREAD = "medsss-engine"
"""The name of a thread that a model computes in (engines/base.py)."""

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 80}


class Command(TyperCommand):
    """A command whose stdout is kept for its records, and whose help stands in groups."""

    def invoke(self, ctx: Any) -> Any:
        from .stream.outputs import keep_stdout  # orjson takes as long as all the rest

        keep_stdout()
        return super().invoke(ctx)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The options by group (`Opt.group`), those of no group first and those of every command (Output) last; Typer's
        plain help knows no groups."""
        groups: dict[str, list[tuple[str, str]]] = {"Arguments": [], "": []}
        for param in self.get_params(ctx):
            if row := param.get_help_record(ctx):
                name = "Arguments" if param.param_type_name == "argument" else getattr(param, "rich_help_panel", "")
                groups.setdefault(name or "", []).append(row)
        groups["Output"] = groups.pop("Output", [])
        for name, rows in groups.items():
            if rows:
                with formatter.section(name or "Options"):
                    formatter.write_dl(rows)


class Group(TyperGroup):
    """The commands of the table, each imported when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        run = importlib.import_module(f"medsss_cli.commands.{cmd_name.replace('-', '_')}").run
        command = get_command_from_info(
            CommandInfo(name=cmd_name, cls=Command, callback=run, help=run.__doc__, context_settings=CONTEXT),
            pretty_exceptions_short=False,
            rich_markup_mode=None,
        )
        settings_file.prepare(command)
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            close = get_close_matches(args[0], COMMANDS)
            ctx.fail(f"no such command: {args[0]}" + (f"; did you mean {' or '.join(close)}?" if close else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


app = typer.Typer(cls=Group, context_settings=CONTEXT, rich_markup_mode=None, pretty_exceptions_enable=False)


def _show_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"medsss {__version__}\n")
        raise typer.Exit


@app.callback()
def _medsss(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Make a small language model reason better about medicine, by its own search (MedS3).

    Each command reads and writes JSON lines, so the whole loop is a shell pipe. INPUT is a file or stdin, OUTPUT stdout
    or -o FILE; progress and messages go to stderr.
    """


def main() -> NoReturn:
    """Run `sys.argv` and leave with its exit status."""
    status = run(sys.argv[1:])
    if any(thread.name == ENGINE_THREAD for thread in threading.enumerate()):
        # Stopped while a model was loading or computing: Python would wait for the thread, or break around it.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(status)
    sys.exit(status)


def run(argv: list[str]) -> int:
    """Run one command line; returns its exit status, with every message on stderr."""
    signals.take_over()
    _fill_standard_descriptors()
    group = get_command(app)
    try:
        if os.environ.get("_MEDSSS_COMPLETE"):  # a shell asks for what may follow
            group.main(args=argv, prog_name="medsss")
        with group.make_context("medsss", list(argv), resilient_parsing=not argv) as context:
            if not argv:
                say(context.get_help())
                return 2
            group.invoke(context)
    except (typer.Exit, Finished) as done:
        return done.exit_code
    except typer.TyperException as error:
        say(f"medsss: {error.format_message()}{settings_file.origin(error)}")
        if where := getattr(error, "ctx", None):
            say(f"  {where.command_path} --help lists what there is")
        return 2
    except MedsssError as error:
        say(f"medsss: {error}" + (f"\n  {error.hint}" if error.hint else ""))
        return error.exit_code
    except BrokenPipeError:
        # What is still in the buffer of `sys.stdout` goes nowhere, or Python complains of it on its way out.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except KeyboardInterrupt:
        signals.next_is_final()
        with contextlib.suppress(KeyboardInterrupt):
            say("medsss: terminated" if signals.terminated() else "medsss: interrupted")
        return 143 if signals.terminated() else 130
    return 0


def _fill_standard_descriptors() -> None:
    """Put /dev/null where stdin, stdout or stderr were closed (`medsss ... 2>&-`), or the next file that is opened
    gets the number, and the messages of some library end up in it. `sys.stdout` stays None, by which we know."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


if __name__ == "__main__":
    main()
