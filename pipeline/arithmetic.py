"""Equations in running text, found and computed exactly: ``48/2 = 24``, ``<<48/2=24>>`` (GSM8K), ``3 \\times 4 = 12``.

Around every equals sign the text is cut into tokens, backwards as far as the line, the sentence or the equals sign before
it, and forwards as far as a number goes. What stands left of the sign is an expression if all of it up to the sign can be
computed: numbers (``1,920``, ``.5``, ``6½``, ``1 1/2``), ``+ - * / ^``, brackets, percentages, ``\\frac{a}{b}``, and words
that name what is counted (``27 seagulls / 3``). Anything else before it (a variable, a root, a factorial, ``half of``) makes
it none: rather no equation than a wrong one. Work is bounded by the number of equals signs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

#: A computed value of more digits is none that a text would state.
_MOST_DIGITS = 30
#: Characters that are looked at before and behind an equals sign, and brackets inside one another.
_REACH, _BEHIND, _DEPTH = 160, 90, 12

_NUMBER = r"\d{1,3}(?:(?:,|\{,\})\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
_VULGAR_SIGNS = "½ 1/2 ⅓ 1/3 ⅔ 2/3 ¼ 1/4 ¾ 3/4 ⅕ 1/5 ⅖ 2/5 ⅗ 3/5 ⅘ 4/5 ⅙ 1/6 ⅚ 5/6 ⅛ 1/8 ⅜ 3/8 ⅝ 5/8 ⅞ 7/8"
_VULGAR = dict(zip(_VULGAR_SIGNS.split()[::2], _VULGAR_SIGNS.split()[1::2], strict=True))
_RAISED = {"²": "2", "³": "3"}
_LETTER = rf"[^\W\d_{''.join(_VULGAR)}²³]"
_TOKEN = re.compile(
    r"(?P<blank>[ \t]+|~|&|\\[,;! ]|\\(?:left|right|displaystyle)(?![A-Za-z])|\\?\$|[€£₹]|Rs\b\.?|/-(?!\d))"
    rf"|(?P<number>{_NUMBER})"
    r"|(?P<percent>\\?%|per ?cent\b)"
    rf"|(?P<word>{_LETTER}+(?:['’-]{_LETTER}+)*)"
    r"|(?P<sign>\*\*|//|[-+*/^×·÷−–⁄]|\\(?:times|cdot|div)(?![A-Za-z]))"
    r"|(?P<stop>\\[()\[\]\\]|[\n;?\"“”`]|[.,!](?=[\s\"'”)*]|\Z)|:(?!\d)|=|<<|>>)"
    r"|(?P<open>[(\[{])|(?P<close>[)\]}])"
    rf"|(?P<vulgar>[{''.join(_VULGAR)}])"
    r"|(?P<raised>[²³])"
    r"|(?P<frac>\\[dt]?frac(?![A-Za-z]))"
    r"|(?P<text>\\(?:text|mathrm|textrm|mbox)\{[^{}\n]*\})"
)
_NOTE = re.compile(r"<<[^<>\n]*>>")
_SIGNS = {
    "×": "*", "·": "*", "\\times": "*", "\\cdot": "*", "÷": "/", "⁄": "/", "//": "/", "\\div": "/", "−": "-", "–": "-",
    "**": "^",
}  # fmt: skip
#: What opens a line without being part of what it says: a bullet, a number of a list.
_LINE_OPENS = re.compile(r"[ \t]*(?:[-*+•>#]+|\(?(?:\d{1,2}|[A-Za-z])[.)])[ \t]+")
#: Equals signs that are part of another sign.
_OTHER_SIGN = re.compile(r"[=!<>:+*/~≠-]=|=[=>]")
#: What is stated begins so.
_OPENS = r"[ \t~&]|\\[,;! ]|\\?\$|[€£₹]|Rs\b\.?"
_RIGHT = re.compile(rf"(?:{_OPENS}|<<[^<>\n]*>>|[-−–({{\[]|\\left|\\[dt]?frac)*[\d.{''.join(_VULGAR)}]")
_RIGHT_OPENS = re.compile(rf"(?:{_OPENS})*")

#: Words that compute: an expression that holds one, or follows one, is not all that is meant.
_OPERATING = """
half third thirds quarter quarters twice thrice double triple times minus plus less more than divided multiplied squared cubed
root over mod modulo sin cos tan cot sec csc arcsin arccos arctan log ln exp sqrt max min gcd gcf lcm hcf choose lim det
remainder rem base digit digits ratio
"""
_OPERATES = frozenset(_OPERATING.split())
#: Words that compute or do not, by what stands before them.
_LINKING = "of by and or to from with"
_LINKS = frozenset(_LINKING.split())
_LINKED_BY = "half third thirds fourth fifth quarter quarters percent divided multiplied divide multiply"
_LINKED = frozenset(_LINKED_BY.split())
#: What may follow a number that is stated only if it is not meant as it stands.
_GOING_ON = "r rem remainder remainders mod modulo base percent"
_NOT_AS_IT_STANDS = frozenset(_GOING_ON.split())
#: Units of one kind: an equation between two of them converts, and cannot be checked by computing it.
_KINDS = (
    "second seconds sec secs|minute minutes min mins|hour hours hr hrs|day days|week weeks|month months|year years|"
    "decade decades|century centuries",
    "mm millimeter millimeters|cm centimeter centimeters|meter meters metre metres|"
    "km kilometer kilometers kilometre kilometres|inch inches|foot feet ft|yard yards|mile miles",
    "mg|gm gram grams|kg kilogram kilograms|ounce ounces oz|pound pounds lb lbs|ton tons tonne tonnes",
    "ml milliliter milliliters|liter liters litre litres|gallon gallons|quart quarts|pint pints|cup cups|"
    "tablespoon tablespoons|teaspoon teaspoons",
    "dollar dollars|cent cents|penny pennies|nickel nickels|dime dimes|paise|rupees rs",
    "degree degrees|radian radians",
)
_MONEY = 4
_KIND_OF = {
    word: (kind, names.split()[0])
    for kind, units in enumerate(_KINDS)
    for names in units.split("|")
    for word in names.split()
}
_MULTIPLYING = "dozen dozens hundred hundreds thousand thousands million millions billion billions lakh lakhs crore"
_MULTIPLES = frozenset(_MULTIPLYING.split())


class _Token(NamedTuple):
    kind: str
    text: str
    start: int
    end: int
    #: Nothing stands between it and the token before it.
    joined: bool


@dataclass(frozen=True, slots=True)
class Equation:
    """``text[start:end]`` states that ``left`` equals ``stated`` (as written; it begins at ``stated_start``).

    ``value`` is what ``left`` really is. ``holds``: the two are equal, to the digits that are stated (``rounded``: not to the
    last one). ``percent``: what is stated is a percentage. ``plain``: it is one number in digits, and no fraction or
    expression.
    """

    start: int
    end: int
    left: str
    stated: str
    stated_start: int
    value: Fraction
    holds: bool
    rounded: bool = False
    percent: bool = False
    plain: bool = True


def equations(text: str) -> list[Equation]:
    """The equations of a text that can be computed, in order of their equals signs; inside GSM8K's ``<<…>>`` too."""
    found = []
    at = text.find("=")
    while at >= 0:
        if _RIGHT.match(text, at + 1) and not (_OTHER_SIGN.match(text, at - 1) or _OTHER_SIGN.match(text, at)):
            equation = _equation(text, at)
            if equation is not None:
                found.append(equation)
        at = text.find("=", at + 1)
    return found


