"""What the synthesizer costs beside the model, and how much of its prompts vLLM has kept.

    .venv/bin/python benchmarks/synth.py [--generators table concurrent] [--samples N] [--max-tokens N] [--save FILE]

*Overhead*: completion tokens per second of a whole run (prompts, engine, checks, records, files; loading the model not
included) over those of a bare ``vllm.LLM.generate`` over the same prompts, sampling and batches, in the same process, on the
same loaded model, with the prefix cache emptied before each. The two are run in turn, ``--repeat`` times after one time
that does not count (grammars are compiled once); the ratio is of the medians (goal: at least 0.95).

*Prefix-cache hits* of ``concurrent``, from a stream's second request on: tokens that vLLM did not compute again, over those
that it could have kept: what a prompt has in common with the stream's former prompt and answer, in whole blocks (goal: at
least 0.8).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import corpus  # noqa: E402
from synth.config import SynthConfig  # noqa: E402
from synth.engines import Completion, Request  # noqa: E402
from synth.engines.vllm_engine import VllmEngine  # noqa: E402
from synth.models import load_tokenizer, render  # noqa: E402
from synth.stage import synthesize_stage  # noqa: E402

SCENARIOS = str(ROOT / "examples" / "scenarios" / "*.yaml")


@dataclass
class Recorder:
    """The engine, with every batch and its completions kept."""

    engine: VllmEngine
    batches: list[list[Request]] = field(default_factory=list)
    completions: list[list[Completion]] = field(default_factory=list)

    def answers(self, requests: Sequence[Request]) -> Generator[tuple[int, Completion], None, None]:
        """Passes on."""
        told: dict[int, Completion] = {}
        for place, completion in self.engine.answers(requests):
            told[place] = completion
            yield place, completion
        self.batches.append(list(requests))
        self.completions.append([told[place] for place in range(len(requests))])

    def identity(self) -> dict[str, Any]:
        """Passes on."""
        return self.engine.identity()

    def describe(self) -> dict[str, Any]:
        """Passes on."""
        return self.engine.describe()

    def close(self) -> None:
        """Nothing: the engine is used again."""


def bare(engine: VllmEngine, batches: Sequence[Sequence[Request]], tokenizer: Any) -> tuple[int, float]:
    """Completion tokens and seconds of ``LLM.generate`` over the same prompts, already rendered."""
    from vllm import SamplingParams, TokensPrompt
    from vllm.sampling_params import StructuredOutputsParams

    llm = engine._llm
    assert llm is not None
    prompts = [[TokensPrompt(prompt_token_ids=render(tokenizer, r.messages)) for r in batch] for batch in batches]
    sampling = [
        [
            SamplingParams(
                temperature=r.temperature,
                top_p=r.top_p,
                max_tokens=r.max_tokens,
                seed=r.seed,
                structured_outputs=StructuredOutputsParams(json=dict(r.schema)) if r.schema else None,
            )
            for r in batch
        ]
        for batch in batches
    ]
    llm.reset_prefix_cache()
    started, tokens = time.perf_counter(), 0
    for ids, how in zip(prompts, sampling, strict=True):
        for output in llm.generate(ids, how, use_tqdm=False):
            tokens += len(output.outputs[0].token_ids)
    return tokens, time.perf_counter() - started


def hits(recorder: Recorder, tokenizer: Any, block: int) -> dict[str, Any]:
    """Cached and reusable prompt tokens of requests that continue another one's messages."""
    known: dict[tuple[Any, ...], list[int]] = {}
    reusable = cached = prompt = continued = 0
    for batch, completions in zip(recorder.batches, recorder.completions, strict=True):
        new: dict[tuple[Any, ...], list[int]] = {}
        for request, completion in zip(batch, completions, strict=True):
            ids = render(tokenizer, request.messages)
            before = known.get(request.messages[:-2])
            if before is not None:
                same = next((i for i, (a, b) in enumerate(zip(ids, before, strict=False)) if a != b), len(before))
                reusable += same // block * block
                cached += completion.cached_tokens
                prompt += len(ids)
                continued += 1
            new[request.messages] = ids + tokenizer(completion.text, add_special_tokens=False)["input_ids"]
        known |= new
    share = round(cached / reusable, 4) if reusable else None
    return {
        "continued_requests": continued, "prompt_tokens": prompt, "reusable_tokens": reusable, "cached_tokens": cached,
        "hit_rate": share, "block": block,
    }  # fmt: skip


def measure(generator: str, args: argparse.Namespace, engine: VllmEngine, tokenizer: Any) -> dict[str, Any]:
    """The figures of one generator."""
    config = SynthConfig.model_validate(
        {
            "generator": generator, "scenarios": [SCENARIOS], "samples": args.samples, "max_tokens": args.max_tokens,
            "batch_size": args.batch, "temperature": 1.0,
        }
    )  # fmt: skip
    ours: list[float] = []
    theirs: list[float] = []
    found: dict[str, Any] = {}
    for time_ in range(args.repeat + 1):
        recorder = Recorder(engine)
        assert engine._llm is not None
        engine._llm.reset_prefix_cache()
        with tempfile.TemporaryDirectory() as scratch:
            started = time.perf_counter()
            result = synthesize_stage(config, Path(scratch), engine=recorder)
            seconds = time.perf_counter() - started
        counters = result.manifest.counters
        ours.append(counters["completion_tokens"] / seconds)
        tokens, bare_seconds = bare(engine, recorder.batches, tokenizer)
        theirs.append(tokens / bare_seconds)
        found = {k: counters[k] for k in ("in", "out", "requests", "prompt_tokens", "completion_tokens")}
        found["reject_reasons"] = counters["reject_reasons"]
        if generator == "concurrent":
            vllm_config = engine._llm.llm_engine.vllm_config
            found["prefix_cache"] = hits(recorder, tokenizer, vllm_config.cache_config.block_size)
        print(generator, round(ours[-1], 1), round(theirs[-1], 1), file=sys.stderr)
        if not time_:
            ours, theirs = [], []
    return {
        "generator": generator,
        **found,
        "tokens_per_second": [round(v, 1) for v in ours],
        "bare_tokens_per_second": [round(v, 1) for v in theirs],
        "ratio": round(statistics.median(ours) / statistics.median(theirs), 4),
    }


def main() -> None:
    """Parses the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generators", nargs="+", default=["table", "concurrent"])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=800)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    tokenizer = load_tokenizer(args.model)
    with VllmEngine(args.model, batch_size=args.batch) as engine:
        rows = [measure(generator, args, engine, tokenizer) for generator in args.generators]
        described = engine.describe()
    result = {**corpus.machine("benchmarks/synth.py " + " ".join(sys.argv[1:])), "engine": described, "rows": rows}
    print(json.dumps(result, indent=1))
    if args.save:
        args.save.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
