"""The mix stage: each source has its share of what is left, and the build says what went."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.build import build
from pipeline.config import BuildConfig, ConfigError, load_config
from pipeline.manifest import need_manifest
from pipeline.validate import validate
from tests.quiet import Quiet


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for corpus, count in (("large", 30), ("small", 6)):
        (tmp_path / corpus).mkdir()
        lines = [
            {
                "messages": [
                    {"role": "user", "content": f"{corpus} {i}?"},
                    {"role": "assistant", "content": "No. " * (i + 1)},
                ]
            }
            for i in range(count)
        ]
        (tmp_path / corpus / "talks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def _build(folder: Path, more: str) -> Quiet:
    config = folder / "config.yaml"
    config.write_text(
        f"name: mixed\nsources: [{{path: large, license: MIT}}, {{path: small, license: CC-BY-NC-4.0}}]\n{more}"
    )
    quiet = Quiet()
    build(load_config(config), folder, folder / "out", quiet, workers=1)
    return quiet


def _corpora(folder: Path) -> Counter[str]:
    shards = (folder / "out" / "dataset").glob("*/records-*.parquet")
    return Counter(s[0]["corpus"] for p in shards for s in pq.read_table(p)["sources"].to_pylist())


def test_filters_first_then_caps_and_proportions_of_what_is_left(folder: Path) -> None:
    filters = "filters:\n  - length: {min_output_characters: 10}\n"  # three each are shorter
    _build(folder, f"{filters}mix:\n  weights: {{large: 4, small: 1}}\n")
    assert _corpora(folder) == {"large": 12, "small": 3}
    mix = need_manifest(folder / "out" / "mix").counters
    assert mix["corpora"] == {"large": {"there": 27, "taken": 12}, "small": {"there": 3, "taken": 3}}
    assert (mix["in"], mix["out"], mix["filtered"]) == (30, 15, 15)
    assert need_manifest(folder / "out" / "dataset").counters["filters"] == {
        "length": {"too_little_output": 6}, "mix": {"weights": 15},
    }  # fmt: skip
    assert validate(folder / "out").ok
    card = (folder / "out" / "dataset" / "README.md").read_text()
    assert "mix: weights | 15 | 41.7% | large (15)" in card
    assert "length: too_little_output | 6 | 16.7% | large (3), small (3)" in card


def test_another_mix_draws_anew_and_one_that_is_taken_back_leaves_all(folder: Path) -> None:
    assert _build(folder, "mix: {cap: {'*': 5}}\n").done["mix"] is False
    first = _corpora(folder)
    assert first == {"large": 5, "small": 5}
    again = _build(folder, "mix: {cap: {'*': 5}}\n").done
    assert all(again.values())
    assert set(again) == {"ingest", "convert", "mix", "dataset"}
    _build(folder, "mix: {cap: {'*': 2}}\n")
    assert _corpora(folder) == {"large": 2, "small": 2}
    assert _build(folder, "").done == {"ingest": True, "convert": True, "dataset": False}
    assert _corpora(folder) == {"large": 30, "small": 6}


def test_licences_that_are_not_allowed_are_left_out_by_name(folder: Path) -> None:
    _build(folder, "filters: [{license: {allow: [MIT]}}]\n")
    assert _corpora(folder) == {"large": 30}
    [row] = {tuple(r.items()) for p in (folder / "out" / "dataset").glob("filtered-*") for r in
             pq.read_table(p, columns=["corpus", "filter", "reason", "detail"]).to_pylist()}  # fmt: skip
    assert dict(row) == {"corpus": "small", "filter": "license", "reason": "license", "detail": "CC-BY-NC-4.0"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("mix: {cap: {a: -1}}\n", r"mix\.cap\.a"),
        ("mix: {caps: {a: 1}}\n", r"unknown key 'mix\.caps' \(did you mean 'cap'\?\)"),
        ("filters: [lenght]\n", r"no filter is called 'lenght' \(did you mean 'length'\?\)"),
        ("filters: [{length: {min_row: 1}}]\n", r"unknown key 'min_row' \(did you mean 'min_rows'\?\)"),
        ("filters: [{length: {min_rows: -1}}]\n", r"filters\.0\.length: min_rows"),
        ("filters: [{length: {action: hide}}]\n", r"filters\.0\.length\.action is 'hide', it must be drop or flag"),
        ("filters: [{length: 3}]\n", r"filters\.0\.length is 3, it must be a section of keys"),
        ("filters: [length, length]\n", "length stands there twice"),
        ("filters: all\n", "filters"),
    ],
)
def test_what_is_asked_wrongly_is_said_before_anything_is_done(folder: Path, more: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _build(folder, more)
    assert not (folder / "out").exists()
    assert BuildConfig.model_fields["filters"].default is None
