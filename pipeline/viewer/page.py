"""Chosen records as one HTML page that needs nothing else: no network, no fonts, no server.

The records are in the HTML itself, as lists in the order of time, so that it can be read, printed and searched without
JavaScript; the scripts put the events in columns, play them, filter them and lay them beside ``turns``. What the records say
is text and nothing else: it is escaped, its control characters are made visible, and the page's own policy lets no script or
style run but the page's.
"""

from __future__ import annotations

import base64
import hashlib
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.manifest import publish_text
from pipeline.viewer.as_json import json_text
from pipeline.viewer.lanes import (
    CUT_MARK,
    FINAL_MARK,
    INPUT_MARK,
    KIND_MARKS,
    LEAK_MARKS,
    OUTPUT_MARK,
    OVERLAP_MARK,
    View,
    one_line,
    parsed,
    view_of,
)
from pipeline.viewer.page_events import KIND_NAMES, Strip, count, event_of, hues_of, sign_of
from pipeline.viewer.turns import in_turns

#: Name, label, and the values with their numbers.
Facet = tuple[str, str, list[tuple[int, str]]]

TEMPLATES = Path(__file__).resolve().parent / "templates"

#: Stands in the head of every page: only files that have it are written over.
_OURS = b'<meta name="generator" content="multistream view">'

#: Rows per second that the page can play.
SPEEDS = (2, 5, 10, 20, 50, 100, 200, 500)

_FACETS = {"corpus": "Corpus", "policy": "Policy", "stream": "Stream", "pattern": "Pattern"}
_ESCAPED = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\x7f\u2028\u2029"}
_SAME_TURNS = "It is laid out like turns already: nothing overlaps"
_NO_TURNS = "It cannot be laid out again: `multistream validate` says why"
_FOLDED = ("conversation", "params", "group", "labels", "extra")

_KEYBOARD = (
    ("n p", "next, previous record"),
    ("j k", "next, previous event; on an event also the arrow keys, Home and End"),
    ("esc", "no event is selected"),
    ("space", "play, pause"),
    ("t", "beside the same events under turns"),
    ("l", "columns or a list"),
    ("c", "copy the record as JSON"),
    ("/", "search"),
    ("g", "jump"),
    ("?", "this help"),
)
_SIGNS = (
    ("5–8", "the rows from 5 up to 8, without 8; a row is one token of every stream"),
    (INPUT_MARK, "a stream that the model reads"),
    (OUTPUT_MARK, "a stream that the model writes"),
    (LEAK_MARKS["leak"].strip(), "a leak: it says what was not yet read"),
    (LEAK_MARKS["weak"].strip(), "it may leak: the record has no source order"),
    (OVERLAP_MARK.strip(), "speaks while another stream does"),
    (FINAL_MARK, "the end of a message"),
    (CUT_MARK, "a message that was cut off"),
    *((mark.strip(), KIND_NAMES[kind]) for kind, mark in KIND_MARKS.items() if mark),
)


def write_page(
    out: Path, records: Sequence[Mapping[str, Any]], title: str, numbers: Sequence[int] | None = None
) -> None:
    """Writes the page of some records (JSON form, ``schemas/stream_record.schema.json``), in their order.

    ``numbers``: what each record is called, once each; without it they are numbered from 0. The same input makes the same
    bytes. A page of a few hundred records is what browsers take at once. Raises InputError where there are no records, or
    one whose events point to nothing, and what ``check_place`` raises.
    """
    check_place(out)
    html = render_page(records, title, numbers)
    try:
        publish_text(out, html)
    except OSError as error:
        raise InputError(f"{one_line(str(out))} cannot be written: {error.strerror or error}") from error


def check_place(out: Path) -> None:
    """Raises InputError where a page must not be written: on a folder, a device, or a file that is no page of ours."""
    name = one_line(str(out))
    try:
        mode = out.stat().st_mode
        if stat.S_ISDIR(mode):
            raise InputError(f"{name} is a folder; name a file in it")
        if not stat.S_ISREG(mode):
            raise InputError(f"{name} is no file; name one")
        with out.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{name} cannot be written: {error.strerror or error}") from error
    if head and _OURS not in head:
        raise InputError(f"{name} is there and is no page of this command; remove it, or name another file")


