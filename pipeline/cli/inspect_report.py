"""What ``multistream inspect`` and ``multistream formats NAME`` print for people, at any width from 60 columns on."""

from __future__ import annotations

import json
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.table import Table
from rich.text import Text

from pipeline.alignment import POLICIES
from pipeline.cli import console
from pipeline.inspection import Contents, FileReport, Noted, Report
from pipeline.viewer.plain import render

#: Files of one format that are listed one by one, keys kept in extra, lines of one record.
_FILES, _KEYS, _LINES = 12, 24, 26


def print_report(report: Report) -> None:
    """One file in full, or a line per file grouped by format; then what is in them, what is odd, and records."""
    if len(report.files) == 1:
        _print_file(report.files[0])
    else:
        _print_files(report.files)
    total = report.total
    if total.units:
        _print_contents(total, report.files)
        _print_alignment(total)
        _print_noted("odd", "count", "first at", total.oddities)
        _print_noted("rejected", "count", "first at", total.rejects)
        if total.extra:
            listed = [f"{key} ({count:,})" for key, count in total.extra.most_common(_KEYS)]
            more = f", … {len(total.extra) - _KEYS:,} more" if len(total.extra) > _KEYS else ""
            console.out.print()
            _facts([("kept in extra", ", ".join(listed) + more)])
    for note in report.notes:
        console.out.print(Text(f"note: {note}"))
    for number, record in enumerate(report.records, 1):
        console.out.print()
        title = f"── record {number} of {total.records:,} as it will be converted "
        console.out.print(Text(title + "─" * max(0, _width() - len(title)), style="bold"))
        print_record(record)


def print_record(record: dict[str, Any]) -> None:
    """One record in columns, its middle left out where it is long."""
    drawn = list(render(record, _width()))
    lines = [_short(line, _width()) for line in drawn]
    too_wide = any(cell_len(line) > _width() for line in drawn if "│" in line)
    if len(lines) > _LINES:
        head = next((i for i, line in enumerate(lines) if line.startswith(" rows")), 0)
        left_out = len(lines) - _LINES
        keep = max(head + 6, _LINES - 8)
        lines = [*lines[:keep], f"  …    {left_out:,} lines; see multistream view", *lines[keep + left_out :]]
    if too_wide:
        lines.append(f"  {len(record['streams'])} streams; a wider terminal shows all of them")
    sys.stdout.write("".join(line.rstrip() + "\n" for line in lines))
    sys.stdout.flush()


def _print_file(file: FileReport) -> None:
    facts = [("file", file.file), ("container", file.container)]
    facts += _format_facts(file)
    facts.append(("licence", _licence(file)))
    if file.problem:
        facts.append(("problem", file.problem))
    _facts(facts)


def _format_facts(file: FileReport) -> list[tuple[str, str]]:
    if file.format is None:
        return []
    own = file.votes.get(file.format.partition(":")[0], 0)
    how = "named" if file.forced else "detected"
    facts = [
        ("format", f"{file.format} ({how}): {own} of {file.sampled} sampled values look like"),
        ("", file.shape),
    ]
    others = [f"{name} {votes}" for name, votes in file.votes.items() if name != file.format.partition(":")[0]]
    return [*facts, ("next", ", ".join(others) + f" of {file.sampled}" if others else "no other format claims one")]


def _licence(file: FileReport) -> str:
    if file.license is None:
        return file.license_from or "none found"
    return f"{file.license} ({file.license_from})" if file.license_from else file.license


def _print_files(files: Sequence[FileReport]) -> None:
    groups: dict[str, list[FileReport]] = {}
    for file in files:
        groups.setdefault(file.format or "", []).append(file)
    for name, members in sorted(groups.items(), key=lambda item: (not item[0], -len(item[1]))):
        unclaimed = "companion files" if all(file.companion_of for file in members) else "no known format"
        console.out.print(Text(name or unclaimed, style="bold"))
        if name:
            console.out.print(Text(f"  {_short(members[0].shape, _width() - 2)}"))
        view = _table("  file", "container", "records", "conv.", "rejected", "votes")
        for file in members[:_FILES]:
            votes = f"{file.votes.get(name.partition(':')[0], 0)}/{file.sampled}" if name else ""
            found = file.contents
            numbers = (found.values, found.conversations, found.rejected) if found.units else ("", "", "")
            view.add_row(
                "  " + _shorter(file.name, max(16, _width() - 56)),
                file.container,
                *(f"{n:,}{'' if file.whole or i else '+'}" if n != "" else "" for i, n in enumerate(numbers)),
                votes,
            )
        console.out.print(view)
        if len(members) > _FILES:
            console.out.print(Text(f"  … and {len(members) - _FILES:,} more; --json lists all"))
        for file in members:
            if file.companion_of:
                console.out.print(Text(_short(f"  {file.name}: joined to {file.companion_of}", _width())))
        for problem, count in Counter(file.problem for file in members if file.problem).items():
            console.out.print(Text(_short(f"  {count} × {problem}" if count > 1 else f"  {problem}", 3 * _width())))
        console.out.print()


