"""Final shards: split by group, shuffled over all inputs, whole files of one schema, whatever the input looked like."""

from __future__ import annotations

import hashlib
import os
import resource
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conversation_cases import QUICK, message, tables_of, talk
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import shards
from pipeline.conversation import Source
from pipeline.records import Clock, Tables, token_grid_metadata
from pipeline.shards import ShuffleConfig, TableWriter, shuffle_and_split
from pipeline.tables import RECORDS, TOKENS
from pipeline.tokenization import TextTokenizer

Written = dict[str, list[str]]


@pytest.fixture(scope="module")
def pool(smollm2: TextTokenizer) -> Tables:
    """60 short records, each a group of its own until a test says otherwise."""
    conversations = [
        replace(
            talk(message("user", f"Question {i}?"), message("assistant", f"Answer {i}.")),
            group=f"group {i}",
            sources=(Source("c", "p", i, None, None, "0" * 64),),
        )
        for i in range(60)
    ]
    return tables_of(conversations, "turns", smollm2)


def grouped(pool: Tables, groups: Sequence[int]) -> tuple[pa.Table, pa.Table]:
    """The first records of the pool, put into groups."""
    names = pa.array([f"group {g}" for g in groups])
    return tuple(  # type: ignore[return-value]
        t.slice(0, len(groups)).set_column(t.schema.get_field_index("group"), t.schema.field("group"), names)
        for t in (pool.records, pool.tokens)
    )


def shards_of(table: pa.Table, cuts: Sequence[int], folder: Path, name: str) -> list[Path]:
    """The table in several files."""
    paths = []
    for i, (low, high) in enumerate(zip([0, *cuts], [*cuts, table.num_rows], strict=True)):
        paths.append(folder / f"{name}-{i}.parquet")
        pq.write_table(table.slice(low, high - low), paths[-1])
    return paths


def split(records: pa.Table, tokens: pa.Table, folder: Path, config: ShuffleConfig, cuts: Sequence[int] = ()) -> Path:
    """Runs the shuffle over the tables, cut into input shards; gives the folder of the final ones."""
    folder.mkdir(parents=True, exist_ok=True)
    inputs = {
        "records": shards_of(records, cuts, folder, "records"),
        "tokens-t": shards_of(tokens, cuts, folder, "tokens"),
    }
    out = folder / "out"
    written = shuffle_and_split(inputs, {"records": RECORDS, "tokens-t": TOKENS}, folder / "scratch", out, config)
    assert sorted(p for p, _ in written) == sorted(out.rglob("*.parquet"))
    assert [rows for _, rows in written] == [pq.read_metadata(p).num_rows for p, _ in written]
    assert not list((folder / "scratch").iterdir())
    return out


def read(out: Path, table: str, side: str = "*", column: str = "id") -> list[str]:
    return [
        v for p in sorted(out.glob(f"{side}/{table}-*.parquet")) for v in pq.read_table(p).column(column).to_pylist()
    ]


def digests(out: Path) -> dict[str, str]:
    return {
        p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(out.rglob("*.parquet"))
    }


@settings(QUICK, max_examples=25)
@given(
    st.lists(st.integers(0, 8), min_size=1, max_size=40),
    st.integers(0, 1000),
    st.sampled_from([0.0, 0.05, 0.1, 0.5, 0.9]),
    st.integers(1, 50),
)
def test_the_split_keeps_groups_together_and_loses_nothing(
    pool: Tables, groups: list[int], seed: int, fraction: float, shard_rows: int
) -> None:
    records, tokens = grouped(pool, groups)
    with TemporaryDirectory() as folder:
        out = split(records, tokens, Path(folder), ShuffleConfig(seed, fraction, shard_rows))
        sides = {side: set(read(out, "records", side, "group")) for side in ("train", "test")}
        assert not sides["train"] & sides["test"]
        assert Counter(read(out, "records")) == Counter(records.column("id").to_pylist())
        assert read(out, "records") == read(out, "tokens-t")
        assert read(out, "records", column="group") == read(out, "tokens-t", column="group")
        if fraction and len(set(groups)) > 1:
            assert sides["test"]
            assert sides["train"]
        if not fraction:
            assert not sides["test"]


