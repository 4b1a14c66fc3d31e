"""audit: an auditor reads along and checks each step that states an equation, by computing it.

A *step* is what a thought or an answer says up to the end of a sentence or line in which an equation stands
(``pipeline.arithmetic``). For every step there is one message on the audit stream: it states the equation as computed and
agrees, or says what is wrong. It starts once its step has been written, waits for nothing behind it, and the solver does not
wait for it. Steps without an equation are not spoken of. The auditor is told nothing: it computes.

*Corruption* (``corrupt``) plants seeded errors into the results that a solver states, so that there is something to find.
The text is then ours: its span is not trained, ``labels.corrupted`` says what stood where, and the original can be put back
exactly. What a message says after its corrupted part rests on an error that it does not know of; it is not trained either,
unless it waits for the auditor (``answer=waits``).
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from pipeline.alignment.plan import Batch, Cut, Plan
from pipeline.arithmetic import Equation, compute, equations, states
from pipeline.text import cut
from pipeline.timeline import Draft, Span, Stream

NAME = "audit"
CLAIM = "a step is checked once it has been written; the solver does not wait for the auditor"


@dataclass(frozen=True, slots=True)
class Params:
    """``corrupt``: share of the steps with an equation in which an error is planted (0 to 1), drawn with ``seed``;
    ``thoughts``: whether steps of thoughts are checked too; ``answer``: whether what a message says behind a part
    ``goes_on`` beside the auditor, or ``waits`` for him."""

    corrupt: Annotated[float, Field(ge=0, le=1)] = 0.0
    seed: Annotated[int, Field(ge=0)] = 0
    thoughts: Literal["on", "off"] = "on"
    answer: Literal["goes_on", "waits"] = "goes_on"


@plain_dataclass(frozen=True, slots=True)
class Step:
    """A step ends at character ``end``; ``equations`` are those that it states."""

    end: int
    equations: tuple[Equation, ...]


@plain_dataclass(frozen=True, slots=True)
class Planted:
    """An error: ``planted`` stands at character ``at`` of the corrupted text, where the source says ``original``."""

    step: int
    at: int
    original: str
    planted: str
    kind: str


def why(draft: Draft) -> str:
    """Steps that can be checked."""
    count = sum(len(steps(span.text)) for role, _, span in draft.items if _is_audited(role, span, Params()))
    return f"{count} steps that can be computed" if count else ""


def _is_audited(role: str, span: Span, params: Params) -> bool:
    if span.kind != "message" or not (role == "assistant" or (role == "thought" and params.thoughts == "on")):
        return False
    return span.source_kind in ("text", "thinking") and "=" in span.text


@lru_cache(maxsize=1024)
def steps(text: str) -> tuple[Step, ...]:
    """The steps of a text that state an equation, in order."""
    found: dict[int, list[Equation]] = {}
    if stated := equations(text):
        ends = cut(text, "sentence")
        for equation in stated:
            found.setdefault(ends[bisect_left(ends, equation.end)], []).append(equation)
    return tuple(Step(end, tuple(found[end])) for end in sorted(found))


# ------------------------------------------------------------------------------------------------------------ what is said


_RIGHT = ("{}: right.", "{}, right.", "Checked: {}.", "Yes, {}.")
_WRONG = ("{}.", "Error: {}.", "That is wrong: {}.", "Not right: {}.")


def verdict(step: Step) -> str:
    """What the auditor says of a step: each equation as computed, and what is wrong with those that do not hold."""
    told = [e for e in step.equations if not _told_within(e, step)]
    wrong = [_correction(e) for e in told if not e.holds]
    text = "; ".join(dict.fromkeys(wrong or _agreements(told)))
    forms = _WRONG if wrong else _RIGHT
    return forms[drawn(text) % len(forms)].format(text)


def flags(said: str) -> bool:
    """Whether a message of the auditor says that something is wrong."""
    return ", not " in said


def _told_within(equation: Equation, step: Step) -> bool:
    """Whether an annotation inside an equation states the same."""
    return any(
        equation.start < other.start
        and other.end <= equation.end
        and other.holds == equation.holds
        and _plain(other.stated) == _plain(equation.stated)
        for other in step.equations
    )


def _agreements(told: Sequence[Equation]) -> Iterator[str]:
    """The equations as they stand; one that goes on from the one before it (``a = b = c``) in one go."""
    said = ""
    end = -1
    for equation in told:
        stated = f"{equation.stated}{'%' * equation.percent}{' (rounded)' * equation.rounded}"
        if said and equation.start == end:
            said = f"{said} = {stated}"
        else:
            if said:
                yield said
            said = f"{equation.left} = {stated}"
        end = equation.stated_start
    yield said


def _correction(equation: Equation) -> str:
    percent = "%" * equation.percent
    value, rounded = _shown(equation)
    return f"{equation.left} = {value}{percent}{' (rounded)' * rounded}, not {equation.stated}{percent}"


def _shown(equation: Equation) -> tuple[str, bool]:
    """The value of an equation's left side, written like what it states; and whether it is rounded."""
    value = equation.value
    if equation.percent and ("%" in equation.left or (abs(value) < 10 and "/" in equation.left)):
        value *= 100
    if value.denominator == 1:
        return _digits(value, 0, equation.stated), False
    if not equation.plain and value.denominator < 1000:
        return f"{value.numerator}/{value.denominator}", False
    stated = len(equation.stated.partition(".")[2]) if equation.plain else 4
    exact = _decimals(value)
    if exact is not None and exact <= max(stated, 6):
        return _digits(value, exact, equation.stated), False
    for decimals in range(max(stated, 2), 16):
        shown = _digits(value, decimals, equation.stated)
        if shown != equation.stated and Fraction(shown.replace(",", "")):
            return shown, True
    return f"{value.numerator}/{value.denominator}", False


