"""What written text has to pass whatever generator asked for it, and the names of all reasons to reject.

These checks are about form: whether somebody could have said it. Nothing is repaired.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations, product
from operator import eq
from typing import Any, NoReturn

import regex

from synth.engines import Completion
from synth.spacing import UNSPACED

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
    "control_chars": "a line break, a control or hidden character, or a code point that is no character",
    "empty_cell": "a cell is empty; silence is spelled -",
    "not_speech": "punctuation alone; of what is spoken also symbols alone, silence spelled out, or - at the start",
    "special_tokens": "a special token of a chat template or a tokenizer",
    "markup": "brackets, braces, angle brackets, a bar or a backslash",
    "foreign_script": "letters of a script that the scenario does not speak",
    "glued_words": f"a word of more than {MAX_WORD_CHARS} characters, or a letter right after , ; ! or ?",
    "repeated_words": "six words or more, too few of them different (half; a quarter beyond 20), or words said again and again",
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
#: Names in angle brackets that tokenizers and chat templates keep for themselves. HTML has none of them.
_SPECIAL_NAMES = (
    "pad|unk|bos|eos|mask|think(?:ing)?|tool_calls?|tool_responses?|function_calls?|(?:start|end)_of_[a-z]+|"
    "fim_(?:prefix|middle|suffix|pad)|file_sep|repo_?name|gh_stars|jupyter_[a-z]+|issue_[a-z]+|unused_?\\d+|"
    "reserved_?[a-z_]*\\d+|extra_id_\\d+|0x[0-9a-f]{2}"
)
#: Upper case where code has the same in lower case (``rows[mask]``); ``List<Image>`` and ``Box<S>`` are code too.
_SPECIAL = regex.compile(
    r"<[|｜]\w+|<[|｜][^<>]{1,40}[|｜]>|</?s>|<(?:image|IMAGE)>|<</?SYS>>|\[/?(?:INST|SYS)\]|"
    r"\[/?(?:CLS|SEP|MASK|PAD|UNK|BOS|EOS|TOOL_CALLS|TOOL_RESULTS|AVAILABLE_TOOLS|SYSTEM_PROMPT)\]|"
    rf"(?i:<\s?/?\s?(?:{_SPECIAL_NAMES})\s?>)"
)
_WORD = regex.compile(r"[^\W_]+(?:['’][^\W_]+)*")
#: Letters alone on both sides of a comma are a list: ``D,E,F``.
_GLUED = regex.compile(r"[;!?][A-Za-z]|,[A-Za-z]{2}|(?<![^A-Za-z][A-Za-z]|^[A-Za-z]),[A-Za-z]")
_NO_CHARACTER = frozenset(["Cc", "Cs", "Co", "Cn", "Zl", "Zp"])
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
#: Explicit bidirectional formatting, zero-width space, byte order mark and tags: they hide or reorder what is read. Joiners
#: and directional marks stay, since emoji, Persian, Indic scripts and Hebrew need them.
_HIDDEN = regex.compile(r"[\u200b\u202a-\u202e\u2066-\u2069\ufeff\U000e0000-\U000e007f]")
_UNSPACED_LETTER = regex.compile(rf"[{UNSPACED}]")
#: Words; of scripts without spaces each letter with its marks is one.
_PIECE = regex.compile(rf"[{UNSPACED}]\p{{M}}*|[\w&&[^_{UNSPACED}]]+(?:['’][\w&&[^_{UNSPACED}]]+)*", regex.VERSION1)
#: Words of a run that may not be said again and again without a break.
_LONGEST_LOOP = 60
#: A word that is a shorter piece over and over, 36 letters or more of it (``hahaha…``), or one word five times with nothing
#: but spaces between. With commas it may be meant: ``no, no, no, no, no!``.
_STUTTER = regex.compile(
    r"(\p{L})\1{35}|(\p{L}{2})\2{17}|(\p{L}{3,8}?)\3{11}|(\p{L}{9,40}?)\4{3}|(?<!\w)(\p{L}{2,40})(?: +\5){4}(?!\w)"
)


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
    for character in text.replace("\r\n", "\n") if lines else text:
        bad = character == _REPLACEMENT or unicodedata.category(character) in _NO_CHARACTER or _HIDDEN.match(character)
        if bad and not (lines and character in "\n\t"):
            name = unicodedata.name(character, f"U+{ord(character):04X}")
            raise TextError("control_chars", f"{place} holds {name}")
    if not any(map(_says, text)):
        raise TextError("not_speech", f"{place} says nothing: {text}")
    if found := _SPECIAL.search(text):
        raise TextError("special_tokens", f"{place} holds the special token {found[0]}")
    if scripts is not None and (letters := _foreign(text, scripts)):
        raise TextError("foreign_script", f"{place} has letters that are not {' or '.join(scripts)}: {letters}")
    words = fold(text).split()
    # Sums repeat their numbers rightly.
    different = len({word for word in words if not word.isdecimal()}) + sum(map(str.isdecimal, words))
    # The longer a sentence, the more of its words have been said in it: half, and a quarter of those beyond 20.
    fewest = min(len(words) / 2, 5 + len(words) / 4)
    if (len(words) >= 6 and not lines and different < fewest) or _loops(text):
        raise TextError("repeated_words", f"{place} goes round in circles: {text[:200]}")


def check_speech(text: str, place: str) -> None:
    """What ``check_text`` has nothing against and nobody speaks: symbols alone, silence in words, markup.

    Raises:
        TextError: not_speech, markup or glued_words.
    """
    if text.startswith("-"):
        raise TextError("not_speech", f"{place} starts with the sign of silence: {text}")
    if not any(map(str.isalnum, text)) or text.strip("(*.) ").casefold() in _SPELLED_SILENCE:
        raise TextError("not_speech", f"{place} says nothing: {text}")
    if not _MARKUP.isdisjoint(text):
        raise TextError("markup", f"{place} holds brackets or a backslash: {text}")
    if _GLUED.search(text) or any(len(word) > MAX_WORD_CHARS and _spaced_script(word) for word in text.split()):
        raise TextError("glued_words", f"{place} has words without spaces between them: {text}")


def _says(character: str) -> bool:
    """Whether a character alone says something: a letter, a digit, an emoji or a sign like ∞, but no rule and no accent."""
    return character.isalnum() or (unicodedata.category(character) in ("Sm", "Sc", "So") and character not in "|~")


def _foreign(text: str, scripts: Collection[str]) -> str:
    """The first letters that are of none of the scripts. One Greek letter is a symbol: kΩ, Δx."""
    allowed = "".join(rf"\p{{Script_Extensions={name}}}" for name in scripts)
    for found in regex.finditer(rf"[^{allowed}\P{{L}}\p{{Script=Common}}\p{{Script=Inherited}}]+", text):
        if not regex.fullmatch(r"\p{Script=Greek}", found[0]):
            return str(found[0][:20])
    return ""


def _loops(text: str) -> bool:
    """Whether a run of words is said again and again without a break, each time the same; see ``_times`` for how often.

    Of a run of four words or more the last quarter may be missing at the end (``so and so and so``). A word alone loops if a
    piece of it does.
    """
    if _STUTTER.search(text.casefold()):
        return True
    words: list[str] = _PIECE.findall(text.casefold())
    for size in range(1, min(_LONGEST_LOOP, len(words) // 2) + 1):
        same = 0
        for start, (here, there) in enumerate(zip(words, words[size:], strict=False)):
            same = same + 1 if here == there else 0
            if same < 2 * size - size // 4:
                continue
            run = words[start + 1 : start + 1 + size]
            if same >= size * (_times(run) - 1) - size // 4 and not _periodic(run):
                return True
    return False


def _periodic(run: Sequence[str]) -> bool:
    """Whether a run is a shorter one said several times, which has been looked at before."""
    size = len(run)
    return any(size % part == 0 and all(map(eq, run, run[part:])) for part in range(1, size // 2 + 1))


def _times(run: Sequence[str]) -> float:
    """How often a run of words has to be said to be a loop.

    Three times; a word alone eight times, as a run of which a third is numbers (``5 kg + 5 kg + 5 kg``). In
    scripts without spaces, where words are pieces of one letter or two, five times up to four letters. Symbols may stand more
    often (``x*x*x``), and numbers alone are no loop.
    """
    numbers = sum(map(str.isdecimal, run))
    if numbers == len(run):
        return float("inf")
    if all(len(word) == 1 and not _UNSPACED_LETTER.match(word) for word in run) and len(run) < 4:
        return 12
    if len(run) == 1 or 3 * numbers >= len(run):
        return 8
    return 5 if len(run) <= 4 and all(_UNSPACED_LETTER.match(word) for word in run) else 3


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
