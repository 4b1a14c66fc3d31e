"""Tools that are simulated: the same call at the same moment of the same dialogue always has the same result.

Whether a result can be had or not, it is one line of text; what a tool cannot do it says in a text that begins with
``error:``, as real tools do.
"""

from __future__ import annotations

import ast
import operator
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import regex

from pipeline.arithmetic import compute
from pipeline.words import CJK, key_of, pieces_of
from synth.checks import load_json

if TYPE_CHECKING:
    from synth.scenarios import ToolSpec

#: What a slice takes on the clock: ten words, said at the pace of speech.
SECONDS_PER_SLICE = 4
NOTHING_FOUND = "nothing found"

#: Where clocks start.
_EPOCH, _DAYS = datetime(2020, 1, 1, tzinfo=UTC), 3650

_CALL = regex.compile(r"(?P<name>[A-Za-z_][\w.-]{0,63})\s+(?P<arguments>\{.*\})", regex.DOTALL)
_WORD = regex.compile(rf"[{CJK}]|[^\W_{CJK}]+(?:['’.,:/-][^\W_{CJK}]+)*")
#: Words of a query that say nothing of what is looked for.
_ASKING = """
a about an and any are at by can could do does for from get give has have how i in is it me my now of on or please show tell
that the there this to today was we what when where which who will with you your
"""
_FILLERS = frozenset(_ASKING.split())

#: Characters of an expression, digits of a power and of a result, decimals that are shown exactly, digits of what is rounded.
_MOST_CHARS, _MOST_DIGITS, _SHOWN_DIGITS, _DECIMALS, _ROUNDED = 160, 400, 30, 12, 12
_SMALLEST = Fraction(1, 10**15)
_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "⁄": "/", "−": "-", "–": "-", "^": "**"})
_THOUSANDS = regex.compile(r"(?<=\d),(?=\d{3}(?!\d))")
#: What is no product: a hexadecimal number.
_HEXADECIMAL = regex.compile(r"(?<![\w.])0[xX][\da-fA-F]")
#: A percentage that is added or taken away, or to which something is: of what it is one is not said.
_SHARE = r"[\d.,]+ *%"
_ADDED = regex.compile(rf"(?<=[\w)%.] *)[+\-–−] *{_SHARE}(?! *(?:of\b|[\d(.*/×÷·]))|{_SHARE} *[+\-–−]")
_ONLY_SHARES = regex.compile(rf"[ (]*-?{_SHARE}(?:[ ()]*[+\-–−][ (]*{_SHARE})*[ )]*")
_PLAIN = regex.compile(r"[\d.+\-*/%() ]+")


def parse_call(text: str) -> tuple[str, str]:
    """Name and arguments (JSON text as written) of a call: ``name {"key": "value"}``, or the name, a newline, the arguments.

    Raises:
        ValueError: it is neither, or the arguments are no JSON object; the message says which.
    """
    found = _CALL.fullmatch(text.strip())
    if found is None:
        raise ValueError("a call is a name and a JSON object")
    try:
        load_json(found["arguments"])
    except ValueError as error:
        raise ValueError(f"the arguments are no JSON object: {error}") from error
    return found["name"], found["arguments"]


def simulate(spec: ToolSpec, arguments: str, at_slice: int, seed: int) -> str:
    """The result of a call.

    ``arguments``: a JSON object, or plain text; ``at_slice``: when the result arrives; ``seed``: the dialogue's. The
    calculator computes its ``expression``, exactly; the clock tells when it is, as ISO 8601 in UTC; a lookup finds the entry
    whose key is the ``query``, or the closest one (see :func:`look_up`).

    Raises:
        ValueError: the tool is played by a model.
    """
    if spec.simulator == "calculator":
        return calculate(_asked(arguments, "expression"))
    if spec.simulator == "clock":
        return tell_time(at_slice, seed)
    if spec.simulator == "lookup":
        return look_up(spec.entries, _asked(arguments, "query"))
    raise ValueError(f"{spec.name} is not simulated: a model writes its results")


def _asked(arguments: str, key: str) -> str:
    """The value under ``key``, or all values that are there; the text itself where it is no JSON object."""
    try:
        value = load_json(arguments)
    except ValueError:
        return arguments
    if not isinstance(value, dict):
        return _plain(value) or arguments
    return _plain(value.get(key)) or " ".join(filter(None, map(_plain, value.values())))


def _plain(value: Any) -> str:
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


# -------------------------------------------------------------------------------------------------------------- calculator


class _Impossible(ArithmeticError):
    """What an expression of numbers cannot be computed for."""


def calculate(expression: str) -> str:
    """The value of an expression: exact up to 12 decimals, else rounded to 12 digits; or why there is none.

    Read as Python reads ``+ - * / // % ** ( )`` (``^`` is a power), else as running text (:func:`pipeline.arithmetic.compute`).
    ``100 + 10%`` has no value: to some it is 110, to others 100.1.
    """
    if len(expression) > _MOST_CHARS:
        return "error: the expression is too long"
    text = _THOUSANDS.sub("", expression.translate(_SIGNS)).strip(" \t\n=?")
    if _HEXADECIMAL.search(text):
        return "error: no expression that can be computed"
    if _ADDED.search(text) and not _ONLY_SHARES.fullmatch(text):
        return "error: it is not said of what the percentage is"
    try:
        value = _evaluated(text)
        if value is None:
            value = compute(expression.strip(" \t\n=?"))
    except ZeroDivisionError:
        return "error: division by zero"
    except _Impossible as error:
        return f"error: {error}"
    if value is None:
        return "error: no expression that can be computed"
    if abs(value) >= 10**_SHOWN_DIGITS:
        return "error: the number is too large"
    if value and abs(value) < _SMALLEST:
        return "error: the number is too small"
    return _written(value)


