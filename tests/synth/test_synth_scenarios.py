from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from synth.errors import SynthError
from synth.generators import table
from synth.scenarios import Scenario, load_scenarios

DIRECTORY = Path(__file__).parents[2] / "examples" / "scenarios"
SCENARIOS = load_scenarios([str(DIRECTORY / "*.yaml")])


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_the_example_passes_the_checks_that_answers_have_to_pass(scenario: Scenario) -> None:
    table.check(scenario, scenario.cells)
    assert scenario.rows.min <= len(scenario.example) <= scenario.rows.max
    assert max(len(cell) for row in scenario.example for cell in row) <= 64
    assert scenario.example_topic not in scenario.topics


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_every_score_can_be_accepted(scenario: Scenario) -> None:
    for score in scenario.scores:
        tracks = [score[stream.name] for stream in scenario.streams]
        rows = [
            [f"w{row}s{stream}" if letter == "x" else None for stream, letter in enumerate(moment)]
            for row, moment in enumerate(zip(*tracks, strict=True))
        ]
        table.check(scenario, rows)


def test_there_are_the_six_scenarios_of_the_examples() -> None:
    assert [scenario.name for scenario in SCENARIOS] == [
        "back-channel", "barge-in", "self-monitoring", "think-while-reading", "tool-lookup", "translation",
    ]  # fmt: skip


def minimal(**changes: Any) -> dict[str, Any]:
    streams = [
        {"name": "user", "role": "user", "direction": "input", "says": "asks"},
        {"name": "assistant", "role": "assistant", "direction": "output", "says": "answers"},
    ]
    base = {"name": "a", "description": "d", "streams": streams, "rows": {"min": 2, "max": 3}, "topics": ["t"]}
    return base | changes


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
        ({"topics": ["two\nlines"]}, "pattern"),
        ({"weight": 0}, "greater than 0"),
        ({"weight": float("nan")}, "finite"),
        ({"scores": [{"user": "xx"}]}, "one track per stream"),
        ({"scores": [{"user": "xx", "assistant": "-"}]}, "unequal length"),
        ({"scores": [{"user": "xxxx", "assistant": "-x-x"}]}, "outside of rows"),
        ({"example": [["a", "b"]]}, "go together"),
        ({"example": [["a"]], "example_topic": "e"}, "1 cells for 2 streams"),
    ],
)
def test_a_scenario_that_cannot_work_is_refused(changes: dict[str, Any], message: str) -> None:
    Scenario.model_validate(minimal())
    with pytest.raises(ValidationError, match=message):
        Scenario.model_validate(minimal(**changes))


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
