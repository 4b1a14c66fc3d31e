from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.scenarios import ToolSpec
from synth.simulators import NOTHING_FOUND, SECONDS_PER_SLICE, calculate, look_up, parse_call, simulate


def tool(simulator: str, **more: Any) -> ToolSpec:
    return ToolSpec.model_validate({"name": "it", "description": "a tool", "simulator": simulator, **more})


CALCULATOR, CLOCK = tool("calculator"), tool("clock")
WEATHER = tool("lookup", entries={"Lisbon": "18 degrees", "Oslo": "snow", "New York": "clear"})


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ('weather {"city": "Oslo"}', ("weather", '{"city": "Oslo"}')),
        ('weather\n{"city":  "Oslo"}', ("weather", '{"city":  "Oslo"}')),
        ("  clock.now {}  ", ("clock.now", "{}")),
        ('note {"text": "a } b",\n "n": 1}', ("note", '{"text": "a } b",\n "n": 1}')),
    ],
)
def test_a_call_is_its_name_and_its_arguments_as_written(text: str, call: tuple[str, str]) -> None:
    assert parse_call(text) == call


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "a name and a JSON object"),
        ("weather", "a name and a JSON object"),
        ("weather Oslo", "a name and a JSON object"),
        ('weather["Oslo"]', "a name and a JSON object"),
        ('weather({"city": "Oslo"})', "a name and a JSON object"),
        ('{"name": "weather"}', "a name and a JSON object"),
        ('let me see: weather {"city": "Oslo"}', "a name and a JSON object"),
        ('weather {"city": "Oslo"} please', "a name and a JSON object"),
        ("weather {city: Oslo}", "no JSON object"),
        ('weather {"city": "Oslo"} {"city": "Rome"}', "no JSON object"),
        ('weather {"city": "Oslo", "city": "Rome"}', "stands twice"),
        ('weather {"degrees": NaN}', "no JSON object"),
        ("weather " + '{"a": ' * 20_000 + "1" + "}" * 20_000, "no JSON object"),
    ],
)
def test_what_is_no_call_is_refused_with_a_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_call(text)


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("12 * (3 + 4)", "84"),
        ("0.1 + 0.2", "0.3"),
        ("1/3 * 3", "1"),
        ("1/3", "0.333333333333"),
        ("-2^2", "-4"),
        ("2 ** -3", "0.125"),
        ("7 // 2", "3"),
        ("10 % 4", "2"),
        ("1,200 × 3 =", "3600"),
        ("50% of 200", "100"),
        ("20 + 10% of 50", "25"),
        ("100 + 10% * 50", "105"),
        ("50% + 10%", "0.6"),
        ("7 - 10 % 3", "6"),
        ("10 * -5%", "-0.5"),
        ("10x10", "100"),
        ("27 seagulls / 3", "9"),
        ("1.05 ^ 20", "2.65329770514"),
        ("123456789012345678 + 1", "123456789012345679"),
    ],
)
def test_the_calculator_computes_exactly(expression: str, result: str) -> None:
    assert calculate(expression) == result


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ("1 / 0", "division by zero"),
        ("5 % (2 - 2)", "division by zero"),
        ("0 ** -1", "division by zero"),
        ("9 ** 9 ** 9", "too large"),
        ("10 ** 40", "too large"),
        ("0.5 ^ 99999999", "too small"),
        ("2 ^ 0.5", "no whole number"),
        ("0x10", "no expression"),
        ("100 + 10%", "of what the percentage is"),
        ("200 - 10%", "of what the percentage is"),
        ("150 + 20% tip", "of what the percentage is"),
        ("100 - 10% - 5", "of what the percentage is"),
        ("100 * 5% + 3", "of what the percentage is"),
        ("1+" * 80 + "1", "too long"),
        ("the moon", "no expression"),
        ("__import__('os').getcwd()", "no expression"),
        ("(" * 150, "no expression"),
        ("", "no expression"),
    ],
)
def test_what_cannot_be_computed_is_an_error_that_says_why(expression: str, error: str) -> None:
    assert calculate(expression).startswith("error: ")
    assert error in calculate(expression)


@given(st.integers(-999, 999), st.integers(-999, 999), st.integers(1, 99), st.sampled_from("+-*/"))
def test_the_calculator_agrees_with_fractions(a: int, b: int, c: int, sign: str) -> None:
    said = calculate(f"({a} {sign} {b}) / {c}")
    if sign == "/" and not b:
        assert said == "error: division by zero"
        return
    exact = {"+": a + b, "-": a - b, "*": a * b, "/": Fraction(a, b or 1)}[sign] / Fraction(c)
    assert abs(Fraction(said) - exact) <= abs(exact) / 10**11


@given(st.text(max_size=40))
def test_the_calculator_answers_anything_in_one_line(text: str) -> None:
    said = calculate(text)
    assert said
    assert "\n" not in said
    said.encode()


