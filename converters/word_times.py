"""Transcripts with a time for every word, of two or more speakers who may talk at once.

moshi-finetune (kyutai-labs): ``{"alignments": [[word, [start, end], speaker], …]}``, in seconds; the model is
``SPEAKER_MAIN``. WhisperX and its like: ``{"segments": [{"speaker", "start", "end", "text", "words": [{"word", "start",
"end"}]}]}``.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from converters.shared.fields import as_list, as_object, as_text, optional_text, required, rest, type_name
from converters.shared.joining import join_pieces, noted
from pipeline.conversation import RecordError
from pipeline.script import Script, Stream, Utterance, stream

FORMAT = "word_times"
UNIT = "record"
SHAPE = (
    '{"alignments": [[word, [start, end], speaker]]} or {"segments": [{"speaker", "start", "end", "text", "words"}]}'
)
EXAMPLE = {
    "alignments": [
        ["Is", [0.31, 0.44], "SPEAKER_OTHER"],
        ["it", [0.44, 0.52], "SPEAKER_OTHER"],
        ["hot?", [0.52, 0.9], "SPEAKER_OTHER"],
        ["It", [1.0, 1.1], "SPEAKER_MAIN"],
        ["is", [1.1, 1.24], "SPEAKER_MAIN"],
        ["Ah.", [1.15, 1.4], "SPEAKER_OTHER"],
        ["still", [1.24, 1.6], "SPEAKER_MAIN"],
        ["warm.", [1.6, 2.0], "SPEAKER_MAIN"],
    ]
}

#: Speakers that are the model: the first one whoever else is there, the others if they are alone in that.
MODEL_SPEAKERS = ("SPEAKER_MAIN", "assistant", "agent", "model", "moshi", "bot")
#: A day of transcript; times beyond are no seconds.
_MAX_SECONDS = 86_400


@dataclass(frozen=True)
class Options:
    """``model``: the speaker that the model is to be, by number in the order of the sorted names; ``auto``: the one whose
    name says so. ``row``: how long a row lasts. ``pause``: a silence behind which a speaker's words are a new utterance,
    whoever speaks in it.
    """

    model: Literal["auto", "0", "1", "2", "3", "4", "5", "6", "7"] = "auto"
    row: Literal["40ms", "80ms", "160ms", "320ms"] = "80ms"
    pause: Literal["500ms", "1000ms", "2000ms"] = "1000ms"


@dataclass(frozen=True, slots=True)
class _Said:
    """Words of one speaker, by time: the text, where each word ends in it, and their times in milliseconds."""

    speaker: str
    text: str
    ends: tuple[int, ...]
    times: tuple[tuple[int, int], ...]
    added: str = ""


def detect(unit: Any) -> bool:
    """Whether there are words with times, or segments with speakers."""
    if not isinstance(unit, dict):
        return False
    if isinstance(items := unit.get("alignments"), list) and items:
        return all(isinstance(item, list) and len(item) == 3 and isinstance(item[1], list) for item in items[:8])
    items = unit.get("segments")
    if not isinstance(items, list) or not items:
        return False
    return all(isinstance(item, dict) and "start" in item and "end" in item and "speaker" in item for item in items[:8])


def convert(unit: Any, options: Options = Options()) -> Iterator[Script]:
    """One script. Raises RecordError; docs/formats/streams.md lists the codes."""
    record = as_object(unit, "the record")
    unused: dict[str, Any] = {}
    if "alignments" in record or "segments" not in record:
        key = "alignments"
        said = _alignments(as_list(required(record, key), key), int(options.pause[:-2]))
    else:
        key = "segments"
        said = _segments(as_list(record[key], key), unused)
    if not any(s.text.strip() for s in said):
        raise RecordError("empty_conversation", f"{key} holds no word")
    streams = _streams(sorted({s.speaker for s in said}), options.model)
    place = {speaker: i for i, speaker in enumerate(streams)}
    told, mended = _in_time(said, place)
    extra = noted(
        rest(record, (key,)),
        segments=unused,
        speakers={on.name: speaker for speaker, on in streams.items()},
        joined=next((s.added for s in said if s.added), ""),
        times_mended=mended,
    )
    yield Script(tuple(streams.values()), told, float(options.row[:-2]), extra)


def _streams(speakers: list[str], model: str) -> dict[str, Stream]:
    """The stream of each speaker, users first. Raises RecordError model_speaker."""
    if model == "auto":
        named = [s for s in speakers if s == MODEL_SPEAKERS[0] or s.lower() in MODEL_SPEAKERS]
        main = [s for s in named if s == MODEL_SPEAKERS[0]] or named
        chosen = main[0] if len(main) == 1 else None
    else:
        chosen = speakers[int(model)] if int(model) < len(speakers) else None
    if chosen is None:
        names = ", ".join(f"{i} for {s!r:.40}" for i, s in enumerate(speakers[:8]))
        raise RecordError("model_speaker", f"which speaker is the model? Give word_times:model=…: {names}")
    others = [s for s in speakers if s != chosen]
    users = {s: stream("user" if len(others) == 1 else f"user/{i}", "input") for i, s in enumerate(others)}
    return {**users, chosen: stream("assistant", "output")}


def _alignments(items: list[Any], pause: int) -> list[_Said]:
    """Words, cut into utterances: at a pause that is long, or in which somebody else starts to speak."""
    words: dict[str, list[tuple[int, int, str]]] = {}
    for index, item in enumerate(items):
        where = f"alignments[{index}]"
        entry = as_list(item, where)
        if len(entry) != 3:
            raise RecordError(
                "wrong_type", f"{where} is a list of {len(entry)}, expected a word, its times, its speaker"
            )
        text, speaker = as_text(entry[0], f"{where}[0]"), as_text(entry[2], f"{where}[2]")
        times = as_list(entry[1], f"{where}[1]")
        if len(times) != 2:
            raise RecordError("bad_timing", f"{where}[1] is a list of {len(times)}, expected a start and an end")
        start, stop = _interval(times[0], times[1], where)
        if text:
            words.setdefault(speaker, []).append((start, stop, text))
    everyone = sorted(start for spoken in words.values() for start, _, _ in spoken)
    said = []
    for speaker, spoken in words.items():
        spoken.sort(key=lambda word: word[0])
        own = [start for start, _, _ in spoken]
        run: list[tuple[int, int, str]] = []
        until = 0
        for word in spoken:
            gap = until, word[0]
            if run and (gap[1] - gap[0] >= pause or _starts(everyone, *gap) > _starts(own, *gap)):
                said.append(_joined(speaker, run))
                run = []
            run.append(word)
            until = max(until, word[1])
        said.append(_joined(speaker, run))
    return said


def _starts(times: list[int], low: int, high: int) -> int:
    """How many of the sorted times lie in ``[low, high)``."""
    return bisect.bisect_left(times, high) - bisect.bisect_left(times, low) if low < high else 0


def _joined(speaker: str, words: list[tuple[int, int, str]]) -> _Said:
    text, ends, added = join_pieces([text for _, _, text in words])
    return _Said(speaker, text, ends, tuple((start, stop) for start, stop, _ in words), added)


def _segments(items: list[Any], unused: dict[str, Any]) -> list[_Said]:
    """What each segment says, one utterance for every speaker in a row."""
    said: list[_Said] = []
    for index, item in enumerate(items):
        where = f"segments[{index}]"
        segment = as_object(item, where)
        start, stop = _interval(required(segment, "start", where), required(segment, "end", where), where)
        text = optional_text(segment, "text", f"{where}.text")
        speaker = optional_text(segment, "speaker", f"{where}.speaker")
        words, left = _words(segment, speaker, start, where)
        if not words and text.strip():
            words = [(start, stop, text.strip(), speaker)]
        if any(not name for *_, name in words):
            raise RecordError("missing_field", f"{where} has words without a speaker")
        places = _places(words, text)
        others = rest(segment, ("start", "end", "speaker", "words", *(("text",) if places or not text.strip() else ())))
        if others or left:
            unused[str(index)] = others | ({"words": left} if left else {})
        said.extend(_turns(words, text, places))
    return said


#: Start and stop in milliseconds, text, speaker.
_Word = tuple[int, int, str, str]


def _words(segment: dict[str, Any], speaker: str, start: int, where: str) -> tuple[list[_Word], dict[str, Any]]:
    """The words of a segment, and their unused keys. A word without times is said when the one before it has been."""
    words: list[_Word] = []
    unused: dict[str, Any] = {}
    at = start
    for number, item in enumerate(as_list(segment["words"], f"{where}.words") if segment.get("words") else ()):
        here = f"{where}.words[{number}]"
        word = as_object(item, here)
        key = "word" if "word" in word else "text"
        text = as_text(required(word, key, here), f"{here}.{key}").strip()
        if word.get("start") is None or word.get("end") is None:
            begin, stop = at, at
        else:
            begin, stop = _interval(word["start"], word["end"], here)
        at = stop
        if text:
            words.append((begin, stop, text, optional_text(word, "speaker", f"{here}.speaker") or speaker))
        if left := rest(word, (key, "start", "end", "speaker")):
            unused[str(number)] = left
    return words, unused


def _turns(words: list[_Word], text: str, places: list[tuple[int, int]] | None) -> Iterator[_Said]:
    """Words in a row of one speaker; in the segment's own text where that is these words and white space."""
    if places and len({speaker for *_, speaker in words}) == 1:
        low, high = places[0][0], places[-1][1]
        times = tuple((start, stop) for start, stop, *_ in words)
        yield _Said(words[0][3], text[low:high], tuple(end - low for _, end in places), times)
        return
    first = 0
    for i in range(1, len(words) + 1):
        if i == len(words) or words[i][3] != words[first][3]:
            yield _joined(words[first][3], [(start, stop, word) for start, stop, word, _ in words[first:i]])
            first = i


