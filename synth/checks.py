"""What written text has to pass whatever generator asked for it, and the names of all reasons to reject.

These checks are about form: whether somebody could have said it. Nothing is repaired.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations, product
from typing import Any, NoReturn

import regex

from synth.engines import Completion

MAX_WORD_CHARS = 30

#: Why a dialogue is rejected. The first reason found is given; later ones are looked for later.
REASONS: Mapping[str, str] = {
    # The completion.
    "truncated": "the completion ran into max_tokens",
    "refused": "the engine would not take the request",
    "aborted": "the engine stopped it for another reason",
    "empty_answer": "the completion is empty",
    "not_json": "it is no JSON",
    "duplicate_key": "an object names a key twice",
    "wrong_shape": "it is not the object that was asked for",
    "wrong_columns": "a row lacks a stream or has one too many",
    "wrong_type": "a cell is no string",
    "too_few_rows": "fewer rows than the scenario allows",
    "too_many_rows": "more rows than asked for",
    "too_long": "what is said in one row or slice is longer than asked for",
    # What one stream says at a time.
    "control_chars": "a line break, a control character, or a code point that is no character",
    "empty_cell": "a cell is empty; silence is spelled -",
    "not_speech": "no letter or digit, silence spelled out, or - at the start",
    "special_tokens": "a special token of a chat template or a tokenizer",
    "markup": "brackets, braces, angle brackets, a bar or a backslash",
    "foreign_script": "letters of a script that the scenario does not speak",
    "glued_words": f"a word of more than {MAX_WORD_CHARS} characters, or a letter right after , ; ! or ?",
    "repeated_words": "six words or more, less than half of them different, or a run of words said three times",
    "wrong_call": "a call that is no name with a JSON object, or that names no tool of the scenario",
    # The dialogue.
    "wrong_timing": "a stream speaks or is silent where the score has it otherwise",
    "all_silent": "no stream ever speaks",
    "empty_stream": "a required stream never speaks",
    "wrong_opening": "an output speaks before the row after the opening stream's first words",
    "repeated_rows": "two rows are the same",
    "repeated_text": "a stream says the same twice: three words or more, or four fifths of five or more",
    "copied_cell": "two streams say the same, as in repeated_text",
    "copied_prompt": "four words or more stand in the prompt, or two or more are a whole cell of the example",
    "no_overlap": "too few rows in which two streams speak, or nothing said before the end of the reading",
    "leak": "an output says what had not been read when it starts",
    # Against the original (teacher).
    "nothing_to_rewrite": "no answer that follows a reading of two pieces or more",
    "wrong_answer": "another final answer than the original's",
    "wrong_calls": "other tool calls than the original's",
    # The record and the run.
    "unencodable": "the tokenizer cannot give the text back, or the record breaks a limit",
    "high_gain": "an event is far likelier to one who has read on",
    "unjudged": "the judge's verdict cannot be read",
    "judged_fluency": "the judge's score for fluency is below the threshold",
    "judged_consistency": "the judge's score for consistency is below the threshold",
    "judged_acausal": "the judge names events that were not knowable when they start",
    "duplicate": "nearly the same as one accepted before, or as an input",
}

_SPELLED_SILENCE = frozenset(["silence", "silent", "none", "null", "nothing", "empty", "n/a", "pause", "no response"])
_MARKUP = frozenset("{}[]<>|\\")
_SPECIAL = regex.compile(
    r"<\|[^|<>\s]{1,40}\|>|<[｜|][^<>]{1,40}[｜|]>|</?s>|<(?:pad|unk|bos|eos|mask)>|\[/?(?:INST|SYS)\]|<</?SYS>>"
    r"|</?(?:think|tool_call|tool_response|start_of_turn|end_of_turn)>"
)
_WORD = regex.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_GLUED = regex.compile(r"[,;!?][A-Za-z]")
_NO_CHARACTER = frozenset(["Cc", "Cs", "Co", "Cn", "Zl", "Zp"])
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
#: Words of a run that may not be said three times without a break.
_LONGEST_LOOP = 12


class TextError(ValueError):
    """Something written that cannot be taken. ``code``: a key of :data:`REASONS`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(" ".join(message.split()))
        self.code = code


def check_finish(completion: Completion, max_tokens: int) -> None:
    """Raises TextError unless the completion is whole and says something: truncated, refused, aborted, empty_answer."""
    if completion.finish_reason == "length":
        raise TextError("truncated", f"the completion ran into max_tokens {max_tokens}")
    if completion.finish_reason == "refused":
        raise TextError("refused", f"the engine refused the request: {completion.text}")
    if completion.finish_reason != "stop":
        raise TextError("aborted", f"the engine stopped with {completion.finish_reason}")
    if not completion.text.strip():
        raise TextError("empty_answer", "the completion is empty")


