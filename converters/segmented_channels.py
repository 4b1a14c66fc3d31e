"""Parallel workers on one problem: ``{"problem", "channels": [[{"channel", "text"}, …], …]}``, segment after segment.

The JSON Lines of the repository of Su, Yang, Li and Geiping (2026, arXiv 2605.12460; seal-rg/streaming, sections 5 and 6):
segments of what the channels say side by side; the list ``{"channels": [{"input", "output"}]}``; and, from the same place,
``{"input_sentences", "output_sentences"}``, a reply to every sentence that was written when it had been read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from converters.shared.fields import as_list, as_object, as_text, first_key, required, rest, type_name
from converters.shared.joining import noted, utterances
from pipeline.conversation import RecordError
from pipeline.script import Script, Utterance, stream

FORMAT = "segmented_channels"
UNIT = "record"
SHAPE = '{"problem", "channels": [[{"channel": 0, "text"}, …], …]} or {"channels": [{"input", "output"}]}'
EXAMPLE = {
    "problem": "1. How many tiles fit on a wall of 3 by 4? 2. And on one of 5 by 2?",
    "channels": [
        [{"channel": 0, "text": "I take the first."}, {"channel": 1, "text": "Then the second is mine."}],
        [{"channel": 0, "text": "3 times 4 is 12."}, {"channel": 1, "text": "5 times 2 is 10."}],
        [{"channel": 0, "text": "Together: 12 and 10."}],
    ],
    "num_channels": 2,
    "sample_id": "walls_1",
}

_QUESTION_KEYS = ("problem", "question", "prompt")
_MAX_CHANNEL = 255


def detect(unit: Any) -> bool:
    """Whether ``channels`` is a list of segments or of inputs with outputs, or there are sentences on both sides."""
    if not isinstance(unit, dict):
        return False
    if "input_sentences" in unit:
        return isinstance(unit["input_sentences"], list) and isinstance(unit.get("output_sentences"), list)
    channels = unit.get("channels")
    if not isinstance(channels, list) or not channels:
        return False
    if all(isinstance(segment, list) for segment in channels):
        first = next((entry for segment in channels for entry in segment), None)
        return isinstance(first, dict) and "channel" in first and "text" in first
    return all(isinstance(pair, dict) and "input" in pair and "output" in pair for pair in channels)


def convert(unit: Any) -> Iterator[Script]:
    """One script. Raises RecordError; docs/formats/streams.md lists the codes."""
    record = as_object(unit, "the record")
    if "channels" not in record and "input_sentences" in record:
        yield _sentences(record)
        return
    channels = required(record, "channels")
    if isinstance(channels, dict):
        raise RecordError("unknown_part", "channels is an object: when its texts were said is not known")
    items = as_list(channels, "channels")
    if not items:
        raise RecordError("no_messages", "channels is empty")
    yield _segments(record, items) if isinstance(items[0], list) else _pairs(record, items)


def _segments(record: dict[str, Any], segments: list[Any]) -> Script:
    """The question, then the segments: in each, the channels speak side by side, a channel's entries in order."""
    key = first_key(record, _QUESTION_KEYS)
    question = as_text(record[key], key) if key is not None else ""
    cells: list[tuple[int, int, str]] = []
    unused: dict[str, dict[str, Any]] = {}
    base = 1
    for s, segment in enumerate(segments):
        rounds: dict[int, int] = {}
        for e, entry in enumerate(as_list(segment, f"channels[{s}]")):
            where = f"channels[{s}][{e}]"
            item = as_object(entry, where)
            channel = _channel(required(item, "channel", where), where)
            cells.append(
                (channel, base + rounds.get(channel, 0), as_text(required(item, "text", where), f"{where}.text"))
            )
            rounds[channel] = rounds.get(channel, 0) + 1
            if left := rest(item, ("channel", "text")):
                unused.setdefault(str(s), {})[str(e)] = left
        base += max(rounds.values(), default=0)
    return _script(record, {"channels"} | ({key} if key else set()), [question], cells, unused)


def _channel(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_CHANNEL:
        shown = value if isinstance(value, int) else type_name(value)
        raise RecordError("bad_stream", f"{where}.channel is {shown!s:.40}, expected a number from 0 to {_MAX_CHANNEL}")
    return value


def _pairs(record: dict[str, Any], pairs: list[Any]) -> Script:
    """Inputs, and the outputs to them side by side. The same input in every pair is said once."""
    inputs: list[str] = []
    outputs: list[str] = []
    unused: dict[str, Any] = {}
    if len(pairs) > _MAX_CHANNEL + 1:
        raise RecordError("bad_stream", f"{len(pairs)} channels, there can be {_MAX_CHANNEL + 1}")
    for index, pair in enumerate(pairs):
        where = f"channels[{index}]"
        item = as_object(pair, where)
        inputs.append(as_text(required(item, "input", where), f"{where}.input"))
        outputs.append(as_text(required(item, "output", where), f"{where}.output"))
        if left := rest(item, ("input", "output")):
            unused[str(index)] = left
    said = [text for text in inputs if text]
    questions = said[:1] if len(set(said)) <= 1 else inputs
    return _script(record, {"channels"}, questions, [(c, 1, text) for c, text in enumerate(outputs)], unused)


def _script(
    record: dict[str, Any],
    used: set[str],
    questions: list[str],
    cells: list[tuple[int, int, str]],
    unused: dict[str, Any],
) -> Script:
    """Questions on streams of the user, read before anything else; a stream of the assistant for each channel."""
    users = [stream(f"user/{i}" if len(questions) > 1 else "user", "input") for i in range(len(questions))]
    place = {channel: len(users) + i for i, channel in enumerate(sorted({channel for channel, _, _ in cells}))}
    streams = (*users, *(stream(f"assistant/{channel}", "output") for channel in place))
    cells = [(i, 0, text) for i, text in enumerate(questions)] + [(place[c], tick, text) for c, tick, text in cells]
    said = tuple(
        Utterance(on, text, (len(text),), (tick,), (tick + 1,))
        for on, tick, text in sorted(cells, key=lambda cell: (cell[1], cell[0]))
        if text
    )
    if not any(utterance.stream >= len(users) for utterance in said):
        raise RecordError("empty_answer", "no channel says anything")
    return Script(streams, said, extra=noted(rest(record, used), channels=unused))


def _sentences(record: dict[str, Any]) -> Script:
    """Reply ``i`` is said when sentence ``i`` has been read, while the next one is read."""
    sides = []
    for key in ("input_sentences", "output_sentences"):
        items = as_list(required(record, key), key)
        sides.append([as_text(item, f"{key}[{i}]") for i, item in enumerate(items)])
    asked, answered = sides
    if len(asked) != len(answered):
        raise RecordError("uneven_columns", f"{len(asked)} input_sentences, but {len(answered)} output_sentences")
    cells = [(0, i, text) for i, text in enumerate(asked)] + [(1, i + 1, text) for i, text in enumerate(answered)]
    said, between = utterances(cells)
    if not any(utterance.stream for utterance in said):
        raise RecordError("empty_answer", "no output sentence says anything")
    extra = noted(rest(record, ("input_sentences", "output_sentences")), joined=between)
    streams = (stream("user", "input"), stream("assistant", "output"))
    return Script(streams, said, extra=extra, unheard=frozenset({1}))