def _places(words: list[_Word], text: str) -> list[tuple[int, int]] | None:
    """Where the words stand in the text; None where it is not they."""
    places: list[tuple[int, int]] = []
    position = 0
    for _, _, word, _ in words:
        while position < len(text) and text[position].isspace():
            position += 1
        if not text.startswith(word, position):
            return None
        places.append((position, position + len(word)))
        position += len(word)
    return places if places and not text[position:].strip() else None


def _interval(start: Any, end: Any, where: str) -> tuple[int, int]:
    """Seconds as milliseconds. Raises RecordError bad_timing."""
    for value in (start, end):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RecordError("bad_timing", f"a time of {where} is {type_name(value)}, expected seconds")
        if not math.isfinite(value) or not 0 <= value <= _MAX_SECONDS:
            raise RecordError(
                "bad_timing", f"a time of {where} is {value!r:.40}, expected seconds from 0 on, a day at most"
            )
    if end < start:
        raise RecordError("bad_timing", f"{where} ends at {end} s, before it starts at {start} s")
    return round(start * 1000), round(end * 1000)


def _in_time(said: list[_Said], place: dict[str, int]) -> tuple[tuple[Utterance, ...], int]:
    """Utterances by time, and the number of words whose times had to be moved.

    A word starts when the one before it on its stream has stopped, and lasts a millisecond at least.
    """
    until = dict.fromkeys(place, 0)
    mended = 0
    told: list[Utterance] = []
    for item in sorted(said, key=lambda s: s.times[0][0]):
        starts: list[int] = []
        stops: list[int] = []
        for start, stop in item.times:
            starts.append(max(start, until[item.speaker]))
            stops.append(max(stop, starts[-1] + 1))
            until[item.speaker] = stops[-1]
            mended += (starts[-1], stops[-1]) != (start, stop)
        told.append(Utterance(place[item.speaker], item.text, item.ends, tuple(starts), tuple(stops), added=item.added))
    told.sort(key=lambda utterance: (utterance.starts[0], utterance.stream))
    return tuple(told), mended