def load_json(text: str) -> Any:
    """JSON without leniency. Raises TextError: duplicate_key, not_json."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise TextError("duplicate_key", f"the key {key[:80]!r} stands twice in one object")
            found[key] = value
        return found

    def constant(name: str) -> NoReturn:
        raise TextError("not_json", f"{name} is no JSON")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except TextError:
        raise
    except RecursionError as error:
        raise TextError("not_json", "nested too deeply") from error
    except ValueError as error:
        raise TextError("not_json", str(error)) from error


def check_text(text: str, scripts: Collection[str] | None, *, place: str = "the text", lines: bool = False) -> None:
    """Whether somebody could have said this text (outer spaces cut off before).

    ``scripts``: the Unicode scripts its letters may be of, None for any; ``lines``: line breaks are allowed. Raises:
        TextError: control_chars, not_speech, special_tokens, foreign_script or repeated_words.
    """
    for character in text:
        if (character == _REPLACEMENT or unicodedata.category(character) in _NO_CHARACTER) and not (
            lines and character in "\n\t"
        ):
            name = unicodedata.name(character, f"U+{ord(character):04X}")
            raise TextError("control_chars", f"{place} holds {name}")
    if not any(character.isalnum() for character in text) or text.strip("(*.) ").casefold() in _SPELLED_SILENCE:
        raise TextError("not_speech", f"{place} says nothing: {text}")
    if found := _SPECIAL.search(text):
        raise TextError("special_tokens", f"{place} holds the special token {found[0]}")
    if scripts is not None and (letters := _foreign(text, scripts)):
        raise TextError("foreign_script", f"{place} has letters that are not {' or '.join(scripts)}: {letters}")
    # Sums repeat their numbers rightly.
    words = [word for word in fold(text).split() if any(character.isalpha() for character in word)]
    if (len(words) >= 6 and not lines and len(set(words)) < len(words) / 2) or _loops(words):
        raise TextError("repeated_words", f"{place} goes round in circles: {text[:200]}")


def check_speech(text: str, place: str) -> None:
    """``check_text`` has nothing against markup; a spoken cell has none. Raises TextError: not_speech, markup, glued_words."""
    if text.startswith("-"):
        raise TextError("not_speech", f"{place} starts with the sign of silence: {text}")
    if not _MARKUP.isdisjoint(text):
        raise TextError("markup", f"{place} holds brackets or a backslash: {text}")
    if _GLUED.search(text) or any(len(word) > MAX_WORD_CHARS and _spaced_script(word) for word in text.split()):
        raise TextError("glued_words", f"{place} has words without spaces between them: {text}")


def _foreign(text: str, scripts: Collection[str]) -> str:
    """The first letters that are of none of the scripts."""
    allowed = "".join(rf"\p{{Script_Extensions={name}}}" for name in scripts)
    found = regex.search(rf"[^{allowed}\P{{L}}\p{{Script=Common}}\p{{Script=Inherited}}]+", text)
    return found[0][:20] if found else ""


def _loops(words: Sequence[str]) -> bool:
    """Whether a run of words is said three times without a break, each time the same; a single word five times."""
    for size in range(1, min(_LONGEST_LOOP, len(words) // 3) + 1):
        times = 5 if size == 1 else 3
        same = 0
        for here, there in zip(words, words[size:], strict=False):
            same = same + 1 if here == there else 0
            if same >= size * (times - 1):
                return True
    return False


def _spaced_script(word: str) -> bool:
    """Whether no letter is of a script without case, many of which put no spaces between words."""
    return all(unicodedata.category(character) != "Lo" for character in word)


def check_repetition(names: Sequence[str], rows: Sequence[Sequence[str | None]]) -> None:
    """Whether the streams of ``rows[row][stream]`` repeat themselves or each other.

    Raises:
        TextError: repeated_rows, repeated_text or copied_cell.
    """
    seen: dict[tuple[str | None, ...], int] = {}
    for number, row in enumerate(rows, 1):
        if any(row) and seen.setdefault(tuple(row), number) != number:
            raise TextError("repeated_rows", f"rows {seen[tuple(row)]} and {number} are the same")
    spoken = spoken_cells(rows)
    for name, cells in zip(names, spoken, strict=True):
        for (_, left), (number, right) in combinations(cells, 2):
            if alike(left, right):
                raise TextError("repeated_text", f"{name} repeats itself in row {number + 1}: {right}")
    for (first, ours), (second, theirs) in combinations(zip(names, spoken, strict=True), 2):
        for (_, left), (_, right) in product(ours, theirs):
            if alike(left, right):
                raise TextError("copied_cell", f"{first} and {second} say the same: {left}")


def spoken_cells(rows: Sequence[Sequence[str | None]]) -> list[list[tuple[int, str]]]:
    """Per stream, (row, cell) wherever it speaks."""
    return [[(number, cell) for number, cell in enumerate(column) if cell] for column in zip(*rows, strict=True)]


def alike(left: str, right: str) -> bool:
    """Whether two cells say the same: three words or more that are equal, or four fifths of five or more."""
    ours, theirs = fold(left).split(), fold(right).split()
    if min(len(ours), len(theirs)) < 3:
        return False
    both, either = set(ours) & set(theirs), set(ours) | set(theirs)
    return ours == theirs or (min(len(ours), len(theirs)) >= 5 and len(both) >= 0.8 * len(either))


def fold(text: str) -> str:
    """The words of a text without case and punctuation, one space between them."""
    return " ".join(_WORD.findall(text.casefold()))
