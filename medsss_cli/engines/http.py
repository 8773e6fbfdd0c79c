"""The engine on servers that speak OpenAI's `/v1/completions`: one or several, near or far, of one model.

Prompts are rendered here, with the tokenizer of `--policy`, and sent as token ids. The openai client tries again what
was busy, failed or broke off; a server that goes on failing rests for a while, and its requests go to another one.
What a server can do is found out by requests of one token when it is first seen (`Traits`). Where it lacks something:

1. It takes no token ids: it gets the rendered text, without the BOS that it would add a second time; a special token
   that is spelled in a question is written with a space in it.
2. It ignores n: one request per completion, each with a seed of its own. All servers of a run are asked in one way, so
   a completion does not depend on which one answered.
3. It does not tell which stop string ended a text: it gets none, and the text is cut here (which costs tokens).
4. It cannot restrict the first token by `logit_bias`: a choice among words is refused.
5. It gives no log-probabilities, or gives those of another temperature: `logprob` is None.

Seeds are cut to 31 bits, which is what all servers take; whether a seed fixes the draw is the server's affair.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from ..errors import EngineError, UsageError
from ..records import Message
from ..requests import Completion, FinishReason, Prompt, Sampling, Usage, derive_seed
from .base import EngineConfig, Worker, check_request, room
from .loading import base_of, generation_config_of, quiet_transformers, remarks_on, resolve_policy, tokenizer_of
from .rendering import encode_text, end_tokens, first_stop, first_tokens, render, rendered_pieces

URL_VARIABLE = "OPENAI_BASE_URL"
KEY_VARIABLE = "OPENAI_API_KEY"

SEQUENCES = 1024
"""Completions in flight on one server, unless --batch-size says otherwise: what a large vLLM server runs at once."""

_OPENING = 10.0  # seconds to find a first server
_REST = (0.5, 10.0)  # seconds that a server is left alone after it failed: at first, and at most
_SEED_MASK = (1 << 31) - 1
_URL_HINT = "the base of an API usually ends in /v1: --base-url http://HOST:8000/v1"
_CLIENT = ("model", "timeout", "max_retries", "trust_remote_code")

_PROBE = Prompt(
    (
        Message(
            "user",
            "A 61-year-old woman, 72.5 kg, has sodium 138 mmol/L, chloride 101 mmol/L and bicarbonate 19 mmol/L. "
            "What is the anion gap, and which diagnosis is most likely?\nA. 18: ketoacidosis\nB. 8: none",
        ),
    )
)


@dataclass(frozen=True, slots=True)
class Traits:
    """What a server can do. `extras` are the fields beyond OpenAI's that vLLM takes."""

    ids: bool = True
    many: bool = True  # n completions in one request
    extras: bool = True
    bias: bool = True
    logprobs: bool = True
    tells_stop: bool = True
    own_bos: bool = False  # puts a BOS before a text


@dataclass(slots=True, eq=False)
class Server:
    """One base URL and what is known of it. `load` counts completions in flight; it rests until `rests_until`."""

    url: str
    client: Any
    model: str = ""
    context: int | None = None
    traits: Traits | None = None
    load: int = 0
    answered: int = 0
    retried: int = 0
    rest: float = _REST[0]
    rests_until: float = 0.0
    reason: str = ""


class _Fault(Exception):
    """A server does not answer, or not with what was asked for; another one, or the same one later, may."""


@dataclass(frozen=True, slots=True)
class _Job:
    """One `complete` call. `words` holds the first token of each allowed word."""

    prompt: Prompt
    ids: list[int]
    sampling: Sampling
    limit: int
    words: list[int] = field(default_factory=list)


