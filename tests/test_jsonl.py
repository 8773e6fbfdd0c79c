"""Lines in: packed, in an array, too long, cut short. Broken lines: test_hostile.py."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from backports import zstd

from medsss_cli.stream import jsonl
from medsss_cli.stream.jsonl import Where, read_objects


def read(*paths: Path) -> tuple[list[tuple[str, dict[str, Any]]], list[tuple[str, str]]]:
    """What was read and what was bad, with `file:line` cut down to `name:line`."""
    bad: list[tuple[str, str]] = []
    objects = list(read_objects([str(path) for path in paths], on_bad=lambda w, what: bad.append((short(w), what))))
    return [(short(where), found) for where, found in objects], bad


def short(where: Where) -> str:
    return f"{Path(where.source).name}:{where.line}"


def put(path: Path, data: bytes) -> Path:
    packed = {".gz": gzip.compress, ".zst": zstd.compress}.get(path.suffix, lambda same: same)(data)
    path.write_bytes(packed)
    return path


def test_blank_lines_bom_crlf_and_a_last_line_without_line_feed(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"a":1}\r\n\r\n  \n{"a":2}\r\n{"a":3}')
    assert read(path) == ([("a.jsonl:1", {"a": 1}), ("a.jsonl:4", {"a": 2}), ("a.jsonl:5", {"a": 3})], [])


@pytest.mark.parametrize("ending", ["jsonl.gz", "jsonl.zst"])
def test_packed_files_are_read_by_their_name(tmp_path: Path, ending: str) -> None:
    """Parts one after another too: `cat a.gz b.gz > c.gz` is how people merge shards. Data that end early, and a name
    that lies, are one bad line, and the next file is read."""
    one, two = put(tmp_path / f"1.{ending}", b'{"a":1}\n{"a":2}\n'), put(tmp_path / f"2.{ending}", b'{"a":3}\n')
    both, cut, lie = (tmp_path / f"{name}.{ending}" for name in ("both", "cut", "lie"))
    both.write_bytes(one.read_bytes() + two.read_bytes())
    assert [found for _, found in read(both)[0]] == [{"a": 1}, {"a": 2}, {"a": 3}]
    cut.write_bytes(
        put(tmp_path / f"whole.{ending}", b"".join(b'{"a":%d}\n' % k for k in range(9999))).read_bytes()[:-20]
    )
    lie.write_bytes(b'{"a":1}\n')
    objects, bad = read(cut, lie, put(tmp_path / "b.jsonl", b'{"b":1}\n'))
    assert bad[0][1] == "reading stops here: the compressed data ends early"
    assert [where for where, _ in bad[1:]] == [f"lie.{ending}:1"]
    assert objects[-1] == ("b.jsonl:1", {"b": 1})


def test_a_line_over_the_limit_is_skipped_without_being_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "LINE_LIMIT", 1 << 20)
    path = put(tmp_path / "a.jsonl", b'{"a":1}\n{"a":"' + b"x" * (3 << 20) + b'"}\n{"a":3}\n')
    objects, bad = read(path)
    assert [where for where, _ in objects] == ["a.jsonl:1", "a.jsonl:3"]
    assert bad == [("a.jsonl:2", "the line is longer than 1 MiB")]


def test_one_json_array(tmp_path: Path) -> None:
    path = put(tmp_path / "a.json", b'\n [\n {"a": 1},\n 7,\n {"a": 2}]\n')
    objects, bad = read(path)
    assert objects == [("a.json:1", {"a": 1}), ("a.json:3", {"a": 2})]
    assert bad == [("a.json:2", "expected a JSON object, found a number")]
    assert [where for where, _ in read(put(path, b'[\n{"a": 1},\n{"a": }]\n'))[1]] == ["a.json:3"]
    assert read(*(put(tmp_path / name, b"") for name in ("a.jsonl", "a.jsonl.gz", "a.jsonl.zst"))) == ([], [])


def test_records_are_counted_where_files_tell_and_nowhere_else(tmp_path: Path) -> None:
    """The time left in a line of progress stands on this number; a pipe must not be read for it."""
    lines, array, packed = tmp_path / "a.jsonl", tmp_path / "b.json", tmp_path / "c.jsonl.gz"
    lines.write_bytes(b'\xef\xbb\xbf{"id": 1}\n\n{"id": 2}\n{"id": 3}')
    array.write_text('[{"id": 1},\n {"id": 2}]')
    packed.write_bytes(gzip.compress(b"{}\n"))
    assert jsonl.count_records([str(lines)]) == 3
    assert jsonl.count_records([str(lines), str(array)]) == 5
    assert jsonl.count_records([str(lines), str(packed)]) is None
    assert jsonl.count_records([]) is None
    assert jsonl.count_records([str(tmp_path / "none")]) is None
