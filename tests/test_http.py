"""The http engine, on a server of the tests' own that breaks on command. What it shares with the other engines, also on
a real vLLM server: test_engines.py."""

from __future__ import annotations

import asyncio
import gc
import re
import socket
import threading
import warnings
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faulty_server import Can, FaultyServer, at_random, every
from helpers import ask, free_port, problem, run_medsss, to_lines
from tiny_models import make_tiny_tokenizer

from medsss_cli.engines import EngineConfig, open_engine, resolve_policy
from medsss_cli.engines.http import HttpEngine, base_urls, pick_model
from medsss_cli.errors import EngineError, UsageError
from medsss_cli.requests import Completion, FinishReason, Prompt, Sampling

CLINIC = Path(resolve_policy("builtin:clinic"))
PLAIN = Can(ids=False, n=False, unknown=False, tells_stop=False, logprobs=False)
Work = Callable[[HttpEngine], Awaitable[Any]]


def on(servers: Sequence[FaultyServer | str], work: Work, policy: str = "builtin:clinic", **args: Any) -> Any:
    """What `work` gives on a fresh engine for the servers; `args` are -E KEY=VALUE."""

    async def main() -> Any:
        urls = tuple(server if isinstance(server, str) else server.url for server in servers)
        more = tuple(f"{name}={value}" for name, value in ({"timeout": 20.0} | args).items())
        async with open_engine(EngineConfig(engine="http", base_url=urls, policy=policy, engine_args=more)) as engine:
            assert isinstance(engine, HttpEngine)
            return await work(engine)

    return asyncio.run(main())


def one(
    servers: Sequence[FaultyServer | str], prompt: Prompt, sampling: Sampling, n: int = 1, **spec: Any
) -> list[Completion]:
    found: list[Completion] = on(servers, lambda engine: engine.complete(prompt, sampling, n), **spec)
    return found


async def many(engine: HttpEngine, count: int, n: int = 1) -> list[list[Completion] | BaseException]:
    """`count` different requests at once."""
    work = (engine.complete(ask(f"What is {i} + 1?"), Sampling(seed=i, max_tokens=64), n) for i in range(count))
    return await asyncio.gather(*work, return_exceptions=True)


async def until(what: Callable[[], bool]) -> None:
    while not what():
        await asyncio.sleep(0.01)


# What is asked for, and what comes back


@pytest.mark.parametrize("can", [Can(), PLAIN], ids=["vllm", "plain"])
def test_every_server_keeps_the_promises_of_an_engine(can: Can) -> None:
    """What a lesser server lacks is made up for: n texts, cut before the stop string, within the limit."""
    stopped = Sampling(seed=3, max_tokens=200, stop=("\n\nStep",))
    short, whole = (Sampling(seed=3, max_tokens=most) for most in (5, 200))
    word = Sampling(seed=3, max_tokens=1, allowed_tokens=("Reason", "Finish"))

    async def work(engine: HttpEngine) -> Any:
        return [await engine.complete(ask("Why?"), each, 7) for each in (stopped, short, whole, word)]

    with FaultyServer(CLINIC, can=can) as server:
        cut, brief, full, words = on([server], work)
    assert [len(each) for each in (cut, brief, full, words)] == [7] * 4
    assert len({completion.text for completion in full}) > 3, "n completions are n draws"
    for completion in cut:
        assert completion.text.startswith("Step 1: ")
        assert "Step 2" not in completion.text
        assert completion.finish_reason is FinishReason.STOP
    assert {(completion.finish_reason, completion.tokens) for completion in brief} == {(FinishReason.LENGTH, 5)}
    assert {completion.finish_reason for completion in full} == {FinishReason.EOS}
    assert all(completion.text.endswith(("A.", "B.")) and completion.prompt_tokens == 6 for completion in full)
    # Half a nat a token here; where the server gives none, there is none.
    assert [each.logprob for each in full] == [-0.5 * each.tokens if can.logprobs else None for each in full]
    assert {(each.text, each.tokens) for each in words} == {("Reason", 1), ("Finish", 1)}


def test_what_a_server_cannot_do_is_told_or_done_without() -> None:
    """A choice among words is refused, with the way around it. One that does not say which stop string ended a text
    says "stop" for an end of turn as well: it gets no stop strings, and the text is cut here."""
    word, stopped = Sampling(allowed_tokens=("Reason", "Finish")), Sampling(max_tokens=64, stop=("\n\nStep", "never"))
    with FaultyServer(CLINIC, can=replace(PLAIN, logit_bias=False)) as server:
        with pytest.raises(EngineError, match="told to choose among Reason, Finish") as caught:
            one([server], ask("Why?"), word, 3)
        assert "--expand reason" in (caught.value.hint or "")
    for writes, expected in (
        ("The answer is A.", ("The answer is A.", FinishReason.EOS, None)),
        ("So.\n\nStep 2: B.", ("So.", FinishReason.STOP, "\n\nStep")),
    ):
        with FaultyServer(CLINIC, can=Can(tells_stop=False), writes=writes) as server:
            [done] = one([server], ask("Why?"), stopped)
        assert (done.text, done.finish_reason, done.stop) == expected


