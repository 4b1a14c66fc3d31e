"""An engine that says what a script has it say: of good or bad quality, written by us."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Generator, Sequence
from typing import Any

from synth.engines import Completion, Request

#: What to answer a request with: text, or a whole completion.
Script = Callable[[Request], str | Completion]


class ScriptedEngine:
    """Answers request after request by its script; ``batches`` and ``requests`` keep what was asked."""

    def __init__(self, script: Script | Sequence[str]) -> None:
        texts = iter(script if not callable(script) else ())
        self._script: Script = script if callable(script) else lambda _: next(texts)
        self.batches: list[int] = []
        self.requests: list[Request] = []

    def answers(self, requests: Sequence[Request]) -> Generator[tuple[int, Completion], None, None]:
        self.batches.append(len(requests))
        self.requests.extend(requests)
        for place, request in enumerate(requests):
            said = self._script(request)
            yield place, said if isinstance(said, Completion) else Completion(said, "stop", 10, 5)

    def identity(self) -> dict[str, Any]:
        return {"engine": "scripted"}

    def describe(self) -> dict[str, Any]:
        return {"engine": "scripted", "version": "1", "deterministic": True}

    def close(self) -> None:
        pass


_WORDS = """
amber apple arrow autumn barley basket beacon birch bottle branch bread bridge bright candle canyon carpet castle
cedar chapel cherry cliff clover copper corner cotton cradle creek crystal dapple dawn desert dragon eagle ember
falcon feather fern field flame forest fountain garden ginger glacier grove harbor harvest hazel hollow honey island
ivory jasper kettle ladder lagoon lantern lemon lily linen magnet maple marble meadow melon mirror morning mountain
needle oasis ocean olive orchard paper pebble pepper pillow pine planet plum pocket pond quarry rabbit ribbon river
saddle saffron silver thistle
"""
WORDS = _WORDS.split()


def speak(body: dict[str, Any]) -> str:
    """A few words that nobody else says, by the hash of what was asked; a call names one of the scenario's tools."""
    draw = random.Random(hashlib.sha256(json.dumps(body["messages"]).encode()).digest())
    words = " ".join(draw.sample(WORDS, 5))
    cast = body["messages"][0]["content"]
    if "You are the stream call:" in cast:
        tools = re.findall(r"^Tool (\w+):", cast, re.MULTILINE)
        words = f"{tools[0]} {words}" if tools[0] != "calculator" else f"calculator {draw.randint(2, 99)} + 7"
    return json.dumps({"say": words})
