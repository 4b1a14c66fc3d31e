"""Drawings as SVG text: the same bytes for the same figures, readable on light and dark, no script, no font."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from xml.etree import ElementTree as Xml

from pipeline.viewer.lanes import one_line

#: Pixels of a letter of the two fonts at 12 px, as wide as common ones are; wide scripts take two.
LETTER, MONO_LETTER = 6.4, 7.2

#: The class of every picture: by it a file is known to be one that we drew.
OURS = "multistream-picture"

_STYLE = (
    "svg{--ink:#1f2328;--dim:#59636e;--grid:#d1d9e0;--page:#ffffff;"
    "--read:#0550ae;--written:#bc4c00;--thought:#8250df;--call:#116329;--grey:#818b98}"
    "@media (prefers-color-scheme:dark){svg{--ink:#f0f6fc;--dim:#9198a1;--grid:#3d444d;--page:#0d1117;"
    "--read:#79c0ff;--written:#ffa657;--thought:#d2a8ff;--call:#7ee787;--grey:#848d97}}"
    ".page{fill:var(--page)}.ink{fill:var(--ink)}.dim{fill:var(--dim)}.on{fill:var(--page)}"
    ".grid{stroke:var(--grid)}.axis{stroke:var(--dim)}.edge{stroke:var(--dim);fill:none}"
    ".read{fill:var(--read)}.written{fill:var(--written)}.thought{fill:var(--thought)}.call{fill:var(--call)}"
    ".grey{fill:var(--grey)}.hollow{fill:var(--page);stroke:var(--dim);stroke-width:1.5}"
    "text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}"
    ".title{font-size:14px;font-weight:600}.small{font-size:11px}.mono{font:12px ui-monospace,Menlo,Consolas,monospace}"
)


@dataclass(frozen=True, slots=True)
class Shape:
    """An SVG element: its name, attributes and text. Coordinates in pixels from the upper left."""

    name: str
    attributes: tuple[tuple[str, str], ...] = ()
    text: str = ""
    inside: tuple[Shape, ...] = field(default=())


def rect(x: float, y: float, width: float, height: float, kind: str, round_: float = 2, tip: str = "") -> Shape:
    """A rectangle; ``kind``: what is drawn, by which it has its colour; ``tip``: what the pointer shows."""
    inside = (Shape("title", (), one_line(tip, 400)),) if tip else ()
    places = _attributes(x=x, y=y, width=max(width, 0.5), height=height, rx=round_)
    return Shape("rect", (("class", kind), *places), "", inside)


def line(x1: float, y1: float, x2: float, y2: float, kind: str, width: float = 1) -> Shape:
    """A straight line."""
    return Shape("line", (("class", kind), *_attributes(x1=x1, y1=y1, x2=x2, y2=y2), ("stroke-width", _number(width))))


def circle(x: float, y: float, radius: float, kind: str) -> Shape:
    """A disc."""
    return Shape("circle", (("class", kind), *_attributes(cx=x, cy=y, r=radius)))


def path(data: str, kind: str, dashed: bool = False) -> Shape:
    """A curve."""
    return Shape("path", (("class", kind), ("d", data), *((("stroke-dasharray", "3 3"),) if dashed else ())))


def label(x: float, y: float, text: str, kind: str = "ink", anchor: str = "start") -> Shape:
    """Text on one line, made harmless; ``y``: of its base line; ``anchor``: start, middle or end."""
    places = _attributes(x=x, y=y)
    more = (("text-anchor", anchor),) if anchor != "start" else ()
    return Shape("text", (("class", kind), *places, *more), one_line(text, 1000))


def picture(width: float, height: float, title: str, words: str, shapes: Sequence[Shape]) -> str:
    """The SVG document. ``title`` is drawn above; ``words`` say what is shown to who cannot see it."""
    root = Xml.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "class": OURS,
            "viewBox": f"0 0 {_number(width)} {_number(height)}",
            "width": _number(width),
            "height": _number(height),
            "role": "img",
            "aria-label": one_line(words, 1000),
        },
    )
    Xml.SubElement(root, "style").text = _STYLE
    for shape in (rect(0, 0, width, height, "page", 6), label(16, 24, title, "title ink"), *shapes):
        _add(root, shape)
    Xml.indent(root, " ")
    return Xml.tostring(root, encoding="unicode") + "\n"


def is_ours(file: Path) -> bool:
    """Whether a file is a picture that ``picture`` drew."""
    with file.open("rb") as opened:
        return f' class="{OURS}"'.encode() in opened.read(400)


def fitted(text: str, width: float, letter: float = LETTER) -> str:
    """The text on one line, made harmless, and cut with an ellipsis to a width in pixels; "" where not even two letters fit."""
    line_ = one_line(text, 1000)
    if measured(line_, letter) <= width:
        return line_
    widths = accumulate(letter * _columns(character) for character in line_)
    kept = sum(1 for each in widths if each <= width - letter)
    return line_[:kept].rstrip() + "…" if kept > 1 else ""


def measured(text: str, letter: float = LETTER) -> float:
    """About how wide a text is, in pixels."""
    return letter * sum(map(_columns, text))


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from ``low`` to ``high``, at most about ``most``."""
    if high <= low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(step * k, 10) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _add(parent: Xml.Element, shape: Shape) -> None:
    element = Xml.SubElement(parent, shape.name, dict(shape.attributes))
    element.text = shape.text or None
    for inner in shape.inside:
        _add(element, inner)


def _columns(character: str) -> int:
    return 0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _attributes(**values: float) -> tuple[tuple[str, str], ...]:
    return tuple((name, _number(value)) for name, value in values.items())


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