def _equation(text: str, at: int) -> Equation | None:
    left = _left(text, at)
    right = None if left is None else _right(text, at)
    if left is None or right is None or _converts(left.tokens, right.tokens, "$" in text[left.start : right.end]):
        return None
    # "2 + 3 = 5 * 4" goes on computing with its result; and words may say more of an expression than its numbers do.
    if right.runs_on is not None and (right.runs_on == left.value or not left.alone):
        return None
    stated = text[right.start : right.end]
    if right.plain:
        holds, rounded = states(stated, right.value, left.value)
    else:
        rounded = "." in stated and right.value != left.value
        holds = abs(right.value - left.value) <= (abs(left.value) / 1000 if rounded else 0)
    if not holds and right.percent:
        holds, rounded = states(stated, right.value, left.value * 100)
    expression = text[left.start : at].rstrip(" \t&~")
    return Equation(
        left.start, right.end, expression, stated, right.start, left.value, holds, rounded, right.percent, right.plain
    )


# ------------------------------------------------------------------------------------------------- left of the equals sign


@dataclass(frozen=True, slots=True)
class _Left:
    """An expression: where it starts, its value; ``alone``: nothing stands before it."""

    start: int
    value: Fraction
    tokens: list[_Token]
    alone: bool


def _left(text: str, at: int) -> _Left | None:
    """The longest expression that ends at ``at``."""
    low = max(0, at - _REACH)
    marks = [(i, mark) for mark in ("\n", "=", "<<", ">>") if (i := text.rfind(mark, low, at)) >= 0]
    last, mark = max(marks, default=(low, ""))
    floor = last + len(mark)
    if (mark == "\n" or not low + len(marks)) and (opening := _LINE_OPENS.match(text, floor, at)):
        floor = opening.end()
    tokens = _tokens(text, floor, at)
    first = next((i + 1 for i in range(len(tokens) - 1, -1, -1) if tokens[i].kind == "stop"), 0)
    cut_off = first == 0 and not marks and low > 0
    for i in range(first, len(tokens)):
        if _may_begin(tokens, i, first, cut_off) and (value := _value(tokens[i:])) is not None:
            return _Left(_with_left(text, tokens[i].start), value, tokens[i:], i == first)
    return None