def _print_contents(total: Contents, files: Sequence[FileReport]) -> None:
    whole = all(file.whole for file in files)
    become = [f"{total.conversations:,} conversations", f"{total.records:,} records"]
    become += [
        f"{count:,} {what}"
        for count, what in (
            (total.segments, "cut into segments"),
            (total.realigned, "laid out under turns for a leak"),
            (total.input_only, "of input only"),
            (total.rejected, "rejected"),
        )
        if count
    ]
    facts = [
        ("files", f"{len(files):,}") if len(files) > 1 else ("", ""),
        ("records", _records(total) + ("" if whole else "; only the first of each file were looked at (--sample)")),
        ("become", ", ".join(become)),
        ("messages", _counted(total.roles)),
        ("parts", _counted(total.parts)),
        ("streams", _counted(total.streams)),
    ]
    if len(files) > 1:
        licences = Counter(file.license or "none found" for file in files)
        facts.append(("licences", _counted(licences) + " (files)"))
    _facts([fact for fact in facts if any(fact)])


def _records(total: Contents) -> str:
    """What the inputs hold, and what units that makes."""
    notes = [f"{total.values:,}"]
    if total.units != total.values:
        notes.append(f"in {total.units:,} units of whole files")
    if total.joined:
        notes.append(f"{total.joined:,} joined with a record of a companion file")
    return ", ".join(notes)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items(), key=lambda item: -item[1])) or "none"


def _print_alignment(total: Contents) -> None:
    """Which policies have something to do here, where, and why what they let overlap is honest."""
    if not total.policies:
        return
    left = max(cell_len(name) for name in ("alignment", *total.policies)) + 2
    room = max(20, _width() - left - 9)
    console.out.print()
    console.out.print(Text(f"{'alignment':<{left}}{'conv.':>7}  why", style="bold"))
    for name, item in sorted(total.policies.items(), key=lambda pair: -pair[1].count):
        console.out.print(Text(f"{name:<{left}}{item.count:>7,}  {_short(item.example, room)}"))
        claim = POLICIES[name].CLAIM if name in POLICIES else ""
        for line in textwrap.wrap(claim, room):
            console.out.print(Text(" " * (left + 9) + line, style="dim"))


def _print_noted(what: str, count: str, where: str, noted: Mapping[str, Noted]) -> None:
    if not noted:
        return
    console.out.print()
    left = max(cell_len(name) for name in (what, *noted)) + 2
    room = max(20, _width() - left - 9)
    console.out.print(Text(f"{what:<{left}}{count:>7}  {where}", style="bold"))
    for name, item in sorted(noted.items(), key=lambda pair: -pair[1].count):
        console.out.print(Text(f"{name:<{left}}{item.count:>7,}  {_shorter(item.where, room)}"))
        if item.example:
            console.out.print(Text(" " * (left + 9) + _short(item.example, room), style="dim"))


def print_format(about: Mapping[str, Any], record: dict[str, Any] | None) -> None:
    """One format: what it is, its options, its example, and what the example becomes."""
    facts = [("format", about["format"]), ("unit", about["unit"]), ("shape", about["shape"])]
    for name, values in about["options"].items():
        facts.append((f":{name}=", " | ".join(f"{v} (default)" if i == 0 else v for i, v in enumerate(values))))
    _facts(facts)
    console.out.print()
    for line in about["description"].splitlines():
        console.out.print(Text(line))
    for title, value in (("example", about["example"]), ("becomes", about["conversations"])):
        console.out.print()
        console.out.print(Text(title, style="bold"))
        for line in json.dumps(value, ensure_ascii=False, indent=2).splitlines():
            console.out.print(Text(line))
    if record is not None:
        console.out.print()
        print_record(record)


def print_formats(rows: Iterable[Mapping[str, Any]]) -> None:
    """Every format: its name, its unit and what it is, and its shape in the line below."""
    listed = [("format", "unit", "about", ""), *((r["format"], r["unit"], r["about"], r["shape"]) for r in rows)]
    left = max(cell_len(name) for name, *_ in listed) + 2
    for number, (name, unit, about, shape) in enumerate(listed):
        line = f"{name:<{left}}{unit:<8}{_short(about, _width() - left - 8)}"
        console.out.print(Text(line, style="bold" if number == 0 else ""))
        if shape:
            console.out.print(Text(f"{'':<{left + 8}}{_short(shape, _width() - left - 8)}", style="dim"))


def _width() -> int:
    return max(60, console.out.width)


def _facts(rows: Iterable[tuple[str, str]]) -> None:
    """Names and values in two columns."""
    listed = list(rows)
    left = max(len(name) for name, _ in listed) + 2
    for name, value in listed:
        lines = textwrap.wrap(_plain(value), _width() - left) or [""]
        for number, line in enumerate(lines):
            text = Text(f"{name if number == 0 else '':<{left}}", style="bold")
            console.out.print(text.append(line, style="not bold"))


def _table(*headers: str) -> Table:
    view = Table(box=None, header_style="bold", pad_edge=False)
    for header in headers:
        numeric = header in ("count", "records", "conv.", "rejected", "votes")
        view.add_column(header, justify="right" if numeric else "left", overflow="fold", no_wrap=numeric)
    return view


def _plain(text: str) -> str:
    """One line of printable characters."""
    return "".join(c if c.isprintable() else " " if c in "\n\t" else "·" for c in text)


def _short(text: str, width: int) -> str:
    """The beginning of a text, at most so many terminal columns."""
    text = _plain(text)
    return text if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"


def _shorter(path: str, width: int) -> str:
    """The end of a path, at most so many terminal columns."""
    text = _plain(path)
    return text if cell_len(text) <= width else "…" + set_cell_size(text[::-1], width - 1)[::-1]
