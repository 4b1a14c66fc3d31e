"""Records to plant in: conversations of ours, converted by the command under `turns` and under the default policies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from benchmarks import corpus, leaks
from pipeline.tokenization import TextTokenizer, load_tokenizer

Record = dict[str, Any]


def _call(name: str, arguments: dict[str, Any], call_id: str) -> Record:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": call_id, "type": "function", "function": function}],
    }


#: Small talk and errands with facts that can only be read: numbers, names, ids, and sentences that answers repeat.
CONVERSATIONS: list[list[Record]] = [
    [
        {"role": "user", "content": "I am back from the north. My parcel 48213 went to Tromsdalen. Where is it now?"},
        {"role": "assistant", "content": "Sure, let me look at that. Parcel 48213 for Tromsdalen has left the depot."},
        {"role": "user", "content": "And the second one? It weighs 3.75 kilograms, and the sender was Halvorsen."},
        {"role": "assistant", "content": "The parcel of 3.75 kilograms from Halvorsen waits at the harbour."},
    ],
    [
        {"role": "user", "content": "Find the cheapest train to Bergen for me, please."},
        _call("find_trains", {"to": "Bergen"}, "a"),
        {
            "role": "tool",
            "tool_call_id": "a",
            "content": "Line NRX204 leaves at 07:25 and costs 1,349 crowns. The scenic line over the plateau costs 990 crowns. "
            "Line NRX311 is sold out until Friday evening because of repairs near Finsevatn.",
        },
        {
            "role": "assistant",
            "content": "Line NRX204 costs 1,349 crowns. The scenic line over the plateau is cheaper, with 990 crowns. "
            "Line NRX311 is sold out until Friday evening because of repairs near Finsevatn.",
        },
    ],
    [
        {
            "role": "user",
            "content": "Please sum this up. Old Marit Solheim kept 73 sheep above the lake. Every autumn her neighbours "
            "gathered them before the heavy snow closed the northern valley. This year nobody came, and she went alone.",
        },
        {
            "role": "assistant",
            "content": "Marit Solheim kept 73 sheep. Her neighbours gathered them before the heavy snow closed the northern "
            "valley, but this year she went alone.",
        },
    ],
    [
        {"role": "user", "content": "Guess how many beans are in the jar."},
        {"role": "assistant", "content": "I say 8812 beans."},
        {"role": "user", "content": "It was 8812 indeed. How did you do that?"},
        {"role": "assistant", "content": "It was luck, nothing else."},
    ],
    [
        {"role": "user", "content": "请告诉我明天下午三点在台北车站南门集合的安排。"},
        {"role": "assistant", "content": "好的。明天下午三点在台北车站南门集合。"},
    ],
    [
        {
            "role": "user",
            "content": "Is there enough for the wedding? We set aside what the uncles sent us in spring, the hall is paid, "
            "and every one of the guests gets a pizza and a drink. The band plays for nothing, since my cousin is the one "
            "who leads it, and the flowers come from the garden behind our house.",
        },
        {"role": "assistant", "content": "Yes"},
    ],
    [
        {"role": "user", "content": "The hall has 47 seats"},
        {"role": "assistant", "content": "Good to know, and thank you for it."},
    ],
    [
        {"role": "user", "content": "The old house stands by the water. Where does it stand?"},
        {"role": "assistant", "content": "by the water"},
    ],
    [
        {"role": "user", "content": "老房子在湖边。老房子在哪里？"},
        {"role": "assistant", "content": "在湖边"},
    ],
]


@pytest.fixture(scope="session")
def smollm2() -> TextTokenizer:
    return load_tokenizer("smollm2")


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with POLICY/ours, as ``benchmarks/leaks.py`` leaves its corpora."""
    place = tmp_path_factory.mktemp("planting")
    source = place / "ours"
    source.mkdir()
    (source / "talks.jsonl").write_text(
        "".join(json.dumps({"messages": messages}, ensure_ascii=False) + "\n" for messages in CONVERSATIONS)
    )
    for policy in leaks.POLICIES:
        corpus.convert(source, place / policy / "ours", policy)
    return place


@pytest.fixture(scope="session")
def turns(converted: Path) -> list[Record]:
    """The records under ``turns``, in source order."""
    records = [
        r
        for p in (converted / "turns" / "ours").glob("dataset/*/records-*.parquet")
        for r in pq.read_table(p).to_pylist()
    ]
    return sorted(records, key=lambda r: r["sources"][0]["index"])