@pytest.mark.parametrize(
    "arguments", ['{"expression": "2 + 3"}', '{"input": "2 + 3"}', '{"unit": "m", "expression": "2 + 3"}', "2 + 3"]
)
def test_the_expression_is_found_in_the_arguments(arguments: str) -> None:
    assert simulate(CALCULATOR, arguments, 0, 0) == "5"


def test_the_clock_goes_on_with_the_slices_of_its_dialogue() -> None:
    early, late = (datetime.fromisoformat(simulate(CLOCK, "{}", at, 7)) for at in (2, 12))
    assert late - early == timedelta(seconds=10 * SECONDS_PER_SLICE)
    assert early.utcoffset() == timedelta(0)
    assert simulate(CLOCK, "{}", 2, 8) != simulate(CLOCK, "{}", 2, 7)


@pytest.mark.parametrize(
    ("arguments", "result"),
    [
        ('{"query": "lisbon"}', "18 degrees"),
        ('{"city": "OSLO!"}', "snow"),
        ('{"city": "New York", "unit": "celsius"}', "clear"),
        ('{"from": "New", "to": "York"}', "clear"),
        ("what is the weather in Lisbon today", "18 degrees"),
        ('{"query": "York"}', "clear"),
        ('{"query": "Rome"}', NOTHING_FOUND),
        ('{"query": "Oslonian"}', NOTHING_FOUND),
        ('{"query": "what is the"}', NOTHING_FOUND),
        ('{"query": null}', NOTHING_FOUND),
        ("{}", NOTHING_FOUND),
    ],
)
def test_a_lookup_finds_the_entry_that_is_asked_for_or_nothing(arguments: str, result: str) -> None:
    assert simulate(WEATHER, arguments, 0, 0) == result


def test_an_entry_on_something_else_is_not_the_closest_one() -> None:
    entries = {"weather forecast Oslo": "snow", "population of Oslo": "700,000"}
    assert look_up(entries, "weather forecast Rome") == NOTHING_FOUND
    assert look_up(entries, "Oslo weather forecast for tomorrow") == "snow"
    assert look_up(entries, "populations Oslo") == "700,000"


def test_the_entry_with_the_most_words_in_common_is_taken_then_the_shortest_then_the_first() -> None:
    entries = {"bicycle": "a", "red bicycle tyre": "b", "bicycle tyre": "c", "tyre bicycle": "d"}
    assert look_up(entries, "a red bicycle tyre, please") == "b"
    assert look_up(entries, "tyre") == "c"
    assert look_up(entries, "the bicycle tyre of 2020") == "c"


@pytest.mark.parametrize(
    ("query", "result"),
    [
        ("AB-123", "late"),
        ("AB 123", "late"),
        ("is flight ab 123 late", "late"),
        ("AB 124", NOTHING_FOUND),
        ("2024 05 20", "a Monday"),
        ("20/5/2024", "a Monday"),
        ("21/5/2024", NOTHING_FOUND),
        ("ann at example.org", "Ann"),
        ("ann@example.com", NOTHING_FOUND),
        ("10.50", "ten and a half"),
        ("10 5", NOTHING_FOUND),
    ],
)
def test_a_compound_is_looked_up_by_its_pieces(query: str, result: str) -> None:
    entries = {"flight AB-123": "late", "2024-05-20": "a Monday", "ann@example.org": "Ann", "10.5": "ten and a half"}
    assert look_up(entries, query) == result


def test_scripts_without_spaces_are_looked_up_by_character() -> None:
    assert look_up({"北京天气": "晴", "上海天气": "雨"}, "北京今天的天气") == "晴"


def test_thousands_of_entries_are_indexed_once() -> None:
    from synth import simulators

    big = tool("lookup", entries={f"house {i} in street {i % 97}": str(i) for i in range(5000)})
    simulators._index.cache_clear()
    assert [simulate(big, f"house {i}", 0, 0) for i in (98, 99, 4000)] == ["98", "99", "4000"]
    assert simulators._index.cache_info().misses == 1


def test_a_tool_that_a_model_plays_is_not_simulated() -> None:
    with pytest.raises(ValueError, match="not simulated"):
        simulate(tool("model", says="a fact"), "{}", 0, 0)


def test_results_are_the_same_in_another_process() -> None:
    script = (
        "import sys, json; from synth.simulators import tell_time, look_up;"
        "print(json.dumps([tell_time(5, 3), look_up({'b a': '1', 'a c': '2'}, 'a')]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env={"PYTHONHASHSEED": "5"},
    )
    assert json.loads(done.stdout) == [simulate(CLOCK, "{}", 5, 3), look_up({"b a": "1", "a c": "2"}, "a")]


@pytest.mark.parametrize("expression", ["...", "12 * ...", "1 + ...", "(...)"])
def test_dots_are_no_number(expression: str) -> None:
    spec = ToolSpec(name="calculator", description="computes", simulator="calculator")
    assert simulate(spec, json.dumps({"expression": expression}), 1, 0)
