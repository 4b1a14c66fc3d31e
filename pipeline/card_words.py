"""How a card writes names and figures: harmless in Markdown, HTML and YAML."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pipeline.viewer.lanes import one_line

_SPECIAL = re.compile(r"[|`<>&\[\]*~#\\$!]|(?<![^\W_])_|_(?![^\W_])|(?<=:)//|(?<=[wW]{3})\.|@")


def title_line(title: str) -> str:
    """A title on one line without what would end the front matter."""
    return re.sub(r"-{3,}", "–", one_line(" ".join(title.split()), 200))


def cell(value: object) -> str:
    """Text in a table or a line of Markdown: nothing of it is markup, a link or a mention."""
    line = one_line(" ".join(str(value).split()), 600)
    return _SPECIAL.sub(lambda m: "".join(f"&#{ord(c)};" for c in m[0]), line)


def code(value: object) -> str:
    """A name as code: nothing in it ends that."""
    return f"`{value}`" if re.fullmatch(r"[\w.-]+", str(value)) else f"<code>{cell(value)}</code>"


def num(value: int | None) -> str:
    """A count; nothing where there is none."""
    return "" if value is None else f"{value:,}"


def share(value: float | None) -> str:
    """A share of 1 in percent."""
    return "–" if value is None else f"{value:.1%}"


def pair(values: tuple[float, float] | None) -> str:
    """A median, and that under turns where it is another."""
    if not values:
        return "–"
    layout, turns = values
    return f"{layout:,.0f}" if layout == turns else f"{layout:,.0f} ({turns:,.0f})"


def loss(measured: Mapping[str, Any] | None, kind: str) -> str:
    """A loss of a kind (text, silence) in nats, with its interval where there is one."""
    if not measured or measured.get(f"{kind}_loss") is None:
        return "–"
    interval = measured.get(f"{kind}_interval")
    told = f"{measured[f'{kind}_loss']:.3f}"
    return f"{told} [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else told