def render_page(records: Sequence[Mapping[str, Any]], title: str, numbers: Sequence[int] | None = None) -> str:
    """The page of ``write_page`` as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    if not records:
        raise InputError("there are no records to make a page of")
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, *scripts = (
        (TEMPLATES / name).read_text(encoding="utf-8")
        for name in ("page.css", "start.js", "lanes.js", "score.js", "records.js")
    )
    views = [view_of(record) for record in records]
    facets, values = _facets(records, views)
    return environment.get_template("page.html.j2").render(
        title=one_line(title),
        summary=_summary(views),
        policy=_content_policy(style, scripts),
        style=Markup(style),
        start=Markup(scripts[0]),
        scripts=[Markup(script) for script in scripts[1:]],
        speeds=SPEEDS,
        keyboard=_KEYBOARD,
        signs=_SIGNS,
        facets=facets,
        records=[
            _record(number, record, view, of)
            for number, record, view, of in zip(
                range(len(records)) if numbers is None else numbers, records, views, values, strict=True
            )
        ],
    )


def _content_policy(style: str, scripts: Sequence[str]) -> str:
    """What the browser may do: run these scripts and this style, and nothing else."""
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in (style, *scripts)]
    return (
        f"default-src 'none'; script-src {' '.join(hashes[1:])}; style-src {hashes[0]}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _in_script(record: Mapping[str, Any]) -> str:
    """The record as JSON that cannot end the element which holds it."""
    return json_text(record, compact=True).translate(_ESCAPED)


def _summary(views: Sequence[View]) -> str:
    leaks = sum(len(view.leaks) for view in views)
    events = sum(len(view.entries) for view in views)
    told = [count(len(views), "record"), count(events, "event"), count(leaks, "event") + " with a leak"]
    return ", ".join(told)


def _facets(records: Sequence[Mapping[str, Any]], views: Sequence[View]) -> tuple[list[Facet], list[dict[str, str]]]:
    """The filters, those without any value left out; and per record its values by filter, as numbers separated by spaces."""
    values = [
        {
            "corpus": [one_line(s["corpus"], 60) for s in record["sources"]],
            "policy": [one_line(record["alignment"]["policy"], 60)],
            "stream": [lane.name for lane in view.lanes],
            "pattern": _pattern(record),
        }
        for record, view in zip(records, views, strict=True)
    ]
    number = {name: {v: i for i, v in enumerate(sorted({v for of in values for v in of[name]}))} for name in _FACETS}
    facets: list[Facet] = [
        (name, label, [(i, v) for v, i in number[name].items()]) for name, label in _FACETS.items() if number[name]
    ]
    return facets, [
        {name: " ".join(str(number[name][v]) for v in dict.fromkeys(of[name])) for name in _FACETS} for of in values
    ]


def _pattern(record: Mapping[str, Any]) -> list[str]:
    """The scenario of a record that was written anew."""
    extra = parsed(record.get("extra"))
    scenario = extra.get("scenario") if isinstance(extra, dict) else None
    return [one_line(scenario, 60)] if isinstance(scenario, str) else []


def _record(number: int, record: Mapping[str, Any], view: View, facets: Mapping[str, str]) -> dict[str, Any]:
    """What the template says of one record."""
    from markupsafe import Markup

    hues = hues_of(view.lanes)
    starts = [entry.start for entry in view.entries]
    turns = _starts_under_turns(record)
    turns_rows = max((s + e.tokens for s, e in zip(turns or starts, view.entries, strict=True)), default=0)
    scale = max(view.rows, turns_rows, 1)
    about = [(name, value) for name, value in view.about if name != "record"]
    own = Strip(view, hues, starts, scale, "As recorded", view.rows)
    return {
        "number": number,
        "id": one_line(view.id),
        "rows": view.rows,
        "ms": view.ms_per_row,
        "policy": one_line(record["alignment"]["policy"], 60),
        "corpus": ", ".join(dict.fromkeys(one_line(s["corpus"], 60) for s in record["sources"])),
        "facets": facets,
        "opening": _opening(view),
        "leaks": len(view.leaks),
        "overlaps": any(entry.overlaps for entry in view.entries),
        "lanes": [{"name": lane.name, "sign": sign_of(lane), "hue": hues[lane.index]} for lane in view.lanes],
        "facts": [
            *((n, v) for n, v in about if n not in _FOLDED),
            ("size", _size(view, turns_rows if turns else None)),
        ],
        "folded": [(name, value) for name, value in about if name in _FOLDED],
        "own": own,
        "turns": None if turns in (None, starts) else Strip(view, hues, turns or [], scale, "Under turns", turns_rows),
        "no_turns": _NO_TURNS if turns is None else _SAME_TURNS if turns == starts else "",
        "events": [event_of(view, e, (turns or starts)[e.index], hues) for e in view.entries],
        "json": Markup(_in_script(record)),
    }


def _opening(view: View) -> str:
    """What the record is called in a list: the first words of the user, else of anybody."""
    said = [entry for entry in view.entries if entry.text.strip() and entry.kind == "message"]
    first = next((entry for entry in said if view.lanes[entry.lane].role == "user"), said[0] if said else None)
    return _whole(" ".join(first.text[:200].split()), 60) if first else "no words"


def _whole(text: str, most: int) -> str:
    """Harmless text on one line, cut after ``most`` characters at most, but not inside what is drawn as one."""
    import regex

    ends = [found.end() for found in regex.finditer(r"\X", text)]
    end = max((e for e in ends if e <= most), default=most)
    return one_line(text[:end]) + ("…" if end < len(text) else "")


def _starts_under_turns(record: Mapping[str, Any]) -> list[int] | None:
    """The start row of every event if each part came after the one before it; None where the record is too broken for that."""
    try:
        laid = in_turns(record)
    except (InputError, RecursionError):  # JSON in it that is deeper than its reader goes
        return None
    at = {_part_of(event): event["start"] for event in laid["events"]}
    starts = []
    for event in record["events"]:
        starts.append(at[_part_of(event)])
        at[_part_of(event)] += event["end"] - event["start"]
    return starts


def _part_of(event: Mapping[str, Any]) -> tuple[Any, ...]:
    return event["stream"], event["message"], event["part"], event["kind"] == "header"


def _size(view: View, turns_rows: int | None) -> str:
    told = f"{count(view.rows, 'row')}, {count(view.cells, 'token')}, {count(len(view.entries), 'event')}"
    silence = 1 - view.cells / (view.rows * len(view.lanes)) if view.rows and view.lanes else 0.0
    beside = "" if turns_rows is None else f", {turns_rows:,} rows under turns"
    return f"{told}, {silence:.0%} silence{beside}"
