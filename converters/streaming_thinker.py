"""StreamingThinker: a question, a context of marked sentences, a thought per sentence, deeper thoughts, the answer.

Of Tong et al. (2025, arXiv 2510.17238; EIT-NLP/StreamingLLM): ``{"Instruct_Context": {"context": "…<EOS> …<EOS>",
"instruct"}, "streaming_reasoning": "…<EOQ>…<EOT>…<EOT>", "deep_reasoning": "…<EOR>…<EOF>…<EOA>", "answer"}``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from converters.shared.fields import as_object, as_text, optional_text, required, rest
from converters.shared.joining import noted
from pipeline.conversation import RecordError
from pipeline.script import Script, Utterance, stream

FORMAT = "streaming_thinker"
UNIT = "record"
SHAPE = '{"Instruct_Context": {"context": "…<EOS>…", "instruct"}, "streaming_reasoning": "…<EOQ>…<EOT>…", "answer"}'
EXAMPLE = {
    "Instruct_Context": {
        "context": "A kiln holds 6 shelves.<EOS> Each shelf holds 4 bowls.<EOS>",
        "instruct": "How many bowls does the kiln hold?",
    },
    "streaming_reasoning": "They ask for all the bowls.<EOQ> \nThere are 6 shelves.<EOT> \nSo 6 times 4.<EOT>",
    "deep_reasoning": "6 times 4 is 24. <EOR>Checked: 24.<EOF> The answer is 24.<EOA>\n",
    "answer": "24",
}

_SENTENCE = re.compile("<EOS>")
_THOUGHT = re.compile("<EO[QT]>")
_DEEP = re.compile("<EO[RFA]>")
_USER, _THOUGHTS, _ASSISTANT = range(3)
_STREAMS = (stream("user", "input"), stream("thought", "output"), stream("assistant", "output"))
_USED = frozenset({"Instruct_Context", "streaming_reasoning", "deep_reasoning", "reasoning", "answer", "result"})


def detect(unit: Any) -> bool:
    """Whether there is a marked context and some reasoning."""
    given = unit.get("Instruct_Context") if isinstance(unit, dict) else None
    if not isinstance(given, dict) or not isinstance(given.get("context"), str):
        return False
    return any(isinstance(unit.get(key), str) for key in ("streaming_reasoning", "reasoning"))


def convert(unit: Any) -> Iterator[Script]:
    """One script. Raises RecordError; docs/formats/streams.md lists the codes."""
    record = as_object(unit, "the record")
    given = as_object(required(record, "Instruct_Context"), "Instruct_Context")
    question = optional_text(given, "instruct", "Instruct_Context.instruct")
    context = as_text(required(given, "context", "Instruct_Context"), "Instruct_Context.context")
    sentences = _pieces(context, _SENTENCE)
    streamed = optional_text(record, "streaming_reasoning")
    asked = [_utterance(_USER, [question], 0), _utterance(_USER, sentences, 1)]
    end = len(sentences) + 1
    if streamed:
        about_question, thoughts = _thoughts(streamed)
        if len(thoughts) != len(sentences):
            raise RecordError(
                "uneven_streams", f"{len(thoughts)} thoughts end with <EOT>, but {len(sentences)} sentences with <EOS>"
            )
        thinking = [_utterance(_THOUGHTS, [about_question, *thoughts], 1)]
        later = optional_text(record, "deep_reasoning")
        end += 1
    else:
        thinking, later = [], optional_text(record, "reasoning")
    deep = _pieces(later, _DEEP)
    thinking.append(_utterance(_THOUGHTS, deep, end))
    end += len(deep)
    key = "answer" if record.get("answer") is not None else "result"
    answer = optional_text(record, key)
    if not answer:
        raise RecordError("empty_answer", "the record has no answer")
    said = [u for u in (*asked, *thinking, _utterance(_ASSISTANT, [answer], end)) if u is not None]
    said.sort(key=lambda utterance: (utterance.starts[0], utterance.stream))
    extra = rest(record, _USED - ({"result", "answer"} - {key}))
    extra = noted(extra, Instruct_Context=rest(given, ("context", "instruct")))
    yield Script(_STREAMS, tuple(said), extra=extra, unheard=frozenset({_THOUGHTS}))


def _pieces(text: str, mark: re.Pattern[str]) -> list[str]:
    """The text between marks; what stands behind the last mark is a piece if it is more than white space."""
    pieces = mark.split(text)
    if not pieces[-1].strip():
        pieces.pop()
    return pieces


def _thoughts(text: str) -> tuple[str, list[str]]:
    """The thought about the question ("" for none), and the thoughts about the sentences."""
    pieces = _pieces(text, _THOUGHT)
    first = _THOUGHT.search(text)
    if first is not None and first.group() == "<EOQ>":
        return pieces[0], pieces[1:]
    return "", pieces


def _utterance(on: int, pieces: list[str], tick: int) -> Utterance | None:
    """Pieces of one tick each, from ``tick`` on, as they stand; None where they say nothing."""
    ends: list[int] = []
    ticks: list[int] = []
    for number, piece in enumerate(pieces):
        if piece:
            ends.append((ends[-1] if ends else 0) + len(piece))
            ticks.append(tick + number)
    if not ends:
        return None
    return Utterance(on, "".join(pieces), tuple(ends), tuple(ticks), tuple(t + 1 for t in ticks))
