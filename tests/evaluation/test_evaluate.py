from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.evaluation.evaluate import EvaluateConfig, EvaluationResult, evaluate
from pipeline.evaluation.gate import GateConfig
from pipeline.evaluation.heldout import TurnTaking, held_out
from pipeline.evaluation.report import report_json, report_markdown, write_report
from pipeline.tables import RECORDS
from pipeline.training.grid import TrainingError
from pipeline.training.loop import TrainConfig, train
from pipeline.training.masks import IGNORE, record_cells
from pipeline.training.model import MultistreamModel, load_checkpoint
from pipeline.training.packing import make_pack
from tests.evaluation.test_latency import record_row
from tests.training.synthetic_grids import (
    ASSISTANT,
    METADATA,
    SILENCE,
    THOUGHT,
    USER,
    echo_grids,
    make_grid,
    save_tiny_llama,
    tiny_llama,
    write_dataset,
    write_shard,
)

TRAIN = TrainConfig(
    steps=20, packs_per_step=2, max_cells=256, learning_rate=3e-3, embedding_learning_rate=1e-2, device="cpu"
)
#: Twenty steps teach when to speak, not yet what: on permuted inputs the loss is about the same.
CONFIG = EvaluateConfig(device="cpu", max_cells=256, resamples=200, gate=GateConfig(permuted_margin=None))
QUICK = replace(CONFIG, controls=(), generate_records=0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_dataset(tmp_path_factory.mktemp("data"), echo_grids(60), echo_grids(12, seed=1))
    table = pa.Table.from_pylist([record_row(id=str(index)) for index in range(12)], RECORDS)
    pq.write_table(table, directory / "dataset/test/records-00000.parquet")
    return directory


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, base: Path, dataset: Path) -> Path:
    out = tmp_path_factory.mktemp("run") / "checkpoint"
    train(dataset, base, out, TRAIN)
    return out


@pytest.fixture(scope="module")
def evaluated(
    tmp_path_factory: pytest.TempPathFactory, base: Path, dataset: Path, checkpoint: Path
) -> tuple[EvaluationResult, Path]:
    out = tmp_path_factory.mktemp("report") / "out"
    return evaluate(checkpoint, None, dataset, out, CONFIG), out


def test_twenty_steps_lower_the_held_out_text_loss(evaluated: tuple[EvaluationResult, Path]) -> None:
    result, _ = evaluated
    before, after = result.before.total, result.after.total
    assert before.text_loss is not None
    assert after.text_loss is not None
    assert after.text_loss < before.text_loss - 0.5
    assert after.text_tokens == before.text_tokens == 12 * 4
    assert after.silence_cells == 12 * 8
    assert (result.before.turn_taking.silence_f1 or 0) < (result.after.turn_taking.silence_f1 or 0)
    assert not result.failures
    assert result.untrained_roles == ()


def test_the_report_says_what_was_measured(evaluated: tuple[EvaluationResult, Path]) -> None:
    result, out = evaluated
    files = ["latency.png", "loss.png", "report.json", "report.md", "timeline.png", "training.png"]
    assert sorted(path.name for path in out.iterdir()) == files
    report = json.loads((out / "report.json").read_text())
    assert report["passed"]
    assert report["after"]["streams"]["assistant"]["text_tokens"] == 48
    assert report["after"]["total"]["text_loss"] == result.after.total.text_loss
    assert report["latency"]["records"] == 12
    assert report["schema"] == "evaluation-report/2"
    low, high = report["after"]["total"]["text_interval"]
    assert low < report["after"]["total"]["text_loss"] < high
    change = report["differences"]["before"]["streams"]["all"]["text"]
    assert change["value"] == pytest.approx(
        report["after"]["total"]["text_loss"] - report["before"]["total"]["text_loss"]
    )
    assert change["low"] < change["value"] < change["high"] < 0
    assert set(report["controls"]) == {"permuted_at_test", "turns", "untrained_embedding"}
    assert report["price_of_overlap"] == report["differences"]["turns"]["streams"]["all"]["text"]
    assert report["turns_layout"] == {"by_events": 0, "by_cells": 12, "real_time": 0}
    assert report["generation"]["records"] == 8
    assert report["injection"]["note"] == "needs the data's tokenizer"
    markdown = (out / "report.md").read_text()
    assert "Gate: **passed**" in markdown
    assert "| assistant | 48 |" in markdown
    assert "| all | rows to first output | 12 | 4.0 | 4.0 |" in markdown
    plots = [line for line in markdown.splitlines() if line.startswith("![")]
    assert len(plots) == 4
    assert all(len(line.split("]")[0]) > 40 for line in plots)
    assert all((out / plot).read_bytes().startswith(b"\x89PNG") for plot in files if plot.endswith(".png"))


