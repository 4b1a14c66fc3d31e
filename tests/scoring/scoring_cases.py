"""A tiny random scorer, plain forward passes to hold it against, and small records."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers import LlamaForCausalLM

from pipeline.packaged import tokenizer_file
from pipeline.scoring import PrefixQuery, Scorer, Segment
from pipeline.tables import RECORDS
from pipeline.text import cut
from pipeline.tokenization import TextTokenizer, load_tokenizer
from tests.training.synthetic_grids import tiny_llama

VOCAB = 49_152
POSITIONS = 512


@cache
def smollm2() -> TextTokenizer:
    return load_tokenizer("smollm2")


@cache
def reference() -> LlamaForCausalLM:
    """The tiny model as transformers runs it."""
    return tiny_llama(VOCAB, POSITIONS)


def save_scorer(folder: Path) -> Path:
    """A folder with the tiny model and the packaged tokenizer."""
    reference().save_pretrained(folder)
    shutil.copy(tokenizer_file(), folder / "tokenizer.json")
    return folder


def plain_logp(model: LlamaForCausalLM, context: Sequence[int], target: Sequence[int]) -> np.ndarray:
    """log p of each target token by one causal forward pass of transformers."""
    ids = torch.tensor([[*map(int, context), *map(int, target)]])
    with torch.no_grad():
        logp = model(ids, use_cache=False).logits[0].float().log_softmax(-1).numpy()
    places = np.arange(len(context) - 1, len(context) + len(target) - 1)
    return logp[places, np.array(target, np.int64)]


def ids_of(text: str) -> list[int]:
    return smollm2().encode([text]).ids.tolist()


def chat(*messages: tuple[str, ...], then: str = "<|im_start|>assistant\n") -> list[int]:
    """ChatML ids, each text encoded by itself: (role, text, …) messages, closed, and what is opened behind them."""
    bos, eom = smollm2().bos_id, smollm2().eom_id
    out: list[int] = []
    for role, *texts in messages:
        out += [bos, *ids_of(f"{role}\n"), *(id_ for text in texts for id_ in ids_of(text)), eom, *ids_of("\n")]
    if then.startswith("<|im_start|>"):
        return [*out, bos, *ids_of(then.removeprefix("<|im_start|>"))]
    return out + ids_of(then)


def segment(role: str, text: str) -> Segment:
    return Segment(role, text, tuple(cut(text, "sentence")))


QUESTION = "The ferry to Brel leaves at nine. It costs four crowns. Dogs travel free, but bicycles do not."
ANSWER = "It leaves at nine. You pay four crowns, and nothing for the dog."


def query(question: str = QUESTION, answer: str = ANSWER, before: tuple[Segment, ...] = ()) -> PrefixQuery:
    """An answer after every number of sentences of a question."""
    asked = segment("user", question)
    at = len(before)
    prefixes = tuple((at, chunks) for chunks in range(len(asked.ends) + 1))
    return PrefixQuery((*before, asked), prefixes, (segment("assistant", answer),))


def queries() -> list[PrefixQuery]:
    """Three short ones; the last shares its beginning with the second."""
    turns = (segment("system", "Answer briefly."), segment("user", "Hello!"), segment("assistant", "Good day."))
    return [
        query(),
        query("How far is it? I walk. I am slow.", "About two hours. Take water.", turns),
        query("Is there a bus? I am tired.", "At noon.", turns),
    ]


STREAMS = {"user": "input", "system": "input", "tool": "input"}


def event(stream: int, text: str, start: int, end: int, **changes: Any) -> dict[str, Any]:
    """An event of stream ``stream``; ``message`` and ``part`` are its place in the source."""
    return {
        "stream": stream, "message": None, "part": None, "call": None, "start": start, "end": end, "kind": "message",
        "final": False, "interrupted": False, "text": text, "weight": 1.0, "time_ms": None, "after": [], "lexical": None,
        "gain": None, "judged": None, **changes,
    }  # fmt: skip


def record(
    streams: Sequence[str],
    events: Sequence[dict[str, Any]],
    *,
    id: str = "r",
    lag: int = 0,
    policy: str = "evidence",
    corpus: str = "made",
) -> dict[str, Any]:
    """A stream record; streams are named by their roles."""
    return {
        "schema": "stream-record/1", "id": id, "conversation_id": id, "group": id,
        "streams": [{"name": role, "role": role, "slot": 0, "direction": STREAMS.get(role, "output")} for role in streams],
        "clock": {"unit": "token", "tokenizer": "smollm2", "tokenizer_sha256": "", "ms_per_row": None, "lag": lag},
        "rows": max(e["end"] for e in events), "segment": {"k": 1, "n": 1}, "events": list(events),
        "alignment": {"policy": policy, "version": 1, "params": "{}"},
        "sources": [{"corpus": corpus, "path": "x", "index": 0, "format": None, "license": None, "sha256": ""}],
        "parts": [], "extra": "{}", "labels": "{}",
    }  # fmt: skip


def table(*records: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(records), RECORDS)


#: The answer's first sentence starts when the first of the question has been read, its second when all has.
EARLY = record(
    ["user", "assistant"],
    [
        event(0, "The ferry leaves at nine.", 0, 6, message=0, part=0),
        event(0, " It costs four crowns.", 6, 11, message=0, part=0, final=True),
        event(1, "It leaves at nine.", 6, 10, message=1, part=0),
        event(1, " Four crowns, please.", 11, 15, message=1, part=0, final=True),
    ],
)


def tiny_scorer(folder: Path, **options: Any) -> Scorer:
    return Scorer(str(folder), device="cpu", **options)
