"""The page on filters names every filter with every threshold and its default."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pipeline.filters import DEFAULT, FILTERS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "filters.md").read_text(encoding="utf-8")


def sections() -> dict[str, str]:
    found = re.split(r"^### `(\w+)`$", PAGE, flags=re.MULTILINE)
    return dict(zip(found[1::2], found[2::2], strict=True))


def test_every_filter_has_a_section_in_the_order_of_the_registry() -> None:
    assert list(sections()) == list(FILTERS)


@pytest.mark.parametrize("name", FILTERS)
def test_the_thresholds_of_a_filter_are_told_with_their_defaults(name: str) -> None:
    text = sections()[name]
    told = dict(re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", text, flags=re.MULTILINE))
    expected = {key: json.dumps(value) for key, value in FILTERS[name].Params().model_dump(mode="json").items()}
    assert told == expected


def test_the_usual_filters_are_named() -> None:
    [listed] = re.findall(r"`filters: default` stands for ([^.]*)\.", PAGE)
    assert tuple(re.findall(r"`(\w+)`", listed)) == DEFAULT