def test_held_out_losses_are_the_sums_by_hand() -> None:
    model = MultistreamModel(tiny_llama(), ("assistant", "user")).eval()
    records = [*echo_grids(3), make_grid([(2, 1, 7, 3), (0, 0, 1, 1)], 6, (USER, THOUGHT), id="other")]
    result = held_out(
        MultistreamModel(tiny_llama(), ("assistant", "thought", "user")), records, METADATA, mask="strict", max_cells=40
    )
    text, silence, onset_right = 0.0, 0.0, 0
    for grid in records:
        (cells,) = record_cells(grid, METADATA)
        pack = make_pack([cells], model.role_index, "strict")
        with torch.no_grad():
            logits = model.logits(model.hidden(pack))
        for index in np.flatnonzero(pack.target != IGNORE):
            loss = -float(logits[index].log_softmax(-1)[pack.target[index]])
            text, silence = (text, silence + loss) if pack.target[index] == SILENCE else (text + loss, silence)
            spoke = int(logits[index].argmax()) != SILENCE
            onset_right += spoke and not pack.is_key[index] and pack.target[index] != SILENCE
    assert result.total.text_nats == pytest.approx(text, rel=1e-5)
    assert result.total.silence_nats == pytest.approx(silence, rel=1e-5)
    assert {role: loss.text_tokens for role, loss in result.streams.items()} == {"assistant": 12, "thought": 1}
    assert result.onset.spoke_right == onset_right
    assert (result.records, result.over_budget) == (4, 0)
    assert result.sums.ids == tuple(grid.id for grid in records)
    assert result.sums.nats[:, :, 0].sum() == pytest.approx(text, rel=1e-5)


def test_a_record_split_over_packs_has_one_entry_with_the_sums_of_the_whole() -> None:
    model = MultistreamModel(tiny_llama(), ("assistant", "user")).eval()
    records = [*echo_grids(2), make_grid([(3, 0, 1, 0), (20, 1, 7, 1), (21, 1, 30, 1)], 40, id="long")]
    whole, split = (held_out(model, records, METADATA, mask="same_row", max_cells=cells).sums for cells in (128, 24))
    assert split.ids == whole.ids == tuple(grid.id for grid in records)
    np.testing.assert_array_equal(split.cells, whole.cells)
    np.testing.assert_array_equal(split.decisions, whole.decisions)
    np.testing.assert_allclose(split.nats, whole.nats, atol=1e-4)
    alone = held_out(model, records[2:], METADATA, mask="same_row", max_cells=128)
    np.testing.assert_allclose(whole.of(["long"]).nats, alone.sums.nats, atol=1e-4)


def test_a_zeroed_embedding_and_the_turns_layout_are_evaluated_on_the_checkpoint(
    evaluated: tuple[EvaluationResult, Path], checkpoint: Path, tmp_path: Path
) -> None:
    result, _ = evaluated
    bare = load_checkpoint(checkpoint, torch.device("cpu"))
    with torch.no_grad():
        bare.streams.role.weight.zero_()
        bare.streams.slot.weight.zero_()
    zeroed = held_out(bare, echo_grids(12, seed=1), METADATA, mask="same_row", max_cells=256)
    assert result.controls["untrained_embedding"].total == zeroed.total != result.after.total
    laid = result.controls["turns"].total
    assert (laid.text_tokens, laid.silence_cells) == (48, 12 * (8 + (4 + 1 + 4 + 3) - 12))
    assert result.controls["permuted_at_test"].total.text_tokens == 48


def test_f1_is_the_harmonic_mean_of_precision_and_recall() -> None:
    decisions = TurnTaking(spoke_right=6, spoke_wrong=2, missed=4, silent_right=8)
    assert decisions.speak_f1 == pytest.approx(2 * (6 / 8) * (6 / 10) / (6 / 8 + 6 / 10))
    assert decisions.silence_f1 == pytest.approx(2 * (8 / 12) * (8 / 10) / (8 / 12 + 8 / 10))
    assert TurnTaking().speak_f1 is None


def test_records_beyond_the_budget_and_unseen_roles_are_reported(tmp_path: Path, base: Path, checkpoint: Path) -> None:
    long = make_grid([(row, 0, 1, 0) for row in range(99)], 99, id="long")
    other = make_grid([(1, 1, 7, 1)], 4, (USER, THOUGHT), id="other")
    write_shard(tmp_path / "data/test/tokens-0.parquet", [long, other, *echo_grids(2)])
    result = evaluate(checkpoint, base, tmp_path / "data", tmp_path / "out", replace(QUICK, max_cells=64))
    assert (result.after.records, result.after.over_budget, result.after.over_budget_ids) == (4, 1, ("long",))
    assert result.untrained_roles == ("thought",)
    assert result.latency is None
    markdown = (tmp_path / "out/report.md").read_text()
    assert "Left out as longer than the budget: 1 (long" in markdown
    assert "Roles never seen in training: thought" in markdown