def _evaluated(text: str) -> Fraction | None:
    """The value of an expression in Python's grammar, of numbers alone; None for anything else."""
    if not _PLAIN.fullmatch(text):
        return None
    try:
        return _value(ast.parse(text, mode="eval").body, text)
    except SyntaxError:
        return None


_BINARY: Mapping[type[ast.operator], Callable[[Fraction, Fraction], Fraction | int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def _value(node: ast.expr, text: str) -> Fraction | None:
    if isinstance(node, ast.Constant):
        # ``...`` is a constant of Python too.
        if type(node.value) not in (int, float):
            return None
        return Fraction(ast.get_source_segment(text, node) or "0")
    if isinstance(node, ast.UnaryOp):
        inner = _value(node.operand, text)
        return None if inner is None else -inner if isinstance(node.op, ast.USub) else inner
    if not isinstance(node, ast.BinOp):
        return None
    left, right = _value(node.left, text), _value(node.right, text)
    if left is None or right is None:
        return None
    return _power(left, right) if isinstance(node.op, ast.Pow) else Fraction(_BINARY[type(node.op)](left, right))


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise _Impossible("a power that is no whole number")
    digits = max(base.numerator.bit_length(), base.denominator.bit_length()) * abs(exponent) * 3 // 10
    if abs(base) not in (0, 1) and digits > _MOST_DIGITS:
        raise _Impossible("the number is too large" if (abs(base) > 1) == (exponent > 0) else "the number is too small")
    return Fraction(base ** int(exponent))


def _written(value: Fraction) -> str:
    with localcontext(prec=_SHOWN_DIGITS + _DECIMALS) as context:
        number = Decimal(value.numerator) / value.denominator
        if Fraction(number) != value or number != round(number, _DECIMALS):
            context.prec = _ROUNDED
            number = Decimal(value.numerator) / value.denominator
        return f"{number.normalize():f}"


# ------------------------------------------------------------------------------------------------------------------- clock


def tell_time(at_slice: int, seed: int) -> str:
    """Date and time in slice ``at_slice`` of the dialogue with this seed: ``2024-05-20T09:14:32+00:00``."""
    start = _EPOCH + timedelta(seconds=random.Random(f"clock:{seed}").randrange(_DAYS * 86_400))
    return (start + timedelta(seconds=at_slice * SECONDS_PER_SLICE)).isoformat()


# ------------------------------------------------------------------------------------------------------------------ lookup


def look_up(entries: Mapping[str, str], query: str) -> str:
    """The entry whose key is the query but for case, punctuation, numbers' forms and a plural s; else the closest.

    Compounds are their pieces: ``AB-123`` is ``AB 123``, and so are dates and addresses.

    A key is close if all its words are in the query, or all words of the query in it (words that only ask do not count): an
    entry on Oslo does not answer for Rome. Of close keys the one with the most words in common is taken, then the one with the
    fewest others, then the first. ``nothing found`` if there is none.
    """
    return _index(tuple(entries.items())).find(query)


@dataclass(frozen=True, slots=True)
class _Index:
    """``exact``: by normalized key; ``values`` and ``sizes`` (how many words a key has) by entry; ``holding``: entries by
    word."""

    exact: Mapping[str, str]
    values: list[str]
    sizes: list[int]
    holding: Mapping[str, list[int]]

    def find(self, query: str) -> str:
        words = _words(query)
        if (exact := self.exact.get(" ".join(words))) is not None:
            return exact
        asked = _telling(words)
        shared = Counter(entry for word in asked for entry in self.holding.get(word, ()))
        close = [
            (-count, self.sizes[entry], entry)
            for entry, count in shared.items()
            if count == len(asked) or count == self.sizes[entry]
        ]
        return self.values[min(close)[2]] if close else NOTHING_FOUND


@lru_cache(maxsize=64)
def _index(entries: tuple[tuple[str, str], ...]) -> _Index:
    exact: dict[str, str] = {}
    sizes: list[int] = []
    holding: dict[str, list[int]] = defaultdict(list)
    for entry, (key, value) in enumerate(entries):
        words = _words(key)
        exact.setdefault(" ".join(words), value)
        telling = _telling(words)
        sizes.append(len(telling))
        for word in telling:
            holding[word].append(entry)
    return _Index(exact, [value for _, value in entries], sizes, dict(holding))


def _words(text: str) -> list[str]:
    return [key for word in _WORD.findall(text) for key in (pieces_of(word) or (key_of(word),))]


def _telling(words: list[str]) -> list[str]:
    """The different words that do not only ask."""
    return list(dict.fromkeys(word for word in words if word not in _FILLERS))
