"""Equations in running text, found and computed exactly: ``48/2 = 24``, ``<<48/2=24>>`` (GSM8K), ``3 \\times 4 = 12``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

#: A computed value of more digits is none that a text would state.
_MOST_DIGITS = 30

_LATEX = (
    ("\\times", "*"),
    ("\\cdot", "*"),
    ("\\div", "/"),
    ("\\%", "%"),
    ("\\$", "$"),
    ("\\left", ""),
    ("\\right", ""),
)
_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "^": "^"})
_NUMBER = r"(?:\d+(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
#: A stretch of characters that expressions are made of, inside one line.
_STRETCH = re.compile(r"(?:[\d \t.,+\-*/×·÷−–^()%$€£]|\\(?:times|cdot|div|left|right|%|\$)|(?<=[\d ])x(?=[\d ]))+")
_BREAK = re.compile(r".*[.,][ \t]", re.DOTALL)
#: What follows an equals sign if it is a number and no expression.
_STATED = re.compile(
    rf"=[ \t]*(?:<<[^<>\n]*>>[ \t]*)?(?P<stated>-?[ \t]*[$€£]?[ \t]*(?:{_NUMBER}))(?P<percent>[ \t]*%)?"
    r"(?![\d,.]*\d|[ \t]+\d|[ \t]*(?:[-+*/^×÷·]|\\times|\\cdot|\\div)[ \t]*[\d$(]|[A-Za-z/])"
)
#: ``1 1/2`` is no product, ``0900`` no number.
_SIDE_BY_SIDE = re.compile(r"\d[ \t]+\d|(?<![\d.,])0\d")
#: Characters that an expression may be long.
_REACH = 120
_SIGN = re.compile(r"[-+*/^×·÷−–x]|\\times|\\cdot|\\div")
_TOKEN = re.compile(rf"({_NUMBER})|(\*\*|[-+*/^()%])")


@dataclass(frozen=True, slots=True)
class Equation:
    """``text[start:end]`` states that ``left`` equals ``stated`` (as written; ``text[stated_start:end]`` holds it).

    ``value`` is what ``left`` really is. ``holds``: the two are equal, to the digits that are stated.
    """

    start: int
    end: int
    left: str
    stated: str
    stated_start: int
    value: Fraction
    holds: bool


def equations(text: str) -> list[Equation]:
    """The equations of a text that can be computed, in order of their start; inside GSM8K's ``<<…>>`` too."""
    found = []
    since = 0
    for match in _STATED.finditer(text):
        left, start = _expression_before(text, match.start(), since)
        since = match.start() + 1
        value = compute(left) if left else None
        if value is None:
            continue
        stated = match["stated"]
        written = Fraction(re.sub(r"[\s,$€£]", "", stated))
        holds = states(stated, written, value) or (
            match["percent"] is not None and states(stated, written, value * 100)
        )
        found.append(Equation(start, match.end("stated"), left, stated, match.start("stated"), value, holds))
    return found


def _expression_before(text: str, end: int, floor: int) -> tuple[str, int]:
    """The whole expression that ends at ``end``, with its start; "" where there is none or its beginning is words."""
    floor = max(floor, end - _REACH, text.rfind("\n", 0, end) + 1, text.rfind("=", 0, end) + 1)
    stretch = next((m for m in _STRETCH.finditer(text, floor, end) if m.end() == end), None)
    if stretch is None or not any(c.isdigit() for c in stretch.group()):
        return "", end
    start = stretch.start()
    if broken := _BREAK.match(text, start, end):
        start = broken.end()
    elif start > 0 and (text[start - 1].isalnum() or text[start - 1] in "\\_^})]") and text[start] not in " \t":
        return "", end
    left = text[start:end].strip()
    start = text.index(left, start)
    after_words = start > 0 and text[:start].rstrip(" \t")[-1:].isalnum()
    if left[:1] in "+*/^×÷·%)x\\" or (left[:1] in "-−–" and after_words) or not _SIGN.search(left, 1):
        return "", end
    return left, start


def states(stated: str, written: Fraction, value: Fraction) -> bool:
    """Whether ``stated`` (of the value ``written``) is ``value``, rounded or cut to the decimals that it has."""
    decimals = len(stated.partition(".")[2].strip())
    if written == value:
        return True
    if not decimals and value.denominator != 1 and abs(value) < 1:
        return False
    unit = Fraction(1, 10**decimals)
    return decimals > 0 and abs(written - value) < unit


@lru_cache(maxsize=4096)
def true_results(text: str) -> frozenset[str]:
    """The numbers, as written, that the text states as results of equations that hold."""
    return frozenset(re.sub(r"[\s$€£-]", "", e.stated) for e in equations(text) if e.holds)


def compute(expression: str) -> Fraction | None:
    """The exact value of an expression of numbers, ``+ - * / ^ ( ) %``; None where it has none."""
    if _SIDE_BY_SIDE.search(expression):
        return None
    for latex, sign in _LATEX:
        expression = expression.replace(latex, sign)
    expression = re.sub(r"[\s$€£]|(?<=\d),(?=\d{3})", "", expression.translate(_SIGNS)).replace("x", "*")
    tokens = [m.group() for m in _TOKEN.finditer(expression)]
    if "".join(tokens) != expression or not tokens:
        return None
    value, at = _sum(tokens, 0)
    return value if at == len(tokens) else None


def _sum(tokens: list[str], at: int) -> tuple[Fraction | None, int]:
    value, at = _product(tokens, at)
    while value is not None and at < len(tokens) and tokens[at] in "+-":
        sign = tokens[at]
        other, at = _product(tokens, at + 1)
        if other is None:
            return None, at
        value = value + other if sign == "+" else value - other
    return value, at


def _product(tokens: list[str], at: int) -> tuple[Fraction | None, int]:
    value, at = _power(tokens, at)
    while value is not None and at < len(tokens) and tokens[at] in ("*", "/"):
        sign = tokens[at]
        other, at = _power(tokens, at + 1)
        if other is None or (sign == "/" and not other):
            return None, at
        value = value * other if sign == "*" else value / other
    return value, at


def _power(tokens: list[str], at: int) -> tuple[Fraction | None, int]:
    if at < len(tokens) and tokens[at] == "-":
        value, at = _power(tokens, at + 1)
        return (None if value is None else -value), at
    value, at = _atom(tokens, at)
    if value is not None and at < len(tokens) and tokens[at] in ("^", "**"):
        exponent, at = _power(tokens, at + 1)
        if exponent is None or exponent.denominator != 1 or not -64 <= exponent <= 64:
            return None, at
        if (not value and exponent < 0) or len(str(abs(value.numerator))) * abs(int(exponent)) > _MOST_DIGITS:
            return None, at
        value = value ** int(exponent)
    return value, at


def _atom(tokens: list[str], at: int) -> tuple[Fraction | None, int]:
    if at >= len(tokens):
        return None, at
    if tokens[at] == "(":
        value, at = _sum(tokens, at + 1)
        if value is None or at >= len(tokens) or tokens[at] != ")":
            return None, at
        at += 1
    elif tokens[at][0].isdigit() or tokens[at][0] == ".":
        if len(tokens[at]) > _MOST_DIGITS:
            return None, at
        value, at = Fraction("0" + tokens[at] if tokens[at][0] == "." else tokens[at]), at + 1
    else:
        return None, at
    if at < len(tokens) and tokens[at] == "%":
        value, at = value / 100, at + 1
    return value, at