def test_at_most_max_records_are_read(tmp_path: Path, base: Path, dataset: Path, checkpoint: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    config = replace(CONFIG, max_records=5, generate_records=2)
    result = evaluate(checkpoint, base, dataset, tmp_path / "out", config, progress=lambda *step: seen.append(step))
    assert result.after.records == 5
    assert result.latency is not None
    assert result.latency.records == 5
    assert list(dict.fromkeys(phase for phase, _, _ in seen)) == [
        "before", "after", "generation", "permuted_at_test", "turns", "untrained_embedding",
    ]  # fmt: skip
    assert seen[-1] == ("untrained_embedding", 5, 5)
    assert ("generation", 2, 2) in seen
    assert [held.records for held in result.models.values()] == [5] * 5


def test_a_control_is_tested_on_permuted_inputs(tmp_path: Path, base: Path, dataset: Path, checkpoint: Path) -> None:
    with pytest.raises(TrainingError, match="is no control"):
        evaluate(checkpoint, base, dataset, tmp_path / "out", replace(QUICK, control=checkpoint))
    shuffled = replace(TRAIN, shuffle_inputs=True)
    train(dataset, base, tmp_path / "shorter", replace(shuffled, steps=1))
    with pytest.raises(TrainingError, match="another steps"):
        evaluate(checkpoint, base, dataset, tmp_path / "out", replace(QUICK, control=tmp_path / "shorter"))
    train(dataset, base, tmp_path / "control", shuffled)
    result = evaluate(checkpoint, base, dataset, tmp_path / "out", replace(QUICK, control=tmp_path / "control"))
    assert result.control is not None
    assert result.control.total.text_tokens == 48
    assert "text control" in (tmp_path / "out/report.md").read_text()
    assert result.differences["control"].records == 12
    assert result.differences["control"].text is not None


def test_a_base_model_that_can_take_no_record_is_a_failed_gate_and_no_crash(
    tmp_path: Path, dataset: Path, checkpoint: Path
) -> None:
    tiny_llama(max_positions=4).save_pretrained(tmp_path / "short")
    result = evaluate(checkpoint, tmp_path / "short", dataset, tmp_path / "out", QUICK)
    assert [failure.code for failure in result.failures] == ["no_heldout"]
    assert result.before.over_budget == 12
    assert result.differences["before"].records == 0
    assert (tmp_path / "out/report.md").is_file()


def test_a_role_that_only_the_other_models_records_have_is_no_crash(tmp_path: Path, checkpoint: Path) -> None:
    """The base model is too short for the one record in which a thought is said."""
    tiny_llama(max_positions=64).save_pretrained(tmp_path / "short")
    long = make_grid([(0, 0, 3, 0), (1, 1, 3, 1), (99, 2, 3, 1)], 101, (USER, ASSISTANT, THOUGHT), id="long")
    write_shard(tmp_path / "data/test/tokens-0.parquet", [*echo_grids(6, seed=1), long])
    result = evaluate(checkpoint, tmp_path / "short", tmp_path / "data", tmp_path / "out", QUICK)
    assert result.failures == ()
    assert result.differences["before"].records == 6
    assert result.differences["before"].streams["thought"].text is None


def test_data_of_another_tokenizer_is_refused(tmp_path: Path, base: Path, checkpoint: Path) -> None:
    write_shard(tmp_path / "data/test/tokens-0.parquet", echo_grids(2), tokenizer="other")
    with pytest.raises(TrainingError, match="'other'"):
        evaluate(checkpoint, base, tmp_path / "data", tmp_path / "out", CONFIG)
    assert not (tmp_path / "out").exists()


def test_a_loss_that_is_not_finite_fails_the_gate_and_is_null_in_json(
    evaluated: tuple[EvaluationResult, Path], tmp_path: Path
) -> None:
    result, _ = evaluated
    stream = replace(result.after.streams["assistant"], text_nats=float("nan"))
    broken = replace(result, after=replace(result.after, streams={"assistant": stream}))
    assert report_json(broken)["after"]["total"]["text_loss"] is None
    assert "nan" in report_markdown(broken, [])
    write_report(tmp_path, broken)
    assert json.loads((tmp_path / "report.json").read_text())["after"]["total"]["text_nats"] is None


@pytest.mark.parametrize(
    "change",
    [
        {"max_cells": 1},
        {"max_records": 0},
        {"attention": "eager"},
        {"precision": "int8"},
        {"controls": ["turn"]},
        {"controls": "turns"},
        {"resamples": 10},
        {"confidence": 1.0},
        {"seed": -1},
        {"generate_records": -1},
        {"generate_rows": 0},
        {"injection_records": -1},
        {"seed": 1.5},
        {"max_records": 1.5},
        {"max_records": True},
        {"generate_records": 2.5},
        {"resamples": 200.5},
        {"confidence": float("nan")},
        {"device": None},
        {"controls": None},
        {"control": 3},
        {"gate": {"min_improvement": 1}},
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(TrainingError, match=next(iter(change))):
        EvaluateConfig(**change)
