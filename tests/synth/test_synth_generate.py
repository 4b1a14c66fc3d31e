from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from synth.config import SynthConfig
from synth.engines import Completion, Request
from synth.errors import SynthError
from synth.generate import dry_run, synthesize_tables
from synth.models import resolve_model
from synth.scenarios import Scenario

SCENARIO = Scenario.model_validate(
    {
        "name": "talk",
        "description": "d",
        "streams": [
            {"name": "user", "role": "user", "direction": "input", "says": "asks"},
            {"name": "assistant", "role": "assistant", "direction": "output", "says": "answers"},
        ],
        "rows": {"min": 2, "max": 2},
        "topics": ["one", "two"],
    }
)


class ScriptedEngine:
    """Answers sample after sample with the texts it was given."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)
        self.batches: list[int] = []

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        self.batches.append(len(requests))
        return [Completion(self.texts.pop(0), "stop", prompt_tokens=10, completion_tokens=5) for _ in requests]

    def describe(self) -> dict[str, Any]:
        return {"engine": "scripted", "version": "1"}


def answer(word: str) -> str:
    return json.dumps({"rows": [{"assistant": "-", "user": word}, {"assistant": "Yes", "user": "now"}]})


def test_requested_is_accepted_plus_rejected_and_every_index_comes_back_once() -> None:
    texts = [answer("One"), "garbage", answer("Two"), answer("One"), "[]", "more garbage", answer("Three")]
    engine = ScriptedEngine(texts)
    done: list[tuple[int, int]] = []
    config = SynthConfig(scenarios=[SCENARIO], samples=7, batch_size=3)
    tables, rejects, counters = synthesize_tables(config, engine, lambda now, total: done.append((now, total)))
    assert [table.index for table in tables] == [0, 2, 6]
    assert [(reject.index, reject.code, reject.raw) for reject in rejects if reject.code != "duplicate"] == [
        (1, "not_json", "garbage"),
        (4, "wrong_shape", "[]"),
        (5, "not_json", "more garbage"),
    ]
    assert [reject.index for reject in rejects if reject.code == "duplicate"] == [3]
    books = counters.as_dict()
    assert books["rejected"] == {"duplicate": 1, "not_json": 2, "wrong_shape": 1}
    assert (books["requested"], books["accepted"], books["acceptance"]) == (7, 3, 0.4286)
    assert books["scenarios"] == {"talk": {"requested": 7, "accepted": 3}}
    assert (books["prompt_tokens"], books["completion_tokens"], books["prompts"]) == (70, 35, 2)
    assert books["engine"] == {"engine": "scripted", "version": "1"}
    assert engine.batches == [3, 3, 1]
    assert done == [(3, 7), (6, 7), (7, 7)]


def test_dry_run_counts_prompt_tokens_without_an_engine() -> None:
    config = SynthConfig(scenarios=[SCENARIO], samples=5, max_tokens=100)
    counts = dry_run(config)
    assert counts["requested"] == sum(counts["scenarios"].values()) == 5
    assert counts["max_completion_tokens"] == 500
    assert 5 * 100 < counts["prompt_tokens"] <= 5 * counts["longest_prompt_tokens"]
    assert counts["first_prompt"].startswith("<|im_start|>system\n")
    assert counts["first_prompt"].endswith("<|im_start|>assistant\n")


def test_dry_run_finds_that_a_prompt_does_not_fit() -> None:
    config = SynthConfig(scenarios=[SCENARIO], samples=1, max_tokens=4000)
    with pytest.raises(SynthError, match="max_model_len 4096"):
        dry_run(config)


def test_configuration_refuses_unknown_keys() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        SynthConfig.model_validate({"scenarios": ["a"], "samples": 1, "temprature": 1})


@pytest.mark.parametrize("model", ["./nowhere", "/no/such/model", "a/b/c"])
def test_a_missing_model_directory_is_an_error_in_one_line(model: str) -> None:
    with pytest.raises(SynthError, match="does not exist"):
        resolve_model(model)


def test_a_directory_without_a_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SynthError, match=r"no config\.json"):
        resolve_model(str(tmp_path))
    assert resolve_model("org/model") == "org/model"
