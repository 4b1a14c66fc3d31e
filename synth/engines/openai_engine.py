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
import threading
import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import openai
from openai.types.chat import ChatCompletion

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
_NOTE = "every request has its seed; whether the server gives the same answer to it again is the server's affair"


class _FailedError(Exception):
    """A request failed for good. ``hopeless``: so would all others."""

    def __init__(self, reason: str, hopeless: bool = False) -> None:
        super().__init__(reason)
        self.hopeless = hopeless


@dataclass(slots=True)
class _Batch:
    """``room``: for requests in flight, or answered and not yet taken. ``out``: answers, errors, the task at last."""

    requests: Sequence[Request]
    room: asyncio.Semaphore
    out: queue.SimpleQueue[tuple[int, Completion] | SynthError | asyncio.Task[None]]
    failed: list[str] = field(default_factory=list)
    in_a_row: int = 0


class OpenAIEngine(Closing):
    """A client of an endpoint. Use it as a context manager, or call :meth:`close`: it has a thread of its own.

    At most ``concurrency`` requests are in flight, or answered and not yet taken by who iterates: what a killed process
    may have asked in vain. What is asked again, and when the server counts as gone, is written at ``OpenAIOptions``.
    """

    def __init__(self, model: str, options: OpenAIOptions) -> None:
        self._model = model
        self._options = options
        address = urlsplit(options.url)
        self._url = address._replace(netloc=address.netloc.rpartition("@")[2]).geturl()  # without a password
        self._client = openai.AsyncOpenAI(
            base_url=options.url,
            api_key=os.environ.get(options.api_key_env) or "none",
            max_retries=0,
            timeout=None,
        )
        self._jitter = random.Random()
        self._retries = 0
        self._waited = 0.0
        self._failures: Counter[str] = Counter()
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
        (``retries``), the seconds waited for that (over all requests), and failed tries by status."""
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
        }

    def answers(self, requests: Sequence[Request]) -> Generator[tuple[int, Completion], None, None]:
        """One completion per request with its place, each when it arrives. Closing it early cancels what is in flight.

        What the server will not take (400, 413, 422) is ``refused``.

        Raises:
            SynthError: the engine is closed; the server is gone, or does not know the key, the address or the model; or
                a request failed for good, which is told when all others have been answered.
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
        if batch.failed:
            some = f"{len(batch.failed)} of {len(batch.requests)} requests to {self._url} failed"
            batch.out.put(SynthError(f"{some} (last: {batch.failed[-1]}): run again when the server is well"))

    async def _ask_one(self, batch: _Batch, place: int) -> None:
        try:
            completion = await self._completion(batch.requests[place])
        except _FailedError as error:
            batch.failed.append(str(error))
            batch.in_a_row += 1
            if error.hopeless:
                batch.out.put(SynthError(f"{self._url} takes no requests for {self._model} ({error})"))
            elif batch.in_a_row >= self._options.give_up:
                gone = f"{self._url} is gone: requests failed, {batch.in_a_row} in a row (last: {error})"
                batch.out.put(SynthError(f"{gone}: start it and run again"))
            else:
                batch.room.release()
        else:
            batch.in_a_row = 0
            batch.out.put((place, completion))

    async def _completion(self, request: Request) -> Completion:
        """Asks, and asks again. Raises _FailedError."""
        backoff = self._options.backoff
        for left in range(self._options.retries, -1, -1):
            wanted = 0.0
            try:
                async with asyncio.timeout(self._options.timeout):
                    return _read(await self._client.chat.completions.create(**self._body(request)))
            except openai.APIStatusError as error:
                reason = f"{error.status_code} {_reason(error)}"
                if error.status_code in _REFUSED:
                    return Completion(reason, "refused", 0, 0)
                self._failures[str(error.status_code)] += 1
                if error.status_code not in _RETRIED and error.status_code < 500:
                    raise _FailedError(f"{reason}: {self._advice(error.status_code)}", hopeless=True) from error
                wanted = _retry_after(error.response.headers)
            except (TimeoutError, openai.APITimeoutError):
                reason = f"no answer within {self._options.timeout:g} seconds"
                self._failures["timeout"] += 1
            except openai.APIConnectionError as error:
                reason = f"no connection, {_one_line(str(error.__cause__ or '') or type(error.__cause__).__name__)}"
                self._failures["connection"] += 1
            except ValueError as error:
                reason = f"the server sends no chat completion, {_one_line(str(error))}"
                self._failures["no_completion"] += 1
            if not left:
                break
            if wanted > _LONGEST_WAIT:
                raise _FailedError(f"{reason}, to be asked again in {wanted:.0f} seconds")
            wait = max(min(backoff, _LONGEST_BACKOFF), wanted) * self._jitter.uniform(1.0, 1.25)
            backoff *= 2
            self._retries += 1
            self._waited += wait
            await asyncio.sleep(wait)
        raise _FailedError(reason)

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


def _read(answer: Any) -> Completion:
    """The first choice. The client checks no fields, so what is not a completion raises ValueError here."""
    if not isinstance(answer, ChatCompletion):
        raise ValueError(f"but {str(answer)[:40]!r}")
    choice = answer.choices[0] if answer.choices else None
    message = getattr(choice, "message", None)
    if choice is None or message is None:
        raise ValueError("but one without a choice")
    content = message.content or ""
    if not isinstance(content, str):
        raise ValueError("but one whose content is no text")
    usage = answer.usage
    details = getattr(usage, "prompt_tokens_details", None)
    return Completion(
        text=content,
        finish_reason=choice.finish_reason or "unknown",
        prompt_tokens=getattr(usage, "prompt_tokens", None) or 0,
        completion_tokens=getattr(usage, "completion_tokens", None) or 0,
        cached_tokens=getattr(details, "cached_tokens", None) or 0,
    )


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
    return _one_line(str(told or error.message))


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_REASON_CHARS]
