"""Items of evaluation sets are found in conversations, whatever their case and punctuation, and other texts are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.build import build
from pipeline.config import ConfigError, load_config
from pipeline.conversation import Conversation
from pipeline.decontamination.grams import grams_of
from pipeline.decontamination.sets import build_index, texts_of
from pipeline.errors import InputError, PipelineError
from pipeline.filters.contamination import Params, judge
from pipeline.manifest import need_manifest
from tests.filters.filter_cases import asked, talks_of
from tests.quiet import Quiet

QUESTION = (
    "A lighthouse keeper trims 14 wicks each morning and 9 each evening. How many wicks does she trim in three weeks of "
    "mornings and evenings, if on Sundays she rests until noon?"
)
ANSWER = "In a week there are six mornings with 14 wicks and seven evenings with 9, so 84 + 63 = 147, and in three weeks 441."


@pytest.fixture
def items(tmp_path: Path) -> Path:
    path = tmp_path / "eval.jsonl"
    others = [
        {"question": f"Name the {i}th of the rivers that flow through the old town of Trier.", "id": i}
        for i in range(5)
    ]
    path.write_text("".join(json.dumps(o) + "\n" for o in [*others, {"question": QUESTION, "answer": ANSWER}]))
    return path


def say(question: str, answer: str) -> Conversation:
    return asked(answer, question=question)


def _taken(items: Path, *talks: Conversation, **params: Any) -> dict[int, str]:
    found = judge(talks_of(*talks), Params(sets={"mine": str(items)}, **params))
    assert {v.reason for v in found.values()} <= {"evaluation_item"}
    return {number: verdict.detail for number, verdict in found.items()}


def test_an_item_is_found_in_other_case_and_punctuation_and_inside_a_longer_message(items: Path) -> None:
    changed = QUESTION.upper().replace(",", " ;").replace(" ", "\n ")
    found = _taken(
        items,
        say("Hello! Please solve this: " + QUESTION + " Take your time.", "I do."),
        say(changed, "441."),
        say("What do you know of lighthouses?", "Little. " + ANSWER),
        say("How many wicks does a lighthouse keeper trim?", "It depends on the lighthouse."),
    )
    assert sorted(found) == [0, 1, 2]
    assert found[0].startswith("mine #5, 100% of its runs of words: 'a lighthouse keeper trims 14 wicks")
    assert found[1].endswith("on sundays she rests until noon'")
    assert "so 84 63 147" in found[2]


def test_how_much_of_a_text_must_be_there_is_a_threshold(items: Path) -> None:
    half = say(" ".join(QUESTION.split()[:20]) + " and so on.", "Yes.")
    assert _taken(items, half) == {}
    [detail] = _taken(items, half, min_share=0.2).values()
    assert 0.2 <= int(detail.split("%")[0].split()[-1]) / 100 < 0.5


def test_a_short_text_is_found_only_as_a_whole_message(items: Path) -> None:
    short = "Name the 3th of the rivers that flow through the old town of Trier."
    assert len(short.split()) == 14
    found = _taken(items, say(short, "The Moselle."), say(f"{short} Thanks.", "The Moselle."), words=20)
    assert list(found) == [0]
    assert _taken(items, say(short, "The Moselle."), words=20, min_words=15) == {}


def test_what_has_no_text_of_its_own_is_not_compared_and_fields_may_be_named(items: Path) -> None:
    assert list(texts_of({"id": "a b c", "q": "one", "more": [{"q": "two", "x": "three"}]})) == ["one", "two", "three"]
    assert list(texts_of({"q": "one", "more": [{"q": "two", "x": "three"}]}, frozenset({"q"}))) == ["one", "two"]
    assert _taken(items, say("Well?", ANSWER), fields=("question",)) == {}
    assert list(_taken(items, say("Well?", ANSWER), fields=("answer",))) == [0]
    with pytest.raises(InputError, match="holds no text in nothing"):
        _taken(items, say("Well?", ANSWER), fields=("nothing",))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.sampled_from(["a", "b", "ç", "12", "中", "ไ"]), max_size=12), min_size=1, max_size=5),
    st.integers(1, 6),
)
def test_runs_are_all_the_runs_and_equal_only_where_their_words_are(texts: list[list[str]], size: int) -> None:
    grams = grams_of(pl.Series([" ".join(words) for words in texts]), size)
    told: dict[int, set[tuple[str, ...]]] = {}
    count = 0
    for key, text, first in zip(grams.keys.tolist(), grams.text.tolist(), grams.first.tolist(), strict=True):
        told.setdefault(key, set()).add(tuple(texts[text][first : first + size]))
        count += 1
    expected = [tuple(words[i : i + size]) for words in texts if words for i in range(max(len(words) - size + 1, 1))]
    assert count == len(expected)
    assert all(len(runs) == 1 for runs in told.values())
    assert {run for runs in told.values() for run in runs} == set(expected)


def test_an_index_knows_every_text_that_has_a_run(tmp_path: Path) -> None:
    path = tmp_path / "two.jsonl"
    path.write_text("".join(json.dumps({"q": f"{end} " + QUESTION}) + "\n" for end in ("First", "Second")))
    index = build_index([("two", str(path))], 13, 8)
    shared = [set(index.owners[a:b].tolist()) for a, b in zip(index.starts, index.starts[1:], strict=False)]
    assert [len(owners) for owners in shared].count(2) == len(QUESTION.split()) - 13 + 1
    assert index.names == ("two #0", "two #1")


def _config(folder: Path, sets: str) -> Path:
    (folder / "in").mkdir(exist_ok=True)
    pairs = [*((f"What is {i}?", f"A number, {i}.") for i in range(6)), (QUESTION, "441.")]
    lines = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in pairs]
    (folder / "in" / "talks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = folder / "config.yaml"
    path.write_text(
        f"name: clean\nsources: [{{path: in, license: MIT}}]\nfilters: [{{contamination: {{sets: {sets}}}}}]\n"
    )
    return path


def test_a_build_is_known_by_what_the_sets_hold_not_by_where_they_lie(tmp_path: Path, items: Path) -> None:
    out = tmp_path / "out"
    quiet = Quiet()
    build(load_config(_config(tmp_path, "{mine: eval.jsonl}")), tmp_path, out, quiet, workers=1)
    manifest = need_manifest(out / "filter")
    assert manifest.counters["filters"]["contamination"]["reasons"] == {"evaluation_item": 1}
    assert str(tmp_path) not in (out / "filter" / "manifest.json").read_text()
    items.rename(tmp_path / "moved.jsonl")
    build(load_config(_config(tmp_path, "{mine: moved.jsonl}")), tmp_path, out, quiet, workers=1)
    assert quiet.done["filter"] is True
    (tmp_path / "moved.jsonl").write_text(
        json.dumps({"q": "Something else that nobody would ever ask of a keeper of bees."}) + "\n"
    )
    build(load_config(_config(tmp_path, "{mine: moved.jsonl}")), tmp_path, out, quiet, workers=1)
    assert quiet.done["filter"] is False
    assert need_manifest(out / "filter").counters["filtered"] == 0


def test_sets_that_are_not_there_or_not_known_are_told_in_one_line(tmp_path: Path, items: Path) -> None:
    for sets, message in (
        ("{mine: nowhere.jsonl}", "nowhere.jsonl"),
        ("{mine: hub}", "no set is known by the name 'mine'"),
    ):
        with pytest.raises(PipelineError, match=message):
            build(load_config(_config(tmp_path, sets)), tmp_path, tmp_path / "out", Quiet(), workers=1)
    with pytest.raises(ConfigError, match=r"contamination: words"):
        load_config(_config(tmp_path, "{mine: eval.jsonl}, words: 1"))
