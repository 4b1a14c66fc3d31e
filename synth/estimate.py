"""What a run would ask, without an engine: rendered prompts, tokens, and how long it would take."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import regex

import synth.judge as judge
from pipeline.records import Clock, Document, build_tables, encode_spans, to_json
from pipeline.tokenization import load_tokenizer as load_clock_tokenizer
from synth.config import SynthConfig
from synth.engines import Completion, Request
from synth.errors import SynthError
from synth.finish import Placed
from synth.generators import Dialogue, Outcome, Written
from synth.generators.concurrent import Concurrent
from synth.generators.table import Tables
from synth.making import make
from synth.material import read_material
from synth.models import load_tokenizer, render, too_long
from synth.scenarios import load_scenarios

#: Dialogues that are played for an estimate.
_PLAYED = 16
#: Tokens of an answer with one text, and of a verdict, about; of a table those of a row, of a silent cell (its key and a
#: sign), and of one that speaks.
_ANSWER_TOKENS, _VERDICT_TOKENS = 20, 120
_ROW_TOKENS, _SILENT_TOKENS, _SPEAKING_TOKENS = 3, 4, 14
#: What the grammar of a call begins with: the tools' names.
_CALLS = re.compile(r"\^\(?(?:-\|)?\(?([a-z][a-z0-9_]*)[a-z0-9_|]*\) ")


def dry_run(config: SynthConfig, tokenizer: str = "smollm2", tokens_per_second: float | None = None) -> dict[str, Any]:
    """Requests, tokens and the first prompts as text, from up to 16 dialogues played with stand-in answers.

    The judge counts for itself, as if all dialogues came before it; ``seconds`` are those of both.

    ``tokens_per_second``: of the engine, for an estimate of the time. Tokens are of the model's own chat template where
    its tokenizer can be had here, else of the clock's tokenizer.

    Raises:
        SynthError: a scenario or the model's tokenizer cannot be read.
    """
    scenarios = load_scenarios(config.scenarios)
    clock = Clock(load_clock_tokenizer(tokenizer), 0)
    chat = load_tokenizer(config.model) if config.engine.kind == "vllm" else None

    def length(request: Request) -> int:
        if chat is not None:
            return len(render(chat, request.messages))
        texts = [message.content for message in request.messages]
        return int(clock.tokenizer.encode(texts).counts.sum()) + 4 * len(texts)

    def tokens(request: Request) -> int:
        prompt = length(request)
        if config.engine.kind == "vllm" and (
            wrong := too_long(prompt, request.max_tokens, config.engine.max_model_len)
        ):
            raise SynthError(wrong)
        return prompt

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
    requests = sum(len(d.prompts) for d in dialogues)
    longest = max((max(d.prompts) for d in dialogues if d.prompts), default=0)
    share = maker.count / played if played else 0
    completion = round(sum(d.answers for d in dialogues) * share)
    verdicts = maker.count if config.judge is not None else 0
    judging = [length(request) for request in _verdicts(dialogues, config, clock)] if verdicts else []
    judged = verdicts * _VERDICT_TOKENS
    return {
        "generator": config.generator,
        "requested": maker.count,
        "scenarios": dict(sorted(asked.items())),
        "played": played,
        "requests": round(requests * share),
        "prompt_tokens": round(sum(sum(d.prompts) for d in dialogues) * share),
        "longest_prompt_tokens": longest,
        "completion_tokens": completion,
        "judge_requests": verdicts,
        "judge_prompt_tokens": round(verdicts * (sum(judging) / len(judging) if judging else longest)),
        "judge_completion_tokens": judged,
        "max_completion_tokens": round(requests * share) * config.max_tokens,
        "seconds": round((completion + judged) / tokens_per_second) if tokens_per_second else None,
        "first_prompt": _shown(dialogues[0].first, chat) if dialogues and dialogues[0].first else "",
        "last_prompt": _shown(dialogues[0].last, chat) if dialogues and dialogues[0].last else "",
    }


@dataclass(slots=True)
class _Played:
    """A dialogue with stand-in answers: the lengths of its prompts, the length of all its answers, its first and last
    request, and what became of it."""

    prompts: list[int] = field(default_factory=list)
    answers: int = 0
    first: Request | None = None
    last: Request | None = None
    outcome: Outcome | None = None


def _play(dialogue: Dialogue, tokens: Callable[[Request], int], script: str) -> _Played:
    played = _Played()
    try:
        requests = next(dialogue)
        while True:
            played.prompts.extend(tokens(request) for request in requests)
            played.answers += sum(min(_answer_tokens(request), request.max_tokens) for request in requests)
            played.first, played.last = played.first or requests[0], requests[-1]
            requests = dialogue.send([_stand_in(r, len(played.prompts) + n, script) for n, r in enumerate(requests)])
    except StopIteration as stop:
        played.outcome = stop.value
        return played


def _answer_tokens(request: Request) -> int:
    """About how long the answer is: of a table by its rows and by who speaks in them; without a score half of them do."""
    rows = (request.schema or {}).get("properties", {}).get("rows")
    if rows is None:
        return _ANSWER_TOKENS
    silent = speaking = 0.0
    for row in _rows(rows):
        shapes = list(row["properties"].values())
        held = [shape for shape in shapes if "const" in shape or "prefixItems" in rows]
        quiet = sum("const" in shape for shape in held) + (len(shapes) - len(held)) / 2
        silent, speaking = silent + quiet, speaking + len(shapes) - quiet
    return round(_ROW_TOKENS * len(_rows(rows)) + _SILENT_TOKENS * silent + _SPEAKING_TOKENS * speaking)


def _rows(rows: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The shapes of a table's rows; of a range of numbers of rows the middle."""
    return rows.get("prefixItems") or [rows["items"]] * ((rows["minItems"] + rows["maxItems"]) // 2)


def _verdicts(dialogues: Sequence[_Played], config: SynthConfig, clock: Clock) -> list[Request]:
    """What the judge is asked of those dialogues that came to something."""
    documents = [
        Document(one.conversation, one.timeline, Placed(one.policy, one.params), ordinal=0, labels=one.labels)
        for one in (played.outcome for played in dialogues)
        if isinstance(one, Written)
    ]
    if not documents:
        return []
    encoded, first = encode_spans([document.timeline for document in documents], clock.tokenizer)
    records = to_json(build_tables(documents, clock, encoded, first).records)
    return [judge.request(record, config) for record in records]


def _stand_in(request: Request, number: int, script: str) -> Completion:
    """Something short that no check has anything against, each time something else."""
    return Completion(json.dumps(_filled(dict(request.schema or {}), count(1000 * number), script)), "stop", 0, 0)


def _filled(shape: Mapping[str, Any], numbers: Iterator[int], script: str) -> Any:
    """A value of a schema: of a call a tool's name and a sum, else letters of the script."""
    if "const" in shape:
        return shape["const"]
    if "properties" in shape:
        return {key: _filled(inner, numbers, script) for key, inner in shape["properties"].items()}
    if "items" in shape:
        return [_filled(row, numbers, script) for row in _rows(shape)]
    tool = _CALLS.match(shape.get("pattern", ""))
    return f"{tool[1]} 1 + {next(numbers)}" if tool else f"{_letters(script)} {next(numbers)}"


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
