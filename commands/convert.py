"""`medsss convert`: the authors' tree files (`pos` and `neg` trajectories) to tree records, and back. Costs no model:
some thousand trees a second; a file that is one JSON array is held in memory whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from . import _options as o

if TYPE_CHECKING:
    from medsss_cli.records import Tree
    from medsss_cli.stream.jsonl import Where
    from medsss_cli.stream.run import StreamOptions


@o.grouped(options=o.stream_options)
def run(
    *,
    to: Annotated[
        Literal["tree", "published"],
        typer.Option(help="tree: records as `search` writes them; published: the authors' layout."),
    ] = ...,  # type: ignore[assignment]  # typer's way to say that an option has to be given
    form: Annotated[
        Literal["steps", "leaf", "objects"] | None,
        typer.Option(
            help="published: trajectories as [[text, value, rollout], ...] (steps), [steps, value, rollout] (leaf) or "
            "[{step, value}, ...] (objects); default as they were read, else steps.",
            show_default=False,
        ),
    ] = None,
    options: StreamOptions,
) -> None:
    """Turn the authors' tree files into tree records, and tree records into the authors' layout.

    INPUT is JSON lines or one JSON array. Trajectories that begin with the same steps become branches of one tree.
    """
    from medsss_cli.console import Progress, note
    from medsss_cli.errors import BadRecord, UsageError
    from medsss_cli.problems.authors_trees import Form, to_published
    from medsss_cli.stream.run import Stream

    if form is not None and to != "published":
        raise UsageError(f"--form belongs to --to published, not to --to {to}")
    config: dict[str, Any] = {"to": to} | ({"form": form} if to == "published" else {})
    shape = None if form is None else Form(form)
    disputed = bare = 0
    stream: Stream[Tree]
    with (
        Stream(options, command="convert", parse=_reader(to), config=config) as stream,
        Progress("trees", total=stream.expected(), quiet=options.quiet) as progress,
    ):
        for tree in stream:
            try:
                if to == "tree":
                    disputed += bool(tree.stats["disputed"])
                    bare += not (tree.stats["correct"] or tree.stats["wrong"])
                    stream.write(tree.id, [tree])
                else:
                    record = to_published(tree, shape)
                    bare += not (record["pos"] or record["neg"])
                    stream.write(tree.id, [record])
            except BadRecord as error:
                stream.fail(tree.id, "convert", str(error))
                continue
            progress.advance()
    if not options.quiet and disputed:
        note(f"convert: in {disputed} trees our rules judge an answer otherwise than its list does; the list is kept")
    if not options.quiet and bare:
        note(f"convert: {bare} records hold no trajectory")
    raise typer.Exit(stream.exit_code())


def _reader(to: str) -> Any:
    from medsss_cli.errors import BadRecord
    from medsss_cli.problems.authors_trees import from_published
    from medsss_cli.records import Tree, parse

    def read(obj: dict[str, Any], where: Where) -> Tree:
        if to == "tree":
            return from_published(obj, where)
        if "nodes" not in obj:
            raise BadRecord(f"no tree: found the keys {', '.join(obj)}, but no `nodes` (medsss search writes them)")
        return parse(Tree, obj)

    return read