def test_the_draw_does_not_depend_on_the_company_or_the_server() -> None:
    """`sample` on one server and on three gives the same records. The least busy one is asked."""
    with FaultyServer(CLINIC) as a, FaultyServer(CLINIC) as b, FaultyServer(CLINIC) as c:
        alone = on([a], lambda engine: many(engine, 40, 3))
        before = a.answered
        assert on([a, b, c], lambda engine: many(engine, 40, 3)) == alone
        assert min(a.answered - before, b.answered, c.answered) >= 10


@pytest.mark.parametrize("adds_bos", [True, False])
def test_a_text_prompt_has_one_bos_and_opens_no_turn(adds_bos: bool, tmp_path: Path) -> None:
    """The template writes a BOS; a server that puts one before every text would make it two. What a question spells of
    a special token has a space in it. A server with another tokenizer than --policy's is refused: token ids of another
    vocabulary are noise that no server would complain of."""
    tokenizer = make_tiny_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    can = Can(ids=False, bos=tokenizer.bos_token_id if adds_bos else None)
    with FaultyServer(tmp_path, can=can, models=({"id": "org/other"},)) as server:
        one([server], ask("Why?<|end|>"), Sampling(max_tokens=4), policy=str(tmp_path))
        sent = server.requests[-1]["prompt"]
        with pytest.raises(UsageError, match=r"org/other .* is not --policy builtin:clinic"):
            one([server], ask("Why?"), Sampling())
    assert sent == ("" if adds_bos else "<s>") + "<|user|>\nWhy?< |end|><|end|>\n<|assistant|>\n"


# Faults


def test_random_faults_lose_nothing_and_repeat_nothing() -> None:
    """`medsss sample` through a server that fails three requests in ten gives what a faultless one gives, in order."""
    problems = to_lines(problem(number) for number in range(100))
    with FaultyServer(CLINIC, faults=at_random(0.3)) as bad, FaultyServer(CLINIC) as good:
        args = ["sample", "--engine", "http", "-n", 3, "--max-tokens", 64, "--ordered", "--base-url"]
        ran = run_medsss([*args, bad.url], problems).ok()
        assert len(bad.requests) > bad.answered >= 100
        assert ran.records == run_medsss([*args, good.url], problems).ok().records
    assert [record["id"] for record in ran.records] == [f"p{number}" for number in range(100)]
    assert f"http: {bad.url}: 100 requests, " in ran.stderr


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ("400", "refuses the request: 400 not now"),
        ("500", "500 not now"),
        ("garbage", "no completion, twice"),
        ("cut", "without sending complete message|incomplete|peer closed"),
        ("reset", "disconnected|[Rr]eset|ReadError"),
        ("hang", "no answer within 0.3 s"),
    ],
)
def test_a_fault_that_stays_ends_with_its_reason_and_the_rest_go_on(fault: str, what: str) -> None:
    async def work(engine: HttpEngine) -> Any:
        [of_one] = engine.servers
        patient, of_one.client = of_one.client, of_one.client.with_options(timeout=0.3 if fault == "hang" else 20.0)
        with pytest.raises(EngineError) as caught:
            await engine.complete(ask("a"), Sampling(max_tokens=9))
        server.faults, of_one.client = lambda number: None, patient
        return str(caught.value), await engine.complete(ask("b"), Sampling(max_tokens=9))

    with FaultyServer(CLINIC, faults=every(1, fault)) as server:
        told, fine = on([server], work, max_retries=0)
    assert re.search(what, told), told
    assert fine[0].text


def test_a_server_that_comes_back_is_used_again() -> None:
    """Two servers, one is killed: its requests move over. It is started again: it gets its share. Where none is left, a
    request fails with what happened."""
    with FaultyServer(CLINIC, delay=0.02) as a, FaultyServer(CLINIC, delay=0.02) as b:

        async def work(engine: HttpEngine) -> Any:
            asking = asyncio.create_task(many(engine, 150))
            await until(lambda: b.answered > 0)
            await asyncio.to_thread(b.stop)
            done = await asking
            before = b.answered
            await asyncio.to_thread(b.start)
            while b.answered == before:
                done += await many(engine, 20)
            await asyncio.gather(*(asyncio.to_thread(server.stop) for server in (a, b)))
            with pytest.raises(EngineError, match="no server answers: http"):
                await engine.complete(ask("Why?"), Sampling())
            return done, engine.notes()

        done, notes = on([a, b], work, max_retries=0)
    assert [each for each in done if isinstance(each, BaseException)] == []
    assert any("failed for a while" in line for line in notes)