def _decimals(value: Fraction) -> int | None:
    """How many decimals write a value exactly; None if no number of them does."""
    rest, places = value.denominator, 0
    for factor in (2, 5):
        power = 0
        while rest % factor == 0:
            rest, power = rest // factor, power + 1
        places = max(places, power)
    return places if rest == 1 else None


def _digits(value: Fraction, decimals: int, like: str) -> str:
    """A value in decimals, half away from zero, with thousands separated if ``like`` separates them."""
    scaled = abs(value) * 10**decimals
    whole = (scaled.numerator * 2 + scaled.denominator) // (scaled.denominator * 2)
    head, tail = divmod(whole, 10**decimals)
    text = f"{head:,}" if "," in like and "{" not in like else str(head)
    return f"{'-' if value < 0 and whole else ''}{text}{f'.{tail:0{decimals}d}' if decimals else ''}"


def drawn(*of: object) -> int:
    """A number that depends on nothing but its arguments."""
    return int.from_bytes(hashlib.sha256("\0".join(map(str, of)).encode()).digest()[:8], "big")


# -------------------------------------------------------------------------------------------------------------- corruption


_NUMBER = re.compile(r"-?[ \t]*[\d,]*\.?\d+")
_SHOWN_AGAIN = re.compile(r">>[ \t]*\\?[$€£]?[ \t]*([\d,]*\.?\d+)")
_OPERATORS = {"+": "-*", "-": "+*", "*": "+/", "/": "*-", "×": "+", "\\times": "+", "÷": "*"}
_OPERATOR = re.compile(r"(?<=[\d)\s])(?:[-+*/×÷]|\\times)(?=[\s\d(.$])")


def corrupted(text: str, share: float, seed: int) -> tuple[str, list[Planted]]:
    """The text with errors planted into that share of its steps, and what was planted, in order of its places."""
    edits: list[tuple[int, str, str, int, str]] = []
    for number, step in enumerate(steps(text)):
        if drawn(seed, number, text) / 2**64 >= share:
            continue
        for equation in _in_drawn_order([e for e in step.equations if e.holds and e.plain], seed, text, number):
            if error := _error(equation, seed, text):
                planted, kind = error
                edits.extend((at, old, planted, number, kind) for at, old in _places(text, equation))
                break
    out: list[str] = []
    placed: list[Planted] = []
    done = shift = 0
    for at, old, new, number, kind in sorted(set(edits)):
        out.extend((text[done:at], new))
        placed.append(Planted(number, at + shift, old, new, kind))
        done, shift = at + len(old), shift + len(new) - len(old)
    return "".join((*out, text[done:])), placed


