"""Copies in a build: one stays, the others are booked, and what is like another one is on its side of the split."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.build import build
from pipeline.config import ConfigError, load_config
from pipeline.manifest import need_manifest
from pipeline.validate import validate
from tests.quiet import Quiet

WORDS = ["harbour", "pier", "lantern", "gravel", "orchard", "velvet", "copper", "meadow", "thunder", "saddle"]


def talk(i: int, end: str = "") -> dict[str, object]:
    """A conversation of some sixty words; another ``end`` makes a near copy with another group."""
    text = " ".join(f"{WORDS[(i * 7 + k * k) % 10]}{(i + k) % 7}" for k in range(60))
    return {
        "messages": [
            {"role": "user", "content": f"Tell me of {i}: {text[::-1]}{end}."},
            {"role": "assistant", "content": text + end},
        ]
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    first = [talk(i) for i in range(30)]
    second = [talk(i, " indeed" if i % 2 else "") for i in range(10)] + [talk(i) for i in range(40, 45)]
    for corpus, lines in (("one", first), ("two", second)):
        (tmp_path / corpus).mkdir()
        (tmp_path / corpus / "talks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def _build(folder: Path, dedup: str, order: str = "one two", licenses: str = "MIT MIT") -> Quiet:
    sources = [f"{{path: {name}, license: {spdx}}}" for name, spdx in zip(order.split(), licenses.split(), strict=True)]
    config = folder / "config.yaml"
    config.write_text(
        f"name: unique\nshards: {{test_fraction: 0.4}}\nsources: [{', '.join(sources)}]\ndedup: {dedup}\n"
    )
    quiet = Quiet()
    build(load_config(config), folder, folder / "out", quiet, workers=1)
    return quiet


def _left_out(folder: Path) -> Counter[tuple[str, str]]:
    tables = [pq.read_table(p) for p in (folder / "out" / "dataset").glob("filtered-*.parquet")]
    return Counter((r["corpus"], r["reason"]) for t in tables for r in t.to_pylist())


def _groups(folder: Path, split: str) -> set[str]:
    shards = (folder / "out" / "dataset" / split).glob("records-*.parquet")
    return {group for p in shards for group in pq.read_table(p)["group"].to_pylist()}


def test_the_first_source_keeps_its_copy_and_the_books_agree(folder: Path) -> None:
    assert _build(folder, "{}").done["dedup"] is False
    assert _left_out(folder) == {("two", "exact"): 5, ("two", "near"): 5}
    counters = need_manifest(folder / "out" / "dataset").counters
    assert (counters["in"], counters["out"], counters["filtered"]) == (45, 35, 10)
    assert validate(folder / "out").ok
    assert all(_build(folder, "{}").done.values())


def test_another_order_or_a_better_known_licence_changes_which_copy_stays(folder: Path) -> None:
    _build(folder, "{}", order="two one")
    assert _left_out(folder) == {("one", "exact"): 5, ("one", "near"): 5}
    _build(folder, "{sources: [one]}", order="two one")
    assert _left_out(folder) == {("two", "exact"): 5, ("two", "near"): 5}
    _build(folder, "{}", licenses="CC-BY-NC-4.0 MIT")
    assert _left_out(folder) == {("one", "exact"): 5, ("one", "near"): 5}


def test_copies_that_are_only_flagged_are_on_one_side_of_the_split(folder: Path) -> None:
    _build(folder, "{action: flag, near: false}")
    apart = _groups(folder, "train"), _groups(folder, "test")
    _build(folder, "{action: flag}")
    assert need_manifest(folder / "out" / "dataset").counters["out"] == 45
    assert need_manifest(folder / "out" / "dedup").counters["flagged"] == 10
    pairs = pq.read_table(folder / "out" / "dedup" / "groups-00000.parquet").to_pylist()
    joined: dict[str, set[str]] = {}
    for row in pairs:
        joined.setdefault(row["joined"], set()).add(row["group"])
    assert len(joined) == 5
    train, test = _groups(folder, "train"), _groups(folder, "test")
    assert not [groups for groups in joined.values() if groups & train and groups & test]
    assert [groups for groups in joined.values() if groups & apart[0] and groups & apart[1]], "else nothing is shown"


def test_wrong_settings_are_told_before_anything_is_done(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'dedup\.treshold' \(did you mean 'threshold'\?\)"):
        _build(folder, "{treshold: 0.9}")
    with pytest.raises(ConfigError, match=r"dedup\.threshold"):
        _build(folder, "{threshold: 2}")
    assert not (folder / "out").exists()
