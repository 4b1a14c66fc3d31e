"""The drawings in docs/alignment/drawings.md are what the viewer makes of our example conversations.

Run as a program, this file writes them again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from converters import CONVERTERS
from pipeline.convert import ConvertConfig, Converter
from pipeline.records import to_json
from pipeline.viewer.plain import render

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "alignment" / "drawings.md"
WIDTH = 104

#: Align spec, format, and where the conversation is: a line of an example file, or the format's own example.
DRAWINGS: tuple[tuple[str, str, tuple[str, int] | None], ...] = (
    ("turns", "alpaca", ("alpaca.jsonl", 1)),
    ("wait_k", "alpaca", ("alpaca.jsonl", 1)),
    ("thinking", "think_tagged", ("think_tagged.jsonl", 4)),
    ("evidence", "sharegpt", ("sharegpt.jsonl", 4)),
    ("tools_async", "openai_messages", ("openai_messages.jsonl", 4)),
    ("tools_async:latency=*:30:0.8,seed=3", "openai_messages", ("openai_messages.jsonl", 9)),
    ("audit:corrupt=0.5", "math_qa", ("math_qa.jsonl", 1)),
    ("monitor:plant=0.5", "context_qa", ("context_qa.jsonl", 1)),
    ("timestamps", "claude_code", None),
)


def drawn(spec: str, format_: str, place: tuple[str, int] | None) -> str:
    """The viewer's picture of a conversation under an align spec."""
    if place is None:
        raw = msgspec.json.encode(CONVERTERS[format_].EXAMPLE)
    else:
        lines = (ROOT / "examples" / "conversations" / place[0]).read_bytes().splitlines()
        raw = lines[place[1]]
    unit = {
        "corpus": "examples",
        "path": place[0] if place else format_,
        "index": place[1] if place else 0,
        "format": format_,
        "license": "Apache-2.0",
        "key": None,
        "sha256": hashlib.sha256(raw).hexdigest(),
        "raw": raw,
    }
    batch = Converter(ConvertConfig(align=spec)).convert([unit])
    (record,) = list(to_json(batch.records))[:1]
    return "\n".join(line.rstrip() for line in render(record, WIDTH))


def blocks() -> Iterator[tuple[str, str]]:
    """(spec, picture) of every drawing of the page."""
    found = re.findall(
        r"^## `([^`]+)`\n.*?```\n(.*?)\n```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    yield from found


@pytest.mark.parametrize(("spec", "format_", "place"), DRAWINGS, ids=[spec for spec, _, _ in DRAWINGS])
def test_a_drawing_is_what_the_viewer_makes_of_an_example(
    spec: str, format_: str, place: tuple[str, int] | None
) -> None:
    assert dict(blocks())[spec] == drawn(spec, format_, place)


def test_every_drawing_of_the_page_is_held_to() -> None:
    assert [spec for spec, _ in blocks()] == [spec for spec, _, _ in DRAWINGS]


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    for spec, format_, place in DRAWINGS:
        made = drawn(spec, format_, place)
        pattern = rf"(^## `{re.escape(spec)}`\n.*?```\n).*?(\n```$)"
        text = re.sub(pattern, lambda m, made=made: m[1] + made + m[2], text, flags=re.DOTALL | re.MULTILINE)
    PAGE.write_text(text, encoding="utf-8")
