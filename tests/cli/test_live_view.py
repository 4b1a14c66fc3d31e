"""What a build shows while it runs: a table on a terminal, lines elsewhere, JSON events for programs."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.build import run_convert, run_dataset, run_evaluate, run_ingest, run_synthesize, run_train
from pipeline.cli.board import Row
from pipeline.cli.live import PlainView, TableView, watching
from pipeline.config import BuildConfig
from pipeline.errors import PipelineError
from pipeline.manifest import Result
from pipeline.sections import stages_of
from pipeline.watching import DetailedWatcher
from tests.synth.endpoint import Endpoint
from tests.synth.scripted import speak
from tests.training.synthetic_grids import save_tiny_llama

GOOD = '{"question": "How many are %d and 3?", "answer": "%d+3 = %d\\n#### %d"}'
STAGES = ["ingest", "convert", "dataset"]
STYLE, CURSOR = re.compile(r"\x1b\[[0-9;]*m"), re.compile(r"\x1b\[\?25[hl]")
#: Erases the line above, and this one: what a view that is drawn anew or taken away begins with.
ERASED = "\x1b[2K"


def write_build(folder: Path, units: int = 60, **settings: Any) -> Path:
    """A build of three shards with 3 rejects of two reasons."""
    lines = [GOOD % (i, i, i + 3, i + 3) for i in range(units - 3)] + ["no JSON", "no JSON", '{"question": 5}']
    (folder / "math.jsonl").write_text("\n".join(lines) + "\n")
    value = {
        "name": "small",
        "sources": [{"path": "math.jsonl", "format": "math_qa"}],
        "ingest": {"shard_units": units // 3},
        "convert": {"max_rejected_fraction": 0.5},
        **settings,
    }
    (folder / "build.yaml").write_text(json.dumps(value))
    return folder / "build.yaml"


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "pipeline.cli", *map(str, arguments)]


def on_a_terminal(
    arguments: list[str],
    interrupt: str | None = None,
    columns: int = 80,
    by: signal.Signals | None = None,
    close: bool = False,
    **env: str,
) -> tuple[int, str, str]:
    """Exit code, all that a terminal was sent, and what it shows after the last erasure, styles removed.

    ``interrupt``: Ctrl-C is typed as soon as this is on the terminal, or the signal ``by`` is sent, or the terminal closed.
    """
    process, terminal = pty.fork()
    if process == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever these tests were started with, like nohup
        os.execvpe(arguments[0], arguments, {**os.environ, "TERM": "xterm-256color", **env})
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    sent = b""
    while True:
        try:
            some = os.read(terminal, 65536)
        except OSError:  # the other side is closed
            break
        if not some:
            break
        sent += some
        if interrupt is not None and interrupt in STYLE.sub("", sent.decode(errors="ignore")):
            interrupt = None
            if close:
                break
            if by is not None:
                os.kill(process, by)
            else:
                os.write(terminal, b"\x03")
    os.close(terminal)
    _, status = os.waitpid(process, 0)
    text = STYLE.sub("", sent.decode()).replace("\r\n", "\n")
    left = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]|\r", "", text.rsplit(ERASED, 1)[-1])
    return os.waitstatus_to_exitcode(status), sent.decode(), left


def cursor_is_shown(sent: str) -> bool:
    return str(CURSOR.findall(sent)[-1]) == "\x1b[?25h"


def test_a_terminal_shows_every_stage_and_then_only_the_summary(tmp_path: Path) -> None:
    config = write_build(tmp_path)
    code, sent, left = on_a_terminal(command("build", config, "--out", tmp_path / "out", "--workers", 1))
    assert code == 0, sent
    drawn = STYLE.sub("", sent)
    assert re.search(r"stage +state +units +rate +left +time +rejected", drawn)
    for stage in STAGES:
        assert re.search(rf"{stage} +running", drawn)
        assert re.search(rf"{stage} +done +\d", drawn)
    assert re.search(r"dataset +waiting", drawn)
    assert "rejected  convert: 2 not_json, 1 wrong_type" in drawn
    assert re.search(r"memory +\d+ MB \(peak \d+ MB\) in \d process", drawn)
    table = drawn.rsplit(ERASED, 1)[0]
    assert max(len(line) for line in re.split(r"[\r\n]|\x1b\[[?0-9;]*[A-Za-z]", table)) <= 80
    assert cursor_is_shown(sent)
    assert left.lstrip().startswith("stage")
    assert "next:  multistream view" in left
    assert "waiting" not in left
    assert "elapsed" not in left

    code, sent, left = on_a_terminal(command("build", config, "--out", tmp_path / "out"), NO_COLOR="1")
    assert code == 0, sent
    assert re.search(r"convert +skipped +60", STYLE.sub("", sent))
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", sent), "no colour was wanted"


def test_a_build_that_fails_leaves_its_table_above_the_error(tmp_path: Path) -> None:
    config = write_build(tmp_path, convert={"max_rejected_fraction": 0.0})
    code, sent, left = on_a_terminal(command("build", config, "--out", tmp_path / "out", "--workers", 1))
    assert code == 1
    assert cursor_is_shown(sent)
    lines = left.rstrip().splitlines()
    assert re.fullmatch(r"ingest +done +60 .*", lines[-6])
    assert re.fullmatch(r"convert +failed +60/60 .* 3", lines[-5])
    assert lines[-4].split() == ["dataset", "waiting"]
    assert lines[-3].startswith("rejected ")
    assert lines[-2].startswith("memory ")
    assert lines[-1].startswith("error: 3 of 60 units were rejected")


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_gives_the_terminal_back_and_the_next_run_goes_on(tmp_path: Path, workers: int) -> None:
    config = write_build(tmp_path, units=1500)
    run = command("build", config, "--out", tmp_path / "out", "--workers", workers)
    code, sent, left = on_a_terminal(run, interrupt="convert     running")
    assert code == 130
    assert cursor_is_shown(sent)
    assert "Traceback" not in sent
    assert re.search(r"convert +failed", left)
    assert left.rstrip().splitlines()[-1].startswith("error: interrupted; what was finished is kept")
    code, sent, _ = on_a_terminal(run)
    assert code == 0, sent
    assert re.search(r"ingest +skipped", STYLE.sub("", sent))


@pytest.mark.parametrize(("by", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_a_build_as_ctrl_c_does(tmp_path: Path, by: signal.Signals, code: int) -> None:
    config = write_build(tmp_path, units=1500)
    run = command("build", config, "--out", tmp_path / "out", "--workers", 2)
    ended, sent, left = on_a_terminal(run, interrupt="convert     running", by=by)
    assert ended == code
    assert cursor_is_shown(sent)
    assert re.search(r"convert +failed", left)
    said = f"error: stopped by {by.name}; what was finished is kept, run the same command to go on"
    assert " ".join(left.split()).endswith(said)
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_a_build_whose_terminal_is_closed_ends_in_order(tmp_path: Path) -> None:
    config = write_build(tmp_path, units=1500)
    run = command("build", config, "--out", tmp_path / "out", "--workers", 1)
    code, _, _ = on_a_terminal(run, interrupt="convert     running", close=True)
    assert code == 129
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_a_program_is_told_of_the_signal(tmp_path: Path) -> None:
    config = write_build(tmp_path, units=1500)
    run = command("build", config, "--out", tmp_path / "out", "--workers", 1, "--json")
    with subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        told = []
        for line in process.stderr:
            told.append(line)
            if '"stage_started", "stage": "convert"' in line:
                process.terminate()
    assert process.returncode == 143
    failed, finished = events("".join(told))[-2:]
    assert (failed["event"], failed["stage"], failed["error"]) == ("stage_failed", "convert", "stopped by SIGTERM")
    assert (finished["event"], finished["ok"]) == ("finished", False)
    assert told[-1].startswith("error: stopped by SIGTERM; what was finished is kept")


def test_signals_are_as_they_were_after_a_build_and_stay_ignored_where_they_are() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with watching(STAGES, as_json=True):
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN, "nohup"
            assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        with ThreadPoolExecutor(1) as pool, watching(STAGES, as_json=True):
            pool.submit(lambda: watching(STAGES, as_json=True).__enter__().close()).result()
    finally:
        signal.signal(signal.SIGHUP, before)


def piped(*arguments: object) -> subprocess.CompletedProcess[str]:
    """A run whose outputs are pipes, as a program's or a log's are, even where colours are asked for."""
    env = {**os.environ, "FORCE_COLOR": "1"}
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False, env=env)


def test_elsewhere_a_stage_is_two_lines(tmp_path: Path) -> None:
    config = write_build(tmp_path)
    done = piped("build", config, "--out", tmp_path / "out", "--workers", 1)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert [line for line in lines if line.endswith("…")] == [f"{stage} …" for stage in STAGES]
    assert re.fullmatch(r"convert: 60 in, 57 out, 3 rejected \(\d+\.\d s\)", lines[3])
    assert "\x1b[2K" not in done.stderr
    again = piped("build", config, "--out", tmp_path / "out").stderr.splitlines()
    assert again[3] == "convert: 60 in, 57 out, 3 rejected (skipped, finished before)"


def test_a_line_of_progress_says_how_far_and_how_many_were_refused(capsys: pytest.CaptureFixture[str]) -> None:
    view = PlainView()
    view.tick()
    view.stage("convert")
    view.part(1000, kept=100)
    view.progress(200, "units")
    view.rejected({"not_json": 2})
    view.rejected({"not_json": 1, "empty": 1})
    view.tick()
    view.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "convert …"
    assert re.fullmatch(r"convert: 300 of 1,000 units, 4 rejected \(3 not_json, 1 empty\), \d+ MB", lines[1])


def test_rate_and_time_left_are_of_what_this_run_did() -> None:
    row = Row("convert", "running")
    row.begin_part(100.0, total=1000, kept=400)
    row.sample(100.2)
    assert (row.rate, row.left(100.2)) == (None, None)
    row.done += 200
    row.sample(110.0)
    assert row.rate == 20.0
    assert row.left(110.0) == 20.0
    assert row.left(115.0) == 15.0, "nothing has come since: time goes by all the same"
    assert row.left(500.0) == 0.0
    row.done += 10
    row.sample(210.0)
    assert row.rate == pytest.approx(0.1), "of the last minute, not of the good times before"
    row.begin_part(220.0, total=None, kept=0)
    row.done += 50
    row.sample(225.0)
    assert (row.rate, row.left(225.0)) == (10.0, None)


def test_numbers_of_a_billion_records_stay_in_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    view = TableView(["ingest", "convert"])
    view.rows[1].state = "running"
    view.rows[1].started = view.started - 200_000
    view.rows[1].begin_part(view.started - 50_000, total=1_000_000_000, kept=0)
    view.rows[1].done = 987_654_321
    view.rows[1].sample(view.started)
    view.rows[1].reasons = Counter({f"reason_{i}": 10**6 + i for i in range(20)})
    view.rows[1].rejected = view.rows[1].reasons.total()
    Console(width=80, color_system=None).print(view.drawn())
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert re.fullmatch(r"convert +running +987\.7M/1,000\.0M +19,753/s +10:2\d +55:33:\d\d +20\.0M", lines[2])


def events(stderr: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stderr.splitlines() if not line.startswith("error: ")]


def test_json_is_one_event_a_line_and_the_document_alone_on_standard_output(tmp_path: Path) -> None:
    config = write_build(tmp_path)
    done = piped("build", config, "--out", tmp_path / "out", "--workers", 2, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    told = events(done.stderr)
    times = [datetime.fromisoformat(event["time"]) for event in told]
    assert times == sorted(times)
    assert all(time.utcoffset() is not None and not time.utcoffset() for time in times)
    assert told[0]["event"] == "build_started"
    assert (told[0]["stage"], told[0]["stages"]) == (None, STAGES)
    steps = [(event["event"], event["stage"]) for event in told[1:-1] if event["event"] != "progress"]
    assert steps == [(what, stage) for stage in STAGES for what in ("stage_started", "stage_finished")]
    finished = {event["stage"]: event["counters"] for event in told if event["event"] == "stage_finished"}
    assert finished == document["stages"]
    assert finished["convert"]["reject_reasons"] == {"not_json": 2, "wrong_type": 1}
    assert (told[-1]["event"], told[-1]["ok"]) == ("finished", True)
    assert {key: told[-1][key] for key in document} == document
    progress = [event for event in told if event["event"] == "progress"]
    assert progress, "two processes are not started within a second"
    for event in progress:
        assert set(event) == {
            "time", "event", "stage", "seconds", "done", "total", "what", "rate", "seconds_left", "rejected",
            "reject_reasons", "memory", "peak_memory",
        }  # fmt: skip
        assert event["total"] == (60 if event["stage"] == "convert" else None)
        assert 0 < event["memory"] <= event["peak_memory"]

    again = piped("build", config, "--out", tmp_path / "out", "--json")
    told = events(again.stderr)
    assert [event["stage"] for event in told if event["event"] == "stage_skipped"] == STAGES
    assert json.loads(again.stdout)["skipped"] == told[-1]["skipped"] == STAGES
    assert not [event for event in told if event["event"] == "stage_finished"]


def test_json_tells_of_the_failure_and_its_stage(tmp_path: Path) -> None:
    write_build(tmp_path)
    done = piped(
        "convert", tmp_path / "math.jsonl", "--out", tmp_path / "out", "--max-rejected-fraction", "0", "--json"
    )
    assert (done.returncode, done.stdout) == (1, "")
    told = events(done.stderr)
    failed, finished = told[-2:]
    assert (failed["event"], failed["stage"], finished["event"], finished["ok"]) == (
        "stage_failed", "convert", "finished", False,
    )  # fmt: skip
    assert failed["error"] == finished["error"]
    assert done.stderr.splitlines()[-1] == f"error: {failed['error']}"


class Recorder:
    """A ``DetailedWatcher`` that keeps what it is told. It gives up after so many calls of ``progress``."""

    def __init__(self, calls: int = 1 << 30) -> None:
        self.calls = calls
        self.parts: list[tuple[int | None, int]] = []
        self.done: list[int] = []
        self.reasons: Counter[str] = Counter()

    def stage(self, name: str) -> None:
        self.parts, self.done = [], []

    def part(self, total: int | None, kept: int = 0) -> None:
        self.parts.append((total, kept))
        self.done.append(kept)

    def progress(self, done: int, what: str) -> None:
        self.done[-1:] = [(self.done or [0])[-1] + done]
        self.calls -= 1
        if not self.calls:
            raise KeyboardInterrupt

    def rejected(self, reasons: Mapping[str, int]) -> None:
        self.reasons.update(reasons)

    def finished(self, result: Result) -> None:
        pass


def config_of(path: Path, **settings: Any) -> BuildConfig:
    return BuildConfig.model_validate({**json.loads(path.read_text()), **settings})


def test_a_resumed_conversion_tells_what_was_kept_and_why_units_are_rejected(tmp_path: Path) -> None:
    config = config_of(write_build(tmp_path))
    watcher = Recorder()
    assert isinstance(watcher, DetailedWatcher)
    ingest = run_ingest(config, tmp_path, tmp_path / "out", False, watcher)
    assert watcher.done == [60]
    with pytest.raises(KeyboardInterrupt):
        run_convert(config, tmp_path / "out", ingest, 1, False, Recorder(calls=2))
    run_convert(config, tmp_path / "out", ingest, 1, False, watcher)
    assert watcher.parts[-1] == (60, 40)
    assert watcher.done[-1] == 60
    assert watcher.reasons == {"not_json": 2, "wrong_type": 1}


def test_synthesis_tells_how_many_dialogues_are_asked_for_and_why_some_are_refused(tmp_path: Path) -> None:
    scenarios = str(Path(__file__).parents[2] / "examples" / "scenarios" / "*.yaml")
    watcher = Recorder()
    with Endpoint(reply=speak) as endpoint:
        endpoint.fail(times=1, status=400, body='{"error": {"message": "maximum context length is 128 tokens"}}')
        engine = {"kind": "openai", "url": endpoint.url, "retries": 0, "concurrency": 2}
        synth = {"generator": "concurrent", "samples": 8, "model": "m", "engine": engine, "scenarios": [scenarios]}
        result = run_synthesize(config_of(write_build(tmp_path), synth=synth), tmp_path, tmp_path, False, watcher)
    assert result is not None
    assert (watcher.parts, watcher.done[-1]) == ([(8, 0)], 8)
    assert watcher.reasons["refused"] == 1
    assert watcher.reasons == result.manifest.counters["reject_reasons"]


def test_resumed_synthesis_counts_what_was_answered_before_as_kept(tmp_path: Path) -> None:
    scenarios = str(Path(__file__).parents[2] / "examples" / "scenarios" / "*.yaml")
    with Endpoint(reply=speak) as endpoint:
        engine = {"kind": "openai", "url": endpoint.url, "retries": 0, "concurrency": 1, "backoff": 0.01}
        synth = {
            "generator": "concurrent", "samples": 30, "model": "m", "engine": engine, "scenarios": [scenarios],
            "batch_size": 1,
        }  # fmt: skip
        config = config_of(write_build(tmp_path), synth=synth)
        first = Recorder()
        endpoint.fail(status=503, times=None, after=24)
        with pytest.raises(PipelineError, match="what was answered is kept"):
            run_synthesize(config, tmp_path, tmp_path, False, first)
        assert first.parts == [(30, 0)], "all was new"
        endpoint.faults.clear()
        watcher = Recorder()
        run_synthesize(config, tmp_path, tmp_path, False, watcher)
        assert watcher.done[-1] == 30
        total, kept = watcher.parts[-1]
        assert total == 30
        assert 0 < kept < 30
        again = Recorder()
        (tmp_path / "synth" / "manifest.json").unlink()
        run_synthesize(config, tmp_path, tmp_path, False, again)
        assert again.parts[-1] == (30, 30), "nothing was new"


def test_rejects_of_ingest_are_told_as_they_come(tmp_path: Path) -> None:
    config = config_of(write_build(tmp_path), ingest={"max_unit_bytes": 1024})
    with (tmp_path / "math.jsonl").open("a") as file:
        file.write(GOOD.replace("many", "many " + "very " * 1000) % (1, 1, 4, 4) + "\n")
    watcher = Recorder()
    run_ingest(config, tmp_path, tmp_path / "out", False, watcher)
    assert watcher.reasons == {"too_large": 1}


def test_training_and_evaluation_tell_their_steps_and_phases(tmp_path: Path) -> None:
    out, watcher = tmp_path / "out", Recorder()
    base = save_tiny_llama(tmp_path / "base", vocab_size=49_280)
    train = {"model": str(base), "steps": 4, "packs_per_step": 1, "max_cells": 128, "save_every": 1, "device": "cpu"}
    evaluate = {"generate_records": 2, "generate_rows": 90, "injection_records": 0, "device": "cpu"}
    config = config_of(write_build(tmp_path), train=train, evaluate=evaluate)
    ingest = run_ingest(config, tmp_path, out, False, watcher)
    dataset = run_dataset(config, out, [run_convert(config, out, ingest, 1, False, watcher)], [], False, watcher)
    with pytest.raises(KeyboardInterrupt):
        run_train(config, out, dataset, False, Recorder(calls=3))
    checkpoint = run_train(config, out, dataset, False, watcher)
    assert checkpoint is not None
    assert watcher.parts == [(4, 2)]
    assert watcher.done == [4]
    run_evaluate(config, out, dataset, checkpoint, None, False, watcher)
    totals = [total for total, _ in watcher.parts]
    assert watcher.done == totals
    tested = dataset.manifest.counters["test"]
    assert totals[:2] == [tested, tested]
    assert 2 in totals[2:], "what the model is to write"


@pytest.mark.parametrize(
    ("sections", "more"),
    [
        ({}, []),
        ({"synth": {}}, ["synth"]),
        ({"train": {}}, ["checkpoint", "report"]),
        ({"train": {}, "evaluate": {"control": True}}, ["checkpoint", "control", "report"]),
        ({"train": {}, "evaluate": {"control": "some/checkpoint"}}, ["checkpoint", "report"]),
        ({"evaluate": {"control": True}}, []),
    ],
)
def test_the_stages_of_a_build_are_those_that_it_is_asked_for(
    tmp_path: Path, sections: dict[str, Any], more: Sequence[str]
) -> None:
    assert sorted(stages_of(config_of(write_build(tmp_path), **sections))) == sorted([*STAGES, *more])
