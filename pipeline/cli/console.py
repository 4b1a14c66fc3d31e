"""What the commands print with: a console for people on standard error, progress bars only on a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from pipeline.manifest import Manifest
from pipeline.storage import url_of


def visible(text: str) -> str:
    """Text in which nothing is left that a terminal would obey: what is not printable shows as an escape; line ends stay."""
    return (
        text
        if text.isprintable()
        else "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
    )


class _Literal(Console):
    """Prints text as it is: names and messages come from data, and mean nothing to the terminal."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(visible(one) if isinstance(one, str) else one for one in objects), **options)


out = _Literal(highlight=False, soft_wrap=True, markup=False, emoji=False)
err = _Literal(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


def print_json(value: Any) -> None:
    """JSON on standard output, for programs."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> None:
    """A table; columns of numbers are right-aligned."""
    listed = [list(map(_cell, row)) for row in rows]
    view = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for i, header in enumerate(headers):
        numeric = all(
            row[i].replace(",", "").replace(".", "").replace("-", "").isdigit() for row in listed if row[i]
        ) and bool(listed)
        view.add_column(header, justify="right" if numeric else "left", overflow="fold")
    for row in listed:
        view.add_row(*map(visible, row))
    out.print(view)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.2f}"
    return str(value)


def stage_table(stages: Sequence[tuple[str, Manifest]], skipped: Iterable[str] = ()) -> None:
    """The stage table: in, out, rejected, seconds; what else left or joined the books is named."""
    done = set(skipped)
    rows = []
    for name, manifest in stages:
        c = manifest.counters
        notes = [
            f"{c[key]:,} {key.replace('_', ' ')}"
            for key in ("input_only", "excluded", "filtered", "segments", "realigned")
            if c.get(key)
        ]
        if c.get("unknown_marks"):
            notes.append(f"{c['unknown_marks']:,} marks of no record")
        reasons = sorted((c.get("reject_reasons") or {}).items(), key=lambda item: -item[1])
        notes += [f"{count} {code}" for code, count in reasons[:3]]
        if c.get("train") is not None and c.get("test") is not None:
            notes.append(f"{c['train']:,} train, {c['test']:,} test")
        if c.get("text_loss_after") is not None:
            notes.append(f"held-out text loss {c['text_loss_before']:.3f} → {c['text_loss_after']:.3f}")
        if name in done:
            notes.append("skipped: finished before")
        rows.append([name, c.get("in"), c.get("out"), c.get("rejected"), manifest.seconds, ", ".join(notes)])
    table(["stage", "in", "out", "rejected", "seconds", ""], rows)


@contextmanager
def bar(description: str, total: int | None = None) -> Iterator[Any]:
    """A progress bar; gives a function that takes how many more are done."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    ) as progress:
        task = progress.add_task(description, total=total)
        yield lambda n: progress.advance(task, n)


def shown(path: Path) -> str:
    """A path as a user would type it from here."""
    if (url := url_of(path)) is not None:
        return url
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
