"""Engines: what turns chat messages into text. An engine is anything with the methods of :class:`Engine`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Protocol, Self


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
    """The text of one completion.

    ``finish_reason``: ``stop`` is whole, ``length`` was cut off, ``refused`` is a request that the engine would not take
    (``text`` says why), others are failures. ``cached_tokens``: tokens of the prompt whose computation the engine had kept.
    ``stored``: it was there from before, nobody was asked; says nothing of the answer itself.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    stored: bool = field(default=False, compare=False)


class Closing(ABC):
    """Something that is closed at the end of a ``with``."""

    @abstractmethod
    def close(self) -> None:
        """Ends what it has started; safe to call twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Engine(Protocol):
    """A chat model that answers batches."""

    def answers(self, requests: Sequence[Request]) -> Generator[tuple[int, Completion], None, None]:
        """One completion per request with the request's place, each as soon as it is there, in any order.

        Closing the generator gives up what has not come. Raises:
            SynthError: the engine cannot go on.
        """
        ...

    def identity(self) -> dict[str, Any]:
        """What an answer depends on beside its request: engine, model, adapter (JSON values). Part of a stored answer's key."""
        ...

    def describe(self) -> dict[str, Any]:
        """What ran: ``identity`` and version, dtype, device, startup_seconds and whether runs repeat exactly."""
        ...

    def close(self) -> None:
        """Ends what the engine has started; safe to call twice."""
        ...
