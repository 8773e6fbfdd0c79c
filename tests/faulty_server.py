"""A server of the tests' own on loopback that speaks OpenAI's `/v1/completions`, well or badly.

By itself it is a made-up model: what it writes follows from the prompt, the seed and the index of the completion, so
that two runs can be compared. With `upstream` it is a proxy in front of a real server. `faults` says for each request
to /completions what goes wrong with it; `can` switches off what lesser servers lack. This module holds no tests.

    with FaultyServer(TOKENIZER, faults=every(3, "500")) as server:
        run_medsss(["sample", "--engine", "http", "--base-url", server.url])
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

Faults = Callable[[int], str | None]
"""From the number of a request (from 0, one-token requests left out) to its fault: a status ("500"), reset, cut (in the
middle of the body), garbage, or hang."""

KINDS = ("429", "500", "503", "reset", "cut", "garbage")


def every(nth: int, fault: str) -> Faults:
    """Each nth request, the first one included."""
    return lambda number: fault if number % nth == 0 else None


def at_random(share: float, kinds: tuple[str, ...] = KINDS, seed: int = 0) -> Faults:
    """That share of the requests."""
    draw = random.Random(seed)
    return lambda number: draw.choice(kinds) if draw.random() < share else None


@dataclass
class Can:
    """What the server does; the defaults are vLLM's abilities."""

    ids: bool = True
    n: bool = True
    logit_bias: bool = True
    unknown: bool = True  # takes fields that it does not know
    models: bool = True
    tells_stop: bool = True
    logprobs: bool = True
    bos: int | None = None  # put before a text


KNOWN = {"model", "prompt", "max_tokens", "temperature", "top_p", "seed", "n", "stop", "logit_bias", "logprobs"}


