from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from pipeline.evaluation.compare import Loss
from pipeline.evaluation.evaluate import EvaluationResult
from pipeline.evaluation.generation import TextCodec, examine
from pipeline.evaluation.intervals import Bootstrap
from pipeline.evaluation.latency import Event, RecordEvents, compare_with_turns
from pipeline.evaluation.markdown import report_markdown
from pipeline.evaluation.plots import draw_curves, draw_latency, draw_losses, draw_timeline, drawable, log_of
from pipeline.training.metrics import LOG_FILE, StepLog
from tests.evaluation.test_intervals import held
from tests.training.synthetic_grids import ASSISTANT, EOM, USER, echo_grids, make_grid

BEFORE, AFTER = held("abc", "abc", [20.0, 25.0, 30.0]), held("abc", "abc", [10.0, 12.0, 20.0])
RESULT = EvaluationResult("same_row", "synthetic", (), BEFORE, AFTER, None, None).compared(Bootstrap(200))
WORDS = TextCodec(lambda text: [], lambda ids: " ".join(f"w{i}" for i in ids))


def drawn(path: Path) -> bool:
    """Whether a picture holds more than one colour."""
    pixels = imread(path)[..., :3].reshape(-1, 3)
    return len(np.unique((pixels * 255).astype(np.uint8), axis=0)) > 5


def test_losses_are_drawn_and_told(tmp_path: Path) -> None:
    told = draw_losses(tmp_path / "loss.png", RESULT)
    assert "2.50 → 1.40 nats per token" in told
    assert drawn(tmp_path / "loss.png")
    bare = replace(RESULT, after=replace(AFTER, streams={}))
    assert draw_losses(tmp_path / "none.png", bare) == ""
    assert not (tmp_path / "none.png").exists()


def test_a_loss_that_is_not_finite_is_left_out(tmp_path: Path) -> None:
    broken = {**RESULT.losses, "after": {name: Loss(None, None) for name in RESULT.losses["after"]}}
    assert draw_losses(tmp_path / "loss.png", replace(RESULT, losses=broken))


@pytest.mark.parametrize("steps", [3, 300])
def test_curves_are_drawn_per_stream_where_the_log_has_them(tmp_path: Path, steps: int) -> None:
    log = [StepLog(i + 1, 3.0 - i / steps, 0.5, 9.0, streams={"assistant": [2.0, None]}) for i in range(steps)]
    told = draw_curves(tmp_path / "a.png", log)
    assert "assistant, all streams" in told
    assert "text 3.00 → " in told
    assert "text 3.00 → 2." in draw_curves(tmp_path / "d.png", [*log, StepLog(steps + 1, 0.0, 0.5, 9.0)])
    old = draw_curves(tmp_path / "b.png", [replace(step, streams={}) for step in log])
    assert "assistant" not in old
    assert drawn(tmp_path / "a.png")
    assert drawn(tmp_path / "b.png")
    assert draw_curves(tmp_path / "c.png", log[:1]) == ""


def test_a_log_from_before_there_were_streams_is_read(tmp_path: Path) -> None:
    line = {name: asdict(StepLog(1, 2.0, 0.5, 9.0))[name] for name in ("step", "text_loss", "silence_loss")}
    (tmp_path / LOG_FILE).write_text(json.dumps({**line, "tokens_per_second": 9.0}) + "\n")
    assert log_of(tmp_path) == [StepLog(1, 2.0, 0.5, 9.0)]
    assert log_of(tmp_path / "nowhere") == log_of(None) == []


@pytest.mark.parametrize("text", [WORDS, None])
def test_a_timeline_shows_the_record_whose_output_the_model_wrote(tmp_path: Path, text: TextCodec | None) -> None:
    first, second = echo_grids(2)
    silent = make_grid([(row, 0, 1, 0) for row in range(4)], 12, id=first.id)
    made = examine([(first, silent), (second, second)], EOM, Bootstrap(200))
    assert second.id in draw_timeline(tmp_path / "a.png", made, text, EOM)
    assert drawn(tmp_path / "a.png")
    assert draw_timeline(tmp_path / "b.png", examine([], EOM, Bootstrap(200)), text, EOM) == ""
    assert draw_timeline(tmp_path / "b.png", None, text, EOM) == ""


def test_what_the_font_cannot_draw_is_left_out_without_a_warning(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    said = TextCodec(lambda text: [], lambda ids: "水是生命\x1b[0m $x^$ the river is long and so is this line")
    streams = [replace(USER, name="中"), replace(ASSISTANT, name="a$\\foo$")]
    cells = [(row, stream, 5, 1) for row in range(60) for stream in (0, 1)]
    grid = make_grid(cells, 61, streams, id="记录")
    made = examine([(grid, grid)], EOM, Bootstrap(200))
    assert draw_timeline(tmp_path / "a.png", made, said, EOM)
    assert [str(each.message) for each in recwarn] == []
    assert drawable("aé水$") == "aé□\\$"


def test_latencies_are_drawn_with_their_medians(tmp_path: Path) -> None:
    events = (Event(0, False, 0, 0, 0, 10, ()), Event(1, True, 1, 0, 4, 8, ()))
    summary = compare_with_turns([RecordEvents(str(i), "p", 0, False, events) for i in range(5)])
    assert summary.values["response_latency"] == ((-2,) * 5, (4,) * 5)
    assert "response latency -2 against 4" in draw_latency(tmp_path / "a.png", summary)
    assert drawn(tmp_path / "a.png")
    assert draw_latency(tmp_path / "b.png", compare_with_turns([])) == ""


def test_the_report_shows_what_was_said_on_one_line_each() -> None:
    (grid,) = echo_grids(1)
    made = examine([(grid, grid)], EOM, Bootstrap(200))
    lines = report_markdown(replace(RESULT, generation=made), [], WORDS, EOM).splitlines()
    words = " ".join(f"w{token}" for token in grid.token_ids[:3])
    assert f"    user: {words}" in lines
    assert f"    assistant, generated:   {words}" in lines
    assert not any("in the data" in line for line in report_markdown(RESULT, []).splitlines())


def test_differences_are_told_with_their_signs() -> None:
    text = report_markdown(RESULT, [])
    assert "| before training | 3 | 3 | -1.1000 (3) |" in text
    many = [held("abcdef", "abcdef", [nats, nats + 5, 30.0, 31.0, 32.0, 33.0]) for nats in (20.0, 10.0)]
    more = replace(RESULT, before=many[0], after=many[1]).compared(Bootstrap(200))
    (line,) = (line for line in report_markdown(more, []).splitlines() if line.startswith("| before training"))
    assert re.fullmatch(r"\| before training \| 6 \| 6 \| -0\.3333 \[-\d\.\d+, [+-]\d\.\d+\] \(6\) \|", line)
    assert math.isclose(RESULT.differences["before"].streams["all"].text.value, -1.1)  # type: ignore[union-attr]
