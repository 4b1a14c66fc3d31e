"""What a run would ask, without an engine: rendered prompts, tokens, and how long it would take."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

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
#: What stands in for an answer: about as long as one is.
_WORDS = "some words of about this length"


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
        dialogues = [_play(maker.dialogue(index), tokens) for index in range(played)]
    requests = sum(len(d[0]) for d in dialogues)
    prompt = sum(sum(d[0]) for d in dialogues)
    share = maker.count / played if played else 0
    completion = requests * share * len(_WORDS.split()) * 3
    return {
        "generator": config.generator,
        "requested": maker.count,
        "scenarios": dict(sorted(asked.items())),
        "played": played,
        "requests": round(requests * share),
        "prompt_tokens": round(prompt * share),
        "longest_prompt_tokens": max((max(d[0]) for d in dialogues if d[0]), default=0),
        "completion_tokens": round(completion),
        "max_completion_tokens": round(requests * share) * config.max_tokens,
        "seconds": round(completion / tokens_per_second) if tokens_per_second else None,
        "first_prompt": _shown(dialogues[0][1], chat) if dialogues and dialogues[0][1] else "",
        "last_prompt": _shown(dialogues[0][2], chat) if dialogues and dialogues[0][2] else "",
    }


def _play(dialogue: Dialogue, tokens: Any) -> tuple[list[int], Request | None, Request | None]:
    lengths: list[int] = []
    first = last = None
    try:
        requests = next(dialogue)
        while True:
            lengths.extend(tokens(request) for request in requests)
            first, last = first or requests[0], requests[-1]
            requests = dialogue.send([_stand_in(request, len(lengths) + n) for n, request in enumerate(requests)])
    except StopIteration:
        return lengths, first, last


def _stand_in(request: Request, number: int) -> Completion:
    keys = list((request.schema or {}).get("properties", {}))
    said = dict.fromkeys(keys, f"Word {number} {_WORDS}")
    return Completion(json.dumps(said), "stop", 0, 0)


def _shown(request: Request, chat: Any) -> str:
    if chat is not None:
        text: str = chat.decode(render(chat, request.messages))
        return text
    return "\n".join(f"[{message.role}]\n{message.content}" for message in request.messages)