def restored(text: str, planted: Sequence[Mapping[str, Any]]) -> str:
    """The source's text out of a corrupted one; ``planted`` are the entries of ``labels.corrupted`` for its part."""
    for error in sorted(planted, key=lambda error: int(error["at"]), reverse=True):
        at = error["at"]
        text = text[:at] + error["original"] + text[at + len(error["planted"]) :]
    return text


def _in_drawn_order(found: list[Equation], *of: object) -> list[Equation]:
    return sorted(found, key=lambda e: drawn(*of, e.start, e.end))


def _places(text: str, equation: Equation) -> Iterator[tuple[int, str]]:
    """Where a result stands: where it is stated, in the annotation before it, and where the text behind that shows it again."""
    yield equation.stated_start, equation.stated
    number = _plain(equation.stated)
    if text.startswith(">>", equation.end):
        again = _SHOWN_AGAIN.match(text, equation.end)
        if again and _plain(again[1]) == number:
            yield again.start(1), again[1]
    inside = text.rfind("=", equation.start, equation.stated_start)
    note_end = text.rfind(">>", equation.start, equation.stated_start)
    if 0 <= inside < note_end and _plain(text[inside + 1 : note_end].strip(" $")) == number:
        shown = text[inside + 1 : note_end]
        lead = len(shown) - len(shown.lstrip(" $"))
        yield inside + 1 + lead, shown.strip(" $")


def _plain(number: str) -> Fraction | None:
    cleaned = number.replace(",", "").replace("{}", "").strip()
    return Fraction(cleaned) if re.fullmatch(r"-?(?:\d+\.?\d*|\.\d+)", cleaned) else None


def _error(equation: Equation, seed: int, text: str) -> tuple[str, str] | None:
    """A wrong result in the place of a right one, written like it, and how it is wrong."""
    stated = equation.stated
    if not re.fullmatch(r"-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)", stated):
        return None
    makers = (("digit", _other_digit), ("factor", _ten_times), ("swap", _swapped), ("operator", _other_operator))
    draw = drawn(seed, text, equation.start, stated)
    for turn in range(len(makers)):
        kind, make = makers[(draw + turn) % len(makers)]
        planted = make(equation, draw >> 8)
        if planted is None or planted == stated or (value := _plain(planted)) is None:
            continue
        if planted.startswith("-") and not value:
            continue
        percent = equation.percent and states(planted, value, equation.value * 100)[0]
        if not (percent or states(planted, value, equation.value)[0]):
            return planted, kind
    return None


def _other_digit(equation: Equation, draw: int) -> str | None:
    digits = [i for i, c in enumerate(equation.stated) if c.isdigit()]
    at = digits[draw % len(digits)]
    leads = at == digits[0] and len(digits) > 1
    others = [d for d in "0123456789" if d != equation.stated[at] and not (leads and d == "0")]
    return equation.stated[:at] + others[(draw >> 8) % len(others)] + equation.stated[at + 1 :]


def _ten_times(equation: Equation, draw: int) -> str | None:
    value = _plain(equation.stated)
    if not value:
        return None
    wrong = value / 10 if draw % 2 and value % 10 == 0 else value * 10
    decimals = _decimals(wrong)
    return None if decimals is None else _digits(wrong, decimals, equation.stated)


def _swapped(equation: Equation, draw: int) -> str | None:
    stated = equation.stated
    pairs = [
        i for i in range(len(stated) - 1)
        if stated[i].isdigit() and stated[i + 1].isdigit() and stated[i] != stated[i + 1]
        and not (stated[i + 1] == "0" and (i == 0 or not stated[i - 1].isdigit()))
    ]  # fmt: skip
    if not pairs:
        return None
    at = pairs[draw % len(pairs)]
    return stated[:at] + stated[at + 1] + stated[at] + stated[at + 2 :]


def _other_operator(equation: Equation, draw: int) -> str | None:
    signs = list(_OPERATOR.finditer(equation.left))
    if not signs:
        return None
    sign = signs[draw % len(signs)]
    others = _OPERATORS[sign.group()]
    other = others[(draw >> 8) % len(others)]
    value = compute(equation.left[: sign.start()] + other + equation.left[sign.end() :])
    if value is None or value < 0 or (decimals := _decimals(value)) is None or decimals > 3 or value > 10**12:
        return None
    return _digits(value, decimals, equation.stated)