def _with_left(text: str, start: int) -> int:
    r"""The start of a bracket with the ``\left`` before it."""
    return start - 5 if text.endswith("\\left", 0, start) else start


def _may_begin(tokens: Sequence[_Token], i: int, first: int, cut_off: bool) -> bool:
    """Whether an expression may begin with token ``i``: nothing that computes stands before it."""
    token = tokens[i]
    if token.kind == "sign":
        if token.text not in "-−–" or (i + 1 < len(tokens) and not tokens[i + 1].joined):
            return False
    elif token.kind not in ("number", "vulgar", "open", "frac"):
        return False
    if i == first:
        return not cut_off
    if tokens[i - 1].kind == "open":
        return i - 1 == first or (not tokens[i - 1].joined and _is_prose(tokens, i - 2, first))
    return not token.joined and _is_prose(tokens, i - 1, first)


def _is_prose(tokens: Sequence[_Token], i: int, first: int) -> bool:
    """Whether token ``i`` is a word that does not compute with what follows it."""
    word = tokens[i].text.casefold()
    if tokens[i].kind != "word" or word in _OPERATES or word in _MULTIPLES or (len(word) == 1 and word not in "ai"):
        return False
    before = tokens[i - 1] if i > first else None
    return word not in _LINKS or before is None or (before.kind == "word" and before.text.casefold() not in _LINKED)


# ------------------------------------------------------------------------------------------------ right of the equals sign


@dataclass(frozen=True, slots=True)
class _Right:
    """What is stated: where it stands, its value; ``runs_on``: the number that an expression begins with."""

    start: int
    end: int
    value: Fraction
    percent: bool
    plain: bool
    tokens: list[_Token]
    runs_on: Fraction | None = None


