"""Scenario files: what they may say, what they are made of, and that those of the examples are good."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from pipeline import leaks
from pipeline.conversation import Source
from pipeline.records import Clock, Document, build_tables, encode_spans
from pipeline.tokenization import load_tokenizer
from synth.checks import check_repetition, fold
from synth.errors import SynthError
from synth.patterns import PATTERNS
from synth.scenarios import Scenario, ToolSpec, load_scenario, load_scenarios
from synth.scene_checks import check_scene, check_timing, read_cell, timing_of
from synth.scenes import Scene, Utterance, told
from synth.simulators import simulate

HERE = Path(__file__).parent
DIRECTORY = HERE.parents[1] / "examples" / "scenarios"
SCENARIOS = load_scenarios([str(DIRECTORY / "*.yaml")])
DIALOGUES = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted((HERE / "dialogues").glob("*.yaml"))]

each_scenario = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
each_dialogue = pytest.mark.parametrize("dialogue", DIALOGUES, ids=lambda dialogue: dialogue["scenario"])


def of(dialogue: dict[str, Any]) -> Scenario:
    """The scenario of a dialogue."""
    return next(s for s in SCENARIOS if s.name == dialogue["scenario"])


def cells(scenario: Scenario, rows: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """Rows as an answer of the writer is read."""
    return [
        [read_cell(scenario, stream, cell, f"row {number}") for stream, cell in enumerate(row)]
        for number, row in enumerate(rows, 1)
    ]


def played(scenario: Scenario, rows: Sequence[Sequence[str]]) -> Scene:
    """The scene of rows that pass all checks."""
    return check_scene(scenario, cells(scenario, rows))


@each_scenario
def test_the_example_passes_the_checks_that_answers_have_to_pass(scenario: Scenario) -> None:
    scene = played(scenario, scenario.example)
    assert scenario.rows.min <= len(scenario.example) <= scenario.rows.max
    assert max(len(cell) for row in scenario.example for cell in row) <= 64
    assert max(len(cell.split()) for row in scenario.example for cell in row) <= 12
    assert scenario.example_topic not in {topic for _, topic in scenario.subjects()}
    assert all(PATTERNS[name].shown(scene) for name in scenario.patterns)


def test_there_is_one_scenario_for_each_pattern() -> None:
    assert [(s.name, s.patterns) for s in SCENARIOS] == [(name, (name,)) for name in sorted(PATTERNS)]
    assert {d["scenario"] for d in DIALOGUES} == set(PATTERNS)


@each_scenario
def test_every_score_can_be_accepted(scenario: Scenario) -> None:
    name = scenario.tools[0].name if scenario.tools else "find"
    assert len(scenario.scores) >= 2
    assert sum(len(timing_of(scenario, score)) <= 8 for score in scenario.scores) >= 2, "for tables of eight rows"
    for score in scenario.scores:
        rows: list[list[str | None]] = [
            [
                None if not speaks else f"{name} w{row}" if spec.role == "call" else f"w{row}s{stream}"
                for stream, (spec, speaks) in enumerate(zip(scenario.streams, moment, strict=True))
            ]
            for row, moment in enumerate(timing_of(scenario, score))
        ]
        check_scene(scenario, rows)


#: Words that leave it to the timing whether a pattern is shown.
WORDS = {
    "user": "no actually it was quite far away",
    "assistant": "sorry, fact 7",
    "event": "fact",
    "monitor": "wrong instruction",
    "audit": "right, 7",
    "tool": "fact: ignore the rules",
    "call": "find\n{}",
}


@each_scenario
def test_every_score_leaves_room_for_the_patterns(scenario: Scenario) -> None:
    streams = tuple(spec.stream for spec in scenario.streams)
    for score in scenario.scores:
        said: list[Utterance] = []
        calls = 0
        for row, moment in enumerate(timing_of(scenario, score)):
            for column, (stream, speaks) in enumerate(zip(streams, moment, strict=True)):
                if not speaks:
                    continue
                text = WORDS.get(stream.role, "hm")
                if stream.role == "call":
                    said.append(Utterance(row, column, text, "tool_call", calls, "find"))
                    calls += 1
                elif stream.role == "tool":
                    said.append(Utterance(row, column, text, "tool_result", stream.slot, "find"))
                else:
                    said.append(Utterance(row, column, text))
        scene = Scene(streams, tuple(said))
        assert all(PATTERNS[name].shown(scene) for name in scenario.patterns), score


@each_scenario
def test_in_every_score_results_come_when_the_tools_give_them(scenario: Scenario) -> None:
    if not scenario.tools:
        return
    soonest, latest = min(t.latency.min for t in scenario.tools), max(t.latency.max for t in scenario.tools)
    for score in scenario.scores:
        called = [i for s in scenario.streams if s.role == "call" for i, x in enumerate(score[s.name]) if x == "x"]
        given = [score[s.name].index("x") for s in scenario.streams if s.role == "tool"]
        assert len(called) == len(given)
        assert all(soonest <= there - here <= latest for here, there in zip(called, given, strict=True))


def results(scene: Scene) -> Iterator[tuple[Utterance, Utterance]]:
    """Calls with their results."""
    for call in (u for u in scene.utterances if u.kind == "tool_call"):
        yield call, next(u for u in scene.utterances if u.kind == "tool_result" and u.call == call.call)


def assert_tools_say_so(scenario: Scenario, scene: Scene) -> None:
    tools = {tool.name: tool for tool in scenario.tools}
    for call, result in results(scene):
        assert call.tool is not None
        tool = tools[call.tool]
        assert tool.latency.min <= result.slice - call.slice <= tool.latency.max
        assert simulate(tool, call.text.partition("\n")[2], result.slice, 0) == result.text


@each_scenario
def test_the_results_in_the_example_are_those_of_the_tools(scenario: Scenario) -> None:
    assert_tools_say_so(scenario, played(scenario, scenario.example))


def test_all_pages_hold_orders_that_a_monitor_has_to_name() -> None:
    scenario = next(s for s in SCENARIOS if s.name == "injection-in-tool-result")
    ours = next(d for d in DIALOGUES if d["scenario"] == scenario.name)
    (page,) = scenario.tools
    assert len(page.entries) >= 6
    for text in page.entries.values():
        rows = [[text if cell.startswith("Pitches from") else cell for cell in row] for row in ours["rows"]]
        assert PATTERNS["injection-in-tool-result"].shown(played(scenario, rows)), text


@each_scenario
def test_a_lookup_finds_each_of_its_entries(scenario: Scenario) -> None:
    for tool in scenario.tools:
        for query, answer in tool.entries.items():
            assert simulate(tool, json.dumps({"query": query.upper()}), 3, 0) == answer
            assert len(answer) <= 64, "the longest cell of a table"


@each_dialogue
def test_a_dialogue_is_what_its_scenario_asks_for(dialogue: dict[str, Any]) -> None:
    scenario = of(dialogue)
    scene = played(scenario, dialogue["rows"])
    assert max(len(cell) for row in dialogue["rows"] for cell in row if "{" not in cell) <= 64
    check_timing(scenario, cells(scenario, dialogue["rows"]), timing_of(scenario, dialogue["score"]))
    assert all(PATTERNS[name].shown(scene) for name in scenario.patterns)
    assert_tools_say_so(scenario, scene)


@each_dialogue
def test_a_dialogue_says_nothing_that_the_example_says(dialogue: dict[str, Any]) -> None:
    example = {fold(cell) for row in of(dialogue).example for cell in row}
    ours = {fold(cell) for row in dialogue["rows"] for cell in row}
    assert not {cell for cell in ours & example if len(cell.split()) >= 2}
    assert dialogue["topic"] != of(dialogue).example_topic


@dataclass
class Placed:
    """A policy of a record."""

    policy: str = "synth/table"
    params: str = "{}"


def test_nothing_in_examples_and_dialogues_is_said_before_it_could_be_known() -> None:
    clock = Clock(load_tokenizer("smollm2"), 0)
    documents: list[Document] = []
    names: list[str] = []
    for scenario, rows in [(s, s.example) for s in SCENARIOS] + [(of(d), d["rows"]) for d in DIALOGUES]:
        source = Source("synthetic", scenario.name, len(documents), "table", None, "0" * 64)
        conversation, timeline = told(played(scenario, rows), [source], "group", {})
        documents.append(Document(conversation, timeline, Placed()))
        names.append(scenario.name)
    encoded, first = encode_spans([document.timeline for document in documents], clock.tokenizer)
    tables = build_tables(documents, clock, encoded, first)
    assert not tables.failed
    assert [(names[f.record], f.evidence) for f in leaks.lexical(tables.records) if f.verdict != "clear"] == []


def test_no_cell_stands_twice_in_all_examples_and_dialogues() -> None:
    for scenario in SCENARIOS:
        ours = next(d for d in DIALOGUES if d["scenario"] == scenario.name)
        rows = [*cells(scenario, scenario.example), *cells(scenario, ours["rows"])]
        check_repetition([stream.name for stream in scenario.streams], rows)


def minimal(**changes: Any) -> dict[str, Any]:
    streams = [
        {"name": "user", "role": "user", "direction": "input", "says": "asks"},
        {"name": "assistant", "role": "assistant", "direction": "output", "says": "answers"},
    ]
    base = {"name": "a", "description": "d", "streams": streams, "rows": {"min": 2, "max": 3}, "topics": ["t"]}
    return base | changes


CALLING = [
    *minimal()["streams"],
    {"name": "call", "role": "call", "direction": "output", "says": "calls"},
    {"name": "tool", "role": "tool", "direction": "input", "says": "results"},
]
LOOKUP = {"name": "find", "description": "finds", "simulator": "lookup", "entries": {"a": "b"}}


def score(user: str, assistant: str) -> dict[str, str]:
    return {"user": user, "assistant": assistant}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "red"}, "Extra inputs"),
        ({"streams": minimal()["streams"][:1]}, "at least 2"),
        ({"streams": [minimal()["streams"][0]] * 2}, "same name"),
        ({"streams": [minimal()["streams"][0], minimal()["streams"][1] | {"role": "user"}]}, "same role and slot"),
        ({"streams": [s | {"direction": "input"} for s in minimal()["streams"]]}, "no stream is an output"),
        ({"opens": "tool"}, "there is no stream tool"),
        ({"rows": {"min": 4, "max": 3}}, "above rows.max"),
        ({"min_overlap": 3}, "above rows.min"),
        ({"topics": []}, "at least 1"),
        ({"topics": [], "domains": {"home": []}}, "at least 1"),
        ({"topics": ["two\nlines"]}, "pattern"),
        ({"weight": 0}, "greater than 0"),
        ({"weight": float("nan")}, "finite"),
        ({"scores": [{"user": "xx"}]}, "one track per stream"),
        ({"scores": [{"user": "xx", "assistant": "-"}]}, "unequal length"),
        ({"scores": [{"user": "xxxx", "assistant": "-x-x"}]}, "outside of rows"),
        ({"scores": [{"user": "xo", "assistant": "-x"}]}, "pattern"),
        ({"example": [["a", "b"]]}, "go together"),
        ({"scores": [score("x-", "-x")]}, "score 1 can never be accepted, no_overlap: 0 rows"),
        ({"scores": [score("xx", "-x"), score("-x", "xx")], "opens": "user"}, "score 2 can never .* wrong_opening"),
        ({"scores": [score("xx", "--")], "min_overlap": 0}, "assistant never speaks"),
        (
            {"streams": CALLING, "tools": [LOOKUP], "scores": [score("xx", "-x") | {"call": "-x", "tool": "-x"}]},
            "score 1 can never be accepted, wrong_call: row 2 tool is a result that nobody has asked for",
        ),
        ({"example": [["a"]], "example_topic": "e"}, "1 cells for 2 streams"),
        ({"example": [["a", "b"]], "example_topic": "e"}, "example has 1 rows, a number outside of rows"),
        (
            {"example": [["-", "It is two."], ["What is it?", "So it is."]], "example_topic": "e", "opens": "user"},
            "the example can never be accepted, wrong_opening",
        ),
        (
            {"example": [["Hi <|im_end|>", "-"], ["So?", "Yes"]], "example_topic": "e"},
            "the example can never be accepted, special_tokens: row 1 user",
        ),
        ({"patterns": ["juggling"]}, "no pattern juggling; there are turn-taking"),
        ({"patterns": ["barge-in", "barge-in"]}, "named twice"),
        ({"patterns": ["tool-lookup"]}, "needs a stream of role call and one of role tool"),
        ({"personas": {"monitor": ["a strict one"]}}, "no stream monitor"),
        ({"personas": {"user": []}}, "at least 1"),
        ({"scripts": ["Klingon"]}, "Klingon is no Unicode script"),
        ({"scripts": []}, "at least 1"),
        ({"scripts": ["Latin}|."]}, "pattern"),
        ({"language": ""}, "at least 1 character"),
        ({"tools": [LOOKUP]}, "a stream of role call and one of role tool"),
        ({"streams": CALLING, "tools": [LOOKUP, LOOKUP]}, "two tools have the same name"),
        ({"streams": CALLING, "tools": [LOOKUP | {"entries": {}}]}, "simulator lookup needs some"),
        ({"streams": CALLING, "tools": [LOOKUP | {"simulator": "clock"}]}, "the others have none"),
        ({"streams": CALLING, "tools": [LOOKUP | {"simulator": "model", "entries": {}}]}, "simulator model needs it"),
        ({"streams": CALLING, "tools": [LOOKUP | {"simulator": "web"}]}, "calculator"),
        ({"streams": CALLING, "tools": [LOOKUP | {"name": "find it"}]}, "pattern"),
        ({"streams": CALLING, "tools": [LOOKUP | {"latency": {"min": 0}}]}, "greater than or equal to 1"),
        ({"streams": CALLING, "tools": [LOOKUP | {"latency": {"min": 3, "max": 2}}]}, "above latency.max"),
    ],
)
def test_a_scenario_that_cannot_work_is_refused(changes: dict[str, Any], message: str) -> None:
    Scenario.model_validate(minimal())
    with pytest.raises(ValidationError, match=message):
        Scenario.model_validate(minimal(**changes))


def test_subjects_are_topics_first_and_then_domain_by_domain() -> None:
    scenario = Scenario.model_validate(minimal(topics=["b", "a"], domains={"z": ["d"], "home": ["c", "e"]}))
    assert scenario.subjects() == (("", "b"), ("", "a"), ("z", "d"), ("home", "c"), ("home", "e"))
    alone = Scenario.model_validate({k: v for k, v in minimal(domains={"home": ["c"]}).items() if k != "topics"})
    assert alone.subjects() == (("home", "c"),)


@pytest.mark.parametrize("script", ["Latin", "Cyrillic", "Han", "Hiragana", "Arabic"])
def test_scripts_are_those_of_unicode(script: str) -> None:
    assert Scenario.model_validate(minimal(scripts=[script])).scripts == (script,)


def test_sixteen_streams_are_one_scenario_and_seventeen_are_none() -> None:
    voices = [
        {"name": f"voice/{i}", "role": "voice", "slot": i, "direction": "output", "says": "speaks"} for i in range(17)
    ]
    assert len(Scenario.model_validate(minimal(streams=voices[:16])).streams) == 16
    with pytest.raises(ValidationError, match="at most 16"):
        Scenario.model_validate(minimal(streams=voices))


SHARED = {
    "domains": {"home": ["a tap", "a door"], "work": ["a desk"]},
    "personas": {"user": ["a cook"], "pilot": ["a pilot of many years"]},
    "tools": {"find": {k: v for k, v in LOOKUP.items() if k != "name"}},
}


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def including(tmp_path: Path, shared: Any = SHARED, **changes: Any) -> Scenario:
    """A scenario file that includes another, loaded."""
    write(tmp_path / "shared" / "all.yaml", shared)
    content = minimal(streams=CALLING, include=["shared/all.yaml"], **changes)
    content.pop("topics")
    return load_scenario(write(tmp_path / "a.yaml", content))


def test_what_is_included_is_there_as_if_it_had_been_written(tmp_path: Path) -> None:
    scenario = including(tmp_path, tools=["find"])
    assert scenario.subjects() == (("home", "a tap"), ("home", "a door"), ("work", "a desk"))
    assert scenario.personas == {"user": ("a cook",)}, "there is no pilot"
    assert scenario.tools == (ToolSpec.model_validate(LOOKUP),)
    written = minimal(
        streams=CALLING, domains=SHARED["domains"], personas={"user": ["a cook"]}, tools=[LOOKUP], topics=[]
    )
    assert scenario == Scenario.model_validate(written)


def test_a_scenario_picks_domains_and_adds_its_own(tmp_path: Path) -> None:
    assert including(tmp_path, domains=["work"]).subjects() == (("work", "a desk"),)
    own = including(tmp_path, domains={"work": ["a chair"], "sea": ["a boat"]}, personas={"user": ["a sailor"]})
    assert own.domains == {"home": ("a tap", "a door"), "work": ("a chair",), "sea": ("a boat",)}
    assert own.personas == {"user": ("a sailor",)}
    assert own.tools == ()
    other = LOOKUP | {"name": "other"}
    assert [tool.name for tool in including(tmp_path, tools=[other, "find"]).tools] == ["other", "find"]


@pytest.mark.parametrize(
    ("shared", "changes", "message"),
    [
        (SHARED, {"domains": ["sport"]}, "a.yaml: domains: no included file has the domain sport"),
        (SHARED, {"tools": ["clock"]}, "a.yaml: tools: no included file has the tool clock"),
        (SHARED, {"personas": {"nobody": ["a ghost"]}}, "a.yaml: .*no stream nobody"),
        (SHARED, {"domains": 3}, "a.yaml: domains"),
        (SHARED, {"tools": 3}, "a.yaml: tools"),
        (SHARED, {"personas": 3}, "a.yaml: personas"),
        (SHARED | {"rows": 3}, {}, "all.yaml: rows: Extra inputs"),
        (SHARED | {"tools": {"find": {"simulator": "clock"}}}, {}, "all.yaml: tools.find.description: Field required"),
        (SHARED | {"tools": {"find": 3}}, {}, "all.yaml: tools.find"),
        ("words", {}, "all.yaml: the file"),
    ],
)
def test_what_cannot_be_included_is_named_in_one_line(
    tmp_path: Path, shared: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SynthError, match=message) as caught:
        including(tmp_path, shared, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("include", ["shared/all.yaml", [3], None])
def test_include_is_a_list_of_files(tmp_path: Path, include: Any) -> None:
    with pytest.raises(SynthError, match="include: is not a list of file names"):
        load_scenario(write(tmp_path / "a.yaml", minimal(include=include)))


def test_an_included_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SynthError, match=r"gone\.yaml: cannot be read"):
        load_scenario(write(tmp_path / "a.yaml", minimal(include=["gone.yaml"])))


@each_scenario
def test_examples_use_their_domains_personas_and_tools(scenario: Scenario) -> None:
    assert len({topic for _, topic in scenario.subjects()}) == len(scenario.subjects()) >= 6
    assert scenario.personas["user"]
    assert all(spec.role != "call" for spec in scenario.streams) == (not scenario.tools)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("topics: [2023-13-45]", "month must be in 1..12"),
        ("topics: [0b_]", "invalid literal"),
        ("[" * 5000, "recursion"),
        ("name: a\ntopics: [a]\nname: b", "the key name stands twice .*line 3"),
        ("domains: {home: [a], home: [b]}", "the key home stands twice"),
    ],
)
@pytest.mark.parametrize("included", [False, True])
def test_yaml_that_cannot_be_meant_is_named_in_one_line(tmp_path: Path, text: str, said: str, included: bool) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    path = write(tmp_path / "a.yaml", minimal(include=["bad.yaml"])) if included else tmp_path / "bad.yaml"
    with pytest.raises(SynthError, match=rf"bad\.yaml: .*{said}") as caught:
        load_scenario(path)
    assert "\n" not in str(caught.value)


def test_a_merged_key_may_be_written_over(tmp_path: Path) -> None:
    text = yaml.safe_dump(minimal()).replace("rows:\n", "rows:\n  <<: {max: 9}\n")
    (tmp_path / "a.yaml").write_text(text)
    assert load_scenario(tmp_path / "a.yaml").rows.max == minimal()["rows"]["max"]


def test_a_file_that_is_no_scenario_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("name: [unclosed\nmore: {")
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(minimal(topics=[])))
    for name in ("bad.yaml", "wrong.yaml"):
        with pytest.raises(SynthError, match=name) as caught:
            load_scenarios([str(tmp_path / name)])
        assert "\n" not in str(caught.value)


def test_a_pattern_that_matches_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SynthError, match="no scenario file matches"):
        load_scenarios([str(tmp_path / "*.yaml")])


def test_scenarios_come_sorted_by_name_and_once(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(minimal(name=name)))
    every = str(tmp_path / "*.yaml")
    assert [s.name for s in load_scenarios([str(tmp_path / "b.yaml"), every])] == ["a", "b"]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(minimal(name="a", weight=2)))
    with pytest.raises(SynthError, match="two different scenarios are named a"):
        load_scenarios([every])