# --------------------------------------------------------------------------------------------------------------- the policy


def prepare(draft: Draft, params: Params) -> None:
    """Plants errors, if asked to, and puts the auditor's message of each step behind the part that the step is in."""
    items: list[tuple[str, int, Span]] = []
    labels: list[dict[str, Any]] = []
    spoiled: set[int] = set()
    taken: dict[int, int] = {}
    for _, _, span in draft.items:
        if span.message is not None and span.part is not None:
            parts = len(draft.conversation.messages[span.message].parts)
            taken[span.message] = max(taken.get(span.message, parts), span.part + 1)
    for role, slot, span in draft.items:
        message, part = span.message, span.part
        if message is None or part is None or not _is_audited(role, span, params):
            if message in spoiled and role in ("assistant", "thought", "call") and params.answer == "goes_on":
                span = replace(span, weight=0.0)
            items.append((role, slot, span))
            continue
        trained = span.weight
        if message in spoiled and params.answer == "goes_on":
            span = replace(span, weight=0.0)
        if params.corrupt:
            text, planted = corrupted(span.text, params.corrupt, params.seed)
            if planted:
                spoiled.add(message)
                added = "\n".join(error.planted for error in planted)
                span = replace(span, text=text, weight=0.0, added=added)
                labels.extend(
                    {"message": message, "part": part, "at": e.at, "original": e.original, "planted": e.planted,
                     "kind": e.kind, "step": e.step}
                    for e in planted
                )  # fmt: skip
                _put_text(draft, message, part, text)
        items.append((role, slot, span))
        for step in steps(span.text):
            said = verdict(step)
            items.append(
                (
                    NAME,
                    0,
                    Span(0, message, taken[message], "message", said, weight=trained, added=said, source_kind=NAME),
                )
            )
            taken[message] += 1
    draft.items[:] = items
    if labels:
        draft.labels["corrupted"] = labels


def _put_text(draft: Draft, message: int, part: int, text: str) -> None:
    """Lets the conversation that policies look at say what its record will."""
    said = draft.conversation.messages[message]
    parts = (*said.parts[:part], replace(said.parts[part], text=text), *said.parts[part + 1 :])
    messages = list(draft.conversation.messages)
    messages[message] = replace(said, parts=parts)
    draft.conversation = replace(draft.conversation, messages=tuple(messages))


def cuts(draft: Draft, streams: tuple[Stream, ...], spans: tuple[Span, ...], params: Params) -> Mapping[int, Cut]:
    """What is audited is cut where its steps end."""
    return {
        i: tuple(step.end for step in steps(span.text))
        for i, span in enumerate(spans[:-1])
        if spans[i + 1].source_kind == NAME and span.source_kind != NAME
    }


def relax(batch: Batch, params: Params) -> None:
    """The auditor's messages wait for their step and no more; the rest of the solver's message does not wait for them."""
    for plan in batch.plans:
        if any(span.source_kind == NAME for span in plan.spans):
            _relax_plan(plan, params)


def _relax_plan(plan: Plan, params: Params) -> None:
    for message in plan.messages():
        audited: list[tuple[int, int]] = []
        part = message[0]
        for span in message:
            if plan.spans[span].source_kind != NAME:
                part = span
                continue
            step = steps(plan.spans[part].text)[span - part - 1]
            chunk = bisect_left(plan.chunk_end, step.end, plan.first[part], plan.first[part + 1])
            audited.append((chunk, plan.mask([span])))
            for own in plan.chunks(span):
                plan.requires[own] = (1 << (chunk + 1)) - (1 << plan.first[part])
        if not audited:
            continue
        everything = sum(bits for _, bits in audited)
        for span in message:
            if plan.spans[span].source_kind == NAME or not plan.is_output(span):
                continue
            for own in plan.chunks(span):
                unread = everything
                if params.answer == "waits":
                    unread = sum(bits for step, bits in audited if not plan.requires[own] >> step & 1)
                plan.drop([own], unread)
