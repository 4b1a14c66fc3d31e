"""Patterns: each is seen where it happens, and not in the nearest scene in which it does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pipeline.timeline import Stream
from synth.patterns import PATTERNS
from synth.scenarios import load_scenarios
from synth.scene_checks import read_cell, scene_of
from synth.scenes import Scene, Utterance

HERE = Path(__file__).parent
SCENARIOS = {s.name: s for s in load_scenarios([str(HERE.parents[1] / "examples" / "scenarios" / "*.yaml")])}
INPUTS = ("user", "tool", "event")
SCENES = yaml.safe_load((HERE / "pattern_scenes.yaml").read_text(encoding="utf-8"))


def play(roles: str, *rows: str) -> Scene:
    """A scene from rows of cells between bars. Cells of call and tool begin with the ordinal of the call."""
    names = roles.split()
    streams = tuple(
        Stream(name, name, names[:i].count(name), "input" if name in INPUTS else "output")
        for i, name in enumerate(names)
    )
    said = []
    for number, row in enumerate(rows):
        for stream, cell in enumerate(row.split("|")):
            text = cell.strip()
            if text == "-":
                continue
            if names[stream] in ("call", "tool"):
                call, _, text = text.partition(" ")
                kind = "tool_call" if names[stream] == "call" else "tool_result"
                said.append(Utterance(number, stream, text, kind, int(call), "find"))  # type: ignore[arg-type]
            else:
                said.append(Utterance(number, stream, text))
    return Scene(streams, tuple(said))


SHOWN = {name: play(told["streams"], *told["shown"]) for name, told in SCENES.items()}
ALSO = [
    (name, what, play(told["streams"], *rows))
    for name, told in SCENES.items()
    for what, rows in told.get("also_shown", {}).items()
]
OPPOSITES = [
    (name, what, play(told["streams"], *rows))
    for name, told in SCENES.items()
    for what, rows in told["not_shown"].items()
]


def test_every_pattern_has_its_scene_and_its_opposite() -> None:
    assert set(SHOWN) == set(PATTERNS) == {name for name, _, _ in OPPOSITES}
    assert len(PATTERNS) >= 14


@pytest.mark.parametrize("name", SHOWN)
def test_a_pattern_is_seen_where_it_happens(name: str) -> None:
    assert PATTERNS[name].shown(SHOWN[name])


@pytest.mark.parametrize(("name", "what", "scene"), ALSO, ids=lambda value: value if isinstance(value, str) else "")
def test_a_pattern_is_seen_in_other_words_too(name: str, what: str, scene: Scene) -> None:
    assert PATTERNS[name].shown(scene), what


@pytest.mark.parametrize(
    ("name", "what", "scene"), OPPOSITES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_pattern_is_not_seen_where_it_does_not_happen(name: str, what: str, scene: Scene) -> None:
    assert not PATTERNS[name].shown(scene), what


@pytest.mark.parametrize("name", SHOWN)
def test_a_pattern_does_not_depend_on_when_the_scene_starts(name: str) -> None:
    scene = SHOWN[name]
    later = Scene(scene.streams, tuple(replace(u, slice=u.slice + 7) for u in scene.utterances))
    assert PATTERNS[name].shown(later)


@pytest.mark.parametrize("name", PATTERNS)
def test_silence_shows_nothing(name: str) -> None:
    assert not PATTERNS[name].shown(Scene(SHOWN[name].streams, ()))
    for utterance in SHOWN[name].utterances:
        assert not PATTERNS[name].shown(Scene(SHOWN[name].streams, (utterance,)))


def test_words_that_were_cut_off_are_broken_off_whatever_their_last_sign() -> None:
    scene = play("user assistant", *SCENES["barge-in"]["not_shown"]["it had ended its sentence"])
    assert not PATTERNS["barge-in"].shown(scene)
    cut = tuple(replace(u, cut=True) if u.text == "the river." else u for u in scene.utterances)
    assert PATTERNS["barge-in"].shown(Scene(scene.streams, cut))


def test_a_number_is_the_same_with_and_without_a_comma() -> None:
    asked = ("how high | - | - | -", "- | I look | 0 find peak | -", "thanks | - | - | -")
    scene = play("user assistant call tool", *asked, "- | - | - | 0 1,200 metres", "- | 1200 it is. | - | -")
    assert PATTERNS["tool-lookup"].shown(scene)


@pytest.mark.parametrize("path", sorted((HERE / "dialogues").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_dialogue_of_one_pattern_does_not_show_those_that_it_is_not_about(path: Path) -> None:
    told = yaml.safe_load(path.read_text(encoding="utf-8"))
    scenario = SCENARIOS[told["scenario"]]
    rows = [[read_cell(scenario, i, cell, "") for i, cell in enumerate(row)] for row in told["rows"]]
    scene = scene_of(scenario, rows)
    shown = {name for name, pattern in PATTERNS.items() if pattern.shown(scene)}
    with_calls = {"tool-lookup", "parallel-tools", "slow-tool", "out-of-order-results"}
    assert set(scenario.patterns) <= shown <= {*scenario.patterns, *with_calls}


def test_what_a_writer_is_told_is_one_line_and_needs_roles_that_somebody_has() -> None:
    for name, pattern in PATTERNS.items():
        assert name == pattern.NAME
        assert "\n" not in pattern.TOLD
        assert 40 <= len(pattern.TOLD) <= 160
        assert {"user", "assistant"} & set(pattern.ROLES)
        assert set(pattern.ROLES) <= {stream.role for stream in SCENARIOS[name].streams}
