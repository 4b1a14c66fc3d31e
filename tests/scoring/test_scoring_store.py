"""A store of scores: nothing is scored twice, a killed run goes on, and the result is that of an undisturbed one."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import InputError
from pipeline.scoring import PrefixScores, ScoreStore, query_key, score_all, score_prefixes
from pipeline.scoring.prefixes import compile_queries
from pipeline.scoring.store import SCORES
from tests.scoring.scoring_cases import queries, query, segment, tiny_scorer

ASKED = [*queries(), query("What is it? Tell me.", "A boat."), queries()[0]]


def same(left: list[PrefixScores | None], right: list[PrefixScores | None]) -> bool:
    return all(
        (a is None and b is None)
        or (
            a is not None
            and b is not None
            and np.array_equal(a.logp, b.logp, equal_nan=True)
            and np.array_equal(a.tokens, b.tokens)
        )
        for a, b in zip(left, right, strict=True)
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_what_the_store_knows_is_not_scored_again(tiny_model: Path, tmp_path: Path) -> None:
    first = score_all(tiny_scorer(tiny_model), ASKED, ScoreStore(tmp_path))
    direct = score_prefixes(tiny_scorer(tiny_model), ASKED)
    for one, other in zip(first, direct, strict=True):
        assert one is not None
        assert other is not None
        np.testing.assert_allclose(one.logp, other.logp, atol=1e-4)
    store = ScoreStore(tmp_path)
    assert len(store) == len(ASKED) - 1
    again = tiny_scorer(tiny_model)
    assert same(score_all(again, ASKED, store), first)
    assert again.counters.forwarded == 0


def test_weights_are_not_read_where_nothing_is_missing(tiny_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "tiny-llama"
    shutil.copytree(tiny_model, model)
    first = score_all(tiny_scorer(model), ASKED[:2], ScoreStore(tmp_path / "store"))
    scorer = tiny_scorer(model)
    assert scorer.sha256
    (model / "model.safetensors").unlink()
    assert same(score_all(scorer, ASKED[:2], ScoreStore(tmp_path / "store")), first)
    with pytest.raises(InputError, match="holds no loadable model"):
        score_all(scorer, ASKED[2:], ScoreStore(tmp_path / "store"))


def test_a_run_that_was_stopped_goes_on_and_ends_as_an_undisturbed_one(tiny_model: Path, tmp_path: Path) -> None:
    whole = score_all(tiny_scorer(tiny_model), ASKED, ScoreStore(tmp_path / "whole"), commit=2)

    def stop_after_the_first_part(done: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_all(
            tiny_scorer(tiny_model), ASKED, ScoreStore(tmp_path / "cut"), commit=2, progress=stop_after_the_first_part
        )
    (tmp_path / "cut" / ".scores-000001.parquet.7.tmp").write_bytes(b"half a part")
    assert len(ScoreStore(tmp_path / "cut")) == 2
    resumed = score_all(tiny_scorer(tiny_model), ASKED, ScoreStore(tmp_path / "cut"), commit=2)
    assert same(resumed, whole)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_over_the_window_is_kept_as_such_and_scored_by_a_wider_one(tiny_model: Path, tmp_path: Path) -> None:
    narrow = tiny_scorer(tiny_model, max_context=20)
    assert score_all(narrow, ASKED[:1], ScoreStore(tmp_path)) == [None]
    (path,) = tmp_path.glob("*.parquet")
    row = pq.read_table(path).to_pylist()[0]
    assert (row["over_window"], row["window"], row["logp"]) == (True, 20, [])
    assert (row["prefixes"], row["chunks"]) == (4, 2)
    assert score_all(tiny_scorer(tiny_model, max_context=10), ASKED[:1], ScoreStore(tmp_path)) == [None]
    wide = tiny_scorer(tiny_model)
    (scores,) = score_all(wide, ASKED[:1], ScoreStore(tmp_path))
    assert scores is not None
    assert len(list(tmp_path.glob("*.parquet"))) == 2
    assert same(score_all(wide, ASKED[:1], ScoreStore(tmp_path)), [scores])


def test_a_bisection_serves_its_own_epsilon_and_a_scan_serves_all(tiny_model: Path, tmp_path: Path) -> None:
    scorer, asked = tiny_scorer(tiny_model), ASKED[:1]

    def forwarded(**search: object) -> int:
        before = scorer.counters.forwarded
        score_all(scorer, asked, ScoreStore(tmp_path), **search)  # type: ignore[arg-type]
        return scorer.counters.forwarded - before

    assert forwarded(search="bisect", epsilon=0.01) > 0
    assert forwarded(search="bisect", epsilon=0.01) == 0
    assert forwarded(search="bisect", epsilon=0.02) > 0
    assert forwarded() > 0
    assert forwarded() == 0
    assert forwarded(search="bisect", epsilon=0.5) == 0


def test_the_key_is_of_the_scorer_the_cue_and_the_exact_query(tiny_model: Path) -> None:
    base = query("One. Two.", "Three.")
    others = [
        query("One. Two!", "Three."),
        query("One. Two.", "Three!"),
        query("One. Two.", "Three.", (segment("system", "Hm."),)),
        type(base)(base.segments, base.prefixes[1:], base.outputs),
    ]
    scorer = tiny_scorer(tiny_model)
    keys = [
        query_key(s, q)
        for s, q in [*((scorer, q) for q in (base, *others)), (tiny_scorer(tiny_model, cue="open"), base)]
    ]
    assert len(set(keys)) == len(keys)
    assert query_key(tiny_scorer(tiny_model, max_context=30), base) == keys[0]
    assert query_key(scorer, query("One. Two.", "Three.")) == keys[0]


def test_parts_have_one_schema(tiny_model: Path, tmp_path: Path) -> None:
    score_all(tiny_scorer(tiny_model, max_context=40), ASKED, ScoreStore(tmp_path), commit=2)
    for path in tmp_path.glob("*.parquet"):
        assert pq.read_schema(path).equals(SCORES, check_metadata=True)
    rows = pa.concat_tables([pq.read_table(path) for path in sorted(tmp_path.glob("*.parquet"))]).to_pylist()
    for row in rows:
        assert len(row["logp"]) == (0 if row["over_window"] else row["prefixes"] * row["chunks"])
    assert {row["over_window"] for row in rows} == {True, False}


@pytest.mark.parametrize("damage", ["short", "schema", "name"])
def test_what_is_no_part_is_told_in_one_line(tmp_path: Path, damage: str) -> None:
    name = "scores-old.parquet" if damage == "name" else f"scores-000000-{'0' * 16}.parquet"
    pq.write_table(pa.table({"key": ["a"]}), tmp_path / name)
    if damage == "short":
        (tmp_path / name).write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match=name) as error:
        ScoreStore(tmp_path)
    assert len(str(error.value).splitlines()) == 1


def test_compiled_queries_say_how_long_they_are(tiny_model: Path) -> None:
    (compiled,) = compile_queries(tiny_scorer(tiny_model), ASKED[:1])
    assert compiled.longest == max(len(context) for context in compiled.contexts) + len(compiled.target)
