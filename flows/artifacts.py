"""What a run shows on Prefect's pages: the stage table, how far each stage is, reports and links."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.exceptions import ObjectNotFound

from pipeline import folders, storage
from pipeline.cli.board import Board, Row
from pipeline.manifest import Result
from pipeline.watching import books_of
from synth.report import report_of

#: Keys of the artifacts; of progress and links with the stage or the thing behind it.
STAGE_TABLE, SYNTHESIS, REPORT, PROGRESS, LINK = (
    "stage-table", "synthesis-report", "evaluation-report", "progress", "link",
)  # fmt: skip

#: Seconds between two states of the progress artifact, and two lines of it in the log.
SHOW_SECONDS, LOG_SECONDS = 3.0, 10.0


@contextmanager
def for_show() -> Iterator[None]:
    """What is only shown may fail where the server does not answer: the work goes on."""
    try:
        yield
    except (httpx.HTTPError, ObjectNotFound) as error:
        get_run_logger().warning("not shown on Prefect's pages: %s", " ".join(str(error).split()) or repr(error))


class RunView(Board):
    """Shows one stage as a progress artifact and in the run's log."""

    def __init__(self) -> None:
        super().__init__()
        self._artifact: UUID | None = None
        self._shown = self._told = 0.0

    def show_started(self, row: Row) -> None:
        """The stage has begun."""
        self._shown = self._told = time.monotonic()
        with for_show():
            self._artifact = cast(UUID, create_progress_artifact(0.0, f"{PROGRESS}-{row.name}", f"{row.name}: begun"))

    def progress(self, done: int, what: str) -> None:
        """So many more units are done."""
        super().progress(done, what)
        now = time.monotonic()
        row = self.running
        if row is None or now - self._shown < SHOW_SECONDS:
            return
        self._shown = now
        with self.lock:
            row.sample(now)
            line, share = line_of(row, now), row.done / row.total if row.total else 0.0
        self._show(100.0 * min(1.0, share), line)
        if now - self._told >= LOG_SECONDS:
            self._told = now
            get_run_logger().info("%s", line)

    def show_finished(self, row: Row, counters: Mapping[str, Any]) -> None:
        """The stage is done or was skipped."""
        did = "skipped, finished before" if row.state == "skipped" else f"{row.seconds or 0.0:.1f} s"
        self._show(100.0, f"{row.name}: {books_of(counters)} ({did})")

    def _show(self, percent: float, line: str) -> None:
        if self._artifact is not None:
            with for_show():
                update_progress_artifact(self._artifact, percent, line)


def line_of(row: Row, now: float) -> str:
    """How far a running stage is, how fast, and how long it will take where that is known."""
    parts = [f"{row.name}: {row.done:,}" + (f" of {row.total:,}" if row.total else "") + f" {row.what}"]
    if (rate := row.rate) is not None:
        parts.append(f"{rate:,.1f}/s")
    if (left := row.left(now)) is not None:
        parts.append(f"{left:,.0f} s left")
    if row.rejected:
        parts.append(f"{row.rejected:,} rejected")
    return ", ".join(parts)


def stage_row(result: Result) -> dict[str, Any]:
    """A row of the stage table."""
    counters, seconds = result.manifest.counters, round(result.manifest.seconds, 1)
    counts = {key: counters.get(key) for key in ("in", "out", "rejected", "filtered")}
    return {"stage": result.directory.name, **counts, "seconds": seconds, "skipped": "yes" if result.skipped else "no"}


def publish_stage_table(results: Sequence[Result], out: Path) -> None:
    """The artifact ``stage-table``: what came in and out of every stage that is finished; none where no stage is."""
    if not results:
        return
    with for_show():
        create_table_artifact([stage_row(r) for r in results], STAGE_TABLE, f"Stages of the build in {place_of(out)}")


def publish_synthesis(written: Result) -> None:
    """The artifact ``synthesis-report``: totals, reasons, and what was asked for and came out."""
    with for_show():
        create_markdown_artifact(report_of(written), SYNTHESIS, f"Synthesis in {place_of(written.directory)}")


def publish_report(report: Result) -> None:
    """The artifact ``evaluation-report``: ``report.md``; its plots, which Prefect cannot show, by their paths."""
    report.fetch("report.md")
    text = (report.directory / "report.md").read_text(encoding="utf-8")
    text = re.sub(r"!\[([^\]]*)\]\(([^)]+)\)", lambda m: f"{m[1]}: `{place_of(report.directory / m[2])}`", text)
    with for_show():
        create_markdown_artifact(text, REPORT, f"Report of {place_of(report.directory)}")


def publish_links(results: Sequence[Result], out: Path) -> None:
    """Links to the build's folder, the data set's card, the checkpoint and the report, where they are there."""
    made = {r.directory.name for r in results}
    places = {"build": out}
    if folders.DATASET in made:
        places["card"] = out / folders.DATASET / "README.md"
    if folders.CHECKPOINT in made:
        places["checkpoint"] = out / folders.CHECKPOINT
    if folders.REPORT in made:
        places["report"] = out / folders.REPORT / "report.md"
    with for_show():
        for name, path in places.items():
            link = storage.url_of(path.absolute()) or path.absolute().as_uri()
            create_link_artifact(link, place_of(path), f"{LINK}-{name}")


def place_of(path: Path) -> str:
    """Where something is: its URL, or its whole path."""
    return storage.shown(path.absolute())
