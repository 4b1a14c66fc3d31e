"""Small conversations through the real converter, as the batches that filters judge."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

import converters
from pipeline.conversation import Conversation, Message, Part
from pipeline.convert import ConvertConfig, Converter
from pipeline.filters import FILTERS
from pipeline.filters.talks import Talks, Verdict


class Refused(ValueError):
    """The converter rejected conversations; ``codes`` says why."""

    def __init__(self, codes: set[str]) -> None:
        super().__init__(", ".join(sorted(codes)))
        self.codes = codes


@lru_cache
def _converter(**config: Any) -> Converter:
    return Converter(ConvertConfig(**config))


def convert(told: Iterable[Conversation], **config: Any) -> tuple[pa.Table, pa.Table]:
    """Each conversation as a unit of its own: the records, and those without any answer.

    ``config``: of the converter. Raises Refused.
    """
    units = list(told)

    def of(index: int) -> Iterator[Conversation]:
        yield units[index]

    rows = [
        {
            "corpus": "c", "path": "p", "index": index, "format": "given", "license": "MIT", "key": None,
            "sha256": f"{index:064x}", "raw": str(index).encode(),
        }
        for index in range(len(units))
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        given = SimpleNamespace(FORMAT="given", convert=of)
        patch.setattr(converters, "CONVERTERS", {"given": given})
        batch = _converter(**config).convert(rows)
    if batch.rejects:
        raise Refused({reject["code"] for reject in batch.rejects})
    return batch.records, batch.input_only


def talks_of(*told: Conversation, **config: Any) -> Talks:
    """A batch of conversations that all hold an answer, in their order."""
    records, silent = convert(told, **config)
    assert silent.num_rows == 0
    return Talks(records)


def message(role: str, *parts: Part | str, **more: Any) -> Message:
    """A message; plain strings are text parts."""
    return Message(role, tuple(Part("text", p) if isinstance(p, str) else p for p in parts), **more)  # type: ignore[arg-type]


def asked(*answers: str, question: str = "What do you say to that, then?") -> Conversation:
    """A user who asks the same before each of the answers."""
    return Conversation(tuple(m for a in answers for m in (message("user", question), message("assistant", a))))


def judged(name: str, *told: Conversation, **params: Any) -> list[str | None]:
    """What a filter says of each conversation, by its reason; None for one that stays. ``params``: its thresholds."""
    found = verdicts(name, told, **params)
    return [found[i].reason if i in found else None for i in range(len(told))]


def verdicts(name: str, told: Sequence[Conversation], **params: Any) -> dict[int, Verdict]:
    """The verdicts of a filter, by the conversation's number."""
    module = FILTERS[name] if name in FILTERS else pytest.fail(f"no filter is called {name}")
    return dict(module.judge(talks_of(*told), module.Params(**params)))