@pytest.mark.parametrize("seed", range(30))
def test_two_groups_give_one_to_each_side_whatever_the_seed(pool: Tables, tmp_path: Path, seed: int) -> None:
    out = split(*grouped(pool, [0, 1, 0, 1, 0]), tmp_path, ShuffleConfig(seed, 0.3))
    assert sorted(len(set(read(out, "records", side, "group"))) for side in ("train", "test")) == [1, 1]


def test_one_group_is_all_on_one_side(pool: Tables, tmp_path: Path) -> None:
    out = split(*grouped(pool, [0] * 10), tmp_path, ShuffleConfig(0, 0.1))
    assert len(read(out, "records", "train")) in (0, 10)


@settings(QUICK, max_examples=10)
@given(st.lists(st.integers(0, 40), max_size=5), st.randoms(use_true_random=False))
def test_the_bytes_do_not_depend_on_how_the_input_was_cut_or_ordered(
    pool: Tables, cuts: list[int], random: object
) -> None:
    records, tokens = grouped(pool, [i // 3 for i in range(40)])
    order = list(range(40))
    random.shuffle(order)  # type: ignore[attr-defined]
    config = ShuffleConfig(7, 0.2, shard_rows=8)
    with TemporaryDirectory() as folder:
        whole = split(records, tokens, Path(folder) / "a", config)
        pieces = split(records.take(order), tokens.take(order), Path(folder) / "b", config, sorted(cuts))
        assert digests(whole) == digests(pieces)
        assert len(digests(whole)) > 6


def test_the_order_is_shuffled_over_all_inputs_and_seeded(pool: Tables, tmp_path: Path) -> None:
    records, tokens = grouped(pool, range(60))
    orders = [
        read(split(records, tokens, tmp_path / str(seed), ShuffleConfig(seed, 0.2), [30]), "records")
        for seed in (0, 0, 1)
    ]
    given_order = records.column("id").to_pylist()
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != given_order
    first_half = set(given_order[:30])
    assert 5 < sum(i in first_half for i in orders[0][:30]) < 25


def test_the_side_of_a_group_depends_on_the_seed_and_its_name_alone(pool: Tables, tmp_path: Path) -> None:
    def test_groups(count: int, seed: int) -> set[str]:
        return set(
            read(
                split(*grouped(pool, range(count)), tmp_path / f"{count}-{seed}", ShuffleConfig(seed, 0.3)),
                "records",
                "test",
                "group",
            )
        )

    few, many = test_groups(40, 0), test_groups(60, 0)
    assert few == {g for g in many if int(g.split()[1]) < 40}
    assert many != test_groups(60, 1)
    assert 5 < len(many) < 35


def test_many_shards_out_of_core_hold_about_as_many_rows_as_asked(pool: Tables, tmp_path: Path) -> None:
    records, tokens = grouped(pool, range(60))
    out = split(records, tokens, tmp_path, ShuffleConfig(0, 0.2, shard_rows=2), [10, 20, 30, 40, 50])
    files = sorted((out / "train").glob("records-*.parquet"))
    assert len(files) == -(-len(read(out, "records", "train")) // 2)
    assert [f.name for f in files] == [f"records-{i:05d}-of-{len(files):05d}.parquet" for i in range(len(files))]
    for f in files:
        beside = f.with_name(f.name.replace("records-", "tokens-t-"))
        assert pq.read_table(f).column("id").equals(pq.read_table(beside).column("id"))


@pytest.mark.parametrize(("bucket", "bits", "deal"), [(1, 1, 1), (5000, 2, 1), (5000, 6, 1 << 20), (20_000, 3, 4000)])
def test_the_bytes_do_not_depend_on_how_much_is_held_in_memory(
    pool: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket: int, bits: int, deal: int
) -> None:
    records, tokens = grouped(pool, range(60))
    config = ShuffleConfig(0, 0.2, shard_rows=7)
    monkeypatch.setattr(shards, "ROW_GROUP_BYTES", 3000)
    monkeypatch.setattr(shards, "CHUNK_ROWS", 3)
    whole = split(records, tokens, tmp_path / "whole", config)
    for name, value in {"BUCKET_BYTES": bucket, "FAN_BITS": bits, "DEAL_BYTES": deal}.items():
        monkeypatch.setattr(shards, name, value)
    assert digests(split(records, tokens, tmp_path / "dealt", config, [13, 50])) == digests(whole)


def test_no_more_files_are_open_for_more_shards(pool: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records, tokens = grouped(pool, range(60))
    monkeypatch.setattr(shards, "BUCKET_BYTES", 1)
    monkeypatch.setattr(shards, "FAN_BITS", 2)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 30, hard))
    try:
        out = split(records, tokens, tmp_path, ShuffleConfig(0, 0.2, shard_rows=1))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert sorted(read(out, "records")) == sorted(records.column("id").to_pylist())


def test_every_shard_has_the_one_schema_whatever_it_holds(pool: Tables, smollm2: TextTokenizer, tmp_path: Path) -> None:
    timed = tables_of([replace(talk(message("user", "Now?", started_ms=7)), group="timed")], "turns", smollm2)
    records = pa.concat_tables([grouped(pool, range(20))[0], timed.records])
    tokens = pa.concat_tables([grouped(pool, range(20))[1], timed.tokens])
    meta = TOKENS.with_metadata(token_grid_metadata(Clock(smollm2)))
    inputs = {"records": shards_of(records, [20], tmp_path, "r"), "tokens-t": shards_of(tokens, [20], tmp_path, "t")}
    written = shuffle_and_split(
        inputs, {"records": RECORDS, "tokens-t": meta}, tmp_path / "s", tmp_path / "o", ShuffleConfig(0, 0.3, 3)
    )
    assert len(written) > 8
    for path, _ in written:
        wanted = RECORDS if path.name.startswith("records") else meta
        assert pq.read_schema(path).equals(wanted)
        assert pq.read_schema(path).metadata == wanted.metadata


def test_inputs_without_rows_are_no_trouble(pool: Tables, tmp_path: Path) -> None:
    out = split(*grouped(pool, range(10)), tmp_path, ShuffleConfig(0, 0.2), [0, 0, 10])
    assert len(read(out, "records")) == 10


def rows(n: int) -> pa.Table:
    return pa.table({"x": pa.array(range(n), pa.int64())})


SCHEMA = rows(0).schema


def test_files_written_together_appear_together_or_not_at_all(tmp_path: Path) -> None:
    a, b = tmp_path / "a.parquet", tmp_path / "b.parquet"

    def fail() -> None:
        with TableWriter.several({a: SCHEMA, b: SCHEMA}) as write:
            write(a, rows(5))
            write(b, rows(5))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []
    with TableWriter.several({a: SCHEMA, b: SCHEMA}) as write:
        write(a, rows(5))
        assert not a.exists()
    assert (pq.read_table(a).num_rows, pq.read_table(b).num_rows) == (5, 0)
    assert sorted(tmp_path.iterdir()) == [a, b]


def test_an_optional_file_without_rows_is_not_written_and_an_old_one_goes(tmp_path: Path) -> None:
    path = tmp_path / "rejects.parquet"
    with TableWriter.several({path: SCHEMA}, optional={path}) as write:
        write(path, rows(1))
    assert path.exists()
    with TableWriter.several({path: SCHEMA}, optional={path}) as write:
        write(path, rows(0))
    assert not path.exists()


def test_rows_of_another_schema_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with pytest.raises((pa.ArrowInvalid, ValueError)), TableWriter.several({path: SCHEMA}) as write:
        write(path, pa.table({"y": ["text"]}))
    assert list(tmp_path.iterdir()) == []


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with TableWriter.several({tmp_path / name: SCHEMA}) as write:
            for start in range(0, 100, 10):
                write(tmp_path / name, rows(100).slice(start, 10))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
