"""``multistream gain``: a table by policy and corpus, JSON for programs, a ceiling, a seeded sample, one-line errors."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.cli import console, main
from pipeline.scoring import record_gains
from pipeline.tables import RECORDS
from tests.scoring.scoring_cases import EARLY, event, record, table, tiny_scorer

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """The command line in this process, 80 columns wide: exit code, standard output, standard error."""
    monkeypatch.setattr(console.out, "width", 80)

    def go(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["multistream", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capfd.readouterr()
        return int(left.value.code or 0), out, err

    return go


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Twelve records that overlap and, of another corpus and policy, one that does not."""
    waits = [
        event(0, "Hello.", 0, 3, message=0, part=0, final=True),
        event(1, "Hi.", 3, 6, message=1, part=0, final=True),
    ]
    early = [{**EARLY, "id": f"r{i}"} for i in range(12)]
    folder = tmp_path / "records"
    folder.mkdir()
    pq.write_table(table(*early[:5]), folder / "records-00000.parquet")
    rest = [*early[5:], record(["user", "assistant"], waits, id="w", policy="turns", corpus="other")]
    pq.write_table(table(*rest), folder / "records-00001.parquet")
    return folder


def test_the_table_counts_by_policy_and_corpus(run: Run, records: Path, tiny_model: Path) -> None:
    code, out, err = run("gain", records, "--model", tiny_model, "--device", "cpu")
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    (gain,) = [g for g in record_gains(tiny_scorer(tiny_model), table(EARLY))[0] if g]
    shown = f"{gain:.3f}"
    assert ["made", "12", "12", "12", "0", shown, shown, shown] in lines
    assert ["other", "1", "0", "0", "0"] in lines
    assert "scorer tiny-llama, cue turn, window 512 tokens" in out


def test_json_says_the_same_and_the_mean_is_over_tokens(run: Run, records: Path, tiny_model: Path) -> None:
    code, out, _ = run("gain", records, "--model", tiny_model, "--cue", "open", "--json")
    value = json.loads(out)
    assert code == 0
    assert (value["scorer"], value["cue"], value["window"]) == ("tiny-llama", "open", 512)
    evidence, turns = value["groups"]
    assert (evidence["policy"], evidence["corpus"], evidence["scored"], evidence["tokens"]) == (
        "evidence",
        "made",
        12,
        48,
    )
    assert (turns["policy"], turns["overlapping"], turns["mean"], turns["p90"]) == ("turns", 0, None, None)


def test_above_the_ceiling_it_fails_and_says_where(run: Run, records: Path, tiny_model: Path) -> None:
    (gain,) = [g for g in record_gains(tiny_scorer(tiny_model), table(EARLY))[0] if g]
    code, out, err = run("gain", records, "--model", tiny_model, "--max-gain", gain - 0.001)
    assert (code, err) == (1, "")
    assert "made, evidence: the mean is above" in out
    assert "100.0%" in out
    code, out, _ = run("gain", records, "--model", tiny_model, "--max-gain", gain + 0.001)
    assert code == 0
    assert "0.0%" in out


def test_a_sample_is_of_each_group_and_follows_the_seed(
    run: Run, records: Path, tiny_model: Path, tmp_path: Path
) -> None:
    def ids(*options: object) -> list[str]:
        out = tmp_path / "sample.parquet"
        assert run("gain", records, "--model", tiny_model, "--out", out, *options)[0] == 0
        return list(pq.read_table(out).column("id").to_pylist())

    first = ids("--sample", 4)
    assert len(first) == 5
    assert "w" in first
    assert ids("--sample", 4) == first
    assert ids("--sample", 4, "--seed", 1) != first
    assert set(first) <= set(ids("--sample", 6))
    assert ids() == [f"r{i}" for i in range(12)] + ["w"]


def test_records_are_written_with_their_gains(run: Run, records: Path, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "gains.parquet"
    code, _, _ = run("gain", records / "records-00001.parquet", "--model", tiny_model, "--out", out)
    assert code == 0
    written = pq.read_table(out)
    assert written.schema.equals(RECORDS)
    gains, _ = record_gains(tiny_scorer(tiny_model), table(EARLY))
    shown = [[one["gain"] for one in row["events"]] for row in written.to_pylist()]
    assert shown[0] == [None if gain is None else pytest.approx(gain, abs=1e-5) for gain in gains]
    assert shown[-1] == [None, 0.0]


def test_a_store_answers_the_second_time(run: Run, records: Path, tiny_model: Path, tmp_path: Path) -> None:
    arguments = ("gain", records, "--model", tiny_model, "--store", tmp_path / "store", "--json")
    first = run(*arguments)
    parts = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "store").iterdir()}
    assert run(*arguments) == first
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "store").iterdir()} == parts


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("nowhere",), 1, "nowhere is not there"),
        (("{records}", "--cue", "shout"), 2, "choose one of turn, ellipsis, open"),
        (("{records}", "--model", "./nothing"), 1, "'./nothing' is not there"),
        (("{records}", "--out", "gains.csv"), 2, "ends in .parquet"),
        (("{records}", "--sample", "-1"), 2, "--sample"),
        (("{records}", "--device", "abacus"), 2, "choose auto, cpu or cuda"),
        ((), 2, "paths"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    run: Run, records: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    left, out, err = run("gain", *(argument.format(records=records) for argument in arguments))
    assert (left, out, len(err.splitlines())) == (code, "", 1)
    assert says in err
