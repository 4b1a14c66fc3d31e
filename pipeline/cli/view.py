"""view: records and rejects, in the terminal, as text, as JSON, or as one page."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.places import LOCAL
from pipeline.errors import ConfigError, InputError

if TYPE_CHECKING:
    from pipeline.viewer.filters import Filter
    from pipeline.viewer.rejects import Rejects
    from pipeline.viewer.samples import Samples

#: Records of a page, where nobody says how many.
_PAGE_RECORDS = 20


def _place(place: str) -> Path:
    """A path; of a URL what is needed to open it, and no data. Raises PipelineError."""
    from pipeline.viewer.remote import open_place

    return open_place(place)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(rich_help_panel="Look")(view)


def view(
    path: Annotated[
        Path,
        typer.Argument(
            help="A build, a data set, a stage's folder, or one shard of records or rejects.",
            show_default=False,
            parser=_place,
        ),
    ],
    record: Annotated[
        str | None, typer.Option("--record", "-r", help="Number, id, or start of an id.", show_default="the first")
    ] = None,
    filter_: Annotated[
        str, typer.Option("--filter", "-f", help='What to look for: corpus:x policy:y leak:yes words "a phrase".')
    ] = "",
    records: Annotated[
        int | None,
        typer.Option(help="How many records to print or to put on a page.", min=1, show_default="1; 20 on a page"),
    ] = None,
    rejects: Annotated[bool, typer.Option("--rejects", help="The rejects instead of the records.")] = False,
    turns: Annotated[bool, typer.Option("--turns", help="With the same record under turns.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Print text and leave, as in a pipe.")] = False,
    html: Annotated[
        Path | None, typer.Option(help="Write one page of records, which needs no network.", metavar="FILE", **LOCAL)
    ] = None,
    width: Annotated[
        int | None, typer.Option(help="Columns of printed text.", min=40, show_default="the terminal's")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Tokenizer of the token shards, to show its words.", show_default="smollm2")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; several records: one per line.")] = False,
) -> None:
    """Looks at records: streams as lanes over rows, waits, leaks with their evidence. Keys: `?` in the viewer.

    In a terminal it opens the viewer, in a pipe it prints. ◂ input, ▸ output, ■ end of message, ✂ cut off, > speaks while
    another stream does, ‼ leak, ⁇ weak evidence of one, ‹ header, ⚒ tool call, § definitions, · silence, ┊ goes on.

    Example: `multistream view build/demo --plain --record 0`
    """
    from pipeline.storage import shown
    from pipeline.viewer.filters import parse_filter
    from pipeline.viewer.rejects import Rejects, open_rejects
    from pipeline.viewer.samples import Samples, has_records, open_samples

    try:
        found = parse_filter(filter_)
    except InputError as error:
        raise ConfigError(f"--{error}") from error
    if found.reason and html is not None:
        raise ConfigError("--filter reason: finds rejects, which --html does not show: leave one of them out")
    rejects = rejects or bool(found.reason) or path.name.startswith("rejects-")
    _check_usage(
        {"--html": html is not None, "--json": as_json, "--plain": plain},
        {"--rejects": rejects, "--html": html is not None},
        {"--rejects": rejects, "--turns": turns},
        {"--rejects": rejects, "--record": record is not None},
        {"--record": record is not None, "--records": records is not None},
        {"--record": record is not None, "--filter": bool(filter_.strip())},
        {"--json": as_json, "--turns": turns},
        {"--html": html is not None, "--turns": turns},
    )
    try:
        if rejects:
            Rejects.check(found)
    except InputError as error:
        raise ConfigError(f"--{error}") from error
    if html is not None:
        _check_place(html)

    unused = open_rejects(path)
    if rejects and not len(unused):
        raise InputError(
            f"{shown(path)} has no rejects: all that was read could be used, or they lie in another folder"
        )
    samples = Samples(path, ()) if rejects and not has_records(path) else open_samples(path)
    if not rejects and not len(samples):
        raise InputError(f"{shown(path)} holds no records")
    at = samples.number(record) if record is not None else 0
    if html is not None:
        _write_page(html, samples, _chosen(samples, at, found, records or (_PAGE_RECORDS if record is None else 1)))
    elif plain or as_json or records is not None or not (sys.stdout.isatty() and sys.stdin.isatty()):
        if rejects:
            chosen = list(islice(unused.matching(found), records or 1))
            if not chosen:
                raise InputError(f"{shown(path)}: nothing is found for --filter among {len(unused):,} rejects")
            lines = _reject_lines(unused, chosen, as_json, width)
        else:
            lines = _record_lines(samples, _chosen(samples, at, found, records or 1), records, as_json, turns, width)
        for line in lines:
            sys.stdout.write(line + "\n")
    else:
        from pipeline.viewer.app import ViewerApp
        from pipeline.viewer.record_screen import Start

        ViewerApp(samples, unused, Start(at, filter_.strip(), turns, rejects, tokenizer)).run()


def _check_usage(*exclusive: dict[str, bool]) -> None:
    """Raises ConfigError where more than one option of a set is given."""
    for options in exclusive:
        given = [name for name, is_given in options.items() if is_given]
        if len(given) > 1:
            raise ConfigError(f"{given[0]} and {given[1]} do not go together: choose one")


def _chosen(samples: Samples, at: int, found: Filter, count: int) -> list[int]:
    """The numbers of the first records that are found, from one on. Raises InputError where there are none."""
    from pipeline.storage import shown

    if not found:
        return list(range(at, min(at + count, len(samples))))
    chosen = list(islice(samples.matching(found), count))
    if not chosen:
        raise InputError(f"{shown(samples.path)}: nothing is found for --filter among {len(samples):,} records")
    return chosen


def _record_lines(
    samples: Samples, chosen: list[int], records: int | None, as_json: bool, turns: bool, width: int | None
) -> Iterator[str]:
    from pipeline.viewer.as_json import json_text
    from pipeline.viewer.plain import render
    from pipeline.viewer.turns import in_turns

    for place, number in enumerate(chosen):
        record = samples.record(number)
        if as_json:
            yield json_text(record, indent=2 if records is None else None)
            continue
        if place:
            yield ""
        yield from render(record, width)
        if turns:
            yield ""
            yield from render(in_turns(record), width)


def _reject_lines(unused: Rejects, chosen: Iterable[int], as_json: bool, width: int | None) -> Iterator[str]:
    from pipeline.viewer.lanes import one_line
    from pipeline.viewer.plain import render_reject

    if not as_json:
        for reason, count in sorted(unused.reasons().items(), key=lambda item: (-item[1], item[0])):
            yield f"{count:>9,}  {one_line(reason)}"
    for number in chosen:
        reject = unused.reject(number)
        if as_json:
            yield json.dumps(reject, ensure_ascii=False)
        else:
            yield ""
            yield from render_reject(reject, unused.text(number), width)


def _check_place(out: Path) -> None:
    """Raises InputError where no page can be written, before anything is read for it."""
    from pipeline.viewer.page import check_place

    try:
        check_place(out)
    except InputError as error:
        raise InputError(f"--html {error}") from error


def _write_page(out: Path, samples: Samples, chosen: list[int]) -> None:
    from pipeline.cli import console
    from pipeline.storage import shown
    from pipeline.viewer.lanes import one_line
    from pipeline.viewer.page import write_page

    title = one_line(shown(samples.path).rstrip("/").rpartition("/")[2] or "records", 80)
    write_page(out, [samples.record(number) for number in chosen], title=title, numbers=chosen)
    plural = "s" * (len(chosen) != 1)
    console.out.print(f"{console.shown(out)}: {len(chosen)} record{plural}; open it in a browser", markup=False)