def _right(text: str, at: int) -> _Right | None:
    begin, limit = at + 1, min(len(text), at + 1 + _BEHIND)
    if note := _NOTE.search(text, begin, limit):
        begin = note.end() if _RIGHT_OPENS.fullmatch(text, begin, note.start()) else begin
    tokens = _tokens(text, begin, limit, 9)
    if any(t.kind in ("open", "frac") for t in tokens):
        tokens = _tokens(text, begin, limit)
    first = int(bool(tokens) and _negates(text, tokens[0]))
    operand = _operand(tokens, first, 0)
    if operand is None:
        return None
    value, behind = operand
    begins_with = -value if first else value
    plain = tokens[first].kind == "number" and behind == first + 1
    fraction = None
    if behind + 1 < len(tokens) and tokens[behind].text in "/⁄" and tokens[behind + 1].kind == "number":
        divisor = _number(tokens[behind + 1].text)
        if not plain or not divisor:
            return None
        if not _goes_on(tokens, behind + 2):
            value, behind, plain, fraction = value / divisor, behind + 2, False, begins_with
    percent = behind < len(tokens) and tokens[behind].kind == "percent"
    end = tokens[behind - 1].end
    behind += percent
    if _goes_on(tokens, _behind_unit(tokens, behind)):
        tokens = _tokens(text, begin, limit)
        stop = next((i for i, t in enumerate(tokens) if t.kind == "stop"), len(tokens))
        seen_whole = stop < len(tokens) or tokens[-1].end >= len(text)
        whole = _value(tokens[:stop]) if seen_whole else None
        if whole is None:
            return None
        start = _with_left(text, tokens[0].start)
        return _Right(start, tokens[stop - 1].end, whole, False, False, tokens[:stop], begins_with)
    if (behind >= len(tokens) and limit < len(text)) or not _ends_there(tokens, behind):
        return None
    return _Right(tokens[0].start, end, -value if first else value, percent, plain, tokens[: behind + 3], fraction)


def _negates(text: str, token: _Token) -> bool:
    """Whether a sign is that of the number it stands at."""
    return token.kind == "sign" and token.text in "-−–" and text[token.end : token.end + 1] not in (" ", "\t", "")


def _goes_on(tokens: Sequence[_Token], i: int) -> bool:
    """Whether an expression goes on with the sign that is token ``i``."""
    if i + 1 >= len(tokens):
        return False
    token, following = tokens[i], tokens[i + 1]
    if token.kind == "sign":
        return following.kind in ("number", "vulgar", "open", "frac") or following.text in "-−–"
    return _times(tokens, i)


def _times(tokens: Sequence[_Token], i: int) -> bool:
    """Whether token ``i`` is an x that multiplies."""
    if tokens[i].text not in ("x", "X") or i + 1 >= len(tokens):
        return False
    following = tokens[i + 1]
    return following.kind in ("number", "vulgar", "frac") or (following.kind == "open" and not following.joined)


def _ends_there(tokens: Sequence[_Token], i: int) -> bool:
    """Whether a number that is stated is meant as it stands, seen from the tokens behind it."""
    if i >= len(tokens):
        return True
    token = tokens[i]
    following = tokens[i + 1] if i + 1 < len(tokens) else None
    if token.kind in ("stop", "close"):
        closes = token.text in ("$", "\\)", "\\]") and following is not None and following.kind in ("word", "text")
        return not closes or _ends_there(tokens, i + 1)
    if token.kind == "word":
        return _names(token, tokens[i + 1 : i + 4])
    if token.kind == "text":
        said = re.findall(r"[a-z]+", token.text[token.text.index("{") :].casefold())
        return _NOT_AS_IT_STANDS.isdisjoint((*said, *(t.text.casefold() for t in tokens[i + 1 : i + 4])))
    if token.kind == "open":
        if following is None or following.kind != "word" or token.joined:
            return False
        return following.text.casefold() not in _NOT_AS_IT_STANDS
    if token.kind == "sign" and token.text in ("*", "**"):
        return following is None or following.kind == "stop" or (token.text == "**" and token.joined)
    named = following is not None and following.kind == "word" and len(following.text) > 1
    return token.kind == "sign" and token.text in "-–/" and named


