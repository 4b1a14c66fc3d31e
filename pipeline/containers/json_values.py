"""A JSON array of values, one JSON object, or an object of records: every value verbatim, in bounded memory."""

from __future__ import annotations

import codecs
import hashlib
import io
import json
import math
import sys
from collections.abc import Collection, Iterator, Sequence
from typing import IO, Any

from pipeline.containers.json_lines import looks_like_lines, read_lines
from pipeline.containers.places import Place
from pipeline.containers.units import CHUNK, RAW_LIMIT, WHOLE, Unit, unit_of
from pipeline.errors import InputError

Buffered = io.BufferedReader


class _Scanner:
    """Decodes one JSON value after the other out of a stream, holding little more than one value at a time."""

    def __init__(self, place: Place, stream: Buffered[Any], limit: int) -> None:
        self._place, self._stream, self._limit = place, stream, limit
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        # Values are only measured here: numbers of any length stay the text they are, and a control character in a
        # text, which JSON does not have, costs that value only.
        self._decoder = json.JSONDecoder(parse_int=str, parse_float=str, strict=False)
        self._text, self._at, self._step = "", 0, CHUNK
        self._ended = False

    def _more(self) -> bool:
        if self._ended:
            return False
        data = self._stream.read(self._step)
        self._ended = not data
        try:
            self._text = self._text[self._at :] + self._utf8.decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            raise InputError(f"{self._place} is not UTF-8: {error.reason}") from error
        self._at = 0
        return True

    def peek(self) -> str:
        """The next character that is not white space; "" at the end."""
        while True:
            while self._at < len(self._text):
                if not self._text[self._at].isspace():
                    return self._text[self._at]
                self._at += 1
            if not self._more():
                return ""

    def take(self) -> str:
        character = self.peek()
        self._at += 1
        return character

    def value(self, what: str) -> tuple[Any, str]:
        """The next value and its own text."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if len(self._text) - self._at > WHOLE * self._limit:
                    raise InputError(
                        f"{self._place}: {what} is larger than {WHOLE * self._limit} bytes or no JSON ({error.msg})"
                    ) from error
                self._step = max(CHUNK, 2 * (len(self._text) - self._at))
                if not self._more():
                    raise InputError(f"{self._place} is cut short or no JSON: {what}: {error.msg}") from error
                continue
            except RecursionError as error:
                raise InputError(f"{self._place}: {what} is nested too deeply") from error
            if end == len(self._text) and self._more():
                continue
            text = self._text[self._at : end]
            self._at, self._step = end, CHUNK
            return value, text

    def fail(self, what: str) -> InputError:
        return InputError(f"{self._place} is cut short or no JSON: {what}")


def read_elements(place: Place, stream: Buffered[Any], limit: int, keyed: bool) -> Iterator[Unit]:
    """The elements of an array, or the values of an object with their keys. Raises InputError."""
    scanner = _Scanner(place, stream, limit)
    close = "}" if keyed else "]"
    scanner.take()
    index = 0
    while scanner.peek() != close:
        key = None
        if keyed:
            key, _ = scanner.value(f"key of element {index}")
            if not isinstance(key, str) or scanner.take() != ":":
                raise scanner.fail(f"element {index} has no key")
            if not _is_text(key):
                raise InputError(f"{place}: the key of element {index} holds half a surrogate pair")
        _, text = scanner.value(f"element {index}")
        try:
            yield unit_of(index, text.encode(), key)
        except UnicodeEncodeError as error:
            raise scanner.fail(f"element {index} holds half a surrogate pair") from error
        index += 1
        mark = scanner.peek()
        if mark == ",":
            scanner.take()
            if scanner.peek() == close:
                raise scanner.fail(f"a comma follows the last element, {index - 1}")
        elif mark != close:
            raise scanner.fail(f"after element {index - 1} a comma or {close} is due, not {mark!r}")
    scanner.take()
    if trailing := scanner.peek():
        raise scanner.fail(f"{trailing!r} follows after the end of the value")


def read_listed(
    place: Place, stream: Buffered[Any], limit: int, lists: Collection[str], around: Sequence[str] = ()
) -> Iterator[Unit]:
    """The elements of the list that an object holds under one of the keys ``lists``, each in an object of its own.

    What else the object holds stands around every one of them: ``around``, or where that is empty what stands before the
    list. Raises InputError.
    """
    scanner = _Scanner(place, stream, limit)
    scanner.take()
    index = 0
    before: list[str] = []
    while scanner.peek() != "}":
        key, key_text = scanner.value(f"key of member {len(before)}")
        if not isinstance(key, str) or scanner.take() != ":":
            raise scanner.fail(f"member {len(before)} has no key")
        if key in lists and scanner.peek() == "[":
            head = "{" + "".join(f"{member}," for member in around or before)
            for text in _listed(scanner):
                yield unit_of(index, f"{head}{key_text}:[{text}]}}".encode())
                index += 1
        else:
            before.append(f"{key_text}:{scanner.value(f'member {key!r:.40}')[1]}")
        if scanner.peek() == ",":
            scanner.take()
        elif scanner.peek() != "}":
            raise scanner.fail(f"after member {key!r:.40} a comma or }} is due")


def _listed(scanner: _Scanner) -> Iterator[str]:
    scanner.take()
    count = 0
    while scanner.peek() != "]":
        yield scanner.value(f"element {count}")[1]
        count += 1
        if scanner.peek() == ",":
            scanner.take()
        elif scanner.peek() != "]":
            raise scanner.fail(f"after element {count - 1} a comma or ] is due")
    scanner.take()


def read_object(place: Place, stream: Buffered[Any], limit: int) -> Iterator[Unit]:
    """One object: a unit, or an object of records if only its values are of a known format. Or lines, the first long.

    Of an object around a list of records (``converters.Format.LIST``), each record is a unit.
    """
    from converters import CONVERTERS, detect_format

    data = stream.read(limit + 1)
    if looks_like_lines(data.removeprefix(codecs.BOM_UTF8)):
        yield from read_lines(Buffered(_Chained(data, stream), CHUNK), limit)
        return
    if len(data) > limit:
        lists: set[str] = {module.LIST for module in CONVERTERS.values() if hasattr(module, "LIST")}
        whole = Buffered(_Chained(data, stream), CHUNK)
        if _opens_list(place, data, limit, lists):
            yield from read_listed(place, whole, limit, lists)
        elif _opens_records(place, data, limit):
            yield from read_elements(place, whole, limit, keyed=True)
        else:
            digest, size = hashlib.sha256(), 0
            while piece := whole.read(CHUNK):
                digest.update(piece)
                size += len(piece)
            yield Unit(0, data[:RAW_LIMIT], digest.hexdigest(), too_large=size)
        return
    try:
        value = json.loads(data, parse_int=_integer, strict=False)
    except json.JSONDecodeError as error:
        raise InputError(f"{place} is cut short or no JSON: {error.msg} at line {error.lineno}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{place} is not UTF-8: {error.reason}") from error
    except RecursionError as error:
        raise InputError(f"{place} is nested too deeply") from error
    found = detect_format([value])
    if found and isinstance(value.get(key := getattr(CONVERTERS[found], "LIST", "")), list):
        around = [f"{name}:{text}" for name, text in _members(place, data, limit) if json.loads(name) != key]
        yield from read_listed(place, Buffered(io.BytesIO(data)), limit, {key}, around)
        return
    values = list(value.values())
    of_records = values and all(isinstance(v, dict) for v in values) and detect_format(values[:64]) is not None
    if found is None and of_records:
        yield from read_elements(place, Buffered(io.BytesIO(data)), limit, keyed=True)
    else:
        yield unit_of(0, data.removeprefix(codecs.BOM_UTF8).strip())


def _opens_list(place: Place, data: bytes, limit: int, lists: Collection[str]) -> bool:
    """Whether the beginning of an object shows that it holds a list under one of the keys."""
    scanner = _Scanner(place, Buffered(io.BytesIO(data)), limit)
    scanner.take()
    try:
        while True:
            key, _ = scanner.value("a key")
            scanner.take()
            if key in lists:
                return scanner.peek() == "["
            scanner.value("a value")
            scanner.take()
    except InputError:
        return False


def _opens_records(place: Place, data: bytes, limit: int) -> bool:
    """Whether the beginning of an object shows nothing but objects in it."""
    scanner = _Scanner(place, Buffered(io.BytesIO(data)), limit)
    scanner.take()
    try:
        while True:
            scanner.value("a key")
            scanner.take()
            if scanner.peek() not in ("{", ""):
                return False
            scanner.value("a value")
            scanner.take()
    except InputError:
        return True


def _members(place: Place, data: bytes, limit: int) -> Iterator[tuple[str, str]]:
    """The members of an object: the texts of their keys and values."""
    scanner = _Scanner(place, Buffered(io.BytesIO(data)), limit)
    scanner.take()
    while scanner.peek() != "}":
        name = scanner.value("a key")[1]
        scanner.take()
        yield name, scanner.value("a value")[1]
        if scanner.peek() == ",":
            scanner.take()


def _integer(digits: str) -> float:
    """An integer, or infinity where Python refuses to parse one so long: only formats are told from it."""
    return int(digits) if len(digits) <= sys.int_info.default_max_str_digits else math.inf


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Chained(io.RawIOBase):
    """Bytes that were read already, then the rest of their stream."""

    def __init__(self, first: bytes, rest: IO[bytes]) -> None:
        self._first, self._rest = memoryview(first), rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = len(buffer)
        if self._first:
            piece = self._first[:size]
            self._first = self._first[size:]
        else:
            piece = memoryview(self._rest.read(size))
        buffer[: len(piece)] = piece
        return len(piece)
