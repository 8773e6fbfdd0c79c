"""The scripted engine keeps an engine's promises about text, and with it models that think first."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest
from helpers import run_medsss, served, write_jsonl
from tiny_models import make_tiny_tokenizer

from medsss_cli.engines import EngineConfig
from medsss_cli.engines.base import ThinkFirst
from medsss_cli.engines.rendering import rendered_pieces
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
    with pytest.raises(EngineError, match="gave 0"):
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


# Models that think first: a thought that eats the budget of the answer leaves answers cut, and a thought that is taken
# for a step spoils trees and labels.

ASKED = Prompt((Message("user", "How much?"),))
LIMITS = Sampling(max_tokens=4, stop=("\n\nStep ",), seed=1)


def complete(script: list[str | Completion], n: int = 1) -> tuple[list[Completion], ScriptedEngine]:
    scripted = ScriptedEngine(script)
    return asyncio.run(ThinkFirst(scripted, 3).complete(ASKED, LIMITS, n)), scripted


def test_an_answer_has_its_whole_budget_after_the_thought() -> None:
    [done], engine = complete(["two and</think>", "The answer is 4."])
    assert (done.text, done.finish_reason, done.tokens) == ("The answer is 4.", FinishReason.EOS, 2 + 5)
    first, second = engine.requests
    assert (first[0], first[1].max_tokens, first[1].stop) == (ASKED, 3, ("</think>",))
    assert second[0].prefix == "two and\n</think>\n\n"
    assert (second[1].max_tokens, second[1].stop) == (4, LIMITS.stop)


def test_a_thought_without_end_is_ended_and_a_model_that_does_not_think_has_answered() -> None:
    [done], engine = complete(["one two three four five", "The answer is 4."])
    assert engine.requests[1][0].prefix == "one two three\n</think>\n\n"
    assert done.text == "The answer is 4."
    [done], engine = complete(["Yes\n\nStep 2:"])
    assert (done.text, done.finish_reason, len(engine.requests)) == ("Yes", FinishReason.STOP, 1)


def test_draws_differ_in_thought_and_answer() -> None:
    done, engine = complete(["a</think>", "b</think>", "first", "second"], n=2)
    assert [each.text for each in done] == ["first", "second"]
    assert len({sampling.seed for _, sampling, _ in engine.requests}) == 3


@pytest.mark.parametrize(
    ("prompt", "sampling"),
    [
        (Prompt(ASKED.messages, "Step 0: Go.\n\nStep 1:"), LIMITS),
        (ASKED, Sampling(allowed_tokens=("Reason", "Finish"))),
    ],
)
def test_what_goes_on_with_a_text_and_a_choice_come_at_once(prompt: Prompt, sampling: Sampling) -> None:
    scripted = ScriptedEngine(["Reason"])
    asyncio.run(ThinkFirst(scripted, 3).complete(prompt, sampling))
    assert scripted.requests == [(prompt, sampling, 1)]


def test_a_step_stands_after_the_thought_that_a_template_opens(tmp_path: Path) -> None:
    # As DeepSeek-R1's does: a step written behind "<think>" would be a thought.
    opens = "{{ messages[0]['content'] }}{% if add_generation_prompt %}<think>\n{% endif %}"
    tokenizer = make_tiny_tokenizer(tmp_path, chat_template=opens)
    assert rendered_pieces(tokenizer, ASKED) == ["How much?<think>\n"]
    assert rendered_pieces(tokenizer, Prompt(ASKED.messages, "Step 0:")) == ["How much?<think>\n\n</think>\n\nStep 0:"]
    closed = Prompt(ASKED.messages, "Two.\n</think>\n\n")
    assert rendered_pieces(tokenizer, closed) == ["How much?<think>\nTwo.\n</think>\n\n"]


def test_sample_thinks_first(tmp_path: Path) -> None:
    texts = ["It is two and two</think>", "Step 1: 2 + 2 = 4. The answer is 4."]
    script = write_jsonl(tmp_path / "script.jsonl", [{"text": text} for text in texts])
    problem = {"id": "p", "question": "2 + 2?", "answer": "4", "task": "number"}
    args = ["sample", "-n", "1", "--engine", f"scripted:{script}", "--thought-tokens", "9"]
    done = run_medsss(args, stdin=orjson.dumps(problem).decode())
    [response] = orjson.loads(done.stdout)["responses"]
    assert (response["verdict"], response["text"]) == ("correct", "Step 1: 2 + 2 = 4. The answer is 4.")
