"""YAML as people write it: numbers with an exponent are numbers, and whatever is wrong is one kind of error."""

from __future__ import annotations

import pytest
import yaml

from pipeline.strict_yaml import load


@pytest.mark.parametrize(
    ("text", "value"),
    [("5e-5", 5e-5), ("1E3", 1000.0), ("-2.5e+1", -25.0), ("12", 12), ("e5", "e5"), ("5e", "5e"), ("'5e5'", "5e5")],
)  # fmt: skip
def test_numbers_with_an_exponent_are_numbers(text: str, value: object) -> None:
    found = load(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["a: 1\na: 2", "{a: {b: 1, b: 2}}", "day: 2023-13-45", "[" * 5000, "a: [1", "0b_"])
def test_what_is_wrong_is_a_yaml_error(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        load(text)


def test_a_merge_is_no_key_that_stands_twice() -> None:
    assert load("base: &b {x: 1, y: 2}\nhere: {<<: *b, x: 3}") == {"base": {"x": 1, "y": 2}, "here": {"x": 3, "y": 2}}
