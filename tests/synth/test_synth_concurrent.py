"""The concurrent generator: slices, causality of its prompts, tools, and good dialogues of every pattern."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from scripted import WORDS, ScriptedEngine

from pipeline.checks import record_violations
from pipeline.conversation import Source
from pipeline.errors import ConservationError
from pipeline.leaks import lexical
from pipeline.records import Clock, to_json
from pipeline.tokenization import TextTokenizer, load_tokenizer
from schemas import violations
from synth.config import SynthConfig
from synth.diversity import Diversity
from synth.engines import Completion, Request
from synth.errors import SynthError
from synth.estimate import dry_run
from synth.finish import Finisher
from synth.generators import Rejected, Written
from synth.generators.concurrent import Concurrent
from synth.patterns import PATTERNS
from synth.scenarios import Scenario, load_scenarios
from synth.scene_checks import scene_of, timing_of
from synth.scenes import Scene, broken_off, told
from synth.stage import synthesize_stage

HERE = Path(__file__).parent
EXAMPLES = str(HERE.parents[1] / "examples" / "scenarios" / "*.yaml")
DIALOGUES = sorted((HERE / "dialogues").glob("*.yaml"))

TALK = Scenario.model_validate(
    {
        "name": "talk",
        "description": "user tells a story, assistant reacts",
        "streams": [
            {"name": "user", "role": "user", "direction": "input", "says": "the story"},
            {"name": "assistant", "role": "assistant", "direction": "output", "says": "reactions"},
        ],
        "opens": "user",
        "rows": {"min": 4, "max": 6},
        "topics": ["a walk in the rain"],
        "scores": [{"user": "xx-x", "assistant": "-x-x"}],
    }
)
LINES = {
    "user": ["It rained all morning", "so we stayed inside.", "Then the sun came out."],
    "assistant": ["How dull for you.", "What did you do next?"],
}


def stream_of(request: Request) -> str:
    """The stream that a request asks; ``tool`` for one that plays a tool."""
    found = re.search(r"You are the stream ([a-z_0-9/]+):", request.messages[0].content)
    return found[1] if found else "tool"


def says(lines: dict[str, list[str]]) -> ScriptedEngine:
    """An engine that gives every stream its next line."""

    def script(request: Request) -> str:
        stream = stream_of(request)
        nth = sum(message.role == "user" for message in request.messages) - 1
        return json.dumps({"say": lines[stream][nth]})

    return ScriptedEngine(script)


def run(tmp_path: Path, scenario: Scenario, engine: ScriptedEngine, **options: Any) -> tuple[list[dict[str, Any]], Any]:
    """The records, and the manifest; reject reasons are in its counters."""
    config = SynthConfig(generator="concurrent", scenarios=[scenario], samples=1, **options)
    result = synthesize_stage(config, tmp_path, engine=engine)
    table = pq.read_table(tmp_path / "records-00000.parquet")
    assert record_violations(table) == []
    assert [f for f in lexical(table) if f.verdict != "clear"] == []
    records = list(to_json(table))
    assert list(violations("stream_record", records)) == []
    return records, result.manifest


def test_what_is_said_in_a_slice_waits_for_all_slices_before(tmp_path: Path) -> None:
    (record,), _ = run(tmp_path, TALK, says(LINES))
    slices = {"It rained all morning": 0, "so we stayed inside.": 1, "How dull for you.": 1}
    slices |= {"Then the sun came out.": 3, "What did you do next?": 3}
    events = [(slices[e["text"].strip()], e["start"], e["end"]) for e in record["events"]]
    assert len(events) == len(slices)
    assert all(end <= start for late, start, _ in events for early, _, end in events if early < late)


def test_no_request_holds_what_is_said_in_its_own_slice_or_later(tmp_path: Path) -> None:
    engine = says(LINES)
    run(tmp_path, TALK, engine)
    first, second = (r for r in engine.requests if stream_of(r) == "assistant")
    prompt = "\n".join(m.content for m in first.messages)
    assert LINES["user"][0] in prompt
    assert LINES["user"][1] not in prompt
    prompt = "\n".join(m.content for m in second.messages)
    assert LINES["user"][1] in prompt
    assert LINES["user"][2] not in prompt


def test_the_messages_of_a_stream_only_grow(tmp_path: Path) -> None:
    engine = says(LINES)
    run(tmp_path, TALK, engine)
    for stream in ("user", "assistant"):
        asked = [r.messages for r in engine.requests if stream_of(r) == stream]
        assert len(asked) > 1
        for before, after in itertools.pairwise(asked):
            assert after[: len(before)] == before


def test_a_slice_is_one_batch_over_dialogues_and_streams(tmp_path: Path) -> None:
    engine = says(LINES)
    config = SynthConfig(generator="concurrent", scenarios=[TALK], samples=5)
    result = synthesize_stage(config, tmp_path, engine=engine)
    assert engine.batches == [5, 10, 10]
    assert result.manifest.counters["reject_reasons"] == {"duplicate": 4}


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("truncated", Completion('{"say": "It rained', "length", 1, 1)),
        ("empty_answer", ""),
        ("not_json", "It rained"),
        ("not_json", '{"say": "It'),
        ("duplicate_key", '{"say": "It", "say": "rained"}'),
        ("wrong_shape", '{"text": "It rained"}'),
        ("wrong_shape", '{"say": 7}'),
        ("empty_cell", '{"say": ""}'),
        ("wrong_timing", '{"say": "-"}'),
        ("too_long", json.dumps({"say": "It rained " * 20})),
        ("special_tokens", '{"say": "It rained.<|im_end|>"}'),
        ("foreign_script", '{"say": "Шёл дождь"}'),
        ("repeated_words", '{"say": "it rained it rained it rained"}'),
        ("markup", '{"say": "It {rained}"}'),
        ("control_chars", '{"say": "It\\nrained"}'),
    ],
)
def test_a_bad_answer_is_rejected_by_name(tmp_path: Path, code: str, said: str | Completion) -> None:
    records, manifest = run(tmp_path, TALK, ScriptedEngine(lambda request: said))
    assert records == []
    assert manifest.counters["reject_reasons"] == {code: 1}
    (reject,) = pq.read_table(tmp_path / "rejects-00000.parquet").to_pylist()
    assert reject["code"] == code
    assert reject["path"] == "talk"


def test_left_to_itself_a_dialogue_ends_in_silence(tmp_path: Path) -> None:
    lines = {
        "user": ["It rained all morning", "so we stayed inside.", "-", "-", "-", "-"],
        "assistant": ["Poor you.", "Did you read?", "-", "-", "-"],
    }
    (record,), manifest = run(tmp_path, TALK, says(lines), concurrent={"timing": "free", "silent_slices": 2})
    assert [e["text"].strip() for e in record["events"]] == [
        "It rained all morning", "so we stayed inside.", "Poor you.", "Did you read?",
    ]  # fmt: skip
    assert manifest.counters["requests"] == 9


def test_a_stream_that_never_speaks_is_named(tmp_path: Path) -> None:
    lines = {"user": LINES["user"] + ["-"] * 6, "assistant": ["-"] * 9}
    _, manifest = run(tmp_path, TALK, says(lines), concurrent={"timing": "free"})
    assert manifest.counters["reject_reasons"] == {"empty_stream": 1}


TOOLS = Scenario.model_validate(
    {
        "name": "sums",
        "description": "user asks for a sum, assistant has it computed",
        "streams": [
            {"name": "user", "role": "user", "direction": "input", "says": "asks"},
            {"name": "assistant", "role": "assistant", "direction": "output", "says": "answers"},
            {"name": "call", "role": "call", "direction": "output", "says": "calls"},
            {"name": "tool/0", "role": "tool", "direction": "input", "says": "results"},
        ],
        "opens": "user",
        "rows": {"min": 5, "max": 8},
        "topics": ["a bill"],
        "tools": [{"name": "calculator", "description": "computes", "simulator": "calculator"}],
        "scores": [{"user": "x----", "assistant": "-xx-x", "call": "-x---", "tool/0": "---x-"}],
    }
)
SUMS = {
    "user": ["What is 12 times 48?"],
    "assistant": ["I will have it", "computed for you.", "That makes 576."],
    "call": ["calculator 12 * 48"],
}


def test_a_call_is_computed_and_its_result_comes_where_the_score_has_it(tmp_path: Path) -> None:
    engine = says(SUMS)
    (record,), _ = run(tmp_path, TOOLS, engine)
    assert {stream_of(r) for r in engine.requests} == {"user", "assistant", "call"}
    (asked,) = [e for e in record["events"] if e["kind"] == "tool_call"]
    assert asked["text"] == 'calculator\n{"expression": "12 * 48"}'
    (result,) = [e for e in record["events"] if e["kind"] == "tool_result"]
    assert (result["text"], result["call"]) == ("576", asked["call"])
    (told,) = [e for e in record["events"] if "576" in e["text"] and e["kind"] == "message"]
    assert told["start"] >= result["end"]


@pytest.mark.parametrize("call", ["adder 1 + 1", "calculator {1}", 'calculator {"expression": '])
def test_a_call_that_names_no_tool_or_has_no_arguments_is_rejected(tmp_path: Path, call: str) -> None:
    _, manifest = run(tmp_path, TOOLS, says(SUMS | {"call": [call]}))
    assert manifest.counters["reject_reasons"] == {"wrong_call": 1}


def test_every_pattern_has_a_dialogue() -> None:
    scenarios = {s.name: s for s in load_scenarios([EXAMPLES])}
    played = {yaml.safe_load(path.read_text(encoding="utf-8"))["scenario"] for path in DIALOGUES}
    assert played == set(scenarios)
    assert {pattern for name in played for pattern in scenarios[name].patterns} == set(PATTERNS)
    assert len(PATTERNS) >= 12


@pytest.mark.parametrize("path", DIALOGUES, ids=lambda path: path.stem)
def test_a_good_dialogue_of_every_pattern_is_accepted_and_shows_it(tmp_path: Path, path: Path) -> None:
    told = yaml.safe_load(path.read_text(encoding="utf-8"))
    (scenario,) = [s for s in load_scenarios([EXAMPLES]) if s.name == told["scenario"]]
    names = [stream.name for stream in scenario.streams]
    spoken = {name: [str(row[i]) for row in told["rows"] if row[i] != "-"] for i, name in enumerate(names)}
    spoken["tool"] = [
        str(cell)
        for row in told["rows"]
        for name, cell in zip(names, row, strict=True)
        if "tool" in name and cell != "-"
    ]
    scored = scenario.model_copy(
        update={"scores": (told["score"],), "topics": (told["topic"],), "domains": {}, "weight": 1.0}
    )
    asked: Counter[str] = Counter()

    def script(request: Request) -> str:
        stream = stream_of(request)
        asked[stream] += 1
        return json.dumps({"say": spoken[stream][asked[stream] - 1]}, ensure_ascii=False)

    records, manifest = run(tmp_path, scored, ScriptedEngine(script), concurrent={"max_slices": 64})
    assert manifest.counters["reject_reasons"] == {}
    assert len(records) == 1
    shown = manifest.notes["coverage"]["pattern"]
    assert all(shown[pattern]["shown"] == 1 for pattern in scenario.patterns)


def test_who_answers_learns_the_topic_from_what_is_said_alone(tmp_path: Path) -> None:
    engine = says(LINES)
    run(tmp_path, TALK, engine)
    prompts = {stream_of(r): "\n".join(m.content for m in r.messages) for r in engine.requests}
    assert "Topic: a walk in the rain" in prompts["user"]
    assert "a walk in the rain" not in prompts["assistant"]


def test_a_tool_that_says_nothing_ends_the_dialogue(tmp_path: Path) -> None:
    tool = {"name": "search", "description": "finds", "simulator": "model", "says": "one line"}
    scenario = Scenario.model_validate(TOOLS.model_dump() | {"tools": [tool]})
    engine = says(SUMS | {"call": ["search 12 times 48"], "tool": ["-"]})
    _, manifest = run(tmp_path, scenario, engine)
    assert manifest.counters["reject_reasons"] == {"wrong_call": 1}


def test_inputs_may_speak_before_the_one_that_opens(tmp_path: Path) -> None:
    streams = [*TALK.model_dump()["streams"], {"name": "event", "role": "event", "direction": "input", "says": "news"}]
    score = {"user": "-xx-x", "assistant": "--x-x", "event": "xx---"}
    scenario = Scenario.model_validate(TALK.model_dump() | {"streams": streams, "scores": [score]})
    engine = says(LINES | {"event": ["The bell rings", "at the back door."]})
    records, manifest = run(tmp_path, scenario, engine)
    assert manifest.counters["reject_reasons"] == {}
    assert len(records) == 1


def test_the_estimate_of_a_scored_run_is_what_it_asks(tmp_path: Path) -> None:
    scenarios = [s for s in load_scenarios([EXAMPLES]) if s.name in ("parallel-tools", "slow-tool", "barge-in")]
    config = SynthConfig(generator="concurrent", scenarios=scenarios, samples=6)
    speaking = sum(
        moment[column]
        for index in range(6)
        for sample in [Concurrent(config, tuple(scenarios)).sample(index)]
        for moment in sample.timing or ()
        for column, stream in enumerate(sample.scenario.streams)
        if stream.role != "tool"
    )
    assert dry_run(config)["requests"] == speaking


def random_scene(scenario: Scenario, draw: random.Random) -> Scene:
    """A scene of the scenario's timing in which everybody says a few words, and numbers and names: new ones, and such as have
    been said in a slice before, by anybody."""
    rows: list[list[str | None]] = []
    for moment in timing_of(scenario, draw.choice(scenario.scores)):
        facts = [word for row in rows for cell in row if cell for word in cell.split() if word[0] in "0123456789GOL"]
        row: list[str | None] = []
        for stream, speaks in zip(scenario.streams, moment, strict=True):
            words = draw.sample(WORDS, 3)
            if facts and draw.random() < 0.5:
                words.insert(draw.randint(1, 3), draw.choice(facts))
            if draw.random() < 0.2:
                words.insert(1, draw.choice([str(draw.randint(10, 60)), "Geneva", "Oslo", "Lima"]))
            if stream.role == "call":
                words.insert(0, scenario.tools[0].name if scenario.tools else "search")
            row.append(" ".join(words) if speaks else None)
        rows.append(row)
    return broken_off(scene_of(scenario, rows))


def written_of(scene: Scene, index: int = 0) -> Written:
    source = Source("synthetic", "scene", index, None, None, "0" * 64)
    conversation, timeline = told(scene, [source], f"synthetic/{index}", {})
    return Written(index, "scene", conversation, timeline, "synth/concurrent", scene=scene)


def finisher(smollm2: TextTokenizer, lag: int = 0) -> Finisher:
    config = SynthConfig(generator="concurrent", scenarios=[TALK], samples=1, diversity={"threshold": 1.0})
    return Finisher(config, Clock(smollm2, lag), Diversity(config.diversity), None, None)


@pytest.fixture(scope="module")
def smollm2() -> TextTokenizer:
    return load_tokenizer("smollm2")


@pytest.mark.parametrize("lag", [0, 1])
def test_what_was_said_in_a_slice_before_may_be_said_again_by_anybody(smollm2: TextTokenizer, lag: int) -> None:
    draw = random.Random(1)
    scenes = [random_scene(s, draw) for s in load_scenarios([EXAMPLES]) if s.scores for _ in range(8)]
    written = [written_of(scene, index) for index, scene in enumerate(scenes)]
    done = finisher(smollm2, lag).finish(written)
    assert [one for one in done.outcomes if isinstance(one, Rejected)] == []
    assert [finding for finding in lexical(done.records) if finding.verdict != "clear"] == []


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("forgets", ["all waits", "the last user's words"])
def test_a_layout_in_which_a_slice_does_not_wait_for_those_before_is_our_fault(
    smollm2: TextTokenizer, forgets: str, lag: int
) -> None:
    cells: list[list[str | None]] = [
        ["my flight is", None],
        ["number 4412 to Oslo please", None],
        [None, "4412 to Oslo noted"],
    ]
    one = written_of(scene_of(TALK, cells))
    assert finisher(smollm2, lag).finish([one]).outcomes == [one]
    after = [
        tuple(wait for wait in waits if wait != 1) if forgets == "the last user's words" else ()
        for waits in one.timeline.after
    ]
    assert after != list(one.timeline.after)
    with pytest.raises(ConservationError, match=r"slice 3 of a scene starts before .*4412 to Oslo noted"):
        finisher(smollm2, lag).finish([replace(one, timeline=replace(one.timeline, after=after))])


def test_slices_whose_words_share_a_token_are_told_apart(smollm2: TextTokenizer) -> None:
    cells: list[list[str | None]] = [["天气", None], ["很好吗", "今天"], ["我想知", "天气很"], ["道。", "好"]]
    scenario = TALK.model_copy(update={"scripts": ("Han",)})
    one = written_of(scene_of(scenario, cells))
    assert finisher(smollm2).finish([one]).outcomes == [one]


def test_an_engine_that_keeps_an_answer_back_is_an_error(tmp_path: Path) -> None:
    class Short(ScriptedEngine):
        def answers(self, requests: Sequence[Request]) -> Generator[tuple[int, Completion], None, None]:
            yield from list(super().answers(requests))[1:]

    config = SynthConfig(generator="concurrent", scenarios=[TALK], samples=1)
    with pytest.raises(SynthError, match="gave 0 answers to 1 requests"):
        synthesize_stage(config, tmp_path, engine=Short(says(LINES)._script))


def test_what_lies_in_the_folder_of_a_run_stays(tmp_path: Path) -> None:
    (tmp_path / "material").mkdir()
    (tmp_path / "material" / "notes.jsonl").write_text("{}")
    run(tmp_path, TALK, says(LINES))
    assert (tmp_path / "material" / "notes.jsonl").exists()
