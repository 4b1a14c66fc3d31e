from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from synth.checks import REASONS, TextError
from synth.config import SynthConfig
from synth.engines import Completion
from synth.generators import Outcome, Rejected, Written
from synth.generators.table import Tables, grammar_schema, read, table_schema
from synth.samples import Sample, prompt_sha256
from synth.scenarios import Scenario, load_scenarios

EXAMPLES = str(Path(__file__).parents[2] / "examples" / "scenarios" / "*.yaml")

SCENARIO = Scenario.model_validate(
    {
        "name": "talk",
        "description": "user talks, assistant reacts while user goes on",
        "streams": [
            {"name": "user", "role": "user", "direction": "input", "says": "the story"},
            {"name": "assistant", "role": "assistant", "direction": "output", "says": "reactions"},
        ],
        "opens": "user",
        "rows": {"min": 3, "max": 4},
        "min_overlap": 1,
        "scores": [{"user": "xx--", "assistant": "-x-x"}],
        "topics": ["a walk in the rain"],
        "example_topic": "a lost key",
        "example": [["I lost my key", "-"], ["in the park.", "Oh no."], ["-", "Did you look under the bench?"]],
    }
)

GOOD = [("It rained all day", "-"), ("so I stayed at home.", "Poor you."), ("-", "What did you do?")]


def tables(timing: str = "free", scenarios: Sequence[Scenario] = (SCENARIO,), **options: Any) -> Tables:
    table = {"timing": timing, **{key: options.pop(key) for key in ("max_rows",) if key in options}}
    config = SynthConfig(scenarios=list(scenarios), samples=options.pop("samples", 1), table=table, **options)
    return Tables(config, tuple(scenarios))


def sample_of(timing: str = "free", scenario: Scenario = SCENARIO) -> Sample:
    made = tables(timing, (scenario,)).sample(0)
    return replace(made, max_rows=4) if timing == "free" else made


def parse(sample: Sample, text: str, finish_reason: str = "stop") -> list[list[str | None]]:
    request = tables(scenarios=(sample.scenario,)).request(sample)
    return read(sample, Completion(text, finish_reason, 1, 1), request, 64).rows()


def outcome(text: str) -> Outcome:
    dialogue = tables(scenarios=(SCENARIO.model_copy(update={"scores": ()}),)).dialogue(0)
    next(dialogue)
    with pytest.raises(StopIteration) as stop:
        dialogue.send([Completion(text, "stop", 1, 1)])
    result: Outcome = stop.value.value
    return result


def as_text(rows: list[tuple[str, str]]) -> str:
    return json.dumps({"rows": [{"assistant": assistant, "user": user} for user, assistant in rows]})


def with_cell(row: int, stream: int, cell: str) -> str:
    rows = [list(pair) for pair in GOOD]
    rows[row][stream] = cell
    return as_text([(pair[0], pair[1]) for pair in rows])


def code_of(text: str, sample: Sample | None = None, finish_reason: str = "stop") -> str:
    with pytest.raises(TextError) as caught:
        parse(sample or sample_of(), text, finish_reason)
    assert str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value.code


