"""Which copy stays: the order of conversations, the best first.

By licence, the most permissive that is known first; by the order of the sources; by path and index in the source; and, for what
still is equal, by a hash of the record's id.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

#: Licences by what they ask for, the freest first; beginnings of SPDX identifiers in lower case.
LICENSES: tuple[tuple[str, ...], ...] = (
    ("cc0-", "unlicense", "pddl-", "0bsd", "mit-0", "wtfpl"),
    ("mit", "apache-", "bsd-", "isc", "zlib", "bsl-", "cc-by-1", "cc-by-2", "cc-by-3", "cc-by-4", "odc-by-", "cdla-permissive-",
     "ms-pl", "ncsa", "postgresql", "afl-", "artistic-", "ecl-", "etalab-", "c-uda", "python-"),
    ("lgpl", "mpl-", "epl-", "lppl-", "ofl-", "eupl-"),
    ("gpl", "agpl", "gfdl", "osl-", "odbl-", "cc-by-sa-", "cdla-sharing-"),
    ("cc-by-nc-", "cc-by-nd-"),
)  # fmt: skip
#: Behind them: other names, whatever they ask for; and nothing known.
OTHER, UNKNOWN = len(LICENSES), len(LICENSES) + 1

_NOTHING = ("", "unknown", "none", "noassertion", "other")


@cache
def license_rank(expression: str | None) -> int:
    """The place of a licence in ``LICENSES``: of ``A OR B`` the freer, of ``A AND B`` the stricter."""
    from license_expression import ExpressionError, Licensing  # type: ignore[import-untyped,unused-ignore]

    if expression is None or expression.strip().lower() in _NOTHING:
        return UNKNOWN
    licensing = Licensing()
    try:
        tree = licensing.parse(expression)
    except ExpressionError:
        return _rank(expression)

    def rank(node: Any) -> int:
        if isinstance(node, licensing.AND):
            return max(rank(each) for each in node.args)
        if isinstance(node, licensing.OR):
            return min(rank(each) for each in node.args)
        return _rank(str(node))

    return rank(tree)


def _rank(name: str) -> int:
    lower = name.strip().lower()
    if lower in _NOTHING:
        return UNKNOWN
    found = [(len(start), rank) for rank, starts in enumerate(LICENSES) for start in starts if lower.startswith(start)]
    return max(found)[1] if found else OTHER


def licenses_rank(names: Iterable[str | None]) -> int:
    """The place of a conversation's licence: the strictest of its sources'."""
    return max((license_rank(name) for name in names), default=UNKNOWN)


def place_ranks(places: Sequence[tuple[str, str]], sources: Sequence[str]) -> list[int]:
    """The rank of each (corpus, path): by the order of ``sources``, those that are not named behind them by name; by path."""
    order = {name: number for number, name in reversed(list(enumerate(sources)))}
    ranked = sorted(set(places), key=lambda place: (order.get(place[0], len(sources)), *place))
    number = {place: rank for rank, place in enumerate(ranked)}
    return [number[place] for place in places]
