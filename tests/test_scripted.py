"""The scripted engine keeps an engine's promises about text."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from helpers import served

from medsss_cli.engines import EngineConfig
from medsss_cli.engines.scripted import ScriptedEngine
from medsss_cli.errors import EngineError, UsageError
from medsss_cli.records import Message
from medsss_cli.requests import Completion, FinishReason, Prompt, Sampling

PROMPT = Prompt((Message("user", "How many?"),), "Step 1:")


def ask(engine: ScriptedEngine, sampling: Sampling | None = None, n: int = 1) -> list[Completion]:
    return asyncio.run(engine.complete(PROMPT, sampling or Sampling(), n))


def test_a_list_is_handed_out_in_order_and_ends_loudly() -> None:
    engine = ScriptedEngine([" one", " two", " three"])
    assert [c.text for c in ask(engine, n=2)] == [" one", " two"]
    assert ask(engine)[0] == Completion(" three", FinishReason.EOS, 2, prompt_tokens=4)
    with pytest.raises(EngineError, match="ended after 3"):
        ask(engine)
    assert [n for _, _, n in engine.requests] == [2, 1, 1]
    with pytest.raises(EngineError, match="gave 1"):
        ask(ScriptedEngine(lambda *_: ["x"]), n=2)


def test_an_engines_promises_about_text() -> None:
    """Cut before the stop string and at the limit; of allowed words, one."""
    text, words = " a b\n\nStep 2: c", Sampling(allowed_tokens=("Reason", "Finish"))
    [stop] = ask(ScriptedEngine([text]), Sampling(stop=("\n\nStep", "zzz")))
    assert (stop.text, stop.finish_reason, stop.stop) == (" a b", FinishReason.STOP, "\n\nStep")
    [cut] = ask(ScriptedEngine([text]), Sampling(max_tokens=1, stop=("\n\nStep",)))
    assert (cut.text, cut.finish_reason, cut.tokens) == (" a", FinishReason.LENGTH, 1)
    assert ask(ScriptedEngine([" Finish"]), words)[0].text == "Finish"
    with pytest.raises(EngineError, match="only Reason, Finish"):
        ask(ScriptedEngine(["Perhaps"]), words)


def open_and_ask(path: Path, n: int) -> list[str]:
    [found] = served(EngineConfig(engine=f"scripted:{path}"), [(PROMPT, Sampling(), n)])
    if isinstance(found, Exception):
        raise found
    return [completion.text for completion in found]


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    path.write_text('{"text": "x"}\n\n{"match": "Step 1:", "texts": ["a", "b"]}\n')
    assert open_and_ask(path, 3) == ["a", "b", "a"]
    path.write_text('{"text": "x"}\n{"text": "y"}\n')
    assert open_and_ask(path, 2) == ["x", "y"]
    with pytest.raises(EngineError, match="no text left"):
        open_and_ask(path, 3)


@pytest.mark.parametrize("line", ["{", '{"say": "x"}', '{"match": "x", "texts": []}', "[]"])
def test_a_bad_script_is_named_by_its_line(tmp_path: Path, line: Any) -> None:
    path = tmp_path / "replies.jsonl"
    path.write_text('{"text": "x"}\n' + line + "\n")
    with pytest.raises(UsageError, match=r"replies\.jsonl:2"):
        open_and_ask(path, 1)