REJECTS: list[tuple[str, str]] = [
    ("empty_answer", ""),
    ("empty_answer", " \n"),
    ("not_json", "Sure! Here is the table:\n" + as_text(GOOD)),
    ("not_json", as_text(GOOD) + "\n\nI hope this helps."),
    ("not_json", as_text(GOOD)[:-2]),
    ("not_json", '{"rows": NaN}'),
    ("not_json", "[" * 100_000),
    ("not_json", '{"rows": ' + "9" * 5000 + "}"),
    ("duplicate_key", '{"rows": [], "rows": []}'),
    ("duplicate_key", as_text(GOOD).replace('"user": "It', '"assistant": "-", "user": "It', 1)),
    ("wrong_shape", "[]"),
    ("wrong_shape", "null"),
    ("wrong_shape", '{"table": []}'),
    ("wrong_shape", '{"rows": {}}'),
    ("wrong_shape", '{"rows": [["a", "b"], ["a", "b"], ["a", "b"]]}'),
    ("wrong_shape", as_text(GOOD)[:-1] + ', "note": 1}'),
    ("wrong_columns", as_text(GOOD).replace('"user": "-"', '"tool": "-"')),
    ("wrong_columns", as_text(GOOD).replace('"user": "-"', '"user": "-", "tool": "-"')),
    ("wrong_type", as_text(GOOD).replace('"user": "-"', '"user": null')),
    ("wrong_type", as_text(GOOD).replace('"user": "-"', '"user": 7')),
    ("too_few_rows", as_text(GOOD[:2])),
    ("too_few_rows", '{"rows": []}'),
    ("too_many_rows", as_text([*GOOD, ("-", "a"), ("-", "b")])),
    ("too_long", with_cell(2, 1, "word " * 20)),
    ("control_chars", with_cell(2, 1, "two\nlines")),
    ("control_chars", with_cell(2, 1, "a tab\there")),
    ("control_chars", with_cell(2, 1, "nul \x00")),
    ("control_chars", with_cell(2, 1, "half a pair \ud800")),
    ("control_chars", with_cell(2, 1, "broken \ufffd")),
    ("control_chars", with_cell(2, 1, "private \ue000")),
    ("control_chars", with_cell(2, 1, "separator \u2028")),
    ("empty_cell", with_cell(2, 0, "")),
    ("empty_cell", with_cell(2, 0, "   ")),
    ("not_speech", with_cell(2, 0, "--")),
    ("not_speech", with_cell(2, 0, "—")),
    ("not_speech", with_cell(2, 0, "...")),
    ("not_speech", with_cell(2, 0, "(silence)")),
    ("not_speech", with_cell(2, 0, "None")),
    ("not_speech", with_cell(2, 0, "- and more")),
    ("markup", with_cell(2, 1, "a <b>bold</b> word")),
    ("markup", with_cell(2, 1, "What {topic}?")),
    ("glued_words", with_cell(2, 1, "well,yes,no")),
    ("glued_words", with_cell(2, 1, "x" * 31)),
    ("repeated_words", with_cell(2, 1, "I am. I am. I am. I am.")),
    ("all_silent", as_text([("-", "-")] * 3)),
    ("empty_stream", as_text([(user, "-") for user, _ in GOOD])),
    ("wrong_opening", with_cell(0, 1, "Tell me.")),
    ("repeated_rows", as_text([*GOOD[:2], GOOD[1]])),
    ("repeated_text", as_text([*GOOD[:2], ("it  rained all DAY", "And then?")])),
    ("repeated_text", as_text([("It rained all day long", "-"), GOOD[1], ("It rained, all the day long", "And?")])),
    ("glued_words", with_cell(2, 1, "dej" + "áj" * 15)),
    ("special_tokens", with_cell(2, 1, "What <|im_end|> now?")),
    ("special_tokens", with_cell(2, 1, "What <think> now?")),
    ("special_tokens", with_cell(2, 1, "[INST] What now?")),
    ("foreign_script", with_cell(2, 1, "And then что?")),
    ("foreign_script", with_cell(2, 1, "然后呢")),
    ("repeated_words", with_cell(2, 1, "no no no no no")),
    ("repeated_words", with_cell(2, 1, "oh my oh my oh my")),
    ("copied_cell", with_cell(2, 1, "so I stayed at home.")),
    ("copied_prompt", with_cell(2, 1, "Did you look under the bench?")),
    ("copied_prompt", with_cell(2, 1, "oh No.")),
    ("copied_prompt", with_cell(2, 1, "reacts while user goes on")),
    ("no_overlap", as_text([("It rained all day", "-"), ("-", "Poor you."), ("So I stayed in.", "-")])),
]


@pytest.mark.parametrize(("code", "text"), REJECTS)
def test_what_is_no_table_is_rejected_with_its_reason(code: str, text: str) -> None:
    assert code_of(text) == code


def test_a_cut_off_completion_is_rejected_though_it_is_whole_json() -> None:
    assert code_of(as_text(GOOD), finish_reason="length") == "truncated"
    assert code_of(as_text(GOOD), finish_reason="abort") == "aborted"


def test_a_stream_that_leaves_its_score_is_rejected() -> None:
    sample = sample_of("scored")
    assert sample.timing == ((True, False), (True, True), (False, False), (False, True))
    fitting = [*GOOD[:2], ("-", "-"), GOOD[2]]
    assert parse(sample, as_text(fitting))[2] == [None, None]
    assert code_of(as_text([*GOOD[:2], ("Well", "-"), GOOD[2]]), sample) == "wrong_timing"
    assert code_of(as_text([GOOD[0], ("-", "Poor you."), ("-", "-"), GOOD[2]]), sample) == "wrong_timing"


def test_every_reason_of_a_table_is_tested() -> None:
    codes = {code for code, _ in REJECTS}
    assert codes <= set(REASONS)
    assert not {code for code in REASONS if code not in codes} & {"not_json", "markup", "special_tokens", "no_overlap"}


