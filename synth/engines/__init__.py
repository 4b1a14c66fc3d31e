"""Engines: what turns chat messages into text. An engine is anything with the methods of :class:`Engine`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to make. ``schema``: JSON Schema that the text must follow. ``seed``: of its own sampling."""

    messages: tuple[Message, ...]
    schema: Mapping[str, Any] | None
    seed: int
    temperature: float
    top_p: float
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Completion:
    """The text of one completion. ``finish_reason``: ``stop`` is whole, ``length`` was cut off, others are failures."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


class Engine(Protocol):
    """A chat model that answers batches."""

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion per request, in order, all of them in one batch.

        Raises:
            SynthError: a request does not fit the context of the model.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """What ran: engine, version, model, dtype, device, startup_seconds and whether runs repeat exactly."""
        ...
