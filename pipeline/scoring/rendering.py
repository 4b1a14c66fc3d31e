"""How a conversation becomes the text that a scorer reads, and how an input that is cut short is handed over: the *cue*.

ChatML where the tokenizer has its marks (``<|im_start|>user\\n…<|im_end|>\\n``), else the tokenizer's beginning-of-text
token and plain headings (``User:\\n…\\n\\n``). Text is encoded by itself, look-alikes of special tokens as text. What one
role says in a row is one message, its parts on lines of their own; results of tools are messages of their own. Thoughts
and tool calls are the assistant's text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np

from pipeline.errors import ConfigError
from pipeline.tokenization import TextTokenizer
from pipeline.training.masks import Int32Array

#: ``turn``: the message that was cut short is closed as if it were over; ``ellipsis``: closed behind `` …``, which says
#: that more comes; ``open``: not closed, the answer follows a line ``Answer:`` in it.
Cue = Literal["turn", "ellipsis", "open"]
CUES: tuple[str, ...] = get_args(Cue)

ASSISTANT = "assistant"
_CHAT_ROLES = {"thought": ASSISTANT, "call": ASSISTANT}
_CHATML = ("<|im_start|>", "<|im_end|>")


@dataclass(frozen=True, eq=False, slots=True)
class Piece:
    """Tokens that one role says. ``more``: what follows in the same message has not been read."""

    role: str
    ids: Int32Array
    more: bool = False


def chat_role(role: str, is_output: bool = False) -> str:
    """The chat role that speaks for a stream's role; output streams speak as the assistant."""
    return ASSISTANT if is_output else _CHAT_ROLES.get(role, role)


def in_one_message(first: str, second: str) -> bool:
    """Whether pieces of these chat roles, one after the other, are one message."""
    return first == second != "tool"


def check_cue(cue: str) -> Cue:
    """The cue. Raises ConfigError for one that is not known."""
    for known in get_args(Cue):
        if cue == known:
            return known  # type: ignore[no-any-return]
    raise ConfigError(f"cue is {cue!r}, choose one of {', '.join(CUES)}")


class ChatFormat:
    """The fixed tokens of a tokenizer's chat text."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        marks = (tokenizer.decode([tokenizer.bos_id]), tokenizer.decode([tokenizer.eom_id]))
        self.is_chatml = marks == _CHATML
        self._opened: dict[str, Int32Array] = {}

    @cached_property
    def newline(self) -> Int32Array:
        """Between parts of one message."""
        return self._text("\n")

    @cached_property
    def _start(self) -> Int32Array:
        return np.array([] if self.is_chatml else [self._tokenizer.bos_id], np.int32)

    @cached_property
    def _close(self) -> Int32Array:
        if self.is_chatml:
            return np.concatenate([np.array([self._tokenizer.eom_id], np.int32), self._text("\n")])
        return self._text("\n\n")

    @cached_property
    def _ellipsis(self) -> Int32Array:
        return self._text(" …")

    @cached_property
    def _answer(self) -> Int32Array:
        return self._text("Answer:")

    def context(self, pieces: Sequence[Piece], cue: Cue, goes_on: bool = False) -> Int32Array:
        """Everything before what the assistant says next: int32 ids, never empty.

        ``goes_on``: it goes on with the last piece, which is its own.
        """
        messages: list[list[Piece]] = []
        for piece in pieces:
            if not len(piece.ids):
                continue
            if messages and in_one_message(messages[-1][-1].role, piece.role):
                messages[-1].append(piece)
            else:
                messages.append([piece])
        goes_on = goes_on and bool(pieces) and bool(len(pieces[-1].ids))
        own = messages.pop() if messages and messages[-1][-1].role == ASSISTANT else []
        out = [self._start]
        for number, message in enumerate(messages):
            out.append(self._open(message[0].role))
            out.extend(self._said(message, cue))
            handed_over = cue == "open" and number == len(messages) - 1
            out.append(self.newline if handed_over else self._close)
        out.append(self._answer if cue == "open" else self._open(ASSISTANT))
        out.extend(self._said(own, cue))
        if own and not goes_on:
            out.append(self.newline)
        return np.concatenate(out)

    def _said(self, message: list[Piece], cue: Cue) -> list[Int32Array]:
        out: list[Int32Array] = []
        for number, piece in enumerate(message):
            if number:
                out.append(self.newline)
            out.append(piece.ids)
            if piece.more and cue == "ellipsis":
                out.append(self._ellipsis)
        return out

    def _open(self, role: str) -> Int32Array:
        if role not in self._opened:
            if self.is_chatml:
                heading = [np.array([self._tokenizer.bos_id], np.int32), self._text(f"{role}\n")]
            else:
                heading = [self._text(f"{role.capitalize()}:\n")]
            self._opened[role] = np.concatenate(heading)
        return self._opened[role]

    def _text(self, text: str) -> Int32Array:
        return self._tokenizer.encode([text]).ids