def test_cells_come_in_the_order_of_the_scenario_and_silence_is_none() -> None:
    rows = parse(sample_of(), as_text([(f" {user} ", assistant) for user, assistant in GOOD]))
    assert rows == [
        ["It rained all day", None],
        ["so I stayed at home.", "Poor you."],
        [None, "What did you do?"],
    ]


@pytest.mark.parametrize(
    "cell", ["👩‍👩‍👧 ok", "¿Qué pasó?", "雨が降っていたので、ずっと家にいました。", "e\u0301t\u00e9", "3.5, or 1,000?"]
)
def test_speech_of_any_script_passes_where_the_scenario_speaks_it(cell: str) -> None:
    scenario = SCENARIO.model_copy(update={"scripts": ("Latin", "Han", "Hiragana", "Katakana")})
    assert parse(sample_of(scenario=scenario), with_cell(2, 1, cell))[2][1] == cell


def test_a_stream_that_is_not_required_may_stay_silent() -> None:
    user, assistant = SCENARIO.streams
    scenario = SCENARIO.model_copy(
        update={"streams": (user, assistant.model_copy(update={"required": False})), "min_overlap": 0}
    )
    rows = parse(sample_of(scenario=scenario), as_text([(text, "-") for text in ("One", "Two", "Three")]))
    assert [row[1] for row in rows] == [None] * 3


def test_nothing_is_lost_between_completion_and_result() -> None:
    accepted, rejected = outcome(as_text(GOOD)), outcome("no")
    assert isinstance(accepted, Written)
    assert isinstance(rejected, Rejected)
    assert (rejected.code, rejected.raw) == ("not_json", "no")
    assert [stream.name for stream in accepted.timeline.streams] == ["user", "assistant"]
    maker = tables(scenarios=(SCENARIO.model_copy(update={"scores": ()}),))
    sha256 = prompt_sha256(maker.request(maker.sample(0)).messages)
    assert accepted.conversation.extra["prompt_sha256"] == sha256
    assert accepted.conversation.group == f"synthetic/{sha256}"


@settings(deadline=None)
@given(st.text())
def test_any_text_is_a_table_or_a_reject_with_a_known_code(text: str) -> None:
    result = outcome(text)
    assert isinstance(result, Rejected)
    assert result.code in REASONS


@settings(deadline=None)
@given(st.data())
def test_what_the_grammar_allows_the_schema_allows(data: st.DataObject) -> None:
    for timing in (None, ((True, False), (True, True))):
        sample = replace(sample_of(), min_rows=2, max_rows=2, timing=timing)
        narrow = grammar_schema(sample, 40)
        items = narrow["properties"]["rows"]
        rows = []
        for schema in items.get("prefixItems", [items["items"]] * 2):
            cells = schema["properties"]
            rows.append(
                {
                    name: cell["const"]
                    if "const" in cell
                    else data.draw(st.from_regex(cell["pattern"], fullmatch=True))
                    for name, cell in cells.items()
                }
            )
        Draft202012Validator(narrow).validate({"rows": rows})
        Draft202012Validator(table_schema(sample, 40)).validate({"rows": rows})


def test_outputs_are_written_before_inputs_so_that_they_cannot_read_their_own_row() -> None:
    for scenario in load_scenarios([EXAMPLES]):
        direction = {stream.name: stream.direction for stream in scenario.streams}
        maker = tables("scored", (scenario,))
        request = maker.request(maker.sample(0))
        assert request.schema is not None
        written = list(request.schema["properties"]["rows"]["items"]["properties"])
        assert [direction[name] for name in written] == sorted(direction.values(), reverse=True)
        shown = json.loads(request.messages[2].content)["rows"]
        assert all(list(row) == written for row in shown)


def test_a_sample_depends_on_seed_and_index_only() -> None:
    scenarios = load_scenarios([EXAMPLES])
    maker = tables("scored", scenarios, samples=128, seed=3, batch_size=7)
    samples = [maker.sample(index) for index in range(128)]
    again = tables("scored", scenarios, samples=4, seed=3, batch_size=50)
    assert [again.sample(index) for index in (3, 1)] == [samples[3], samples[1]]
    assert len({sample.seed for sample in samples}) == 128
    assert {sample.scenario.name for sample in samples} == {scenario.name for scenario in scenarios}
    other = tables("scored", scenarios, samples=4, seed=4)
    assert [other.sample(index).seed for index in range(4)] != [sample.seed for sample in samples[:4]]


