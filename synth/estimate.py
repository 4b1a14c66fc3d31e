"""What a run would ask, without an engine: rendered prompts, tokens, and how long it would take."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import regex

from pipeline.records import Clock
from pipeline.tokenization import load_tokenizer as load_clock_tokenizer
from synth.config import SynthConfig
from synth.engines import Completion, Request
from synth.errors import SynthError
from synth.generators import Dialogue
from synth.generators.concurrent import Concurrent
from synth.generators.table import Tables
from synth.material import read_material
from synth.models import load_tokenizer, render, too_long
from synth.scenarios import load_scenarios
from synth.stage import make

#: Dialogues that are played for an estimate.
_PLAYED = 16
#: Tokens of an answer, about.
_ANSWER_TOKENS = 20
#: What the grammar of a call begins with: the tools' names.
_CALLS = re.compile(r"\^\(?(?:-\|)?\(?([a-z][a-z0-9_]*)[a-z0-9_|]*\) ")


def dry_run(config: SynthConfig, tokenizer: str = "smollm2", tokens_per_second: float | None = None) -> dict[str, Any]:
    """Requests, tokens and the first prompts as text, from up to 16 dialogues played with stand-in answers.

    ``tokens_per_second``: of the engine, for an estimate of the time. Tokens are of the model's own chat template where
    its tokenizer can be had here, else of the clock's tokenizer.

    Raises:
        SynthError: a scenario or the model's tokenizer cannot be read.
    """
    scenarios = load_scenarios(config.scenarios)
    clock = Clock(load_clock_tokenizer(tokenizer), 0)
    chat = load_tokenizer(config.model) if config.engine.kind == "vllm" else None

    def tokens(request: Request) -> int:
        if chat is not None:
            count = len(render(chat, request.messages))
            if config.engine.kind == "vllm" and (
                wrong := too_long(count, request.max_tokens, config.engine.max_model_len)
            ):
                raise SynthError(wrong)
            return count
        texts = [message.content for message in request.messages]
        return int(clock.tokenizer.encode(texts).counts.sum()) + 4 * len(texts)

    with TemporaryDirectory() as scratch:
        material = read_material(config.conversations, None, Path(scratch)) if config.conversations else None
        maker = make(config, scenarios, material, clock)
        asked: Counter[str] = Counter()
        if isinstance(maker, Tables | Concurrent):
            asked.update(maker.sample(index).scenario.name for index in range(maker.count))
        played = min(maker.count, _PLAYED)
        dialogues = []
        for index in range(played):
            drawn = maker.sample(index).scenario.scripts if isinstance(maker, Tables | Concurrent) else ("Latin",)
            dialogues.append(_play(maker.dialogue(index), tokens, drawn[0]))
    requests = sum(len(d[0]) for d in dialogues)
    prompt = sum(sum(d[0]) for d in dialogues)
    share = maker.count / played if played else 0
    completion = requests * share * _ANSWER_TOKENS
    return {
        "generator": config.generator,
        "requested": maker.count,
        "scenarios": dict(sorted(asked.items())),
        "played": played,
        "requests": round(requests * share),
        "prompt_tokens": round(prompt * share),
        "longest_prompt_tokens": max((max(d[0]) for d in dialogues if d[0]), default=0),
        "completion_tokens": round(completion),
        "judge_requests": maker.count if config.judge is not None else 0,
        "max_completion_tokens": round(requests * share) * config.max_tokens,
        "seconds": round(completion / tokens_per_second) if tokens_per_second else None,
        "first_prompt": _shown(dialogues[0][1], chat) if dialogues and dialogues[0][1] else "",
        "last_prompt": _shown(dialogues[0][2], chat) if dialogues and dialogues[0][2] else "",
    }


def _play(dialogue: Dialogue, tokens: Any, script: str) -> tuple[list[int], Request | None, Request | None]:
    lengths: list[int] = []
    first = last = None
    try:
        requests = next(dialogue)
        while True:
            lengths.extend(tokens(request) for request in requests)
            first, last = first or requests[0], requests[-1]
            requests = dialogue.send([_stand_in(r, len(lengths) + n, script) for n, r in enumerate(requests)])
    except StopIteration:
        return lengths, first, last


def _stand_in(request: Request, number: int, script: str) -> Completion:
    """Something short that no check has anything against: of a call a tool's name and a sum, else letters of the script."""
    said = {}
    for key, shape in (request.schema or {}).get("properties", {}).items():
        tool = _CALLS.match(shape.get("pattern", ""))
        said[key] = f"{tool[1]} 1 + {number}" if tool else f"{_letters(script)} {number}"
    return Completion(json.dumps(said), "stop", 0, 0)


@cache
def _letters(script: str) -> str:
    """Five letters of a Unicode script."""
    found = (chr(c) for c in range(0x41, 0x30000) if regex.match(rf"\p{{Script={script}}}", chr(c)))
    return "".join(islice((c for c in found if c.isalpha()), 5))


def _shown(request: Request, chat: Any) -> str:
    if chat is not None:
        text: str = chat.decode(render(chat, request.messages))
        return text
    return "\n".join(f"[{message.role}]\n{message.content}" for message in request.messages)
