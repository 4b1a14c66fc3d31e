"""jsonschema-rs, which the pipeline runs, says what the reference implementation says."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import schemas

Path = tuple[str | int, ...]

NAMES = ("conversation", "rejection", "stream_record")
ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1.0, 0.5, 256, 2**31, 2**63, 1e300, "", "x", "A/0", "tool/0\n", "leak", "f" * 32,
    "f" * 64 + "\n", "é", "{}", "YQ==\n", [], [None], [0, 0], {}, {"schema": "x"},
)  # fmt: skip


def _paths(value: Any, at: Path = ()) -> Iterator[Path]:
    yield at
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _paths(item, (*at, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _paths(item, (*at, index))


def _get(value: Any, path: Path) -> Any:
    for step in path:
        value = value[step]
    return value


def _set(value: Any, path: Path, new: Any) -> Any:
    if not path:
        return new
    _get(value, path[:-1])[path[-1]] = new
    return value


def _verdicts(name: str, values: list[Any]) -> tuple[list[bool], list[bool]]:
    fast, reference = dict(schemas.violations(name, values)), dict(schemas.reference_violations(name, values))
    return [i in fast for i in range(len(values))], [i in reference for i in range(len(values))]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


def _change(data: st.DataObject, old: Any) -> Any:
    """``old`` with one thing about it changed."""
    options: list[Any] = [st.sampled_from(ODD), json_values]
    if isinstance(old, str):
        options.append(st.sampled_from([old + "\n", old.upper(), old[:-1], " " + old, old + "é", old + "0"]))
    if isinstance(old, int | float):
        options.append(st.sampled_from([-old - 1, float(old), old + 0.5, str(old), old + 2**31, bool(old)]))
    if isinstance(old, list):
        options.append(
            st.sampled_from([old[:-1], old + old[-1:], [*old, None], {str(i): item for i, item in enumerate(old)}])
        )
    if isinstance(old, dict) and old:
        dropped = data.draw(st.sampled_from(sorted(old)))
        rest = {k: v for k, v in old.items() if k != dropped}
        options.append(st.sampled_from([rest, {**old, dropped + "_": 0}, list(old.values())]))
    return data.draw(st.one_of(options))


def test_both_accept_every_value_that_the_pipeline_makes(samples: dict[str, list[Any]]) -> None:
    for name, values in samples.items():
        assert list(schemas.violations(name, values)) == []
        assert list(schemas.reference_violations(name, values)) == []


@pytest.mark.parametrize("name", NAMES)
def test_both_agree_on_every_place_of_a_value_holding_something_else(samples: dict[str, list[Any]], name: str) -> None:
    base = samples[name][0]
    mutants = [_set(copy.deepcopy(base), path, odd) for path in _paths(base) for odd in ODD]
    fast, reference = _verdicts(name, mutants)
    assert [m for m, a, b in zip(mutants, fast, reference, strict=True) if a != b] == []
    assert any(fast)
    assert not all(fast)


@pytest.mark.parametrize("name", NAMES)
def test_both_refuse_an_unknown_key_in_every_described_object(samples: dict[str, list[Any]], name: str) -> None:
    for base in samples[name]:
        objects = [p for p in _paths(base) if isinstance(_get(base, p), dict) and p[:1] != ("extra",)]
        mutants = [_set(copy.deepcopy(base), path, {**_get(base, path), "unknown": 0}) for path in objects]
        assert _verdicts(name, mutants) == ([True] * len(mutants),) * 2


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_both_agree_on_mutated_values(samples: dict[str, list[Any]], name: str, data: st.DataObject) -> None:
    value = copy.deepcopy(data.draw(st.sampled_from(samples[name]), label="base"))
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(list(_paths(value))))
        value = _set(value, path, copy.deepcopy(_change(data, _get(value, path))))
    fast, reference = _verdicts(name, [value])
    assert fast == reference
