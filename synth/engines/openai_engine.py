"""Any endpoint that speaks OpenAI's chat completions, such as ``vllm serve``.

``vllm serve`` is to be started with ``--structured-outputs-config '{"backend": "xgrammar", "disable_any_whitespace": true}'``
(a small model loses itself in white space otherwise) and with ``--generation-config vllm``, or it samples with what the
model's folder recommends beside what a request says.
"""

from __future__ import annotations

import asyncio
import os
import queue
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import openai
from openai.types.chat import ChatCompletion, ChatCompletionMessage
from openai.types.chat.chat_completion import Choice

from synth.config import OpenAIOptions
from synth.engines import Closing, Completion, Request
from synth.errors import SynthError

#: Statuses that are about this one request, which another try would not change.
_REFUSED = frozenset({400, 413, 422})
#: Statuses that may pass, beside 5xx. Any other 4xx is about every request: the key, the address, the model.
_RETRIED = frozenset({408, 409, 429})
#: A wait before the next try grows up to so many seconds; a server that asks for more than the second has failed.
_LONGEST_BACKOFF, _LONGEST_WAIT = 60.0, 600.0
_REASON_CHARS = 200
#: Shorter keys are stand-ins (``x``) of servers that want none, and stand in words.
_SHORTEST_SECRET = 4
#: More tokens than any server counts: what is above is no count.
_MOST_TOKENS = 2**31
_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")
_NOTE = "every request has its seed; whether the server gives the same answer to it again is the server's affair"


class _FailedError(Exception):
    """A request failed for good. ``heard``: the server said something to it. ``hopeless``: all others would fail too."""

    def __init__(self, reason: str, heard: bool, hopeless: bool = False) -> None:
        super().__init__(reason)
        self.heard, self.hopeless = heard, hopeless


@dataclass(slots=True)
class _Batch:
    """``room``: for requests in flight, or answered and not yet taken. ``out``: answers, errors, the task at last.
    ``failed``: places of requests that failed for good."""

    requests: Sequence[Request]
    room: asyncio.Semaphore
    out: queue.SimpleQueue[tuple[int, Completion] | SynthError | asyncio.Task[None]]
    failed: list[tuple[int, _FailedError]] = field(default_factory=list)