def _names(token: _Token, behind: Sequence[_Token]) -> bool:
    """Whether the word behind a number says what it counts, or goes on with something else."""
    word = token.text.casefold()
    if token.joined and word not in ("st", "nd", "rd", "th", "mph", "kwh", *_KIND_OF):
        return False
    if word in ("and", "or", "to") and behind:
        goes_on = behind[0].kind in ("number", "vulgar", "open", "frac")
        return not goes_on and _NOT_AS_IT_STANDS.isdisjoint(t.text.casefold() for t in behind)
    if word == "with":
        return _NOT_AS_IT_STANDS.isdisjoint(t.text.casefold() for t in behind)
    return word not in _NOT_AS_IT_STANDS and (len(word) > 1 or word == "a")


# -------------------------------------------------------------------------------------------------------------------- both


def _tokens(text: str, start: int, end: int, most: int = _REACH) -> list[_Token]:
    """The tokens of a stretch, ``most`` at most; blanks are left out, and what is none is of kind ``odd``."""
    found: list[_Token] = []
    at, joined = start, False
    match_at = _TOKEN.match
    while at < end and len(found) < most:
        match = match_at(text, at, end)
        if match is None:
            found.append(_Token("odd", text[at], at, at + 1, joined))
            at, joined = at + 1, True
            continue
        kind, said, stop = match.lastgroup or "odd", match.group(), match.end()
        if kind == "blank":
            # A closing $ of a formula is no currency sign.
            if said == "$" and found and found[-1].end == at and found[-1].kind in ("number", "close"):
                found.append(_Token("stop", "$", at, stop, True))
            at, joined = stop, False
            continue
        if kind == "number":
            if said[0] == "0" and said[1:2].isdigit():
                kind = "odd"
        elif kind == "stop" and said == "!" and (text[at - 1].isdigit() or text[at - 1] in ")}"):
            kind = "odd"
        found.append(_Token(kind, said, at, stop, joined))
        at, joined = stop, True
    return found


def _converts(left: Sequence[_Token], right: Sequence[_Token], money: bool) -> bool:
    """Whether units are changed on the way, or count more than one each, so that computing says nothing."""
    units: dict[int, set[str]] = {_MONEY: {"dollar"}} if money else {}
    for token in (*left, *right):
        if token.kind == "stop":
            break
        for word in token.text.casefold().split() if token.kind == "word" else ():
            if word in _MULTIPLES:
                return True
            if word in _KIND_OF:
                kind, unit = _KIND_OF[word]
                units.setdefault(kind, set()).add(unit)
    return any(len(names) > 1 for names in units.values())


def states(stated: str, written: Fraction, value: Fraction) -> tuple[bool, bool]:
    """Whether ``stated`` (of the value ``written``) is ``value``, to the decimals that it has; and whether it is rounded.

    Rounded or cut to its decimals, or, from 10 on, rounded to a whole number.
    """
    if written == value:
        return True, False
    decimals = len(stated.partition(".")[2].strip(" %"))
    off = abs(abs(value) - abs(written))
    if (value < 0) != (written < 0) and written:
        return False, False
    if not decimals:
        return (abs(value) >= 10 and value.denominator != 1 and off <= Fraction(1, 2)), True
    unit = Fraction(1, 10**decimals)
    return off <= unit / 2 or 0 <= abs(value) - abs(written) < unit, True


@lru_cache(maxsize=4096)
def true_results(text: str) -> frozenset[str]:
    """What the text states, as written, as results of equations that hold, and has not said before.

    Of ``7 * $1 = $7`` nothing: the 7 was there to compute with.
    """
    found = set()
    for equation in equations(text):
        result = re.sub(r"[\s$€£-]", "", equation.stated)
        if equation.holds and not _is_said(result, text[: equation.stated_start]):
            found.add(result)
    return frozenset(found)


def _is_said(number: str, text: str) -> bool:
    """Whether the number stands in the text, however it is written; results of equations in it count too."""
    value = _number(number) if re.fullmatch(_NUMBER, number) else None
    if value is None:
        return number in text
    return any(_number(match[0]) == value for match in re.finditer(_NUMBER, text))


