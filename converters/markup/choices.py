"""The options of a multiple-choice question: the labels that they carry, and what an answer says by them."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import Any

from converters.shared.fields import as_text, wrong_type
from pipeline.conversation import RecordError

#: ``A)``, ``(b)``, ``1.``; not the ``1.`` of 1.5.
_LABEL = re.compile(r"\s*[(\[]?\s*([A-Za-z]|\d{1,2}(?!\s*[.:]\d))\s*[)\].:]")
_SEQUENCES = (string.ascii_uppercase, string.ascii_lowercase)


def labels_in(options: Sequence[str]) -> list[str]:
    """The labels that the options begin with, ``A)``, ``(b)``, ``1.``; [] where they are not all there and in order."""
    found = [match.group(1) if (match := _LABEL.match(option)) else "" for option in options]
    numbers = [str(number) for number in range(1, len(options) + 1)]
    in_order = any(found == list(letters[: len(options)]) for letters in _SEQUENCES) or found == numbers
    return found if found and in_order else []


def is_hidden(answer: Any) -> bool:
    """Whether a source withholds the answer, as test sets do: null, an empty text, or -1."""
    return answer is None or answer == "" or (isinstance(answer, int) and answer == -1)


def said_answer(options: Sequence[str], labels: Sequence[str], answer: Any, where: str) -> str:
    """What the model says to choose as ``answer`` does: ``answer`` itself where the options show it, else an option.

    ``answer`` is a label, an index from 0, or the text of an option. ``labels`` are those given beside the options ([]
    for none: A, B, …); a label that no option shows is never said. Raises RecordError wrong_type, invalid_text,
    unknown_choice or ambiguous_choice.
    """
    if isinstance(answer, int) and not isinstance(answer, bool):
        if not 0 <= answer < len(options):
            raise RecordError("unknown_choice", f"{where} is {answer!r:.40}, there are {len(options)} options, from 0")
        return options[answer]
    if not isinstance(answer, str):
        raise wrong_type(answer, where, "a label, an index or the text of an option")
    as_text(answer, where)
    shown = labels_in(options)
    if answer in shown:
        return answer
    names = labels or string.ascii_uppercase[: len(options)]
    named = [option for name, option in zip(names, options, strict=False) if name == answer and not shown]
    if answer not in options and not named:
        raise RecordError("unknown_choice", f"{where} is {answer!r:.80}, which names none of the options")
    if named and (len(named) > 1 or (answer in options and named != [answer])):
        raise RecordError("ambiguous_choice", f"{where} is {answer!r:.80}, which names more than one of the options")
    return named[0] if named else answer