class OpenAIEngine(Closing):
    """A client of an endpoint. Use it as a context manager, or call :meth:`close`: it has a thread of its own.

    At most ``concurrency`` requests are in flight, or answered and not yet taken by who iterates: what a killed process
    may have asked in vain. What is asked again, and when the server counts as gone, is written at ``OpenAIOptions``.
    The key, and what of the address is secret (a password, a query), is in no message and in nothing that is told.

    Raises:
        SynthError: the key cannot be one.
    """

    def __init__(self, model: str, options: OpenAIOptions) -> None:
        self._model = model
        self._options = options
        address = urlsplit(options.url)
        plain = address._replace(query="", fragment="")
        query = parse_qsl(address.query, keep_blank_values=True)
        self._url = plain._replace(netloc=address.netloc.rpartition("@")[2]).geturl()
        key = _key(options.api_key_env)
        secrets = [key, address.password or "", *(value for _, value in query)]
        self._secrets = [secret for secret in secrets if len(secret) >= _SHORTEST_SECRET]
        self._client = openai.AsyncOpenAI(
            base_url=plain.geturl(),
            default_query=dict(query),
            api_key=key or "none",
            max_retries=0,
            timeout=None,
        )
        self._jitter = random.Random()
        self._retries = 0
        self._waited = 0.0
        self._failures: Counter[str] = Counter()
        self._answered = self._given_up = self._in_a_row = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="openai-engine", daemon=True)
        self._thread.start()

    def identity(self) -> dict[str, Any]:
        """Kind, the server's name for the model, and how a schema is sent.

        Not the address: the same model served elsewhere gives answers that are as good. Two models must not have one name.
        """
        return {"engine": "openai", "model": self._model, "structured": self._options.structured}

    def describe(self) -> dict[str, Any]:
        """:meth:`identity`, the client's version, the address, and what went wrong: requests that were sent again
        (``retries``), the seconds waited for that (over all requests), failed tries by status, and requests that failed
        for good (``given_up``)."""
        return self.identity() | {
            "version": f"openai {openai.__version__}",
            "url": self._url,
            "concurrency": self._options.concurrency,
            "deterministic": False,
            "note": _NOTE,
            "startup_seconds": 0.0,
            "retries": self._retries,
            "seconds_waited": round(self._waited, 2),
            "failures": dict(sorted(self._failures.items())),
            "given_up": self._given_up,
        }

    def answers(self, requests: Sequence[Request]) -> Generator[tuple[int, Completion], None, None]:
        """One completion per request with its place, each when it arrives. Closing it early cancels what is in flight.

        What the server will not take (400, 413, 422), or its model declines, is ``refused``. A request that alone fails for
        good ends as ``failed (…)``, which is told when all others have been answered.

        Raises:
            SynthError: the engine is closed; the server is gone, has never been there, or does not know the key, the
                address or the model.
        """
        if self._loop.is_closed():
            raise SynthError("the engine is closed: make a new one")
        batch = _Batch(requests, asyncio.Semaphore(self._options.concurrency), queue.SimpleQueue())
        tasks: list[asyncio.Task[None]] = []
        ended = threading.Event()

        def end(task: asyncio.Task[None]) -> None:
            batch.out.put(task)
            ended.set()

        def start() -> None:
            tasks.append(self._loop.create_task(self._ask_all(batch)))
            tasks[0].add_done_callback(end)

        self._loop.call_soon_threadsafe(start)
        try:
            while True:
                item = batch.out.get()
                if isinstance(item, SynthError):
                    raise item
                if isinstance(item, asyncio.Task):
                    item.result()
                    return
                yield item
                self._loop.call_soon_threadsafe(batch.room.release)
        finally:
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(lambda: tasks[0].cancel())
                ended.wait()

    def close(self) -> None:
        """Closes the connections and ends the thread; safe to call twice."""
        if not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.close()

    async def _ask_all(self, batch: _Batch) -> None:
        async with asyncio.TaskGroup() as group:
            for place in range(len(batch.requests)):
                await batch.room.acquire()
                group.create_task(self._ask_one(batch, place))
        for place, error in batch.failed:
            if not self._answered and not error.heard:
                some = f"{len(batch.failed)} of {len(batch.requests)} requests to {self._url} failed"
                batch.out.put(SynthError(f"{some} (last: {error}): run again when the server is well"))
                return
            self._given_up += 1
            batch.out.put((place, Completion("", f"failed ({error})", 0, 0)))

    async def _ask_one(self, batch: _Batch, place: int) -> None:
        try:
            completion = await self._completion(batch.requests[place])
        except _FailedError as error:
            batch.failed.append((place, error))
            self._in_a_row += 1
            if error.hopeless:
                batch.out.put(SynthError(f"{self._url} takes no requests for {self._model} ({error})"))
            elif self._in_a_row >= self._options.give_up:
                gone = f"{self._url} is gone: requests failed, {self._in_a_row} in a row (last: {error})"
                batch.out.put(SynthError(f"{gone}: start it and run again"))
            else:
                batch.room.release()
        else:
            self._in_a_row = 0
            self._answered += 1
            batch.out.put((place, completion))

    async def _completion(self, request: Request) -> Completion:
        """Asks, and asks again. Raises _FailedError."""
        backoff = self._options.backoff
        for left in range(self._options.retries, -1, -1):
            wanted = 0.0
            heard = True
            try:
                async with asyncio.timeout(self._options.timeout):
                    return _read(await self._client.chat.completions.create(**self._body(request)))
            except openai.APIStatusError as error:
                reason = f"{error.status_code} {self._one_line(_reason(error))}"
                if error.status_code in _REFUSED:
                    return Completion(reason, "refused", 0, 0)
                self._failures[str(error.status_code)] += 1
                if error.status_code not in _RETRIED and error.status_code < 500:
                    raise _FailedError(f"{reason}: {self._advice(error.status_code)}", heard, hopeless=True) from error
                wanted = _retry_after(error.response.headers)
            except (TimeoutError, openai.APITimeoutError):
                heard = False
                reason = f"no answer within {self._options.timeout:g} seconds"
                self._failures["timeout"] += 1
            except openai.APIConnectionError as error:
                heard = False
                cause = str(error.__cause__ or "") or type(error.__cause__).__name__
                reason = f"no connection, {self._one_line(cause)}"
                self._failures["connection"] += 1
            except (ValueError, RecursionError) as error:
                reason = f"the server sends no chat completion, {self._one_line(str(error))}"
                self._failures["no_completion"] += 1
            if not left:
                break
            if wanted > _LONGEST_WAIT:
                raise _FailedError(f"{reason}, to be asked again in {wanted:.0f} seconds", heard, hopeless=True)
            wait = max(min(backoff, _LONGEST_BACKOFF), wanted) * self._jitter.uniform(1.0, 1.25)
            backoff *= 2
            self._retries += 1
            self._waited += wait
            await asyncio.sleep(wait)
        raise _FailedError(reason, heard)

    def _body(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
            "seed": request.seed,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "max_tokens": request.max_tokens,
        }
        if request.schema is not None and self._options.structured == "response_format":
            form = {"name": "answer", "schema": dict(request.schema), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        elif request.schema is not None and self._options.structured == "structured_outputs":
            body["extra_body"] = {"structured_outputs": {"json": dict(request.schema)}}
        return body

    def _advice(self, status: int) -> str:
        if status in (401, 403):
            return f"put a key that is good for it into ${self._options.api_key_env}"
        if status == 404:
            return "look at engine.url, which ends in /v1, and at model, which must be the server's name for it"
        return "look at engine.url and at what the server takes"

    def _one_line(self, text: str) -> str:
        """What a server or a library says, without what is secret."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return " ".join(_whole(text).split())[:_REASON_CHARS]


def _key(variable: str) -> str:
    """The key in an environment variable, outer spaces cut off; empty if there is none. Raises SynthError."""
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise SynthError(f"the key in ${variable} holds a character that no key has: set it anew")
    return key


def _read(answer: Any) -> Completion:
    """The first choice. The client checks no fields, so what is not a completion raises ValueError here.

    A count that is none is 0: the text is an answer all the same. Half a surrogate pair becomes U+FFFD.
    """
    if not isinstance(answer, ChatCompletion):
        raise ValueError(f"but {str(answer)[:40]!r}")
    choice = answer.choices[0] if isinstance(answer.choices, list) and answer.choices else None
    if not isinstance(choice, Choice) or not isinstance(choice.message, ChatCompletionMessage):
        raise ValueError("but one without a choice")
    texts = choice.message.content, choice.message.refusal, choice.finish_reason
    if not all(text is None or isinstance(text, str) for text in texts):
        raise ValueError("but one whose content, refusal or finish_reason is no text")
    content, refusal, finish = (_whole(text or "") for text in texts)
    usage = answer.usage
    details = getattr(usage, "prompt_tokens_details", None)
    declined = bool(refusal) and not content
    return Completion(
        text=refusal if declined else content,
        finish_reason="refused" if declined else finish or "unknown",
        prompt_tokens=_count(getattr(usage, "prompt_tokens", None)),
        completion_tokens=_count(getattr(usage, "completion_tokens", None)),
        cached_tokens=_count(getattr(details, "cached_tokens", None)),
    )


def _whole(text: str) -> str:
    return _LONE_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)


def _count(value: Any) -> int:
    return value if type(value) is int and 0 <= value < _MOST_TOKENS else 0


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds to wait by the ``Retry-After`` header, a number or an HTTP date (RFC 9110, 10.2.3); 0.0 without one."""
    value = headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0


def _reason(error: openai.APIStatusError) -> str:
    body = error.body
    told = body.get("message") if isinstance(body, dict) else None
    return str(told or error.message)
