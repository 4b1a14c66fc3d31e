"""Filters: what a data set should not hold.

A filter is one file: ``NAME``, ``ABOUT`` (a line), ``Params`` (its thresholds, with defaults) and
``judge(talks, params) -> {talk: Verdict}``, which names the conversations of a batch that it takes and why. The others stay.
One whose outcome depends on files has ``settings(params)``, which tells them by their digests.
To add one: write the file, and name it in ``_MODULES``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

from pydantic import BaseModel

from pipeline.errors import ConfigError
from pipeline.filters import (
    balance,
    boilerplate,
    contamination,
    encoding,
    language,
    length,
    license,
    personal,
    profanity,
    quality,
    repetition,
    secrets,
    truncated,
)
from pipeline.filters.params import FilterParams
from pipeline.filters.talks import Talks, Verdict

#: What becomes of a conversation that a filter takes: it is left out, or stays and is listed.
Action = Literal["drop", "flag"]


class Filter(Protocol):
    """A filter's module."""

    NAME: str
    ABOUT: str
    Params: type[FilterParams]

    def judge(self, talks: Talks, params: Any) -> Mapping[int, Verdict]:
        """The conversations that are taken, by their number in the batch, and why."""


_MODULES = (
    license,
    length,
    truncated,
    repetition,
    quality,
    balance,
    boilerplate,
    language,
    encoding,
    secrets,
    personal,
    profanity,
    contamination,
)

FILTERS: dict[str, Filter] = {module.NAME: cast(Filter, module) for module in _MODULES}

#: What ``filters: default`` stands for, in this order.
DEFAULT = ("length", "truncated", "repetition", "quality", "encoding")


@dataclass(frozen=True, slots=True)
class Step:
    """A filter of a configuration: its name, its thresholds, what it does with what it takes."""

    name: str
    params: FilterParams
    action: Action = "drop"

    def judge(self, talks: Talks) -> dict[int, Verdict]:
        """The conversations that the filter takes."""
        return dict(FILTERS[self.name].judge(talks, self.params)) if len(talks) else {}

    def settings(self) -> dict[str, Any]:
        """What the outcome depends on, as JSON values. Raises InputError where a filter reads files that are not there."""
        of = getattr(FILTERS[self.name], "settings", None)
        values = of(self.params) if of is not None else self.params.model_dump(mode="json")
        return {"filter": self.name, "action": self.action, **values}


def parse_filters(value: Any) -> tuple[Step, ...]:
    """The steps of a configuration's ``filters``: ``default``, or a list of names and of ``{name: {key: value}}``.

    Every filter takes the key ``action`` (``drop`` or ``flag``) beside its own. Raises ConfigError.
    """
    if value is None:
        return ()
    listed = list(DEFAULT) if value == "default" else value
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        raise ConfigError(f"filters is {value!r}, it must be default, or a list of filters ({', '.join(FILTERS)})")
    steps = tuple(_step(item, f"filters.{number}") for number, item in enumerate(listed))
    twice = {step.name for step in steps if sum(other.name == step.name for other in steps) > 1}
    if twice:
        raise ConfigError(f"filters: {', '.join(sorted(twice))} stands there twice")
    return steps


def parse_use(text: str) -> Any:
    """An entry of ``filters`` as the command line has it: ``name`` or ``name:key=value,key=value``; values as in YAML.

    Raises ConfigError.
    """
    import yaml

    from pipeline import strict_yaml

    name, colon, listed = text.partition(":")
    values: dict[str, Any] = {}
    for pair in listed.split(",") if colon else ():
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"{text!r}: {pair!r} is not KEY=VALUE")
        try:
            values[key] = strict_yaml.load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"{text!r}: {' '.join(str(error).split())}") from error
    return {name: values} if values else name


def _step(item: Any, where: str) -> Step:
    from difflib import get_close_matches

    from pipeline.config import parse_config

    values: Any = {}
    if isinstance(item, str):
        name = item
    elif isinstance(item, Mapping) and len(item) == 1:
        ((name, values),) = item.items()
        values = {} if values is None else values
    else:
        raise ConfigError(f"{where} is {item!r}, it must be a filter's name, or its name with its keys")
    if name not in FILTERS:
        close = get_close_matches(str(name), FILTERS, n=1, cutoff=0.5)
        raise ConfigError(
            f"{where}: no filter is called {name!r}"
            + (f" (did you mean {close[0]!r}?)" if close else f" (known: {', '.join(FILTERS)})")
        )
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}.{name} is {values!r}, it must be a section of keys")
    values = dict(values)
    action = values.pop("action", "drop")
    if action not in ("drop", "flag"):
        raise ConfigError(f"{where}.{name}.action is {action!r}, it must be drop or flag")
    model: type[BaseModel] = FILTERS[name].Params
    return Step(name, parse_config(values, f"{where}.{name}", model), action)