def compute(expression: str) -> Fraction | None:
    """The exact value of an expression of numbers, ``+ - * / ^ ( ) %``; None where it has none."""
    tokens = _tokens(expression, 0, len(expression))
    parsed = _sum(tokens, 0, 0)
    return parsed[0] if parsed is not None and parsed[1] == len(tokens) else None


_Parsed = tuple[Fraction, int] | None


def _value(tokens: Sequence[_Token]) -> Fraction | None:
    """The value of tokens that are an expression with at least one operation; None for anything else."""
    parsed = _sum(tokens, 0, 0)
    if parsed is None or parsed[1] != len(tokens):
        return None
    operates = any(
        t.kind in ("frac", "raised") or _times(tokens, i) or (t.text == "of" and _takes_part(tokens, i))
        or (t.kind == "sign" and i > 0 and tokens[i - 1].kind != "open" and _goes_on(tokens, i))
        for i, t in enumerate(tokens)
    )  # fmt: skip
    joined = any(a.kind in ("number", "close") and b.kind == "open" and a.end == b.start for a, b in pairwise(tokens))
    return parsed[0] if operates or joined else None


def _sum(tokens: Sequence[_Token], at: int, depth: int) -> _Parsed:
    parsed = _product(tokens, at, depth)
    while parsed is not None and parsed[1] < len(tokens):
        value, at = parsed
        sign = _SIGNS.get(tokens[at].text, tokens[at].text) if tokens[at].kind == "sign" else ""
        if sign not in ("+", "-"):
            break
        other = _product(tokens, at + 1, depth)
        if other is None:
            return None
        parsed = (value + other[0] if sign == "+" else value - other[0]), other[1]
    return parsed


def _product(tokens: Sequence[_Token], at: int, depth: int) -> _Parsed:
    parsed = _factor(tokens, at, depth)
    divided = False
    while parsed is not None and parsed[1] < len(tokens):
        value, at = parsed
        token = tokens[at]
        if token.kind == "sign" and (sign := _SIGNS.get(token.text, token.text)) in ("*", "/"):
            other = _factor(tokens, at + 1, depth)
        elif _times(tokens, at) or (token.text == "of" and _takes_part(tokens, at)):
            sign, other = "*", _factor(tokens, at + 1, depth)
        elif token.kind in ("open", "frac") and tokens[at - 1].kind in ("number", "close") and not divided:
            sign, other = "*", _factor(tokens, at, depth)
        else:
            break
        if other is None or (sign == "/" and not other[0]):
            return None
        divided |= sign == "/"
        parsed = (value * other[0] if sign == "*" else value / other[0]), other[1]
    return parsed


def _takes_part(tokens: Sequence[_Token], at: int) -> bool:
    """Whether the ``of`` at ``at`` multiplies: behind a percentage or a fraction."""
    before = tokens[max(at - 3, 0) : at]
    if before and before[-1].kind in ("percent", "vulgar"):
        return True
    return [t.kind for t in before] == ["number", "sign", "number"] and before[1].text in "/⁄"


def _factor(tokens: Sequence[_Token], at: int, depth: int) -> _Parsed:
    """A signed operand with its power and with the words that name what it counts."""
    if at >= len(tokens) or depth > _DEPTH:
        return None
    if tokens[at].kind == "sign" and tokens[at].text in "-−–":
        parsed = _factor(tokens, at + 1, depth + 1)
        return None if parsed is None else (-parsed[0], parsed[1])
    parsed = _operand(tokens, at, depth)
    if parsed is None:
        return None
    value, at = parsed
    if at < len(tokens) and tokens[at].kind == "raised":
        raised = _power(value, Fraction(_RAISED[tokens[at].text]))
        return None if raised is None else (raised, at + 1)
    if at < len(tokens) and tokens[at].kind == "sign" and tokens[at].text in ("^", "**"):
        exponent = _factor(tokens, at + 1, depth + 1)
        raised = None if exponent is None else _power(value, exponent[0])
        return None if raised is None or exponent is None else (raised, exponent[1])
    if at < len(tokens) and tokens[at].kind == "percent":
        value, at = value / 100, at + 1
    return value, _behind_unit(tokens, at)


