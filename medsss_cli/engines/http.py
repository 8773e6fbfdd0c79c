"""The engine on servers that speak OpenAI's `/v1/completions`: one or several, near or far, of one model.

Prompts are rendered here, with the tokenizer of `--policy`. The openai client tries again what was busy, failed or
broke off; a server that goes on failing rests for a while, and its requests go to another one.

Requests of one token find out what a server can do (`Server`). One that can all (vLLM, SGLang) is sent token ids and
all n completions in one request; a lesser one the rendered text, and one request per completion. All servers of a run
are asked in one way, so a completion does not depend on which one answered."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import EngineError, UsageError
from ..models import adapter_base, is_adapter, load_tokenizer, resolve_policy
from ..records import Message
from ..requests import Completion, FinishReason, Prompt, Sampling, derive_seed
from .base import Asked, EngineConfig, ModelEngine, in_thread
from .loading import generation_config_of, quiet_transformers
from .rendering import encode_text, end_tokens, first_stop, render, rendered_pieces

URL_VARIABLE = "OPENAI_BASE_URL"
KEY_VARIABLE = "OPENAI_API_KEY"

SEQUENCES = 1024
"""Completions in flight on one server, unless --batch-size says otherwise: what a large vLLM server runs at once."""

_REST = (0.5, 10.0)  # seconds that a server is left alone after it failed: at first, and at most
_SEED_MASK = (1 << 31) - 1  # what all servers take; whether a seed fixes the draw is the server's affair

# Tokenizers cut its numbers, signs and words differently.
_PROBE = Prompt(
    (Message("user", "A woman of 72.5 kg: sodium 138 mmol/L, bicarbonate 19.\nA. ketoacidosis\nB. 8: none"),)
)


@dataclass(slots=True, eq=False)
class Server:
    """One base URL and what it can do. `load` counts completions in flight; it rests until `rests_until`."""

    url: str
    client: Any
    model: str = ""
    full: bool = False  # takes token ids, n, logit_bias and vLLM's own fields, and tells which stop string ended a text
    own_bos: bool = False  # puts a BOS before a text
    load: int = 0
    answered: int = 0
    retried: int = 0
    rest: float = _REST[0]
    rests_until: float = 0.0
    reason: str = ""

    def note(self) -> str:
        """What it did, for the summary of a run."""
        line = f"http: {self.url}: {self.answered} requests"
        line += f", {self.retried} tried again" if self.retried else ""
        return line + (f", failed for a while: {self.reason}" if self.reason else "")


class _Fault(Exception):
    """A server does not answer, or not with what was asked for; another one, or the same one later, may."""


class HttpEngine(ModelEngine):
    """See the module. Opened by `open_http`."""

    name = "http"

    def __init__(self, config: EngineConfig) -> None:
        from openai import AsyncOpenAI

        super().__init__()
        known = ("model", "timeout", "max_retries", "trust_remote_code")
        given = config.arguments(known, {"base_url": "--base-url", "api_key": KEY_VARIABLE})
        self._config = config
        self._model: str | None = given.get("model")
        settings = {"timeout": given.get("timeout", 600.0), "max_retries": given.get("max_retries", 2)}
        # Servers that a request is brought to before it fails, each with the client's own retries.
        self._visits = 2 + int(settings["max_retries"])
        self.servers = [
            Server(url, AsyncOpenAI(base_url=url, api_key=os.environ.get(KEY_VARIABLE, "none"), **settings))
            for url in base_urls(config.base_url)
        ]
        self.context = config.max_context  # and no longer than the servers tell
        self.tokenizer = None
        self._folder = resolve_policy(config.policy, weights=False)
        self._ends: list[int] = []
        self._many = True

    # Opening

    async def open(self) -> None:
        """Get to know the servers. Raises UsageError where none can be used, and for one that is there and is not what
        the command line says."""
        down: list[str] = []
        for server in list(self.servers):
            try:
                await self._list_models(server)
                if self.tokenizer is None:  # its import takes seconds: a wrong URL is told before
                    await in_thread(self._load_tokenizer)
                await self._find_out(server)
            except _Fault as fault:
                down.append(f"{server.url}: {fault}")
                self.servers.remove(server)
                await server.client.close()
        if not self.servers:
            raise UsageError(f"no server answers ({'; '.join(down)})", hint="is it up, and is --base-url right?")
        self.warnings += [f"a server does not answer, and this run goes without it: {each}" for each in down]
        self._many = all(server.full for server in self.servers)
        self.concurrency = max(8, min((self._config.batch_size or SEQUENCES) // 8, 128) * len(self.servers))

    async def _list_models(self, server: Server) -> None:
        """Ask for the server's models, and settle on one."""
        patient = server.client.with_options(timeout=min(5.0, server.client.timeout))
        try:
            listed = (await self._answer(server, patient.models.with_raw_response.list()))["data"]
            names = (self._config.policy, self._folder)
            server.model, entry = pick_model(server.url, listed, names, adapter=self._config.adapter, model=self._model)
            # vLLM and SGLang tell `max_model_len`, llama.cpp `meta.n_ctx`.
            context = entry.get("max_model_len") or (entry.get("meta") or {}).get("n_ctx")
            if isinstance(context, int) and context > 0:
                self.context = min(context, self.context or context)
        except EngineError as error:
            if self._model is None:  # not every server has a list
                raise UsageError(
                    f"no list of models: {error}",
                    hint=f"is the base of the API --base-url {server.url}/v1? Where it has no list, -E model=NAME",
                ) from None
            server.model = self._model
        except (ValueError, KeyError, TypeError):
            hint = "the base of an API usually ends in /v1: --base-url http://HOST:8000/v1"
            raise UsageError(f"{server.url} does not speak OpenAI's protocol", hint=hint) from None

    def _load_tokenizer(self) -> None:
        quiet_transformers()
        self.tokenizer = load_tokenizer(self._folder, trust_remote_code=self._config.trust_remote_code)
        self._ends = sorted(end_tokens(self.tokenizer, generation_config_of(adapter_base(self._folder))))

    async def _find_out(self, server: Server) -> None:
        """What `server` can do, by requests of one token. Raises UsageError for one that cannot be used."""
        ids = render(self.tokenizer, _PROBE)
        plain = Asked(_PROBE, ids, Sampling(), 1, 1, [])
        try:
            answer = await self._request(server, self._body(server, plain, 0, 1))
        except EngineError as error:
            raise UsageError(
                f"{server.url}/completions gives no completion of {server.model}: {error}",
                hint="medsss needs a server with /v1/completions; -E model=NAME asks for another of its models",
            ) from None
        there = (answer.get("usage") or {}).get("prompt_tokens", len(ids))
        if abs(there - len(ids)) > 2:
            raise UsageError(
                f"the model {server.model} at {server.url} is not --policy {self._config.policy}: the same text has "
                f"{there} tokens there and {len(ids)} here",
                hint="--policy names the model that the server runs, or a folder with its tokenizer",
            )
        server.own_bos = there == len(ids) + 1
        odd = encode_text(self.tokenizer, " zebra")[-1]  # no answer would begin with it by itself
        server.full = True
        try:
            answer = await self._request(server, self._body(server, replace(plain, words=[odd]), 0, 2))
            choices = answer["choices"]
        except EngineError:
            choices = []
        server.full = [each["text"].strip() for each in choices] == 2 * [self.tokenizer.decode([odd]).strip()] and any(
            tells in choices[0] for tells in ("stop_reason", "matched_stop")
        )

    # Asking

    async def _write(self, asked: Asked) -> list[Completion]:
        parts = [(0, asked.n)] if self._many else [(index, 1) for index in range(asked.n)]
        tasks = [asyncio.ensure_future(self._draw(asked, start, count)) for start, count in parts]
        try:
            return [each for part in await asyncio.gather(*tasks) for each in part]
        finally:
            for task in tasks:  # where one has failed, the others need not go on
                task.cancel()

    async def _draw(self, asked: Asked, start: int, count: int) -> list[Completion]:
        """The completions `start` to `start + count`, from whichever server answers."""
        told = ""
        for visit in range(self._visits):
            # The least busy of those that do not rest; where all do, the first whose rest is over.
            now = time.monotonic()
            server = min(self.servers, key=lambda each: (max(each.rests_until, now), each.load))
            server.load += count
            try:
                if server.rests_until > now:
                    await asyncio.sleep(min(server.rests_until - now, 2.0**visit))
                answer = await self._request(server, self._body(server, asked, start, count))
                choices = sorted(answer["choices"], key=lambda each: int(each.get("index") or 0))
                if len(choices) != count:
                    raise _Fault(f"{len(choices)} completions where {count} were asked for")
                done = [self._completion(choice, server, asked) for choice in choices]
                server.answered += 1
                server.rest = _REST[0]
                return done
            except _Fault as fault:
                server.reason = str(fault)
                told = f"{server.url}: {fault}"
                if server.rests_until <= time.monotonic():  # else another request has said so
                    server.rests_until = time.monotonic() + server.rest
                    server.rest = min(2 * server.rest, _REST[1])
            finally:
                server.load -= count
        raise EngineError(
            f"no server answers: {told}", hint="-E max_retries=N and -E timeout=SECONDS set how long it is tried"
        )

    def _body(self, server: Server, asked: Asked, start: int, count: int) -> dict[str, Any]:
        """The request for the completions `start` to `start + count`."""
        sampling = asked.sampling
        body: dict[str, Any] = {
            "model": server.model,
            "prompt": asked.ids if server.full else self._text(asked.prompt, own_bos=server.own_bos),
            "max_tokens": asked.limit,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            # Servers count on from the seed for n completions: seeds side by side would share most of their draws.
            "seed": derive_seed(sampling.seed, start) & _SEED_MASK,
        }
        if asked.words:
            body["logit_bias"] = {str(token): 100 for token in asked.words}
        if server.full:
            body |= {"n": count, "logprobs": 0}  # of the drawn token alone
            if sampling.stop:
                body["stop"] = list(sampling.stop)
            # What the sampling does not name is off, whatever the server or the model's folder has as a default.
            body["extra_body"] = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "stop_token_ids": self._ends}
        return body

    def _text(self, prompt: Prompt, *, own_bos: bool) -> str:
        """The prompt as text. The special tokens of the template must stay whole; one that a question spells is cut
        where `rendering` cuts it, and a space keeps the halves apart."""
        text = " ".join(rendered_pieces(self.tokenizer, prompt))
        return text.removeprefix(self.tokenizer.bos_token or "") if own_bos else text

    async def _request(self, server: Server, body: dict[str, Any]) -> dict[str, Any]:
        """The completions that answer one request, which is made once more where the answer is garbled. Raises as
        `_answer` does."""
        for _ in range(2):
            with contextlib.suppress(ValueError, KeyError, TypeError):
                answer = await self._answer(server, server.client.completions.with_raw_response.create(**body))
                if answer["choices"] and all(isinstance(each["text"], str) for each in answer["choices"]):
                    return answer
            server.retried += 1
        raise _Fault("an answer that is no completion, twice")

    async def _answer(self, server: Server, call: Awaitable[Any]) -> dict[str, Any]:
        """The object that a server answers with, after the client's retries. Raises _Fault for what may pass,
        EngineError for a refusal, UsageError for one of the key, ValueError for what is no JSON."""
        import openai

        try:
            raw = await call
            server.retried += raw.retries_taken
            answer: dict[str, Any] = json.loads(raw.content)
            return answer
        except openai.APIStatusError as error:
            if error.status_code in (401, 403):
                what = f"{server.url} refuses the key in {KEY_VARIABLE}, or that there is none: {_told(error)}"
                raise UsageError(what, hint=f"set {KEY_VARIABLE}") from None
            if error.status_code in (408, 409, 429) or error.status_code >= 500:
                raise _Fault(_told(error)) from None
            raise EngineError(f"{server.url} refuses the request: {_told(error)}") from None
        except openai.APITimeoutError:
            raise _Fault(f"no answer within {server.client.timeout:g} s") from None
        except openai.APIConnectionError as error:
            raise _Fault(_told(error)) from None

    def _completion(self, choice: Mapping[str, Any], server: Server, asked: Asked) -> Completion:
        """One completion of an answer.

        {"index": 0, "text": "...", "finish_reason": "stop", "stop_reason": null, "logprobs": {"token_logprobs": [...]}}
        """
        text, said = choice["text"], choice.get("finish_reason")
        if said in ("abort", "error", "cancelled"):
            raise _Fault(f"the server gave up ({said})")
        drawn = (choice.get("logprobs") or {}).get("token_logprobs") or []
        logprob = round(sum(drawn), 4) if drawn else None
        if asked.words:
            return Completion(self._word(asked, text.strip()), FinishReason.STOP, 1, len(asked.ids), None, logprob)
        reason = FinishReason.LENGTH if said in ("length", "max_tokens") else FinishReason.EOS
        tokens = len(drawn) or len(encode_text(self.tokenizer, text)) + (reason is FinishReason.EOS)
        told = choice.get("stop_reason", choice.get("matched_stop"))
        # One that got no stop strings may hold one, and of two that are complete at one moment the first counts.
        found = first_stop(text + (told if isinstance(told, str) else ""), asked.sampling.stop)
        if found is None:
            return Completion(text, reason, tokens, len(asked.ids), None, logprob)
        return Completion(found[0], FinishReason.STOP, tokens, len(asked.ids), found[1], logprob)

    def _word(self, asked: Asked, text: str) -> str:
        """The allowed word that `text`, one token, begins."""
        for token, word in zip(asked.words, asked.sampling.allowed_tokens, strict=True):
            if text and self.tokenizer.decode([token]).strip() == text:
                return word
        raise EngineError(
            f"the server cannot be told to choose among {', '.join(asked.sampling.allowed_tokens)} (logit_bias): "
            f"it wrote {text!r}",
            hint="a server that can (vLLM, SGLang, llama.cpp), or search --expand reason",
        )

    def notes(self) -> list[str]:
        return [server.note() for server in self.servers]


