"""What filters say of spans that they found (``pipeline.sensitive``), without showing them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import polars as pl

from pipeline.filters.talks import Talks, Verdict
from pipeline.sensitive.spans import Span, masked

#: Which parts of a conversation a filter looks at: what the model says, or everything.
Where = Literal["output", "all"]


def chosen_parts(talks: Talks, where: Where) -> pl.DataFrame:
    """The rows of ``talks.parts`` that are looked at."""
    return talks.parts if where == "all" else talks.parts.filter(pl.col("output"))


def known(kinds: tuple[str, ...], all_kinds: Sequence[str]) -> tuple[str, ...]:
    """The kinds, each of them once. Raises ValueError where one is not known."""
    strange = [kind for kind in kinds if kind not in all_kinds]
    if strange:
        raise ValueError(f"{', '.join(map(repr, strange))} is not known ({', '.join(all_kinds)})")
    return tuple(dict.fromkeys(kinds))


def verdicts(parts: pl.DataFrame, spans: Sequence[Sequence[Span]], word: str, max_count: int) -> dict[int, Verdict]:
    """Verdicts of conversations with more than ``max_count`` different values. ``spans``: of each row of ``parts``.

    The reason is ``word`` and the kind that is found most; the detail masks the first one of it, and counts all by kind.
    """
    values: dict[int, dict[tuple[str, str], None]] = {}
    for row, found in enumerate(spans):
        if found:
            talk, text = parts["talk"][row], parts["text"][row]
            values.setdefault(talk, {}).update({(span.kind, text[span.start : span.end]): None for span in found})
    told: dict[int, Verdict] = {}
    for talk, found_values in sorted(values.items()):
        if len(found_values) > max_count:
            counts = Counter(kind for kind, _ in found_values)
            most = counts.most_common(1)[0][0]  # of as many the first
            value = next(value for kind, value in found_values if kind == most)
            listed = ", ".join(f"{count} {kind}" for kind, count in counts.items())
            told[talk] = Verdict(f"{word}_{most}" if word else most, f"{masked(value)}; {listed}")
    return told