def test_a_cancelled_request_is_closed_and_the_engine_leaves_nothing_behind() -> None:
    """Ctrl-C must not leave the server at work; closing must not leave sockets or tasks."""
    with FaultyServer(CLINIC) as server, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        async def work(engine: HttpEngine) -> None:
            server.faults = every(1, "hang")
            tasks = [asyncio.create_task(many(engine, 3)) for _ in range(3)]
            await until(lambda: server.in_flight == 9)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await until(lambda: server.in_flight == 0)
            server.faults = lambda number: None
            assert all(isinstance(each, list) for each in await many(engine, 5))

        on([server], work, timeout=200)
        gc.collect()
        assert server.dropped == 9
    assert [str(each.message) for each in caught] == []


# Opening


def opens(urls: Sequence[str], **spec: Any) -> str:
    """The message and the hint of the UsageError that opening ends with."""
    with pytest.raises(UsageError) as caught:
        one(urls, ask("a"), Sampling(), **spec)
    return f"{caught.value} | {caught.value.hint}"


def test_what_cannot_be_opened_says_what_was_tried_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultyServer(CLINIC) as server:
        root = server.url.removesuffix("/v1")
        assert f"{root} refuses the request: 404 Not Found | is the base of the API --base-url {root}/v1?" in opens(
            [root]
        )
    assert "--base-url http://HOST:8000/v1, or set OPENAI_BASE_URL" in opens([])
    url = f"http://127.0.0.1:{free_port()}/v1"
    assert f"no server answers ({url}: " in opens([url], max_retries=0)
    with FaultyServer(CLINIC, can=Can(models=False), key="secret") as server:
        monkeypatch.setenv("OPENAI_API_KEY", "wrong")
        told = opens([server.url])
        assert "refuses the key in OPENAI_API_KEY" in told
        assert "wrong" not in told
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        assert "-E model=NAME" in opens([server.url])
        # No list of models is no hindrance where the model is named.
        assert one([server], ask("a"), Sampling(max_tokens=9), model="clinic")
        assert "the model `nobody` does not exist" in opens([server.url], model="nobody").lower()
    page = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n<html></html>"
    with socket.create_server(("127.0.0.1", 0)) as web:

        def answer() -> None:
            connection, _ = web.accept()
            with connection:
                connection.recv(9999)
                connection.sendall(page)

        threading.Thread(target=answer, daemon=True).start()
        assert "does not speak OpenAI's protocol" in opens([f"http://127.0.0.1:{web.getsockname()[1]}"])


def test_one_server_of_two_is_enough_and_the_other_is_told() -> None:
    async def work(engine: HttpEngine) -> Any:
        return await many(engine, 10, 3), engine.warnings

    with FaultyServer(CLINIC) as server:
        done, told = on([server, f"http://127.0.0.1:{free_port()}/v1"], work)
    assert all(isinstance(each, list) for each in done)
    assert "does not answer" in told[0]


def test_which_servers_and_which_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", " http://a/v1/, http://b:1/v1  http://a/v1")
    assert base_urls(()) == ["http://a/v1", "http://b:1/v1"]
    assert base_urls(("http://c/v1/",)) == ["http://c/v1"]
    listed = [
        {"id": "org/base", "root": "/models/base"},
        {"id": "round-2", "root": "/out/round-2", "parent": "org/base"},
        {"id": "other"},
    ]

    def pick(name: str = "nothing", **more: str) -> str:
        return pick_model("http://a/v1", listed, (name,), **more)[0]

    assert pick("org/base") == pick("/models/base") == "org/base"
    assert pick("org/base", adapter="out/round-2/") == "round-2"
    assert pick(model="not-listed") == "not-listed"
    with pytest.raises(UsageError, match="org/base, round-2, other"):
        pick()
    with pytest.raises(UsageError, match="does not serve out/round-3"):
        pick(adapter="out/round-3")
    # The only whole model, its adapters beside it; not in an adapter's place.
    assert pick_model("u", listed[:2], ("nothing",))[0] == "org/base"
    (tmp_path / "adapter_config.json").touch()
    with pytest.raises(UsageError, match="does not serve"):
        pick_model("u", listed[:2], (str(tmp_path),))
