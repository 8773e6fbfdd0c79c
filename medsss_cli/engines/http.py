"""The engine on servers that speak OpenAI's `/v1/completions`: one or several, near or far, of one model.

Prompts are rendered here, with the tokenizer of `--policy`, and sent as token ids; a server that takes text alone gets
the rendered text, without the BOS that it would add a second time. What a server can do (ids, n, stop strings, a
restricted first token) is found out by a few requests of one token when it is first seen, and remembered.

A request goes to the least busy server, with a lean to the one that had the same question before, for its prefix
cache. Busy answers (429), 5xx, broken connections, half bodies and garbage are tried again, elsewhere if there is an
elsewhere; a server that does nothing but fail is put aside and looked at in growing intervals until it answers. Any
other 4xx is an EngineError with the server's own words.

Where a server does less than our engines do:
1. It ignores n: one request per completion, each with a seed of its own.
2. It cannot restrict the first token: words are drawn freely and those that are not allowed are dropped, which gives
   the same distribution at top_p 1 (`_MISSES` rounds, then an EngineError).
3. It does not tell which stop string ended a text: the completion's `stop` is None.
4. It takes text alone: a special token that is spelled in a question is written with a space in it.
5. Seeds are cut to 31 bits, which is what all servers take; whether a seed fixes the draw is the server's affair.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import time
import zlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson

from ..errors import EngineError, MissingExtra, UsageError
from ..records import Message
from ..requests import Completion, FinishReason, Prompt, Sampling, derive_seed
from .base import EngineConfig, Usage, check_request
from .rendering import first_stop

if TYPE_CHECKING:
    import aiohttp

URL_VARIABLE = "OPENAI_BASE_URL"
KEY_VARIABLE = "OPENAI_API_KEY"

SEQUENCES = 1024
"""Completions in flight on one server, unless --batch-size says otherwise: what a large vLLM server runs at once."""

_OPENING = 10.0  # seconds to find a first server
_GRACE = 1.0  # seconds that the others are waited for after that
_CONNECT = 10.0
_LOOK = 5.0  # seconds for a list of models
_FIRST_PAUSE = 0.25
_LAST_PAUSE = 30.0
_PATIENCE = 5  # faults in a row that put a server aside
_KEEP_ALIVE = 4.0  # uvicorn closes idle connections after 5 s: a request must not meet that moment
_SLACK = 8  # completions by which a question's usual server may be busier than the least busy one
_MISSES = 16
_SEED_MASK = (1 << 31) - 1
_BUSY = frozenset({408, 425, 429})

_PROBE_TEXT = (
    "A 61-year-old woman, 72.5 kg, has sodium 138 mmol/L, chloride 101 mmol/L and bicarbonate 19 mmol/L. "
    "What is the anion gap, and which diagnosis is most likely?\nA. 18: ketoacidosis\nB. 8: none"
)


@dataclass
class _Spec:
    policy: str = ""
    adapter: str | None = None
    batch_size: int | None = None
    max_context: int | None = None
    base_urls: tuple[str, ...] = ()
    served_model: str | None = None
    timeout: float = 600.0
    retries: int = 8
    trust_remote_code: bool = False


class Choose(StrEnum):
    """How a server is made to begin with one of a few tokens."""

    ALLOWED = "allowed_token_ids"  # vLLM
    BIAS = "logit_bias"  # OpenAI, SGLang, llama.cpp: +100 on each leaves their odds among themselves as they are
    SEQUENCE = "sequence_bias"  # transformers serve, in its generation_config
    DRAW = "draws"  # nothing helps: drawn until allowed


@dataclass(slots=True)
class Traits:
    """What a server can do. `most` is how many completions one request may ask for."""

    ids: bool = False
    most: int = 1 << 30
    stop: bool = True
    extras: bool = False  # top_k, min_p, stop_token_ids and the like are not refused
    token_ids: bool = False  # return_token_ids is honoured
    generation: bool = False  # generation_config is honoured
    choose: Choose = Choose.DRAW
    own_bos: bool = False  # puts a BOS before a text


@dataclass(slots=True, eq=False)
class Server:
    """One base URL and what is known of it. `load` counts completions in flight, `faults` those in a row."""

    url: str
    proxy: str | None = None
    model: str = ""
    listed: tuple[str, ...] = ()
    context: int | None = None
    traits: Traits | None = None
    up: bool = False
    load: int = 0
    answered: int = 0
    last_answer: float = 0.0
    faults: int = 0
    asides: int = 0
    pause: float = _FIRST_PAUSE
    reason: str = "no word from it"
    prober: asyncio.Task[None] | None = None


class _Fault(Exception):
    """An answer that may be better the next time. `kind` is for counting, `after` what the server asked to wait."""

    def __init__(self, kind: str, what: str, *, after: float | None = None, dead: bool = False) -> None:
        super().__init__(what)
        self.kind = kind
        self.after = after
        self.dead = dead  # nobody listens there


class _Refusal(Exception):
    """A 4xx, with what the server says."""

    def __init__(self, status: int, what: str) -> None:
        super().__init__(what)
        self.status = status


@dataclass(frozen=True, slots=True)
class _Choice:
    """One completion as a server gave it."""

    text: str
    reason: FinishReason
    stop: str | None
    tokens: int | None
    first: int | None = None  # its first token id


@dataclass(frozen=True, slots=True)
class _Trial:
    """What came of a request that finds out what a server can do: no choices where it was refused."""

    choices: list[_Choice]
    prompt_tokens: int | None = None
    prompt_ids: list[int] | None = None
    refusal: str = ""


@dataclass(slots=True)
class _Job:
    """One `complete` call. `words` holds the first token of each allowed word."""

    prompt: Prompt
    ids: list[int]
    sampling: Sampling
    limit: int
    words: list[int]
    key: int
    text: str | None = None


class HttpEngine:
    """See the module. Opened by `open_http`. `warnings` are for the user at the start, `notes()` at the end."""

    name = "http"

    def __init__(self, spec: _Spec, servers: list[Server], key: str | None) -> None:
        self.usage = Usage()
        self.warnings: list[str] = []
        self.servers = servers
        self.tokenizer: Any = None
        self._spec = spec
        self._sequences = spec.batch_size or SEQUENCES
        self._requests = _connections()
        self.concurrency = max(8, min(self._sequences // 8, 128) * len(servers))
        self._headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        self._secret = key
        self._session: aiohttp.ClientSession | None = None
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._news = asyncio.Event()
        self._in_flight = 0
        self._retried: Counter[str] = Counter()
        self._ends: list[int] = []
        self._folder = ""
        self._jitter = random.Random()
        self._closed = False

    # Opening

    async def open(self) -> None:
        """Find the servers, load the tokenizer and learn what the servers can do. Raises UsageError where none can be
        used, and for one that is there and is not what the command line says."""
        import aiohttp

        from .loading import resolve_policy

        self._folder = resolve_policy(self._spec.policy)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE),
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=True,
        )
        # Before the tokenizer, whose import takes seconds: a wrong URL is told at once.
        await self._first(self._list_models)
        await asyncio.to_thread(self._load_tokenizer)
        await self._first(self._learn)
        for server in self.servers:
            if server.traits is None:
                self.warnings.append(f"{server.url} does not answer yet ({server.reason}): it is used once it does")
                self._put_aside(server)
            else:
                server.up = True

    async def _first(self, look: Callable[[Server], Coroutine[Any, Any, None]]) -> None:
        """`look` at every server that is still in question until one has answered, and the others for a moment
        longer. Raises UsageError when none does in time."""
        listing = look == self._list_models
        deadline = time.monotonic() + (min(_OPENING, self._spec.timeout) if listing else self._spec.timeout)

        async def patiently(server: Server) -> None:
            pause = 0.1
            while True:
                try:
                    await look(server)
                    return
                except _Fault as fault:
                    server.reason = str(fault)
                    server.model = "" if listing else server.model
                    left = deadline - time.monotonic()
                    if fault.kind == "garbage" and pause > 0.7:
                        raise UsageError(
                            f"{server.url} does not speak OpenAI's protocol: {fault}", hint=_URL_HINT
                        ) from None
                    if left <= pause:
                        raise
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, 2.0)

        chosen = [server for server in self.servers if listing or server.model]
        tasks = [asyncio.create_task(patiently(server)) for server in chosen]
        try:
            pending = set(tasks)
            good = False
            while pending and not good:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                good = _any_good(done)
            if pending:
                done, pending = await asyncio.wait(pending, timeout=_GRACE)
                _any_good(done)
        finally:
            await _cancel(tasks)
        if not good:
            reasons = "; ".join(f"{server.url}: {server.reason}" for server in self.servers)
            raise UsageError(f"no server answers ({reasons})", hint="is it up, and is --base-url right?")

    async def _list_models(self, server: Server) -> None:
        """Ask for the server's models, and settle on one."""
        try:
            data = await self._call(server, "GET", "/models", None, min(_LOOK, self._spec.timeout))
        except _Refusal as refusal:
            await self._explain(server, refusal)
            server.model = self._spec.served_model or ""
            return
        except _Fault as fault:
            # `transformers serve` breaks at its list where there is no cache folder.
            if self._spec.served_model is None or not fault.kind.startswith("5"):
                raise
            server.model = self._spec.served_model
            return
        found = data.get("data") if isinstance(data, dict) else None
        if not isinstance(found, list) or not all(
            isinstance(item, dict) and isinstance(item.get("id"), str) for item in found
        ):
            raise _Fault("garbage", f"/models answers {_short(orjson.dumps(data))}")
        server.listed = tuple(item["id"] for item in found)
        server.model, entry = pick_model(server.url, found, self._spec, self._folder)
        server.context = _context_of(entry)

    async def _explain(self, server: Server, refusal: _Refusal) -> None:
        """After a refusal to list models: return where the user named the model, else raise what is wrong."""
        status, url = refusal.status, server.url
        if status in (401, 403):
            raise UsageError(
                f"{url} refuses {'the key in ' + KEY_VARIABLE if self._secret else 'a request without a key'}: "
                f"{refusal}",
                hint=f"set {KEY_VARIABLE}",
            )
        tried = [f"{url}/models ({status})"]
        if not urlsplit(url).path.rstrip("/").endswith("/v1"):
            try:
                await self._call(server, "GET", "/v1/models", None, _LOOK)
            except (_Refusal, _Fault) as error:
                tried.append(f"{url}/v1/models ({error})")
            else:
                raise UsageError(
                    f"{url} is not the base of an API: {url}/models answers {status}, and {url}/v1/models answers",
                    hint=f"--base-url {url}/v1",
                )
        if self._spec.served_model is None:
            raise UsageError(
                f"{url} lists no models; tried {', '.join(tried)}: {refusal}",
                hint=f"{_URL_HINT}; where a server has no such list, -E model= NAME",
            )

    def _load_tokenizer(self) -> None:
        from .loading import base_of, generation_config_of, quiet_transformers, remarks_on, tokenizer_of
        from .rendering import end_tokens

        quiet_transformers()
        base = base_of(self._folder)
        try:
            self.tokenizer = tokenizer_of(self._folder, base, trust_remote_code=self._spec.trust_remote_code)
        except UsageError as error:
            raise UsageError(
                str(error), hint="with --engine http, --policy names the model whose tokenizer writes the prompts"
            ) from None
        self.warnings += remarks_on(self.tokenizer, self._spec.policy)
        self._ends = sorted(end_tokens(self.tokenizer, generation_config_of(base)))

    # What a server can do

    async def _learn(self, server: Server) -> None:
        """Find the traits of `server` by requests of one token. Raises UsageError for one that cannot be used."""
        from .rendering import encode_text, render

        prompt = Prompt((Message("user", _PROBE_TEXT),))
        job = _Job(prompt, render(self.tokenizer, prompt), Sampling(max_tokens=1), 1, [], 0)
        odd = encode_text(self.tokenizer, " zebra")[-1]  # no answer would begin with it by itself
        never = {"stop": ["\u241e\u241e"]}
        allowed = {"allowed_token_ids": [odd]}

        async def ask(traits: Traits, more: dict[str, Any] | None = None, count: int = 1) -> _Trial:
            return await self._try(server, self._body(server.model, traits, job, 0, count) | (more or {}))

        def obeys(trial: _Trial) -> bool:
            return bool(trial.choices) and all(
                choice.first == odd or choice.text.strip() == self._spell(odd) != "" for choice in trial.choices
            )

        def took_ids(trial: _Trial) -> bool:
            # A list of numbers may also be taken for many prompts, or for a text.
            return 1 <= len(trial.choices) <= 2 and trial.prompt_tokens in (None, len(job.ids))

        traits = Traits(ids=True, extras=True, token_ids=True)
        trial = await ask(traits, never | allowed, count=2)
        if len(trial.choices) == 2 and took_ids(trial) and obeys(trial):
            # All at once: vLLM.
            traits.choose = Choose.ALLOWED
            traits.token_ids = all(choice.first is not None for choice in trial.choices)
        else:
            traits = Traits(ids=True)
            if not took_ids(await ask(traits)):
                traits.ids = False
                trial = await ask(traits)
                if not trial.choices:
                    raise UsageError(
                        f"{server.url}/completions gives no completion of {server.model}: {trial.refusal}",
                        hint=f"-E model=, one of {', '.join(server.listed)}"
                        if server.listed and server.model not in server.listed
                        else "medsss needs a server with /v1/completions",
                    )
            traits.extras = bool((await ask(Traits(ids=traits.ids, extras=True))).choices)
            traits.stop = bool((await ask(traits, never)).choices)
            if len((await ask(traits, count=2)).choices) < 2:
                traits.most = 1
            if obeys(await ask(traits, allowed)):
                traits.choose = Choose.ALLOWED
            elif obeys(await ask(traits, {"logit_bias": {str(odd): 100}})):
                traits.choose = Choose.BIAS
            elif obeys(await ask(traits, {"generation_config": self._generation(job, [odd])})):
                traits.generation, traits.choose = True, Choose.SEQUENCE
        as_text = Traits(extras=traits.extras)
        trial = await ask(as_text, {"return_token_ids": True} if traits.token_ids else None)
        self._check_tokenizer(server, job, traits, trial)
        server.traits = traits

    def _check_tokenizer(self, server: Server, job: _Job, traits: Traits, trial: _Trial) -> None:
        """Compare what the server and we make of one text, which was sent in `trial`: its tokens, or how many there
        are. Token ids of another vocabulary are noise, and no server would say so. Tells, too, whether the server puts
        a BOS before a text."""
        text = self._text(job, own_bos=False)
        here, there = len(job.ids), trial.prompt_tokens
        if there is None:
            traits.own_bos = len(self.tokenizer(text)["input_ids"]) > here
            return
        traits.own_bos = there == here + 1
        if traits.own_bos and not traits.ids and not text.startswith(self.tokenizer.bos_token or "\0"):
            self.warnings.append(f"{server.url} puts a token before every prompt that the chat template does not want")
        # A token or two, and a few other ids, may come of how a server splits the special tokens of a text.
        pairs = zip(reversed(trial.prompt_ids or job.ids), reversed(job.ids), strict=False)
        if abs(there - here) > 2 or 2 * sum(a == b for a, b in pairs) < here:
            raise UsageError(
                f"the model {server.model} at {server.url} is not --policy {self._spec.policy}: the same text has "
                f"{there} tokens there and {here} here"
                + (", and they are not the same ones" if abs(there - here) <= 2 else ""),
                hint="--policy names the model that the server runs, or a folder with its tokenizer",
            )

    async def _try(self, server: Server, body: Mapping[str, Any]) -> _Trial:
        """What the server answers to `body`, or how it refuses it; to break at it again and again is a refusal too.
        Raises _Fault for a server that cannot be reached."""
        pause = 0.1
        while True:
            try:
                data = await self._call(server, "POST", "/completions", body, self._spec.timeout)
                return _Trial(_choices(data), _usage(data, "prompt_tokens"), data["choices"][0].get("prompt_token_ids"))
            except _Refusal as refusal:
                if refusal.status in (401, 403):
                    raise UsageError(f"{server.url}/completions: {refusal}", hint=f"set {KEY_VARIABLE}") from None
                return _Trial([], refusal=f"{refusal.status} {refusal}")
            except _Fault as fault:
                if pause > 1 or fault.kind == "timeout":
                    if not fault.kind.startswith("5"):
                        raise
                    return _Trial([], refusal=str(fault))
                await asyncio.sleep(pause)
                pause *= 2

    def _spell(self, token: int) -> str:
        return str(self.tokenizer.decode([token], skip_special_tokens=False)).strip()

    # Asking

    async def complete(self, prompt: Prompt, sampling: Sampling, n: int = 1) -> list[Completion]:
        """n completions of `prompt`. See engines/base.py. Raises EngineError where the prompt leaves no room in the
        context, the server refuses it, or no server gave an answer after all retries."""
        if self._closed:
            raise EngineError("the engine is closed")
        job = self._job(prompt, sampling, n)
        if n == 0:
            return []
        # Greedy completions are all the same, and some servers refuse to write one twice.
        asked = 1 if sampling.temperature == 0 else n
        if job.words:
            done = await self._choose(job, asked)
        else:
            done = self._completions(job, await self._draw(job, 0, asked))
        done = done if asked == n else done * n
        self.usage.add(len(job.ids), done)
        return done

    def _job(self, prompt: Prompt, sampling: Sampling, n: int) -> _Job:
        from .rendering import first_tokens, render

        check_request(sampling, n)
        ids = render(self.tokenizer, prompt)
        if not ids:
            raise EngineError("the prompt has no tokens")
        context = self.context
        if context is not None and len(ids) >= context:
            raise EngineError(
                f"the prompt has {len(ids)} tokens and the context holds {context}: no room for an answer",
                hint="start the server with a longer context",
            )
        words = first_tokens(self.tokenizer, prompt, sampling.allowed_tokens) if sampling.allowed_tokens else []
        limit = sampling.max_tokens if context is None else min(sampling.max_tokens, context - len(ids))
        key = zlib.crc32("\x1f".join(message.content for message in prompt.messages).encode("utf-8", "replace"))
        return _Job(prompt, ids, sampling, 1 if words else limit, words, key)

    @property
    def context(self) -> int | None:
        """The smallest context of the servers, as far as they tell, and --max-context; None where nobody says."""
        known = [server.context for server in self.servers if server.context is not None]
        return min([*known, *([self._spec.max_context] if self._spec.max_context else [])], default=None)

    async def _draw(self, job: _Job, start: int, count: int) -> list[_Choice]:
        """The completions `start` to `start + count`, in as few requests as the servers allow."""
        most = max((s.traits.most for s in self.servers if s.traits is not None), default=1)
        found: list[_Choice] = []
        if count <= most:
            found = await self._ask(job, start, count)
            most = len(found)
            if most == count:
                return found
        end = start + count
        parts = await _together(
            self._draw(job, begin, min(most, end - begin)) for begin in range(start + len(found), end, most)
        )
        return found + [choice for part in parts for choice in part]

    async def _choose(self, job: _Job, n: int) -> list[Completion]:
        """n of the allowed words."""
        chosen: list[Completion] = []
        asked = 0
        for _ in range(_MISSES):
            count = n - len(chosen)
            drawn = await self._draw(job, asked, count)
            asked += count
            for choice in drawn:
                word = self._word(job, choice)
                if word is not None:
                    chosen.append(Completion(word, FinishReason.STOP, 1, len(job.ids)))
            if len(chosen) >= n:
                return chosen
        raise EngineError(
            f"the server cannot be told to write one of {', '.join(job.sampling.allowed_tokens)}, and the model wrote "
            f"none in {asked} draws",
            hint="a server with allowed_token_ids or logit_bias (vLLM, SGLang, llama.cpp), or search --expand reason",
        )

    def _word(self, job: _Job, choice: _Choice) -> str | None:
        """The allowed word that `choice` begins with, by its token or by its text."""
        words = job.sampling.allowed_tokens
        if choice.first is not None:
            return words[job.words.index(choice.first)] if choice.first in job.words else None
        text = choice.text.strip()
        spelled = [(self._spell(token), word) for token, word in zip(job.words, words, strict=True)]
        fits = [pair for pair in spelled if pair[0] and text.startswith(pair[0])]
        return max(fits, key=lambda pair: len(pair[0]))[1] if fits else None

    async def _ask(self, job: _Job, start: int, count: int) -> list[_Choice]:
        """At least one and at most `count` completions, from whichever server answers, with all retries."""
        attempt = 0
        begin = time.monotonic()
        blocked: dict[Server, float] = {}
        while True:
            wait = self._backoff(attempt)
            server = await self._acquire(job, count, blocked, wait)
            if server is None:
                what = "; ".join(f"{each.url}: {each.reason}" for each in self.servers)
                fault = _Fault("no server", f"no server answers ({what})")
            else:
                weight = min(count, server.traits.most) if server.traits else count
                try:
                    return await self._once(server, job, start, weight)
                except _Fault as error:
                    fault = error
                    blocked[server] = time.monotonic() + (wait if fault.after is None else fault.after)
                except _Refusal as refusal:
                    raise EngineError(f"{server.url} refuses the request ({refusal.status}): {refusal}") from None
                finally:
                    self._release(server, count)
            if attempt >= self._spec.retries:
                tries = "" if attempt == 0 else f"; tried {attempt + 1} times in {time.monotonic() - begin:.0f} s"
                where = "" if server is None else f"{server.url}: "
                raise EngineError(
                    f"{where}{fault}{tries}", hint="-E max_retries and -E timeout set how long it is tried"
                )
            attempt += 1
            self._retried[fault.kind] += 1

    async def _once(self, server: Server, job: _Job, start: int, count: int) -> list[_Choice]:
        """One request to one server. Raises _Fault or _Refusal, and keeps the server's record."""
        begin = time.monotonic()
        traits = server.traits
        assert traits is not None

        async def ask(count: int) -> list[_Choice]:
            body = self._body(server.model, traits, job, start, count)
            data = await self._call(server, "POST", "/completions", body, self._spec.timeout)
            return _choices(data, stops="stop" in body)[:count]

        try:
            try:
                found = await ask(count)
            except _Refusal:
                # Some servers take an n up to what they run at once.
                if count == 1:
                    raise
                found = await ask(1)
                traits.most = min(traits.most, max(1, count // 2))
            if job.words and traits.choose is not Choose.DRAW and any(self._word(job, c) is None for c in found):
                # It said that it could, and it does not: from now on its words are drawn and looked at.
                traits.choose = Choose.DRAW
                raise _Fault("choice", f"{server.url} ignores the restriction to {job.sampling.allowed_tokens}")
        except _Fault as fault:
            server.reason = str(fault)
            if fault.kind not in ("429", "choice"):
                server.faults += 1
                if fault.dead or server.faults >= _PATIENCE or (fault.kind == "timeout" and server.last_answer < begin):
                    self._put_aside(server)
            raise
        if len(found) < count and len(found) == 1:
            traits.most = 1
        server.faults = 0
        server.pause = _FIRST_PAUSE
        server.last_answer = time.monotonic()
        server.answered += 1
        return found

    def _body(self, model: str, traits: Traits, job: _Job, start: int, count: int) -> dict[str, Any]:
        """The request for the completions `start` to `start + count`."""
        sampling = job.sampling
        # Servers count on from the seed for the n completions: seeds side by side would share most of their draws.
        seed = derive_seed(sampling.seed, start)
        body: dict[str, Any] = {
            "model": model,
            "prompt": job.ids if traits.ids else self._text(job, own_bos=traits.own_bos),
            "max_tokens": job.limit,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": seed & _SEED_MASK,
        }
        if count > 1:
            body["n"] = count
        if sampling.stop and traits.stop:
            body["stop"] = list(sampling.stop)
        if traits.extras:
            # What the sampling does not name is off, whatever the server or the model's folder has as a default.
            body |= {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "stop_token_ids": self._ends}
            if traits.token_ids and (count > 1 or job.words):
                body["return_token_ids"] = True
        if job.words:
            match traits.choose:
                case Choose.ALLOWED:
                    body["allowed_token_ids"] = job.words
                case Choose.BIAS:
                    body["logit_bias"] = {str(token): 100 for token in job.words}
                case Choose.SEQUENCE | Choose.DRAW:
                    pass
        if traits.generation:
            body["generation_config"] = self._generation(job, job.words)
        return body

    def _generation(self, job: _Job, words: Sequence[int]) -> str:
        """The generation_config for `transformers serve`, which by itself draws nothing: it takes the likeliest."""
        config = {
            "do_sample": job.sampling.temperature > 0,
            "top_k": 0,
            "eos_token_id": self._ends,
            "pad_token_id": self.tokenizer.pad_token_id,
            "sequence_bias": [[[token], 100.0] for token in words] or None,
        }
        return orjson.dumps({name: value for name, value in config.items() if value is not None}).decode()

    def _text(self, job: _Job, *, own_bos: bool) -> str:
        """The prompt as text. The special tokens of the template must stay whole; one that a question spells is cut
        where `rendering` cuts it, and a space keeps the halves apart."""
        from .rendering import rendered_pieces

        if job.text is None:
            job.text = " ".join(rendered_pieces(self.tokenizer, job.prompt))
        bos = self.tokenizer.bos_token
        return job.text.removeprefix(bos) if own_bos and bos else job.text

    def _completions(self, job: _Job, choices: Sequence[_Choice]) -> list[Completion]:
        from .rendering import encode_text

        done = []
        for choice in choices:
            text, reason, stop = choice.text, choice.reason, choice.stop
            found = first_stop(text, job.sampling.stop)
            if found is not None:  # a server that knows no stop strings, or that leaves them in
                (text, stop), reason = found, FinishReason.STOP
            tokens = choice.tokens
            if tokens is None:
                tokens = len(encode_text(self.tokenizer, choice.text)) + (reason is FinishReason.EOS)
            done.append(Completion(text, reason, tokens, len(job.ids), stop))
        return done

    # Servers

    def _backoff(self, attempt: int) -> float:
        return min(_FIRST_PAUSE * 2.0**attempt, _LAST_PAUSE) * self._jitter.uniform(0.5, 1.0)

    def _has_room(self, server: Server, count: int) -> bool:
        return server.load == 0 or server.load + count <= self._sequences

    def _pick(self, job: _Job, count: int, blocked: Mapping[Server, float]) -> Server | None:
        """The least busy server with room; the question's usual one where that is hardly busier."""
        if self._in_flight >= self._requests:
            return None
        now = time.monotonic() if blocked else 0.0
        best: Server | None = None
        for server in self.servers:
            if server.up and blocked.get(server, 0.0) <= now and (best is None or server.load < best.load):
                best = server
        if best is None or not self._has_room(best, count):
            return None
        usual = self.servers[job.key % len(self.servers)]
        near = usual.load <= best.load + _SLACK and usual.up and usual not in blocked
        return usual if near and self._has_room(usual, count) else best

    async def _acquire(self, job: _Job, count: int, blocked: Mapping[Server, float], patience: float) -> Server | None:
        """A server with room for `count` more completions, counted in; None where none has been up for `patience`.
        `blocked` says until when this request leaves a server alone."""
        deadline: float | None = None
        queued = False
        while True:
            if self._closed:
                raise EngineError("the engine was closed while the request was running")
            # Whoever came first is served first.
            server = None if self._waiters and not queued else self._pick(job, count, blocked)
            if server is not None:
                server.load += count
                self._in_flight += 1
                if queued:
                    self._wake()  # there may be room for the next one, too
                return server
            now = time.monotonic()
            up = [each for each in self.servers if each.up]
            if not up:
                deadline = now + patience if deadline is None else deadline
                if now >= deadline:
                    return None
                await self._news_until(deadline)
            elif all(blocked.get(each, 0.0) > now for each in up):
                await self._news_until(min(blocked[each] for each in up))
            else:
                await self._queue(again=queued)
                queued = True

    async def _news_until(self, deadline: float) -> None:
        """Wait until a server comes up, or the time is there."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline - time.monotonic()):
                await self._news.wait()

    async def _queue(self, *, again: bool) -> None:
        """Wait for room. `again` for one that was at the head already."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if again:
            self._waiters.appendleft(waiter)
        else:
            self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                with contextlib.suppress(ValueError):  # it may be out of the line already
                    self._waiters.remove(waiter)
            else:
                self._wake()  # its turn goes to the next
            raise

    def _release(self, server: Server, count: int) -> None:
        server.load -= count
        self._in_flight -= 1
        self._wake()

    def _wake(self, every: bool = False) -> None:
        """Let the first in the line look for room, or all of them."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                if not every:
                    return

    def _tell(self) -> None:
        """A server came up, or the engine closes: whoever waits looks again."""
        self._news.set()
        self._news = asyncio.Event()
        self._wake(every=True)

    def _put_aside(self, server: Server) -> None:
        """No requests for this server until it answers again."""
        if self._closed or (server.prober is not None and not server.prober.done()):
            return
        server.asides += server.up
        server.up = False
        server.prober = asyncio.create_task(self._watch(server))
        self._wake(every=True)

    async def _watch(self, server: Server) -> None:
        """Look at a server in growing intervals until it answers."""
        while True:
            await asyncio.sleep(server.pause * self._jitter.uniform(0.5, 1.0))
            server.pause = min(2 * server.pause, _LAST_PAUSE)
            try:
                await self._list_models(server)
                if server.traits is None:
                    await self._learn(server)
            except (_Fault, UsageError) as error:
                server.reason = str(error)
                continue
            except _Refusal as refusal:
                server.reason = f"{refusal.status}: {refusal}"
                continue
            break
        server.up = True
        server.faults = 0
        self._tell()

    # One exchange

    async def _call(self, server: Server, method: str, path: str, body: Any, timeout: float) -> Any:
        """The JSON of one answer. Raises _Fault for what may pass, _Refusal for what will not."""
        import aiohttp

        assert self._session is not None
        limit = aiohttp.ClientTimeout(total=timeout, sock_connect=min(_CONNECT, timeout))
        data = None if body is None else orjson.dumps(body)
        try:
            async with self._session.request(
                method, server.url + path, data=data, timeout=limit, proxy=server.proxy, allow_redirects=False
            ) as response:
                status = response.status
                headers = response.headers
                raw = await response.read()
        except TimeoutError as error:
            connecting = isinstance(error, aiohttp.ConnectionTimeoutError)
            what = "no connection" if connecting else "no answer"
            seconds = min(_CONNECT, timeout) if connecting else timeout
            raise _Fault("timeout", f"{what} within {seconds:g} s", dead=connecting) from None
        except aiohttp.ClientConnectorError as error:
            raise _Fault("broken connection", _reason(error), dead=True) from None
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
            raise UsageError(f"{server.url} is not a URL: {error}", hint=_URL_HINT) from None
        except aiohttp.ClientResponseError as error:  # no HTTP at all
            raise _Fault("garbage", f"an answer that is no HTTP: {error.message or error}") from None
        except (aiohttp.ClientError, OSError) as error:
            raise _Fault("broken connection", f"the connection broke: {_reason(error)}") from None
        if 200 <= status < 300:
            try:
                return orjson.loads(raw)
            except orjson.JSONDecodeError:
                raise _Fault("garbage", f"an answer that is no JSON: {_short(raw)}") from None
        said = _message(raw) or response.reason or "no reason given"
        if status in _BUSY or status >= 500:
            after = _retry_after(headers.get("Retry-After"))
            raise _Fault(str(status), f"{status} {said}", after=after)
        if 300 <= status < 400:
            said = f"a redirection to {headers.get('Location', 'nowhere')}"
        raise _Refusal(status, said)

    # The end

    def notes(self) -> list[str]:
        """What the servers did, for the summary of a run: one line, and one for each server that is down."""
        answered = sum(server.answered for server in self.servers)
        retried = sum(self._retried.values())
        line = f"http: {answered} requests"
        if len(self.servers) > 1:
            line += " (" + ", ".join(f"{server.url} {server.answered}" for server in self.servers) + ")"
        else:
            line += f" to {self.servers[0].url}"
        if retried:
            kinds = ", ".join(f"{count} x {kind}" for kind, count in self._retried.most_common())
            line += f", {retried} tried again ({kinds})"
        lines = [line]
        for server in self.servers:
            if not server.up:
                lines.append(f"http: {server.url} is down: {server.reason}")
            elif server.asides:
                times = "once" if server.asides == 1 else f"{server.asides} times"
                lines.append(f"http: {server.url} was put aside {times}, and came back")
        return lines

    async def close(self) -> None:
        """Close every connection; whoever still waits for a server gets an EngineError."""
        self._closed = True
        self._tell()
        await _cancel([server.prober for server in self.servers if server.prober is not None])
        if self._session is not None:
            await self._session.close()
            await asyncio.sleep(0)  # the transports close in the loop's next round


_TELLS = frozenset({"stop_reason", "matched_stop"})
_URL_HINT = "the base of an API usually ends in /v1: --base-url http://HOST:8000/v1"


# Pure


def base_urls(given: Sequence[str]) -> list[str]:
    """The base URLs of the command line, or of OPENAI_BASE_URL (commas or spaces between), without a last slash, each
    once. Raises UsageError where there are none, and for what is no URL."""
    found = list(given) or re.split(r"[,\s]+", os.environ.get(URL_VARIABLE, "").strip())
    urls = []
    for url in found:
        if not url:
            continue
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise UsageError(f"{url!r} is no base URL", hint=_URL_HINT)
        urls.append(url.rstrip("/"))
    if not urls:
        raise UsageError("--engine http needs a server", hint=f"--base-url http://HOST:8000/v1, or set {URL_VARIABLE}")
    return list(dict.fromkeys(urls))


def pick_model(
    url: str, listed: Sequence[Mapping[str, Any]], spec: _Spec, folder: str
) -> tuple[str, Mapping[str, Any]]:
    """The name to ask for and its entry: -E model=; with --adapter, the adapter's name or folder name; else
    --policy by name or by folder; else the only model. `listed` is the `data` of /models, where vLLM gives an
    adapter a `parent`. Raises UsageError, with the names, where none fits."""
    entries = {str(entry["id"]): entry for entry in listed}
    names = ", ".join(entries) or "nothing"
    if spec.served_model is not None:
        # Not every list is whole: what is not on it may be there, and the first request tells.
        return spec.served_model, entries.get(spec.served_model, {})
    if spec.adapter is not None:
        for name in (spec.adapter, os.path.basename(os.path.normpath(spec.adapter))):
            if name in entries:
                return name, entries[name]
        raise UsageError(
            f"{url} does not serve the adapter {spec.adapter}: it lists {names}",
            hint="vllm serve --enable-lora --lora-modules NAME=DIR, then -E model= NAME",
        )
    wanted = (spec.policy, folder, os.path.abspath(folder), os.path.basename(os.path.normpath(folder)))
    for name in wanted:
        for id, entry in entries.items():
            if id == name or (entry.get("root") == name and not entry.get("parent")):
                return id, entry
    whole = [id for id, entry in entries.items() if not entry.get("parent")]
    if len(whole) == 1:
        return whole[0], entries[whole[0]]
    raise UsageError(f"{url} does not serve {spec.policy}: it lists {names}", hint="-E model=, one of these")


def _context_of(entry: Mapping[str, Any]) -> int | None:
    """The context that an entry of /models tells: vLLM and SGLang `max_model_len`, llama.cpp `meta.n_ctx`."""
    meta = entry.get("meta")
    for found in (entry.get("max_model_len"), meta.get("n_ctx") if isinstance(meta, dict) else None):
        if isinstance(found, int) and found > 0:
            return found
    return None


def _choices(data: Any, *, stops: bool = False) -> list[_Choice]:
    """The completions of an answer, by index. Raises _Fault where it is no answer. With `stops`, stop strings were
    sent, and a server that does not tell them from an end of turn may have met one.

    {"choices": [{"index": 0, "text": "...", "finish_reason": "stop", "stop_reason": null}], "usage": {...}}
    """
    given = data.get("choices") if isinstance(data, dict) else None
    if not isinstance(given, list) or not given:
        raise _Fault("garbage", f"an answer without choices: {_short(orjson.dumps(data))}")
    total = _usage(data, "completion_tokens")
    found: list[tuple[int, _Choice]] = []
    for place, item in enumerate(given):
        text = item.get("text") if isinstance(item, dict) else None
        if not isinstance(text, str):
            raise _Fault("garbage", f"a choice without text: {_short(orjson.dumps(item))}")
        said = item.get("finish_reason")
        if said in ("abort", "error", "cancelled"):
            raise _Fault("abort", f"the server gave up ({said})")
        stop = item.get("stop_reason", item.get("matched_stop"))
        ids = item.get("token_ids")
        ids = ids if isinstance(ids, list) and ids and all(isinstance(id, int) for id in ids) else None
        if said in ("length", "max_tokens"):
            reason = FinishReason.LENGTH
        elif isinstance(stop, str) or said == "stop_sequence" or (stops and not _TELLS.intersection(item)):
            reason = FinishReason.STOP
        else:
            reason = FinishReason.EOS
        tokens = len(ids) if ids is not None else total if len(given) == 1 else None
        index = item.get("index")
        found.append(
            (
                index if isinstance(index, int) else place,
                _Choice(text, reason, stop if isinstance(stop, str) else None, tokens, ids[0] if ids else None),
            )
        )
    return [choice for _, choice in sorted(found, key=lambda pair: pair[0])]


def _usage(data: Any, name: str) -> int | None:
    usage = data.get("usage") if isinstance(data, dict) else None
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) else None


def _message(raw: bytes) -> str:
    """What an error answer says: {"error": {"message": ...}}, {"error": ...}, {"detail": ...}, {"message": ...}."""
    try:
        said: Any = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return _short(raw)
    for name in ("error", "message", "detail", "msg"):
        while isinstance(said, dict) and name in said:
            said = said[name]
    return _short(said.encode() if isinstance(said, str) else orjson.dumps(said))


def _short(raw: bytes, most: int = 300) -> str:
    text = " ".join(raw[: 4 * most].decode("utf-8", "replace").split())
    return text if len(text) <= most else text[:most] + "..."


def _reason(error: BaseException) -> str:
    """The plain words of a connection error."""
    inner = getattr(error, "os_error", None)
    text = getattr(inner, "strerror", None) or getattr(error, "strerror", None) or str(error)
    return str(text) or type(error).__name__


def _retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, in its two forms; None for none, or for what cannot be read."""
    if not value:
        return None
    try:
        return min(max(0.0, float(value)), 600.0)
    except ValueError:
        from email.utils import parsedate_to_datetime

        try:
            return min(max(0.0, parsedate_to_datetime(value).timestamp() - time.time()), 600.0)
        except ValueError:
            return None


def _connections() -> int:
    """How many requests may be open at once: a request is a socket, and sockets count as files."""
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else max(16, soft - 128)


def _proxy(url: str) -> str | None:
    """The proxy of the environment for `url`: looked up once, not at every request."""
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    host = parts.hostname or ""
    if host in ("localhost", "127.0.0.1", "::1") or proxy_bypass(host):
        return None
    return getproxies().get(parts.scheme)


def _any_good(done: set[asyncio.Task[None]]) -> bool:
    """Whether one of the tasks ended well. A UsageError of any is raised; a _Fault is bad luck."""
    good = False
    for task in done:
        error = task.exception()
        if error is not None and not isinstance(error, _Fault):
            raise error
        good = good or error is None
    return good


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _together(work: Iterable[Coroutine[Any, Any, list[_Choice]]]) -> list[list[_Choice]]:
    """All of them at once; the first that fails ends the others."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


@contextlib.asynccontextmanager
async def open_http(config: EngineConfig) -> AsyncIterator[HttpEngine]:
    """The engine on the servers of `spec`, until the block ends. Raises UsageError where none can be used, and
    MissingExtra without aiohttp."""
    given = config.arguments(("model", "timeout", "max_retries", "trust_remote_code"), of="--engine http")
    spec = _Spec(
        config.policy,
        config.adapter,
        config.batch_size,
        config.max_context,
        config.base_url,
        given.get("model"),
        given.get("timeout", 600.0),
        given.get("max_retries", 8),
        given.get("trust_remote_code", False),
    )
    try:
        import aiohttp  # noqa: F401
    except ImportError:
        raise MissingExtra("aiohttp, which --engine http needs,", "http") from None
    engine = HttpEngine(
        spec, [Server(url, _proxy(url)) for url in base_urls(spec.base_urls)], os.environ.get(KEY_VARIABLE) or None
    )
    try:
        await engine.open()
        yield engine
    finally:
        await engine.close()
