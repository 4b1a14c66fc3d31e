"""Only what comes under licences that are allowed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

from pydantic import Field

from pipeline.filters.params import FilterParams
from pipeline.filters.talks import Talks, Verdict
from pipeline.license_mix import UNKNOWN

NAME = "license"
ABOUT = "conversations with a source whose licence is not allowed, or not known"


class Params(FilterParams):
    """The licence policy."""

    allow: tuple[str, ...] | None = Field(
        None,
        description="SPDX identifiers that are allowed; of A OR B one is enough, of A AND B all are needed; null: any",
    )
    deny: tuple[str, ...] = Field((), description="SPDX identifiers that are not allowed, whatever `allow` says")
    unknown: Literal["take", "keep"] = Field("take", description="what becomes of a source without a known licence")


def judge(talks: Talks, params: Params) -> Mapping[int, Verdict]:
    """See ``pipeline.filters``. All sources of a conversation must be allowed."""
    found: dict[int, Verdict] = {}
    for talk, names in enumerate(talks.conversations["licenses"].to_list()):
        for name in sorted({name or UNKNOWN for name in names} or {UNKNOWN}):
            if name.lower() in (UNKNOWN, "noassertion", "none"):
                if params.unknown == "take":
                    found[talk] = Verdict("unknown_license", "no licence is known for a source")
            elif not is_allowed(name, params.allow, params.deny):
                found[talk] = Verdict("license", name)
    return found


@cache
def is_allowed(expression: str, allow: tuple[str, ...] | None, deny: tuple[str, ...] = ()) -> bool:
    """Whether what an SPDX expression names may be used. What is no expression is taken as one name."""
    from license_expression import ExpressionError, Licensing  # type: ignore[import-untyped]

    licensing = Licensing()
    try:
        tree = licensing.parse(expression)
    except ExpressionError:
        tree = None
    known = {name.lower() for name in allow} if allow is not None else None
    refused = {name.lower() for name in deny}

    def usable(name: str) -> bool:
        return name.lower() not in refused and (known is None or name.lower() in known)

    def holds(node: Any) -> bool:
        if isinstance(node, licensing.AND):
            return all(holds(each) for each in node.args)
        if isinstance(node, licensing.OR):
            return any(holds(each) for each in node.args)
        return usable(str(node))

    return usable(expression) if tree is None else holds(tree)