class HttpEngine:
    """See the module. Opened by `open_http`. `warnings` are for the user at the start, `notes()` at the end."""

    name = "http"

    def __init__(self, config: EngineConfig, urls: Sequence[str]) -> None:
        from openai import AsyncOpenAI

        given = config.arguments(_CLIENT, of="--engine http", ours={"base_url": "--base-url", "api_key": KEY_VARIABLE})
        self._config = config
        self._model: str | None = given.get("model")
        self._key = os.environ.get(KEY_VARIABLE)
        settings = {"timeout": given.get("timeout", 600.0), "max_retries": given.get("max_retries", 2)}
        # Servers that a request is brought to before it fails, each with the client's own retries.
        self._visits = 2 + int(settings["max_retries"])
        self.servers = [Server(url, AsyncOpenAI(base_url=url, api_key=self._key or "none", **settings)) for url in urls]
        self.concurrency = config.concurrency or max(8, min((config.batch_size or SEQUENCES) // 8, 128) * len(urls))
        self.usage = Usage()
        self.warnings: list[str] = []
        self.tokenizer: Any = None
        self._ends: list[int] = []
        self._folder = ""
        self._many = True
        self._open: set[asyncio.Future[Any]] = set()
        self._closed = asyncio.Event()

    # Opening

    async def open(self, worker: Worker) -> None:
        """Find the servers, load the tokenizer and learn what the servers can do. Raises UsageError where none can be
        used, and for one that is there and is not what the command line says."""
        self._folder = resolve_policy(self._config.policy, weights=False)
        # Before the tokenizer, whose import takes seconds: a wrong URL is told at once.
        deadline = time.monotonic() + _OPENING
        while not any([await self._try(server, self._list_models) for server in self.servers]):
            if time.monotonic() > deadline or "protocol" in self.servers[0].reason:
                reasons = "; ".join(f"{server.url}: {server.reason}" for server in self.servers)
                raise UsageError(f"no server answers ({reasons})", hint="is it up, and is --base-url right?")
            await asyncio.sleep(0.5)
        await worker.do(self._load_tokenizer)
        for server in self.servers:
            if server.model and not await self._try(server, self._learn):
                server.model = ""
        known = [server.traits for server in self.servers if server.traits is not None]
        if not known:
            raise UsageError("; ".join(f"{server.url}: {server.reason}" for server in self.servers))
        self._many = all(traits.many for traits in known)
        for server in self.servers:
            if server.traits is None:
                self.warnings.append(f"{server.url} does not answer yet ({server.reason}): it is used once it does")
                self._let_rest(server)

    async def _try(self, server: Server, look: Any) -> bool:
        """Whether `look` at a server came to its end; if not, the server's `reason` says why."""
        try:
            await look(server)
        except (_Fault, EngineError) as error:
            server.reason = str(error)
            return False
        server.reason = ""
        return True

    async def _list_models(self, server: Server) -> None:
        """Ask for the server's models, and settle on one."""
        import openai

        listing = server.client.with_options(timeout=min(5.0, server.client.timeout), max_retries=0)
        try:
            raw = await listing.models.with_raw_response.list()
            found = _parse(raw.content)["data"]
            server.model, entry = pick_model(server.url, found, self._config, self._folder, self._model)
            server.context = _context_of(entry)
        except openai.APIStatusError as error:
            self._refused(server, error)
            if error.status_code >= 500 and self._model is None:
                raise _Fault(_told(error)) from None
            if self._model is None:
                hint = f"{_URL_HINT}; where a server has no such list, -E model=NAME"
                if not urlsplit(server.url).path.rstrip("/").endswith("/v1"):
                    hint = f"--base-url {server.url}/v1, perhaps"
                raise UsageError(f"{server.url}/models answers {_told(error)}", hint=hint) from None
            server.model = self._model
        except openai.APIConnectionError as error:
            raise _Fault(_told(error)) from None
        except (ValueError, KeyError, TypeError):
            raise UsageError(f"{server.url} does not speak OpenAI's protocol", hint=_URL_HINT) from None

    def _refused(self, server: Server, error: Any) -> None:
        if error.status_code in (401, 403):
            who = f"the key in {KEY_VARIABLE}" if self._key else "a request without a key"
            raise UsageError(f"{server.url} refuses {who}: {_told(error)}", hint=f"set {KEY_VARIABLE}")

    def _load_tokenizer(self) -> None:
        quiet_transformers()
        base = base_of(self._folder)
        try:
            self.tokenizer = tokenizer_of(self._folder, base, trust_remote_code=self._config.trust_remote_code)
        except UsageError as error:
            hint = "with --engine http, --policy names the model whose tokenizer writes the prompts"
            raise UsageError(str(error), hint=hint) from None
        self.warnings += remarks_on(self.tokenizer, self._config.policy)
        self._ends = sorted(end_tokens(self.tokenizer, generation_config_of(base)))

    async def _learn(self, server: Server) -> None:
        """Find the traits of `server` by requests of one token. Raises UsageError for one that cannot be used."""
        ids = render(self.tokenizer, _PROBE)
        odd = encode_text(self.tokenizer, " zebra")[-1]  # no answer would begin with it by itself
        spelled = self.tokenizer.decode([odd]).strip()
        job = _Job(_PROBE, ids, Sampling(), 1)
        least = Traits(False, False, False, False, False, True)

        async def ask(traits: Traits, n: int = 1, words: Sequence[int] = ()) -> dict[str, Any] | None:
            try:
                return await self._request(server, self._body(server, traits, replace(job, words=list(words)), 0, n))
            except EngineError as error:
                server.reason = str(error)
                return None

        def obeys(answer: dict[str, Any] | None, n: int) -> bool:
            return answer is not None and [each["text"].strip() for each in answer["choices"]] == [spelled] * n

        plain = await ask(least)
        if plain is None:
            raise UsageError(
                f"{server.url}/completions gives no completion of {server.model}: {server.reason}",
                hint="medsss needs a server with /v1/completions; -E model=NAME asks for another of its models",
            )
        there = (plain.get("usage") or {}).get("prompt_tokens")
        if there is not None and abs(there - len(ids)) > 2:
            raise UsageError(
                f"the model {server.model} at {server.url} is not --policy {self._config.policy}: the same text has "
                f"{there} tokens there and {len(ids)} here",
                hint="--policy names the model that the server runs, or a folder with its tokenizer",
            )
        whole = await ask(Traits(), 2, [odd])
        if obeys(whole, 2) and whole is not None:
            tells = "stop_reason" in whole["choices"][0]
            server.traits = replace(Traits(), tells_stop=tells, logprobs=_summed(whole["choices"][0]) is not None)
            return
        as_ids = await ask(replace(least, ids=True))
        takes_ids = as_ids is not None and len(as_ids["choices"]) == 1
        takes_ids = takes_ids and (there is None or (as_ids or {}).get("usage", {}).get("prompt_tokens") == len(ids))
        two = await ask(replace(least, many=True), 2)
        scored = await ask(replace(least, logprobs=True))
        server.traits = Traits(
            ids=takes_ids,
            many=two is not None and len(two["choices"]) == 2,
            extras=await ask(replace(least, extras=True)) is not None,
            bias=obeys(await ask(replace(least, bias=True), 1, [odd]), 1),
            logprobs=scored is not None and _summed(scored["choices"][0]) is not None,
            tells_stop=not {"stop_reason", "matched_stop"}.isdisjoint(plain["choices"][0]),
            own_bos=there == len(ids) + 1,
        )

    # Asking

    async def complete(self, prompt: Prompt, sampling: Sampling, n: int = 1) -> list[Completion]:
        """n completions of `prompt`. See engines/base.py. Raises EngineError where the prompt leaves no room in the
        context, the server refuses it, or no server gave an answer after all retries."""
        check_request(sampling, n)
        if self._closed.is_set():
            raise EngineError("the engine is closed")
        ids = render(self.tokenizer, prompt)
        limit = room(ids, sampling, self.context)
        words = first_tokens(self.tokenizer, prompt, sampling.allowed_tokens) if sampling.allowed_tokens else []
        if n == 0:
            return []
        job = _Job(prompt, ids, sampling, limit, words)
        asked = 1 if sampling.temperature == 0 else n  # greedy ones are all the same, and some servers refuse n of them
        parts = [(0, asked)] if self._many else [(index, 1) for index in range(asked)]
        drawing = asyncio.gather(*(self._draw(job, start, count) for start, count in parts))
        self._open.add(drawing)
        try:
            found = await drawing
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed.is_set() and not (task and task.cancelling()):
                raise EngineError("the engine was closed while the request was running") from None
            raise
        finally:
            drawing.cancel()  # where one part has failed, the others need not go on
            self._open.discard(drawing)
        done = [completion for part in found for completion in part] * (n // asked)
        self.usage.add(len(ids), done)
        return done

    @property
    def context(self) -> int | None:
        """The smallest context of the servers, as far as they tell, and --max-context; None where nobody says."""
        told = [server.context for server in self.servers] + [self._config.max_context]
        return min((each for each in told if each is not None), default=None)

    async def _draw(self, job: _Job, start: int, count: int) -> list[Completion]:
        """The completions `start` to `start + count`, from whichever server answers."""
        last = _Fault("")
        for visit in range(self._visits):
            server = await self._pick(visit)
            server.load += count
            try:
                if server.traits is None:
                    await self._look_again(server)
                assert server.traits is not None
                if job.words and not server.traits.bias:
                    raise EngineError(
                        f"{server.url} cannot be told to choose among words (logit_bias)",
                        hint="a server that can (vLLM, SGLang, llama.cpp), or search --expand reason",
                    )
                answer = await self._request(server, self._body(server, server.traits, job, start, count))
                if len(answer["choices"]) != count:
                    raise _Fault(f"{len(answer['choices'])} completions where {count} were asked for")
                done = [self._completion(each, server.traits, job, answer) for each in _by_index(answer["choices"])]
                server.answered += 1
                server.rest = _REST[0]
                return done
            except _Fault as fault:
                last = _Fault(f"{server.url}: {fault}")
                server.reason = str(fault)
                self._let_rest(server)
            finally:
                server.load -= count
        raise EngineError(
            f"no server answers: {last}", hint="-E max_retries=N and -E timeout=SECONDS set how long it is tried"
        ) from None

    async def _pick(self, visit: int) -> Server:
        """The least busy server of those that do not rest. Where all do, the one that has rested longest, after a pause
        that grows with the visit."""
        now = time.monotonic()
        if all(server.rests_until > now for server in self.servers):
            pause = min(server.rests_until for server in self.servers) - now
            await asyncio.sleep(min(pause, 2.0**visit))
            return min(self.servers, key=lambda server: server.rests_until)
        return min((each for each in self.servers if each.rests_until <= now), key=lambda server: server.load)

    def _let_rest(self, server: Server) -> None:
        now = time.monotonic()
        if server.rests_until <= now:  # else another request has said so
            server.rests_until = now + server.rest
            server.rest = min(2 * server.rest, _REST[1])

    async def _look_again(self, server: Server) -> None:
        """Get to know a server that was away when the engine was opened. Raises _Fault where it is still away, or can
        do less than the others."""
        try:
            await self._list_models(server)
            await self._learn(server)
            server.reason = ""
        except (UsageError, EngineError) as error:
            raise _Fault(str(error)) from None
        if self._many and server.traits is not None and not server.traits.many:
            server.traits = None
            raise _Fault("it gives one completion a request, and the other servers several")

    def _body(self, server: Server, traits: Traits, job: _Job, start: int, count: int) -> dict[str, Any]:
        """The request for the completions `start` to `start + count`."""
        sampling = job.sampling
        body: dict[str, Any] = {
            "model": server.model,
            "prompt": job.ids if traits.ids else self._text(job, own_bos=traits.own_bos),
            "max_tokens": job.limit,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            # Servers count on from the seed for n completions: seeds side by side would share most of their draws.
            "seed": derive_seed(sampling.seed, start) & _SEED_MASK,
        }
        if count > 1:
            body["n"] = count
        if sampling.stop and traits.tells_stop:
            body["stop"] = list(sampling.stop)
        if traits.logprobs:
            body["logprobs"] = 0  # of the drawn token alone
        if job.words and traits.bias:
            body["logit_bias"] = {str(token): 100 for token in job.words}
        if traits.extras:
            # What the sampling does not name is off, whatever the server or the model's folder has as a default.
            body["extra_body"] = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "stop_token_ids": self._ends}
        return body

    def _text(self, job: _Job, *, own_bos: bool) -> str:
        """The prompt as text. The special tokens of the template must stay whole; one that a question spells is cut
        where `rendering` cuts it, and a space keeps the halves apart."""
        text = " ".join(rendered_pieces(self.tokenizer, job.prompt))
        bos = self.tokenizer.bos_token
        return text.removeprefix(bos) if own_bos and bos else text

    async def _request(self, server: Server, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request, with the client's retries and one more where the body is garbled. Raises _Fault
        for what may pass, EngineError for a refusal."""
        import openai

        for _ in range(2):
            try:
                raw = await server.client.completions.with_raw_response.create(**body)
                server.retried += raw.retries_taken
                answer: dict[str, Any] = _parse(raw.content)
                if all(isinstance(each["text"], str) for each in answer["choices"]) and answer["choices"]:
                    return answer
            except openai.APIStatusError as error:
                self._refused(server, error)
                if error.status_code in (408, 409, 429) or error.status_code >= 500:
                    raise _Fault(_told(error)) from None
                raise EngineError(f"{server.url} refuses the request: {_told(error)}") from None
            except openai.APITimeoutError:
                raise _Fault(f"no answer within {server.client.timeout:g} s") from None
            except openai.APIConnectionError as error:
                raise _Fault(_told(error)) from None
            except (ValueError, KeyError, TypeError):
                pass
            server.retried += 1
        raise _Fault("an answer that is no completion, twice")

    def _completion(
        self, choice: Mapping[str, Any], traits: Traits, job: _Job, answer: Mapping[str, Any]
    ) -> Completion:
        """One completion of an answer, by index.

        {"index": 0, "text": "...", "finish_reason": "stop", "stop_reason": null, "logprobs": {"token_logprobs": [...]}}
        """
        text, sampling = choice["text"], job.sampling
        said = choice.get("finish_reason")
        if said in ("abort", "error", "cancelled"):
            raise _Fault(f"the server gave up ({said})")
        logprob = _summed(choice) if sampling.temperature == 1 or traits.extras else None
        if job.words:
            word = self._word(job, text.strip())
            return Completion(word, FinishReason.STOP, 1, len(job.ids), None, logprob)
        stop = choice.get("stop_reason", choice.get("matched_stop"))
        reason = FinishReason.LENGTH if said in ("length", "max_tokens") else FinishReason.EOS
        # One that got no stop strings may hold one, and of two that are complete at one moment the first counts.
        if found := first_stop(text + stop if isinstance(stop, str) else text, sampling.stop):
            text, stop, reason, logprob = *found, FinishReason.STOP, logprob if traits.tells_stop else None
        elif isinstance(stop, str):
            reason = FinishReason.STOP
        drawn = (choice.get("logprobs") or {}).get("token_logprobs")
        tokens = len(drawn) if isinstance(drawn, list) else None
        if tokens is None and len(answer["choices"]) == 1:
            tokens = (answer.get("usage") or {}).get("completion_tokens")
        if tokens is None:
            tokens = len(encode_text(self.tokenizer, choice["text"])) + (reason is FinishReason.EOS)
        return Completion(text, reason, tokens, len(job.ids), stop if isinstance(stop, str) else None, logprob)

    def _word(self, job: _Job, text: str) -> str:
        """The allowed word that `text`, one token, begins."""
        for token, word in zip(job.words, job.sampling.allowed_tokens, strict=True):
            if text and self.tokenizer.decode([token]).strip() == text:
                return word
        raise EngineError(f"the server wrote {text!r} where only {', '.join(job.sampling.allowed_tokens)} are allowed")

    # The end

    def notes(self) -> list[str]:
        """What the servers did, for the summary of a run."""
        lines = []
        for server in self.servers:
            line = f"http: {server.url}: {server.answered} requests"
            if server.retried:
                line += f", {server.retried} tried again"
            if server.reason and (server.traits is None or server.rests_until > time.monotonic()):
                line += f", down: {server.reason}"
            elif server.reason:
                line += f", failed for a while ({server.reason})"
            lines.append(line)
        return lines

    async def close(self) -> None:
        """Close every connection; whoever still waits gets an EngineError."""
        self._closed.set()
        for task in list(self._open):
            task.cancel()
        for server in self.servers:
            await server.client.close()


# Pure


def base_urls(given: Sequence[str]) -> list[str]:
    """The base URLs of the command line, or of OPENAI_BASE_URL (commas or spaces between), without a last slash, each
    once. Raises UsageError where there are none, and for what is no URL."""
    found = list(given) or re.split(r"[,\s]+", os.environ.get(URL_VARIABLE, "").strip())
    urls = []
    for url in filter(None, found):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise UsageError(f"{url!r} is no base URL", hint=_URL_HINT)
        urls.append(url.rstrip("/"))
    if not urls:
        raise UsageError("--engine http needs a server", hint=f"--base-url http://HOST:8000/v1, or set {URL_VARIABLE}")
    return list(dict.fromkeys(urls))


def pick_model(
    url: str, listed: Sequence[Mapping[str, Any]], config: EngineConfig, folder: str, model: str | None = None
) -> tuple[str, Mapping[str, Any]]:
    """The name to ask for and its entry: `-E model=NAME`; with --adapter, the adapter's name or folder name; else
    --policy by name or by folder; else the only model. `listed` is the `data` of /models, where vLLM gives an
    adapter a `parent`. Raises UsageError, with the names, where none fits."""
    entries = {str(entry["id"]): entry for entry in listed}
    names = ", ".join(entries) or "nothing"
    if model is not None:
        # Not every list is whole: what is not on it may be there, and the first request tells.
        return model, entries.get(model, {})
    if config.adapter is not None:
        for name in (config.adapter, os.path.basename(os.path.normpath(config.adapter))):
            if name in entries:
                return name, entries[name]
        raise UsageError(
            f"{url} does not serve the adapter {config.adapter}: it lists {names}",
            hint="vllm serve --enable-lora --lora-modules NAME=DIR, then -E model=NAME",
        )
    wanted = (config.policy, folder, os.path.abspath(folder), os.path.basename(os.path.normpath(folder)))
    for name in wanted:
        for id, entry in entries.items():
            if id == name or (entry.get("root") == name and not entry.get("parent")):
                return id, entry
    whole = [id for id, entry in entries.items() if not entry.get("parent")]
    if len(whole) == 1:
        return whole[0], entries[whole[0]]
    raise UsageError(f"{url} does not serve {config.policy}: it lists {names}", hint="-E model=NAME, one of these")


def _context_of(entry: Mapping[str, Any]) -> int | None:
    """The context that an entry of /models tells: vLLM and SGLang `max_model_len`, llama.cpp `meta.n_ctx`."""
    found = entry.get("max_model_len") or (entry.get("meta") or {}).get("n_ctx")
    return found if isinstance(found, int) and found > 0 else None


def _parse(raw: bytes) -> Any:
    """The object of an answer. Raises ValueError or TypeError for anything else."""
    answer = json.loads(raw)
    if not isinstance(answer, dict):
        raise TypeError("no object")
    return answer


def _by_index(choices: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(choices, key=lambda each: int(each.get("index") or 0))


def _summed(choice: Mapping[str, Any]) -> float | None:
    """The sum of the log-probabilities of a choice's tokens; None where the server gave none."""
    drawn = (choice.get("logprobs") or {}).get("token_logprobs")
    if not isinstance(drawn, list) or not drawn or not all(isinstance(each, int | float) for each in drawn):
        return None
    return round(sum(drawn), 4)


def _told(error: Any) -> str:
    """What a server or a connection said, in one line."""
    body = getattr(error, "body", None)
    said = body.get("message", body.get("detail")) if isinstance(body, dict) else None
    cause = error.__cause__ if said is None and getattr(error, "status_code", None) is None else None
    text = " ".join(str(said or cause or error.message).split()) or type(error).__name__
    status = f"{error.status_code} " if getattr(error, "status_code", None) else ""
    return status + (text if len(text) <= 300 else text[:300] + "...")


@contextlib.asynccontextmanager
async def open_http(config: EngineConfig) -> AsyncIterator[HttpEngine]:
    """The engine on the servers of `config`, until the block ends. Raises UsageError where none can be used."""
    engine = HttpEngine(config, base_urls(config.base_url))
    worker = Worker()
    try:
        await engine.open(worker)
        yield engine
    finally:
        worker.close()
        await engine.close()