def test_weights_set_the_share_of_a_scenario() -> None:
    rare = SCENARIO.model_copy(update={"name": "rare", "weight": 0.01})
    maker = tables(scenarios=(SCENARIO, rare), samples=300)
    assert sum(maker.sample(i).scenario.name == "rare" for i in range(300)) < 15


def test_max_rows_caps_rows_and_leaves_out_longer_scores() -> None:
    sample = tables("scored", max_rows=3).sample(0)
    assert (sample.timing, sample.min_rows, sample.max_rows) == (None, 3, 3)


CALLING = Scenario.model_validate(
    {
        "name": "sums",
        "description": "d",
        "streams": [
            {"name": "user", "role": "user", "direction": "input", "says": "asks"},
            {"name": "assistant", "role": "assistant", "direction": "output", "says": "answers"},
            {"name": "call", "role": "call", "direction": "output", "says": "calls"},
            {"name": "tool", "role": "tool", "direction": "input", "says": "results"},
        ],
        "rows": {"min": 2, "max": 6},
        "topics": ["t"],
    }
)


@pytest.mark.parametrize(("said", "code"), [("that makes 576,", "leak"), ("one moment please,", None)])
def test_what_a_tool_finds_is_not_said_before_it_has(said: str, code: str | None) -> None:
    rows = [
        {"user": "What is 12 times 48?", "assistant": "-", "call": "-", "tool": "-"},
        {"user": "-", "assistant": "Let me see,", "call": "calculator 12 * 48", "tool": "-"},
        {"user": "-", "assistant": said, "call": "-", "tool": "-"},
        {"user": "-", "assistant": "I am on it.", "call": "-", "tool": "576"},
        {"user": "-", "assistant": "It is 576.", "call": "-", "tool": "-"},
    ]
    sample = replace(sample_of(scenario=CALLING), max_rows=6)
    text = json.dumps({"rows": rows})
    assert (code_of(text, sample) if code else len(parse(sample, text))) == (code or 5)


def results_code(asked: str, said: Sequence[str], found: str) -> str | None:
    """What a table is rejected for in which an assistant says ``said`` in the rows between a call and its result."""
    rows = [(asked, "-", "-", "-"), ("if you please", "-", "find it", "-"), *(("-", line, "-", "-") for line in said)]
    rows = [*rows, ("thank you", "-", "-", found), ("-", "Here you are.", "-", "-")]
    sample = replace(sample_of(scenario=CALLING), max_rows=8)
    sample = replace(sample, scenario=CALLING.model_copy(update={"scripts": ("Latin", "Han", "Hangul")}))
    table = [dict(zip(("user", "assistant", "call", "tool"), row, strict=True)) for row in rows]
    try:
        parse(sample, json.dumps({"rows": table}))
    except TextError as error:
        return error.code
    return None


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("It leaves from gate B7", "gate B7"),
        ("It is gate 7", "gate 7 now"),
        ("It leaves from Oslo", "Oslo central station"),
        ("Oslo it is", "it is Oslo"),
        ("It costs 1,200 now", "price 1200"),
        ("It leaves at 9:05 sharp", "departs 09:05"),
        ("leaves at half past nine", "half past nine tonight"),
        ("it costs forty-five dollars", "forty-five dollars"),
        ("snow and strong wind there", "snow and strong wind"),
        ("Take the blue line northbound please", "take blue line northbound"),
        ("会有大风雪的", "明天有大风雪"),
    ],
)
def test_whatever_a_tool_finds_is_not_said_before_it_has(said: str, found: str) -> None:
    assert results_code("When and where does it leave", [said], found) == "leak"
    assert results_code(f"I was told {found}, is it so", ["One moment, I am looking", said], found) is None


def test_words_of_a_result_that_are_said_in_two_rows_are_found() -> None:
    assert (
        results_code("When does it leave", ["That should be at half", "past nine, if I am right"], "half past nine")
        == "leak"
    )
    assert (
        results_code("When does it leave", ["That is the other half", "of it, past the bridge"], "half past nine")
        is None
    )


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("Let me look up the next train", "next train 9:40, track 3"),
        ("I ask for it, one moment", "one seat left, ask at the desk"),
        ("That takes 20 seconds", "track 3"),
        ("The sum is 12 + 30 = 42", "42"),
    ],
)
def test_what_is_said_while_a_tool_looks_is_no_leak(said: str, found: str) -> None:
    assert results_code("When does my train leave", [said], found) is None
