"""Coverage: what was asked for, what came out, and what shows."""

from __future__ import annotations

from pathlib import Path

import yaml

from pipeline.conversation import Conversation
from pipeline.timeline import Timeline
from synth.coverage import DIMENSIONS, NO_DOMAIN, Count, Coverage
from synth.generators import Outcome, Rejected, Written
from synth.samples import Sample, Topic
from synth.scenarios import Scenario, load_scenarios
from synth.scene_checks import read_cell, scene_of
from synth.scenes import Scene

HERE = Path(__file__).parent
SCENARIOS = load_scenarios([str(HERE.parents[1] / "examples" / "scenarios" / "*.yaml")])


def scenario_of(name: str) -> Scenario:
    return next(s for s in SCENARIOS if s.name == name)


def sample(name: str, domain: str = "home", persona: str = "a cook") -> Sample:
    return Sample(0, 1, scenario_of(name), Topic("a topic", domain), {"user": persona}, 5, 8, None)


def good(name: str) -> Scene:
    scenario = scenario_of(name)
    told = yaml.safe_load((HERE / "dialogues" / f"{name}.yaml").read_text(encoding="utf-8"))
    return scene_of(scenario, [[read_cell(scenario, i, c, "") for i, c in enumerate(row)] for row in told["rows"]])


def written(name: str, scene: Scene | None) -> Written:
    return Written(0, name, Conversation(()), Timeline((), (), [], [], []), "synth/table", scene=scene)


def rejected(name: str) -> Rejected:
    return Rejected(0, name, "not_json", "no JSON", "")


def quiet(name: str) -> Scene:
    """A scene in which only the user speaks."""
    scene = good(name)
    return Scene(scene.streams, tuple(u for u in scene.utterances if u.stream == 0))


def test_accepted_dialogues_count_as_shown_only_where_the_pattern_happened() -> None:
    coverage = Coverage()
    coverage.add(sample("barge-in"), written("barge-in", good("barge-in")))
    coverage.add(sample("barge-in", "work"), written("barge-in", quiet("barge-in")))
    coverage.add(sample("barge-in", "work", "a nurse"), rejected("barge-in"))
    assert coverage.count("scenario", "barge-in") == Count(3, 2, 1)
    assert coverage.count("pattern", "barge-in") == Count(3, 2, 1)
    assert coverage.count("domain", "home") == Count(1, 1, 1)
    assert coverage.count("domain", "work") == Count(2, 1, 0)
    assert coverage.count("persona", "user: a cook") == Count(2, 2, 1)
    assert coverage.count("persona", "user: a nurse") == Count(1, 0, 0)


def test_each_pattern_of_a_scenario_is_looked_for_by_itself() -> None:
    both = scenario_of("slow-tool").model_copy(update={"patterns": ("slow-tool", "parallel-tools")})
    one = Sample(0, 1, both, Topic("a topic", ""), {}, 5, 8, None)
    coverage = Coverage()
    coverage.add(one, written("slow-tool", good("slow-tool")))
    assert coverage.count("pattern", "slow-tool") == Count(1, 1, 1)
    assert coverage.count("pattern", "parallel-tools") == Count(1, 1, 0)
    assert coverage.count("scenario", "slow-tool") == Count(1, 1, 0)
    assert coverage.count("domain", NO_DOMAIN) == Count(1, 1, 0)


def test_a_dialogue_without_slices_shows_nothing() -> None:
    coverage = Coverage()
    coverage.add(sample("barge-in"), written("barge-in", None))
    assert coverage.count("pattern", "barge-in") == Count(1, 1, 0)


def test_what_was_never_drawn_is_in_the_tables_with_noughts() -> None:
    coverage = Coverage(SCENARIOS)
    told = coverage.to_json()
    assert set(told) == set(DIMENSIONS)
    assert set(told["scenario"]) == {s.name for s in SCENARIOS}
    assert told["pattern"]["audit"] == {"asked": 0, "accepted": 0, "shown": 0, "share": 0.0}
    assert "sums" in told["domain"]
    assert NO_DOMAIN in told["domain"]
    assert coverage.missing() == [], "nothing was asked for"


def test_parts_of_a_run_merge_to_the_whole() -> None:
    outcomes: list[tuple[Sample, Outcome]] = [
        (sample("barge-in"), written("barge-in", good("barge-in"))),
        (sample("audit", "sums"), rejected("audit")),
        (sample("audit", "sums"), written("audit", good("audit"))),
    ]
    whole, left, right = Coverage(SCENARIOS), Coverage(SCENARIOS), Coverage()
    for one, outcome in outcomes:
        whole.add(one, outcome)
    left.add(*outcomes[0])
    for later in outcomes[1:]:
        right.add(*later)
    left.merge(right)
    assert left.to_json() == whole.to_json()
    assert left.to_markdown() == whole.to_markdown()
    assert Coverage.from_json(whole.to_json()).to_json() == whole.to_json()
    assert right.count("scenario", "audit") == Count(2, 1, 1), "merging takes nothing away"


def test_what_never_came_out_is_named_before_everything_else() -> None:
    coverage = Coverage()
    coverage.add(sample("audit", "sums"), written("audit", good("audit")))
    coverage.add(sample("barge-in", "home", "a | cook"), rejected("barge-in"))
    coverage.add(sample("slow-tool", "sums"), written("slow-tool", quiet("slow-tool")))
    text = coverage.to_markdown().splitlines()
    assert text[:3] == [
        "- scenario barge-in: asked for 1 times, never came out",
        "- pattern barge-in: asked for 1 times, never came out",
        "- domain home: asked for 1 times, never came out",
    ]
    assert text[3] == "- persona user: a \\| cook: asked for 1 times, never came out"
    assert text[4] == "- scenario slow-tool: asked for 1 times, 1 came out, and none shows it"
    assert "| sums | 2 | 2 | 1 | 100.0% |" in text
    assert [line for line in text if line.startswith("### ")] == [f"### {title}" for title in DIMENSIONS.values()]


def test_a_run_without_scenarios_has_no_tables() -> None:
    assert Coverage().to_markdown() == "\n"