def _power(value: Fraction, exponent: Fraction) -> Fraction | None:
    if exponent.denominator != 1 or not -64 <= exponent <= 64 or (not value and exponent < 0):
        return None
    digits = max(len(str(abs(value.numerator))), len(str(value.denominator)))
    return value ** int(exponent) if digits * abs(int(exponent)) <= _MOST_DIGITS else None


def _behind_unit(tokens: Sequence[_Token], at: int) -> int:
    """The token behind the words that name what a number counts: ``bricks of snow``, ``gallons/mile``, ``/ child``."""
    words, start = 0, at
    while at < len(tokens) and words < 8:
        token = tokens[at]
        following = tokens[at + 1] if at + 1 < len(tokens) else None
        if token.text == "/" and following is not None and following.kind == "word" and _counts(following):
            at += 2
        elif _times(tokens, at) or (token.text == "of" and _takes_part(tokens, at)):
            break
        elif _counts(token, within=words > 0):
            at += 1
        else:
            break
        words += 1
    # "people tot/7": the last word is a variable.
    return start if words > 1 and at < len(tokens) and tokens[at].kind == "sign" and tokens[at].joined else at


def _counts(token: _Token, within: bool = False) -> bool:
    """Whether a token names what is counted; a letter alone is a variable, and so are two or three at a number."""
    if token.kind != "word":
        return token.kind == "text" and not any(c.isdigit() for c in token.text)
    word = token.text.casefold()
    if word in _LINKS:
        return within
    if word in _OPERATES:
        return False
    return len(word) > 1 and (not token.joined or word in _KIND_OF or len(word) > 3)


def _operand(tokens: Sequence[_Token], at: int, depth: int) -> _Parsed:
    """A number (with the fraction behind it), a fraction, or what stands in brackets."""
    if at >= len(tokens) or depth > _DEPTH:
        return None
    token = tokens[at]
    if token.kind == "open":
        parsed = _sum(tokens, at + 1, depth + 1)
        closes = parsed is not None and parsed[1] < len(tokens) and tokens[parsed[1]].kind == "close"
        return (parsed[0], parsed[1] + 1) if parsed is not None and closes else None
    if token.kind == "frac":
        return _frac(tokens, at, depth)
    if token.kind == "vulgar":
        return Fraction(_VULGAR[token.text]), at + 1
    if token.kind != "number":
        return None
    value = _number(token.text)
    if value is None:
        return None
    at += 1
    if value.denominator == 1 and at < len(tokens):
        if tokens[at].kind == "vulgar":
            return value + Fraction(_VULGAR[tokens[at].text]), at + 1
        if tokens[at].kind == "frac" and (part := _frac(tokens, at, depth)) is not None and 0 < part[0] < 1:
            return value + part[0], part[1]
        joins = tokens[at].text == "and"
        mixed = tokens[at + joins : at + joins + 3]
        if len(mixed) == 3 and [t.kind for t in mixed] == ["number", "sign", "number"] and mixed[1].text in "/⁄":
            over, under = _number(mixed[0].text), _number(mixed[2].text)
            if over is not None and under and 0 < over < under and mixed[1].joined and mixed[2].joined:
                return value + over / under, at + joins + 3
    return value, at


def _frac(tokens: Sequence[_Token], at: int, depth: int) -> _Parsed:
    r"""``\frac{a}{b}``."""
    if at + 1 >= len(tokens) or tokens[at + 1].text != "{":
        return None
    over = _operand(tokens, at + 1, depth + 1)
    if over is None or over[1] >= len(tokens) or tokens[over[1]].text != "{":
        return None
    under = _operand(tokens, over[1], depth + 1)
    return None if under is None or not under[0] else (over[0] / under[0], under[1])


@lru_cache(maxsize=16384)
def _number(text: str) -> Fraction | None:
    if len(text) > _MOST_DIGITS:
        return None
    plain = text.replace("{,}", "").replace(",", "")
    return Fraction("0" + plain if plain[0] == "." else plain)