@dataclass
class FaultyServer:
    """See the module. `requests` holds the bodies that came to /completions, `answered` those that were served."""

    tokenizer: Path
    faults: Faults = lambda number: None
    can: Can = field(default_factory=Can)
    models: tuple[dict[str, Any], ...] = ({"id": "clinic", "max_model_len": 2048},)
    delay: float = 0.0
    key: str | None = None
    upstream: str | None = None
    writes: str | None = None  # what the model writes; None: an answer that the prompt and the seed decide
    port: int = 0
    requests: list[dict[str, Any]] = field(default_factory=list)
    answered: int = 0
    in_flight: int = 0
    dropped: int = 0

    def __post_init__(self) -> None:
        self._core = Tokenizer.from_file(str(self.tokenizer / "tokenizer.json"))
        self._number = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    # Up and down

    def __enter__(self) -> FaultyServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, on the same port as before if it was up before."""
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), daemon=True)
        self._thread.start()
        assert ready.wait(10)

    def stop(self) -> None:
        """Close the port and every connection, as a process that is killed does."""
        if self._loop is not None and self._thread is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join(10)

    async def _serve(self, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(512))  # each forwarded request waits in a thread
        self._end = asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", self.port, backlog=1000)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await self._end.wait()
        server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # HTTP

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                line, *lines = head.split("\r\n")
                headers = {k.lower(): v.strip() for k, _, v in (each.partition(":") for each in lines if each)}
                raw = await reader.readexactly(int(headers.get("content-length", 0)))
                method, path, _ = line.split(" ")
                # A client that goes away while it is answered has dropped its request.
                work = asyncio.create_task(self._answer(writer, method, path, headers, raw))
                gone = asyncio.create_task(reader.read(1))
                await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not work.done():
                    self.dropped += 1
                    work.cancel()
                    return
                gone.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await gone
                if not work.result():
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(
        self, writer: asyncio.StreamWriter, method: str, path: str, headers: dict[str, str], raw: bytes
    ) -> bool:
        """Answer one request; False closes the connection."""
        if self.key is not None and headers.get("authorization") != f"Bearer {self.key}":
            return await self._send(writer, 401, {"error": {"message": "Incorrect API key provided"}})
        if method == "GET" and path == "/v1/models" and self.can.models:
            return await self._send(writer, 200, {"object": "list", "data": list(self.models)})
        if method != "POST" or path != "/v1/completions":
            return await self._send(writer, 404, {"detail": "Not Found"})
        body = json.loads(raw)
        self.requests.append(body)
        self.in_flight += 1
        try:
            return await self._completions(writer, body, raw)
        finally:
            self.in_flight -= 1

    async def _completions(self, writer: asyncio.StreamWriter, body: dict[str, Any], raw: bytes) -> bool:
        fault = None
        if body["max_tokens"] > 1:
            fault = self.faults(self._number)
            self._number += 1
        await asyncio.sleep(self.delay)
        if fault == "hang":
            await asyncio.sleep(3600)
        if fault == "reset":
            writer.transport.abort()
            return False
        if fault == "garbage":
            return await self._send(writer, 200, b"<html><body>It works!</body></html>")
        if fault and fault[0].isdigit():
            return await self._send(writer, int(fault), {"error": {"message": "not now"}})
        status, answer = await asyncio.to_thread(self._forward, raw) if self.upstream else self._complete(body)
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        if fault == "cut":
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data[: len(data) // 2])
            await writer.drain()
            return False
        self.answered += status == 200 and body["max_tokens"] > 1
        return await self._send(writer, status, data)

    async def _send(self, writer: asyncio.StreamWriter, status: int, body: Any) -> bool:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        writer.write(head.encode() + data)
        await writer.drain()
        return True

    def _forward(self, raw: bytes) -> tuple[int, bytes]:
        request = urllib.request.Request(f"{self.upstream}/completions", raw, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    # The model

    def _complete(self, body: dict[str, Any]) -> tuple[int, Any]:
        can = self.can
        unknown = set(body) - KNOWN
        if unknown and not can.unknown:
            return 422, {"detail": f"Unexpected fields in the request: {sorted(unknown)}"}
        if body["model"] not in [model["id"] for model in self.models]:
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
        prompt = body["prompt"]
        if isinstance(prompt, list) and not can.ids:
            return 400, {"error": {"message": "prompt must be a string."}}
        count = body.get("n", 1) if can.n else 1
        if isinstance(prompt, str):
            ids = self._core.encode(prompt, add_special_tokens=False).ids
            ids = ids if can.bos is None else [can.bos, *ids]
        else:
            ids = prompt
        context = self.models[0].get("max_model_len", 1 << 30)
        if len(ids) + body["max_tokens"] > context:
            return 400, {"error": {"message": f"the context holds {context} tokens"}}
        made = [self._write(body, ids, index) for index in range(count)]
        usage = {"prompt_tokens": len(ids), "completion_tokens": sum(tokens for _, tokens in made)}
        return 200, {"object": "text_completion", "choices": [choice for choice, _ in made], "usage": usage}

    def _write(self, body: dict[str, Any], ids: list[int], index: int) -> tuple[dict[str, Any], int]:
        """One choice, and its tokens."""
        draw = random.Random(f"{ids} {body['seed']} {index}")
        if words := [int(token) for token in body.get("logit_bias", ()) if self.can.logit_bias]:
            written, end = [draw.choice(words)], []
        else:
            text = self.writes or (
                f"Step 1: {draw.randrange(1000)} is near.\n\nStep 2: The answer is {draw.choice('AB')}."
            )
            written, end = self._core.encode(text, add_special_tokens=False).ids, [1]
        cut = written[: body["max_tokens"]]
        text = self._core.decode(cut, skip_special_tokens=False)
        reason, stop = ("length", None) if len(cut) + len(end) > body["max_tokens"] else ("stop", None)
        hits = [(text.index(string), string) for string in body.get("stop", []) if string in text]
        if hits:
            at, stop = min(hits)
            text, reason = text[:at], "stop"
        ids_out = cut + (end if reason == "stop" and stop is None else [])
        choice: dict[str, Any] = {"index": index, "text": text, "finish_reason": reason}
        if self.can.tells_stop:
            choice["stop_reason"] = stop
        if self.can.logprobs and "logprobs" in body:
            choice["logprobs"] = {"token_logprobs": [-0.5] * len(ids_out)}
        return choice, len(ids_out)
