from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from email.utils import formatdate
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from synth.config import OpenAIOptions
from synth.engines import Completion, Message, Request
from synth.engines.cache import AnswerCache, CachedEngine
from synth.engines.open import open_engine
from synth.engines.openai_engine import OpenAIEngine
from synth.errors import SynthError
from tests.synth.endpoint import Endpoint, by_hash

SCHEMA = {
    "type": "object",
    "properties": {
        "word": {"type": "string", "maxLength": 12},
        "count": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["word", "count"],
    "additionalProperties": False,
}


def asks(*seeds: int, text: str = "Which birds sing at night?", **more: Any) -> list[Request]:
    given = {"schema": None, "temperature": 0.8, "top_p": 0.95, "max_tokens": 32} | more
    return [Request(messages=(Message("user", text),), seed=seed, **given) for seed in seeds]


def expected(request: Request) -> str:
    messages = [{"role": m.role, "content": m.content} for m in request.messages]
    return by_hash({"messages": messages, "seed": request.seed})


def wait_until(there: Callable[[], bool]) -> None:
    until = time.monotonic() + 5
    while not there() and time.monotonic() < until:
        time.sleep(0.01)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as running:
        yield running


Engines = Callable[..., OpenAIEngine]


@pytest.fixture
def connect(endpoint: Endpoint) -> Iterator[Engines]:
    opened: list[OpenAIEngine] = []

    def make(**options: Any) -> OpenAIEngine:
        given = {"url": endpoint.url, "backoff": 0.01, "timeout": 5.0, "retries": 2} | options
        opened.append(OpenAIEngine("any", OpenAIOptions(kind="openai", **given)))
        return opened[-1]

    yield make
    for engine in opened:
        engine.close()


def test_every_request_is_answered_at_its_place_with_its_own_seed(endpoint: Endpoint, connect: Engines) -> None:
    requests = asks(*range(40))
    answers = dict(connect(concurrency=8).answers(requests))
    assert [answers[place].text for place in range(40)] == [expected(request) for request in requests]
    assert answers[3] == Completion(expected(requests[3]), "stop", 5, 2, cached_tokens=2)


def test_what_is_sent_is_what_the_request_says(endpoint: Endpoint, connect: Engines) -> None:
    messages = (Message("system", "Be brief."), Message("user", "Hello."))
    list(connect().answers([Request(messages, SCHEMA, 7, 0.3, 0.9, 11)]))
    list(connect(structured="structured_outputs").answers([Request(messages, SCHEMA, 7, 0.3, 0.9, 11)]))
    list(connect(structured="none").answers([Request(messages, SCHEMA, 7, 0.3, 0.9, 11)]))
    plain = {
        "model": "any",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello."}],
        "seed": 7,
        "temperature": 0.3,
        "top_p": 0.9,
        "max_tokens": 11,
    }
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
    assert endpoint.bodies == [
        plain | {"response_format": form},
        plain | {"structured_outputs": {"json": SCHEMA}},
        plain,
    ]


def test_an_answer_that_was_cut_off_says_so(connect: Engines) -> None:
    ((_, completion),) = connect().answers(asks(1, max_tokens=1))
    assert (completion.text, completion.finish_reason) == ("said", "length")


FAULTS: dict[str, dict[str, Any]] = {
    "408": {"status": 408},
    "409": {"status": 409},
    "429": {"status": 429},
    "500": {"status": 500},
    "503": {"status": 503, "body": "<html>down</html>", "headers": {"Content-Type": "text/html"}},
    "connection": {"cut": "before"},
    "connection ": {"cut": "amid"},
    "timeout": {"hang": True},
    "no_completion": {"status": 200, "body": "<html>hello</html>", "headers": {"Content-Type": "text/html"}},
    "no_completion ": {"status": 200, "body": "{not json"},
    "no_completion  ": {"status": 200, "body": '{"choices": []}'},
    "no_completion   ": {"status": 200, "body": '{"choices": [{"index": 0, "message": null}]}'},
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_failure_that_passes_is_asked_again(endpoint: Endpoint, connect: Engines, name: str) -> None:
    endpoint.fail(**FAULTS[name], times=2)
    engine = connect(timeout=0.3 if name == "timeout" else 5.0)
    requests = asks(1)
    assert [c.text for _, c in engine.answers(requests)] == [expected(requests[0])]
    told = engine.describe()
    assert (told["retries"], told["failures"]) == (2, {name.strip(): 2})
    assert told["seconds_waited"] >= 0.03
    assert endpoint.seen == 3


@pytest.mark.parametrize("name", FAULTS)
def test_a_failure_that_stays_stops_the_run_in_one_line(endpoint: Endpoint, connect: Engines, name: str) -> None:
    endpoint.fail(**FAULTS[name], times=None)
    with pytest.raises(
        SynthError, match=r"^http://127\S+ is gone: requests failed, 3 in a row \(last: .+run again$"
    ) as e:
        list(connect(timeout=0.2, retries=1, concurrency=2).answers(asks(*range(50))))
    assert "\n" not in str(e.value)
    assert endpoint.seen <= 2 * 4, "no more is asked once the server counts as gone"


def test_waits_grow_and_the_server_may_ask_for_longer_ones(endpoint: Endpoint, connect: Engines) -> None:
    endpoint.fail(status=503, times=3)
    list(connect(retries=3, backoff=0.1).answers(asks(1)))
    waits = [after - before for before, after in zip(endpoint.times, endpoint.times[1:], strict=False)]
    assert [0.1 * 2**n <= wait < 0.1 * 2**n * 1.25 + 0.15 for n, wait in enumerate(waits)] == [True] * 3
    endpoint.times.clear()
    endpoint.fail(status=429, headers={"Retry-After": "0.7"})
    list(connect().answers(asks(1)))
    assert 0.7 <= endpoint.times[1] - endpoint.times[0] < 1.2
    endpoint.times.clear()
    endpoint.fail(status=429, headers={"Retry-After": formatdate(time.time() + 2, usegmt=True)})
    list(connect().answers(asks(1)))
    assert 0.9 <= endpoint.times[1] - endpoint.times[0] < 3.0


def test_a_server_that_wants_to_be_left_alone_for_long_has_failed(endpoint: Endpoint, connect: Engines) -> None:
    endpoint.fail(status=429, headers={"Retry-After": "86400"})
    with pytest.raises(SynthError, match="asked again in 86400 seconds"):
        list(connect().answers(asks(1)))


@pytest.mark.parametrize("status", [400, 413, 422])
def test_one_request_that_is_refused_is_told_and_the_others_answered(
    endpoint: Endpoint, connect: Engines, status: int
) -> None:
    endpoint.fail(status=status, body='{"error": {"message": "too long\\nby 9 tokens"}}')
    engine = connect(concurrency=1)
    first, second = engine.answers(asks(1, 2))
    assert first == (0, Completion(f"{status} too long by 9 tokens", "refused", 0, 0))
    assert second[1].finish_reason == "stop"
    assert engine.describe()["retries"] == 0


@pytest.mark.parametrize(
    ("status", "advice"), [(401, "SOME_KEY"), (403, "SOME_KEY"), (404, "engine.url"), (405, "engine.url")]
)
def test_a_wrong_key_or_address_stops_at_once(endpoint: Endpoint, connect: Engines, status: int, advice: str) -> None:
    endpoint.fail(status=status, times=None)
    with pytest.raises(SynthError, match=rf"takes no requests for any \({status} told to fail: .*{advice}"):
        list(connect(api_key_env="SOME_KEY", concurrency=1).answers(asks(*range(9))))
    assert endpoint.seen == 1


def test_a_request_that_alone_fails_is_given_up_after_the_others_are_answered(
    endpoint: Endpoint, connect: Engines
) -> None:
    endpoint.fail(status=500, times=1)
    engine = connect(retries=0, concurrency=2)
    *answered, (place, given_up) = engine.answers(asks(*range(9)))
    assert len(answered) == 8
    assert place not in dict(answered)
    assert given_up == Completion("", "failed (500 told to fail)", 0, 0)
    assert engine.describe()["given_up"] == 1


def test_a_prompt_that_is_left_alone_and_always_breaks_the_server_is_given_up(
    endpoint: Endpoint, connect: Engines
) -> None:
    endpoint.fail(status=500, times=None)
    ((_, completion),) = connect(retries=0).answers(asks(1))
    assert completion.finish_reason == "failed (500 told to fail)"


def test_failures_between_answers_are_no_row(endpoint: Endpoint, connect: Engines) -> None:
    endpoint.fail(status=500, times=None, every=2)
    found = [completion for _, completion in connect(retries=0, concurrency=1, give_up=2).answers(asks(*range(10)))]
    assert [completion.finish_reason for completion in found] == ["stop"] * 5 + ["failed (500 told to fail)"] * 5


def test_failures_in_a_row_are_counted_over_batches(endpoint: Endpoint, connect: Engines) -> None:
    engine = connect(retries=0, give_up=3)
    list(engine.answers(asks(0)))
    endpoint.fail(cut="before", times=None)
    for seed in (1, 2):
        ((_, completion),) = engine.answers(asks(seed))
        assert completion.finish_reason.startswith("failed (no connection")
    with pytest.raises(SynthError, match="3 in a row"):
        list(engine.answers(asks(3)))


def test_a_server_that_was_never_there_stops_the_run(endpoint: Endpoint, connect: Engines) -> None:
    endpoint.fail(cut="before", times=None)
    with pytest.raises(SynthError, match=r"2 of 2 requests to http://\S+ failed \(last: no connection"):
        list(connect(retries=0).answers(asks(1, 2)))


def test_a_server_that_is_not_there_is_said_to_be_gone(connect: Engines) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://user:secret@127.0.0.1:{free.getsockname()[1]}/v1"
    engine = connect(url=url, give_up=1)
    with pytest.raises(SynthError, match=r"is gone: .+, 1 in a row .+no connection.*start it and run again") as told:
        list(engine.answers(asks(1)))
    assert "secret" not in str(told.value) + json.dumps(engine.describe())


def test_no_more_than_concurrency_are_asked_ahead_of_who_takes_the_answers(
    endpoint: Endpoint, connect: Engines
) -> None:
    endpoint.delay = 0.05
    taken = 0
    for _ in connect(concurrency=4).answers(asks(*range(24))):
        taken += 1
        time.sleep(0.03)
        assert endpoint.seen <= taken - 1 + 4
    assert (taken, endpoint.most) == (24, 4)


def test_closing_early_cancels_what_is_in_flight(endpoint: Endpoint, connect: Engines) -> None:
    endpoint.fail(hang=True, times=None, every=2)
    engine = connect(concurrency=4)
    answers = engine.answers(asks(*range(40)))
    next(answers)
    wait_until(lambda: endpoint.now == 2 and endpoint.seen == 4)
    answers.close()  # type: ignore[attr-defined]
    wait_until(lambda: endpoint.now == 0)
    assert (endpoint.dropped, endpoint.seen) == (2, 4)
    endpoint.faults.clear()
    assert len(list(engine.answers(asks(1, 2)))) == 2, "the engine goes on"


def test_a_closed_engine_says_so(connect: Engines) -> None:
    engine = connect()
    engine.close()
    engine.close()
    with pytest.raises(SynthError, match="closed"):
        list(engine.answers(asks(1)))


def test_the_key_goes_to_the_server_and_nowhere_else(
    endpoint: Endpoint, connect: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "sesame")
    engine = connect(api_key_env="SOME_KEY")
    list(engine.answers(asks(1)))
    assert endpoint.keys == ["Bearer sesame"]
    assert "sesame" not in json.dumps(engine.describe())


@pytest.mark.parametrize("key", ["sk-sesame\n", " sk-sesame "])
def test_white_space_around_a_key_is_none_of_it(
    endpoint: Endpoint, connect: Engines, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("SOME_KEY", key)
    list(connect(api_key_env="SOME_KEY").answers(asks(1)))
    assert endpoint.keys == ["Bearer sk-sesame"]


@pytest.mark.parametrize("key", ["sk-sesame\u2019", "sk-\x01sesame", "sk-se\nsame"])
def test_what_can_be_no_key_is_named_by_its_variable(
    connect: Engines, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("SOME_KEY", key)
    with pytest.raises(SynthError, match=r"the key in \$SOME_KEY") as told:
        connect(api_key_env="SOME_KEY")
    assert "same" not in str(told.value)


def test_what_is_secret_is_in_no_message(endpoint: Endpoint, connect: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-sesame")
    url = endpoint.url.replace("http://", "http://bob:open-it@") + "?api-key=query-secret"
    engine = connect(url=url, api_key_env="SOME_KEY", concurrency=1)
    echo = '{"error": {"message": "sk-sesame, open-it and query-secret are bad"}}'
    endpoint.fail(status=400, body=echo)
    endpoint.fail(status=401, body=echo)
    found: list[tuple[int, Completion]] = []
    with pytest.raises(SynthError) as told:
        found.extend(engine.answers(asks(1, 2)))
    shown = f"{told.value} {json.dumps(engine.describe())}"
    assert "401 ***, *** and *** are bad" in shown
    assert not [word for word in ("sesame", "open-it", "secret", "bob") if word in shown]
    endpoint.fail(status=400, body=echo)
    ((_, refused),) = engine.answers(asks(3))
    assert refused.text == "400 ***, *** and *** are bad"


def test_the_query_of_the_address_is_sent(connect: Engines) -> None:
    with Endpoint() as endpoint:
        engine = connect(url=f"{endpoint.url}?api-version=1")
        assert [completion.finish_reason for _, completion in engine.answers(asks(1))] == ["stop"]
        assert endpoint.paths == ["/v1/chat/completions?api-version=1"]


def body(message: object = None, finish: object = "stop", **more: object) -> str:
    choice = {"index": 0, "message": message, "finish_reason": finish}
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    whole = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return json.dumps(whole | more)


HI = {"role": "assistant", "content": "hi"}


@pytest.mark.parametrize(
    "sent",
    [
        "[]",
        "null",
        "3",
        '{"error": {"message": "overloaded"}}',
        "[" * 100_000,
        body(HI, choices={"a": 1}),
        body(HI, choices=None),
        body(HI, choices=[None]),
        body(HI, choices=[[1]]),
        body("hi"),
        body(HI | {"content": [{"type": "text", "text": "hi"}]}),
        body(HI | {"content": None, "refusal": ["no"]}),
        body(HI, finish=["stop"]),
        body(HI, finish=5),
    ],
)
def test_what_is_no_completion_is_asked_again(endpoint: Endpoint, connect: Engines, sent: str) -> None:
    endpoint.fail(status=200, body=sent)
    engine = connect()
    ((_, completion),) = engine.answers(asks(1))
    assert completion.finish_reason == "stop"
    assert engine.describe()["failures"] == {"no_completion": 1}


@pytest.mark.parametrize(
    ("sent", "completion"),
    [
        (body(HI | {"content": "a\ud800b"}), Completion("a\ufffdb", "stop", 3, 2)),
        (body(HI | {"content": None, "refusal": "I can\udc00not"}), Completion("I can\ufffdnot", "refused", 3, 2)),
        (body(HI | {"refusal": ""}, finish=None), Completion("hi", "unknown", 3, 2)),
        (body(HI, usage={"prompt_tokens": "3", "completion_tokens": 2.5}), Completion("hi", "stop", 0, 0)),
        (body(HI, usage={"prompt_tokens": 10**30, "completion_tokens": -2}), Completion("hi", "stop", 0, 0)),
        (
            body(HI, usage={"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": "x"}}),
            Completion("hi", "stop", 3, 0),
        ),
        (body(HI, usage=[1]), Completion("hi", "stop", 0, 0)),
    ],
)
def test_a_completion_is_read_without_trust(
    endpoint: Endpoint, connect: Engines, tmp_path: Path, sent: str, completion: Completion
) -> None:
    endpoint.fail(status=200, body=sent)
    engine = CachedEngine(connect(), AnswerCache(tmp_path / "answers"))
    assert list(engine.answers(asks(1))) == [(0, completion)]
    engine.close()


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http://127.0.0.1:99999/v1",
        "http://127.0.0.1:x/v1",
        "http://[::1/v1",
        "http://a b/v1",
        "http://a\n/v1",
        "ftp://a/v1",
    ],
)
def test_an_address_that_is_none_is_refused_before_anything_is_asked(url: str) -> None:
    with pytest.raises(ValidationError, match="url"):
        OpenAIOptions(kind="openai", url=url)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def vllm_serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    from synth.models import resolve_model

    said = tmp_path_factory.mktemp("serve") / "output.txt"
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", resolve_model("smollm2")]
    command += ["--served-model-name", "smollm2", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--enforce-eager", "--max-model-len", "2048", "--max-num-batched-tokens", "2048", "--max-num-seqs", "8"]
    command += ["--no-enable-chunked-prefill", "--generation-config", "vllm", "--enable-prompt-tokens-details"]
    command += ["--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}']
    environment = os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    with said.open("wb") as output:
        server = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        until = time.monotonic() + 420
        while not healthy(port):
            assert server.poll() is None, said.read_text()[-3000:]
            assert time.monotonic() < until, said.read_text()[-3000:]
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@pytest.mark.slow
def test_vllm_serve_answers_as_the_protocol_says(vllm_serve: str, tmp_path: Path) -> None:
    from synth.models import load_tokenizer, render

    options = OpenAIOptions(kind="openai", url=vllm_serve, concurrency=8)
    start = "You name birds in JSON, a word and a count. " * 20
    requests = asks(*range(6), text=start, schema=SCHEMA, max_tokens=40)
    long = asks(9, text="word " * 3000)
    with open_engine("smollm2", options, 8, 0, tmp_path / "answers.sqlite") as engine:
        answers = dict(engine.answers(requests + long))
    for place in range(6):
        assert answers[place].finish_reason == "stop"
        value = json.loads(answers[place].text)
        assert set(value) == {"word", "count"}
        assert answers[place].text == json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    assert len({answers[place].text for place in range(6)}) > 1, "seeds count"
    ids = render(load_tokenizer("smollm2"), requests[0].messages)
    assert {answers[place].prompt_tokens for place in range(6)} == {len(ids)}
    assert any(answers[place].cached_tokens for place in range(6)), "the prompts begin alike"
    assert answers[6].finish_reason == "refused"
    assert "2048" in answers[6].text

    asked = urllib.request.Request(
        vllm_serve.removesuffix("/v1") + "/tokenize",
        data=json.dumps({"model": "smollm2", "messages": [{"role": "user", "content": start}]}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(asked, timeout=30) as answer:
        assert json.load(answer)["tokens"] == ids

    with open_engine("smollm2", options, 8, 0, tmp_path / "answers.sqlite") as engine:
        again = dict(engine.answers(requests))
        assert engine.describe()["asked"] == 0
    assert again == {place: answers[place] for place in range(6)}

    with open_engine("other", options, 8, 0, None) as engine, pytest.raises(SynthError, match="404"):
        list(engine.answers(requests))