def base_urls(given: Sequence[str]) -> list[str]:
    """The base URLs of the command line, or of OPENAI_BASE_URL (commas or spaces between), each once. Raises UsageError
    where there are none."""
    found = given or re.split(r"[,\s]+", os.environ.get(URL_VARIABLE, ""))
    urls = list(dict.fromkeys(url.rstrip("/") for url in found if url))
    if not urls:
        raise UsageError("--engine http needs a server", hint=f"--base-url http://HOST:8000/v1, or set {URL_VARIABLE}")
    return urls


def pick_model(
    url: str,
    listed: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    *,
    adapter: str | None = None,
    model: str | None = None,
) -> tuple[str, Mapping[str, Any]]:
    """The name to ask for and its entry in `listed`, the `data` of /models: `model` (-E model=NAME); else the one whose
    id or `root` is the adapter or one of the `names` of the policy (its folder being the last), also by its last part;
    else the only model, where no adapter is wanted (vLLM gives those a `parent`). Raises UsageError where none fits."""
    entries = {str(entry["id"]): entry for entry in listed}
    if model is not None:  # not every list is whole: the first request tells
        return model, entries.get(model, {})
    wanted = [adapter] if adapter else names
    spelled = {each for name in wanted for each in (name, os.path.abspath(name), os.path.basename(name.rstrip("/")))}
    whole = [id for id, entry in entries.items() if not entry.get("parent")]
    found = [id for id, entry in entries.items() if id in spelled or entry.get("root") in spelled]
    if not found and len(whole) == 1 and not adapter and not is_adapter(names[-1]):
        found = whole
    if not found:
        raise UsageError(
            f"{url} does not serve {wanted[0]}: it lists {', '.join(entries) or 'nothing'}",
            hint="-E model=NAME, one of these",
        )
    return found[0], entries[found[0]]


def _told(error: Any) -> str:
    """What a server or a connection said, in one line."""
    status, body = getattr(error, "status_code", None), getattr(error, "body", None)
    said = body.get("message", body.get("detail")) if isinstance(body, dict) else None
    text = " ".join(str(said or (error.__cause__ if status is None else None) or error.message).split())
    return f"{status or ''} {text[:300] or type(error).__name__}".strip()


@contextlib.asynccontextmanager
async def open_http(config: EngineConfig) -> AsyncIterator[HttpEngine]:
    """The engine on the servers of `config`, until the block ends. Raises UsageError where none can be used."""
    engine = HttpEngine(config)
    try:
        await engine.open()
        yield engine
    finally:
        engine.close()
        for server in engine.servers:
            await server.client.close()
