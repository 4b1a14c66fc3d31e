"""The deduplication stage over converted conversations."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.parquet as pq
from dedup_cases import A, Q, converted, deduplicated, edited, gone, pointers, rows, text

from pipeline.convert import ConvertConfig
from pipeline.dedup.clusters import CLUSTERS_FILE, GROUPS_FILE
from pipeline.filters import parse_filters
from pipeline.leftout import FLAGGED, record_shards
from pipeline.manifest import Result
from pipeline.stages.convert import convert_stage
from pipeline.stages.filter import filter_stage
from pipeline.stages.ingest import IngestConfig, InputSource, ingest_stage


def test_exact_and_near_copies_go_and_the_best_stays(mixed: Result, tmp_path: Path) -> None:
    result = deduplicated(mixed, tmp_path / "dedup", sources=("early", "late", "shared", "nobody"))
    assert gone(mixed, result) == {
        "late:0": ("exact", "early:0"),
        "late:3": ("exact", "early:0"),
        "early:1": ("near", "early:0"),
        "shared:0": ("exact", "early:0"),
        "shared:2": ("near", "shared:1"),
        "nobody:0": ("exact", "shared:1"),
    }
    counters = result.manifest.counters
    told = {name: counters[name] for name in ("in", "out", "filtered", "flagged", "exact", "near", "clusters")}
    assert told == {"in": 11, "out": 5, "filtered": 6, "flagged": 0, "exact": 4, "near": 2, "clusters": 2}
    assert counters["filters"] == {
        "duplicates": {"action": "drop", "seen": 11, "taken": 6, "reasons": {"exact": 4, "near": 2}}
    }
    assert not (tmp_path / "dedup" / "scratch").exists()


def test_the_order_of_the_sources_says_which_copy_stays_but_the_licence_comes_first(
    mixed: Result, tmp_path: Path
) -> None:
    found = gone(mixed, deduplicated(mixed, tmp_path / "a", sources=("nobody", "shared", "late", "early")))
    assert found["shared:0"] == ("exact", "late:0")
    assert found["early:0"] == ("exact", "late:0")
    assert found["late:3"] == ("exact", "late:0")
    assert found["nobody:0"] == ("exact", "shared:1")


def test_clusters_tell_who_is_like_whom(mixed: Result, tmp_path: Path) -> None:
    result = deduplicated(mixed, tmp_path / "dedup", sources=("early",))
    clusters = rows(result, CLUSTERS_FILE)
    names = pointers(mixed)
    by_cluster: dict[str, list[dict[str, Any]]] = {}
    for row in clusters:
        by_cluster.setdefault(names[row["cluster"]], []).append(row)
    assert {name: [names[r["ids"][0]] for r in members] for name, members in by_cluster.items()} == {
        "early:0": ["early:0", "early:1", "late:0", "late:3", "shared:0"],
        "shared:1": ["shared:1", "shared:2", "nobody:0"],
    }
    for members in by_cluster.values():
        assert [r["rank"] for r in members] == list(range(len(members)))
        assert [r["kind"] == "kept" for r in members] == [True] + [False] * (len(members) - 1)
        assert {r["similarity"] for r in members if r["kind"] != "near"} == {1.0}
        assert all(0.8 <= r["similarity"] < 1 for r in members if r["kind"] == "near")
    assert [r["license"] for r in by_cluster["shared:1"]] == ["CC-BY-SA-4.0", "CC-BY-SA-4.0", ""]


def test_groups_that_share_a_cluster_are_joined(mixed: Result, tmp_path: Path) -> None:
    result = deduplicated(mixed, tmp_path / "dedup")
    groups = {
        row["id"]: row["group"]
        for p in record_shards([mixed])
        for row in pq.read_table(p, columns=["id", "group"]).to_pylist()
    }
    joined = {row["group"]: row["joined"] for row in rows(result, GROUPS_FILE)}
    for row in rows(result, CLUSTERS_FILE):
        one, other = groups[row["cluster"]], groups[row["ids"][0]]
        assert joined.get(one, one) == joined.get(other, other)
    assert all(joined[root] == root for root in joined.values())
    assert all(root <= group for group, root in joined.items())


def test_groups_are_joined_over_several_clusters() -> None:
    from pipeline.dedup.clusters import _join, _root

    joined: dict[str, str] = {}
    for one, other in (("d", "c"), ("b", "a"), ("f", "f"), ("c", "b"), ("x", "y")):
        _join(joined, one, other)
    assert {name: _root(joined, name) for name in sorted(joined)} == {**dict.fromkeys("abcd", "a"), "x": "x", "y": "x"}


def test_flagged_copies_stay(mixed: Result, tmp_path: Path) -> None:
    dropped = deduplicated(mixed, tmp_path / "drop")
    noted = deduplicated(mixed, tmp_path / "flag", action="flag")
    assert gone(mixed, noted, FLAGGED) == gone(mixed, dropped)
    assert rows(noted) == rows(dropped, FLAGGED) == []
    assert (noted.manifest.counters["out"], noted.manifest.counters["flagged"]) == (11, 6)


def test_only_exact_copies_where_near_ones_are_not_asked_for(mixed: Result, tmp_path: Path) -> None:
    found = gone(mixed, deduplicated(mixed, tmp_path / "dedup", near=False))
    assert set(found) == {"late:0", "late:3", "shared:0", "nobody:0"}


def test_a_conversation_is_no_copy_where_only_what_it_gets_is_the_same(tmp_path: Path) -> None:
    context = text(1, 300)
    talks = [(f"{context} {text(n, 5)}", f"answer {n}") for n in range(4)]
    made = converted(tmp_path, {"c": (None, talks)})
    assert gone(made, deduplicated(made, tmp_path / "a")) == {}
    assert set(gone(made, deduplicated(made, tmp_path / "b", differing=0))) == {"c:1", "c:2", "c:3"}
    first = deduplicated(made, tmp_path / "c", text="first_input")
    assert set(gone(made, first)) == {"c:1", "c:2", "c:3"}


def test_what_the_model_says_can_be_compared_alone(tmp_path: Path) -> None:
    made = converted(tmp_path, {"c": (None, [(text(1), A), (text(2), A), (text(3), text(4))])})
    assert gone(made, deduplicated(made, tmp_path / "a")) == {}
    assert gone(made, deduplicated(made, tmp_path / "b", text="output")) == {"c:1": ("exact", "c:0")}


def test_a_shared_system_prompt_makes_nothing_alike_unless_it_is_compared(tmp_path: Path) -> None:
    talks = [(text(1, 10), text(2, 10)), (text(3, 10), text(4, 10))]
    made = converted(tmp_path, {"c": (None, talks)}, system=text(9, 400))
    assert gone(made, deduplicated(made, tmp_path / "a", differing=0)) == {}
    assert gone(made, deduplicated(made, tmp_path / "b", differing=0, system=True)) == {"c:1": ("near", "c:0")}


def test_short_texts_are_copies_only_where_they_are_equal(tmp_path: Path) -> None:
    talks = [(text(1, 12), text(2, 12)), (text(1, 12), edited(text(2, 12), [11])), (text(1, 12), text(2, 12))]
    made = converted(tmp_path, {"c": (None, talks)})
    assert gone(made, deduplicated(made, tmp_path / "a")) == {"c:2": ("exact", "c:0")}
    assert set(gone(made, deduplicated(made, tmp_path / "b", min_shingles=5))) == {"c:1", "c:2"}


def test_in_a_chain_only_what_is_near_to_the_one_that_stays_goes(tmp_path: Path) -> None:
    links = [A]
    for step in range(4):
        links.append(edited(links[-1], [20 * step + 5], f"step{step}x"))
    made = converted(tmp_path, {"c": (None, [(Q, link) for link in links])})
    result = deduplicated(made, tmp_path / "dedup", differing=0)
    found = gone(made, result)
    assert found["c:1"] == ("near", "c:0")
    assert found["c:2"] == ("near", "c:0")
    assert "c:3" not in found
    assert found["c:4"] == ("near", "c:3")
    assert all(row["similarity"] >= 0.8 for row in rows(result, CLUSTERS_FILE))


def test_chinese_and_thai_texts_are_compared_by_characters(tmp_path: Path) -> None:
    chinese = "".join(chr(0x4E00 + 7 * i) for i in range(150))
    thai = "".join(Random(0).choices([chr(c) for c in range(0x0E01, 0x0E2F)], k=150))
    talks = [
        ("问", chinese), ("问", chinese[:70] + "改" + chinese[71:]), ("问", chinese[::-1]),
        ("ถาม", thai), ("ถาม", thai[:70] + "ฮ" + thai[71:]),
    ]  # fmt: skip
    made = converted(tmp_path, {"c": (None, talks)})
    assert set(gone(made, deduplicated(made, tmp_path / "dedup"))) == {"c:1", "c:4"}


def test_what_a_filter_left_out_is_not_looked_at(tmp_path: Path) -> None:
    talks = [(Q, A), (Q, A), (Q, f"{A} {text(9, 400)}"), (text(5), f"{A} {text(9, 400)}")]
    made = converted(tmp_path, {"c": (None, talks)}, shard_units=2)
    steps = parse_filters([{"length": {"max_output_characters": 2000}}])
    filtered = filter_stage([made], tmp_path / "filter", steps, workers=1)
    assert filtered.manifest.counters["filtered"] == 2
    alone = deduplicated(made, tmp_path / "alone", text="output")
    after = deduplicated(made, tmp_path / "after", text="output", left_out=[filtered])
    assert set(gone(made, alone)) == {"c:1", "c:3"}
    assert set(gone(made, after)) == {"c:1"}
    assert after.manifest.counters["filters"]["duplicates"]["seen"] == 2
    assert after.manifest.fingerprint != alone.manifest.fingerprint


def test_segments_of_a_conversation_go_together(tmp_path: Path) -> None:
    messages = [{"role": "user" if i % 2 == 0 else "assistant", "content": text(i, 30)} for i in range(12)]
    (tmp_path / "data.jsonl").write_text((json.dumps({"messages": messages}) + "\n") * 2, encoding="utf-8")
    source = InputSource(path=str(tmp_path / "data.jsonl"), corpus="c")
    ingest = ingest_stage([source], tmp_path, tmp_path / "ingest", IngestConfig())
    made = convert_stage(ingest, tmp_path / "convert", ConvertConfig(align="turns", max_cells=512), workers=1)
    result = deduplicated(made, tmp_path / "dedup")
    names = pointers(made)
    assert len(names) > 2
    assert [names[row["id"]] for row in rows(result)] == ["c:1"] * (len(names) // 2)


def test_conversations_without_words_to_compare_are_no_copies(tmp_path: Path) -> None:
    made = converted(tmp_path, {"c": (None, [("Hm?", "…"), ("Well?", "…")])})
    result = deduplicated(made, tmp_path / "dedup")
    assert result.manifest.counters["out"] == 2
