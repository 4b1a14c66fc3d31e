"""Equations are found where all of them can be computed, are computed exactly, and nothing else is called one."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from conversation_cases import QUICK
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.arithmetic import compute, equations, states, true_results


def found(text: str) -> list[tuple[str, str, bool]]:
    """(left side, what is stated, whether it holds) of every equation."""
    return [(e.left, e.stated, e.holds) for e in equations(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("48/2 = 24", [("48/2", "24", True)]),
        ("48/2 = 25", [("48/2", "25", False)]),
        ("He sold 48/2 = <<48/2=24>>24 jars.", [("48/2", "24", True), ("48/2", "24", True)]),
        ("They pay 3*1,250.50=$3,751.50 in all.", [("3*1,250.50", "3,751.50", True)]),
        ("A total of 12 + 10 = 22 oaks.", [("12 + 10", "22", True)]),
        ("27 gulls / 3 = 9 gulls", [("27 gulls / 3", "9", True)]),
        ("4 rows * 8 bricks of clay in each row = 32 bricks", [("4 rows * 8 bricks of clay in each row", "32", True)]),
        ("$2.80/pupil * 370 pupils = $1036", [("2.80/pupil * 370 pupils", "1036", True)]),
        ("7 hours x 6 pies/hour = 42 pies", [("7 hours x 6 pies/hour", "42", True)]),
        ("6½ + 1/2 = 7", [("6½ + 1/2", "7", True)]),
        ("1 1/2 * 4 = 6 cups", [("1 1/2 * 4", "6", True)]),
        ("12 x 1 and 1/4 = 15", [("12 x 1 and 1/4", "15", True)]),
        ("20% of 50 = 10", [("20% of 50", "10", True)]),
        ("3/4 of 80 = 60 seats", [("3/4 of 80", "60", True)]),
        ("20/50 = 40%", [("20/50", "40", True)]),
        ("100 - 40 = 60%", [("100 - 40", "60", True)]),
        ("5² + 12² = 169", [("5² + 12²", "169", True)]),
        ("2**3 = 8", [("2**3", "8", True)]),
        (r"\( \frac{1}{2} + \frac{1}{3} = \frac{5}{6} \)", [(r"\frac{1}{2} + \frac{1}{3}", r"\frac{5}{6}", True)]),
        (r"\[ 3 \times 4 = 12 \]", [(r"3 \times 4", "12", True)]),
        (r"$2 \frac{1}{2} \cdot 2 = 5$", [(r"2 \frac{1}{2} \cdot 2", "5", True)]),
        (r"\left(3 + 1\right)^2 = 16", [(r"\left(3 + 1\right)^2", "16", True)]),
        (r"12{,}000 / 4 = 3{,}000", [(r"12{,}000 / 4", "3{,}000", True)]),
        ("100/3 = 33.33", [("100/3", "33.33", True)]),
        ("100/3 = 33.34", [("100/3", "33.34", False)]),
        ("500/7 = 71", [("500/7", "71", True)]),
        ("7/2 = 3", [("7/2", "3", False)]),
        ("2/3 = 4/6", [("2/3", "4/6", True)]),
        ("5 - 8 = -3", [("5 - 8", "-3", True)]),
        ("- 12 * 2 = 24", [("12 * 2", "24", True)]),
        ("3) 12 * 2 = 24", [("12 * 2", "24", True)]),
        ("It is 0.5(20) = 10.", [("0.5(20)", "10", True)]),
        ("2*3+4 = 6+4 = 10", [("2*3+4", "6+4", True), ("6+4", "10", True)]),
        ("2*3+4 = 6+5 = 11", [("2*3+4", "6+5", False), ("6+5", "11", True)]),
    ],
)  # fmt: skip
def test_an_equation_is_found_and_computed(text: str, expected: list[tuple[str, str, bool]]) -> None:
    assert found(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "x = 5",
        "2x + 3 = 7",
        "3x - 5 = 4",
        "14 = 14",
        "5! = 120",
        "8C3 = 56",
        "f(2) = 4",
        "gcd(12, 18) = 6",
        r"\sqrt{16} + 9 = 13",
        "√16 + 9 = 13",
        r"36_{10} = 4 \times 9 = 40_9",
        "42 / 8 = 5 with a remainder of 2",
        "42 / 8 = 5 R 2",
        "42 / 8 = 5 (remainder 2)",
        r"42 \div 8 = 5 \text{ (remainder } 2)",
        r"\(42 \div 8 = 5\) remainder \(2\)",
        "half of 10 + 4 = 9",
        "10 less than 5 * 4 = 10",
        "6 * 16 = 8 * s",
        "3 / 5 = 12 / x",
        "128 * i^2 = 128 i",
        "90 / 60 minutes = 1.5 hours",
        "3 * 25 cents = $0.75",
        "12/2 = 6 dozen",
        "0900 + 30 = 930",
        "8:30 + 2 = 10",
        "a == 3 + 4",
        "3 + 4 => 7",
        "3 + 4 >= 7",
        "(1, 2) + (3, 4) = 10",
        "1/0 = 1",
        "Ages: 4 people tot/7 = 21",
        "= 5",
        "3 + = 4",
        "3 + 4 = ",
    ],
)
def test_what_cannot_be_computed_is_no_equation(text: str) -> None:
    assert found(text) == []


def test_a_result_that_is_computed_on_is_not_held_against_the_first_equation() -> None:
    assert found("2 + 3 = 5 * 4 = 20") == [("5 * 4", "20", True)]


def test_an_equation_says_where_it_stands() -> None:
    text = "So she sold 48/2 = $<<48/2=24>>24 jars."
    for e in equations(text):
        assert text[e.start : e.end].startswith(e.left)
        assert text[e.stated_start : e.end] == e.stated == "24"
        assert e.value == 24


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2 + 3 * 4", Fraction(14)),
        ("(2 + 3) * 4", Fraction(20)),
        ("-3^2", Fraction(-9)),
        ("2^3^2", Fraction(512)),
        ("2^-1", Fraction(1, 2)),
        ("1 - 1/3", Fraction(2, 3)),
        ("50%", Fraction(1, 2)),
        ("10 / 4 / 5", Fraction(1, 2)),
        ("0.1 + 0.2", Fraction(3, 10)),
        ("1/0", None),
        ("2^1000", None),
        ("6/2(3)", None),
        ("1 2", None),
        ("", None),
        ("((((((((((((((1))))))))))))))", None),
    ],
)
def test_expressions_are_computed_exactly(expression: str, value: Fraction | None) -> None:
    assert compute(expression) == value


Sided = tuple[str, Fraction | None]


def joined(sides: tuple[Sided, str, Sided]) -> Sided:
    """Two expressions with their values, joined by an operator."""
    (left, a), sign, (right, b) = sides
    if a is None or b is None or (sign == "/" and not b):
        return f"({left} {sign} {right})", None
    return f"({left} {sign} {right})", {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else None}[sign]


numbers = st.integers(0, 999).map(lambda n: (str(n), Fraction(n)))
expressions = st.recursive(
    numbers, lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(joined), max_leaves=6
)


@settings(QUICK, max_examples=200)
@given(expressions)
def test_expressions_are_computed_as_fractions_are(sided: Sided) -> None:
    assert compute(sided[0]) == sided[1]


@pytest.mark.parametrize(
    ("stated", "value", "holds", "rounded"),
    [
        ("24", Fraction(24), True, False),
        ("0.33", Fraction(1, 3), True, True),
        ("0.34", Fraction(1, 3), False, True),
        ("0.66", Fraction(2, 3), True, True),
        ("0.67", Fraction(2, 3), True, True),
        ("109", Fraction(1200, 11), True, True),
        ("1", Fraction(1, 2), False, True),
        ("-2", Fraction(2), False, False),
    ],
)
def test_a_number_is_stated_to_its_digits(stated: str, value: Fraction, holds: bool, rounded: bool) -> None:
    assert states(stated, Fraction(stated), value)[0] is holds
    assert states(stated, Fraction(stated), value)[1] is rounded


def test_results_that_hold_are_told() -> None:
    assert true_results("48/2 = 24 and then 24 * 3 = 73; 1/2 + 1/4 = 3/4") == {"24", "3/4"}


@settings(QUICK, max_examples=300)
@given(st.text(alphabet="0123456789+-*/^()[]{}=<>.,$% xof\\\n½²&:;!", max_size=60))
def test_any_text_is_read_without_an_error_and_in_order(text: str) -> None:
    stated = equations(text)
    assert [e.stated_start for e in stated] == sorted(e.stated_start for e in stated)
    for e in stated:
        assert 0 <= e.start < e.stated_start < e.end <= len(text)
        assert text[e.start :].startswith(e.left)


@pytest.mark.parametrize(
    "piece",
    [
        "1+1=",
        "=",
        "= ",
        "1 ",
        "(",
        "1/",
        "<<",
        "<<1=",
        "{,}000",
        "1,000",
        "=-",
        "=((((",
        "a-",
        "\\left(",
        " x 1",
        "$=",
        "1^",
    ],
)
def test_reading_takes_linear_time(piece: str) -> None:
    def seconds(count: int) -> float:
        text = piece * count + "3 + 4 = 7"
        begun = time.perf_counter()
        equations(text)
        return time.perf_counter() - begun

    seconds(200)
    small, large = min(seconds(1000) for _ in range(3)), min(seconds(8000) for _ in range(2))
    assert large < 8 * small * 4 + 0.05


@pytest.mark.parametrize(
    ("text", "results"),
    [
        ("7 * $1 = $7", set()),
        ("She has 5. 2 + 3 = 5", set()),
        ("48 / 2 = 24, so 24", {"24"}),
        ("2 * 3 = 6. Then 6 + 1 = 7.", {"6", "7"}),
    ],
)
def test_a_number_that_was_there_to_compute_with_is_no_result(text: str, results: set[str]) -> None:
    assert true_results(text) == results
