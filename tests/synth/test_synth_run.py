"""Many dialogues at once: batches, order, books, estimates, and what is refused before anything runs."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from scripted import ScriptedEngine

from converters import openai_messages
from pipeline.config import parse_config
from pipeline.conversation import group_of
from pipeline.errors import ConfigError, PipelineError
from synth.config import JudgeOptions, SynthConfig
from synth.errors import SynthError
from synth.estimate import dry_run
from synth.models import resolve_model
from synth.scenarios import RowRange, Scenario
from synth.stage import State, synthesize_stage

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


def answer(word: str) -> str:
    return json.dumps({"rows": [{"assistant": "-", "user": word}, {"assistant": "Yes", "user": "now"}]})


def test_requested_is_accepted_plus_rejected_and_every_index_comes_back_once(tmp_path: Path) -> None:
    texts = [answer("One"), "garbage", answer("Two"), answer("One"), "[]", "more garbage", answer("Three")]
    engine = ScriptedEngine(texts)
    seen: list[int] = []

    def progress(state: State) -> None:
        seen.append(state.usage.finished)

    config = SynthConfig(scenarios=[SCENARIO], samples=7, batch_size=3)
    result = synthesize_stage(config, tmp_path, engine=engine, progress=progress)
    records = pq.read_table(tmp_path / "records-00000.parquet")
    rejects = pq.read_table(tmp_path / "rejects-00000.parquet").to_pylist()
    assert [s[0]["index"] for s in records.column("sources").to_pylist()] == [0, 2, 6]
    assert [(r["index"], r["code"]) for r in rejects] == [
        (1, "not_json"), (3, "duplicate"), (4, "wrong_shape"), (5, "not_json"),
    ]  # fmt: skip
    assert rejects[0]["raw"] == b"garbage"
    books = result.manifest.counters
    assert books["reject_reasons"] == {"duplicate": 1, "not_json": 2, "wrong_shape": 1}
    assert (books["in"], books["out"], books["rejected"], books["acceptance"]) == (7, 3, 4, 0.4286)
    assert (books["prompt_tokens"], books["completion_tokens"], books["requests"]) == (70, 35, 7)
    assert result.manifest.notes["engine"]["engine"] == "scripted"
    assert engine.batches == [3, 3, 1]
    assert seen[-1] == 7
    assert seen == sorted(seen)


@pytest.mark.parametrize("license_", ["CC-BY-4.0", None])
def test_what_is_written_has_the_licence_that_the_configuration_names(tmp_path: Path, license_: str | None) -> None:
    config = SynthConfig(scenarios=[SCENARIO], samples=2, license=license_)
    synthesize_stage(config, tmp_path, engine=ScriptedEngine([answer("One"), answer("Two")]))
    sources = pq.read_table(tmp_path / "records-00000.parquet").column("sources").to_pylist()
    assert [source["license"] for record in sources for source in record] == [license_, license_]


def test_a_finished_run_is_not_asked_again(tmp_path: Path) -> None:
    config = SynthConfig(scenarios=[SCENARIO], samples=1)
    synthesize_stage(config, tmp_path, engine=ScriptedEngine([answer("One")]))
    again = synthesize_stage(config, tmp_path, engine=ScriptedEngine([]))
    assert again.skipped


def test_the_number_of_dialogues_at_once_does_not_change_the_records(tmp_path: Path) -> None:
    digests = set()
    for size in (1, 3, 50):
        config = SynthConfig(scenarios=[SCENARIO], samples=9, batch_size=size)
        engine = ScriptedEngine(lambda request: answer(f"Word {request.seed % 97}"))
        digests.add(synthesize_stage(config, tmp_path / str(size), engine=engine).manifest.digest())
    assert len(digests) == 1


def test_dry_run_counts_prompt_tokens_without_an_engine() -> None:
    config = SynthConfig(scenarios=[SCENARIO], samples=5, max_tokens=100)
    counts = dry_run(config, tokens_per_second=10)
    assert counts["requested"] == sum(counts["scenarios"].values()) == counts["requests"] == 5
    assert counts["max_completion_tokens"] == 500
    assert 5 * 100 < counts["prompt_tokens"] <= 5 * counts["longest_prompt_tokens"]
    assert counts["first_prompt"].startswith("<|im_start|>system\n")
    assert counts["first_prompt"].endswith("<|im_start|>assistant\n")
    assert counts["seconds"] == counts["completion_tokens"] // 10
    assert counts["judge_requests"] == counts["judge_prompt_tokens"] == counts["judge_completion_tokens"] == 0


def test_dry_run_counts_a_table_by_its_rows_and_by_who_speaks() -> None:
    def tokens(user: str, assistant: str, **more: object) -> int:
        scores = [{"user": user, "assistant": assistant}]
        scenario = SCENARIO.model_copy(update={"rows": RowRange(min=4, max=4), "scores": scores})
        return int(dry_run(SynthConfig(scenarios=[scenario], samples=10, **more))["completion_tokens"])

    few, many = tokens("xx--", "-x--"), tokens("xxxx", "-xxx")
    assert 10 * 4 * 10 < few < many < 10 * 4 * 50
    assert many - few == 10 * 4 * 10, "four cells more in each of ten tables"
    assert tokens("xxxx", "-xxx", max_tokens=16) == 160


def test_dry_run_counts_what_the_judge_reads_and_writes() -> None:
    config = SynthConfig(scenarios=[SCENARIO], samples=32, generator="concurrent", judge=JudgeOptions())
    counts = dry_run(config, tokens_per_second=10)
    assert counts["judge_requests"] == 32
    assert 32 * 500 < counts["judge_prompt_tokens"] < 32 * 3000
    assert counts["judge_completion_tokens"] > 32 * 50
    assert counts["seconds"] == round((counts["completion_tokens"] + counts["judge_completion_tokens"]) / 10)


def test_dry_run_finds_that_a_prompt_does_not_fit() -> None:
    config = SynthConfig(scenarios=[SCENARIO], samples=1, max_tokens=4000)
    with pytest.raises(SynthError, match="max_model_len 4096"):
        dry_run(config)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"scenarios": ["a"], "samples": 1, "temprature": 1}, "Extra inputs"),
        ({"scenarios": ["a"]}, "needs samples"),
        ({"samples": 1}, "needs scenarios"),
        ({"generator": "teacher", "samples": 1}, "needs conversations"),
        ({"scenarios": ["a"], "samples": 1, "engine": {"kind": "openai"}}, "url"),
        ({"scenarios": ["a"], "samples": 1, "engine": {"kind": "other"}}, "other"),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_refused(value: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        SynthConfig.model_validate(value)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            {"engine": {"kind": "openai", "url": "http://x/v1", "concurency": 3}},
            "'engine.concurency' (did you mean 'concurrency'?)",
        ),
        ({"engine": {"max_len": 3}}, "'engine.max_len' (did you mean 'max_model_len'?)"),
        ({"judge": {"min_flency": 3}}, "'judge.min_flency' (did you mean 'min_fluency'?)"),
        ({"engine": {"kind": "openai", "url": "ftp"}}, "engine.url: "),
        (
            {"engine": {"kind": "openai", "url": "http://a:99999/v1"}},
            "engine.url: Input should be a valid URL, invalid port",
        ),
        (
            {"scenarios": [SCENARIO.model_dump() | {"min_overlap": 3}]},
            "config.yaml: scenarios.0.inline: min_overlap 3 is",
        ),
        ({"scenarios": [SCENARIO.model_dump() | {"weigt": 3}]}, "'scenarios.0.weigt' (did you mean 'weight'?)"),
    ],
)
def test_what_is_wrong_in_a_section_is_named_in_one_line(more: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"scenarios": ["a"], "samples": 1, **more}, "config.yaml", SynthConfig)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_without_a_conversation_are_an_error_before_an_engine_is_asked(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text('{"note": 1}\n')
    config = SynthConfig(generator="teacher", conversations=[str(tmp_path / "empty.jsonl")])
    with pytest.raises((SynthError, PipelineError), match=r"empty\.jsonl"):
        synthesize_stage(config, tmp_path / "out", engine=ScriptedEngine([]))


def test_conversations_are_topics_and_share_the_group_of_what_they_are_about(tmp_path: Path) -> None:
    line = {
        "messages": [{"role": "user", "content": "Why is the sea salt?"}, {"role": "assistant", "content": "Rivers."}]
    }
    (tmp_path / "corpus.jsonl").write_text(json.dumps(line) + "\n")
    engine = ScriptedEngine([answer("One")])
    config = SynthConfig(scenarios=[SCENARIO], samples=1, conversations=[str(tmp_path / "corpus.jsonl")])
    synthesize_stage(config, tmp_path / "out", engine=engine)
    assert "Topic: Why is the sea salt?" in engine.requests[0].messages[-1].content
    (record,) = pq.read_table(tmp_path / "out" / "records-00000.parquet").to_pylist()
    conversation = next(openai_messages.convert(line))
    assert record["group"] == group_of(conversation)


@pytest.mark.parametrize("model", ["./nowhere", "/no/such/model", "a/b/c"])
def test_a_missing_model_directory_is_an_error_in_one_line(model: str) -> None:
    with pytest.raises(SynthError, match="does not exist"):
        resolve_model(model)


def test_a_directory_without_a_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SynthError, match=r"no config\.json"):
        resolve_model(str(tmp_path))
    assert resolve_model("org/model") == "org/model"
