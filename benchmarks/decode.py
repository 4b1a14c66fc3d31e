"""Time of a row of decoding with 1, 2, 4 and 10 output streams that all speak, on random weights of public shapes.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/decode.py [--shape tiny|smollm2|llama-3.1-8b] [--rows N] [--context CELLS]
        [--dialogues N] [--device cpu|cuda] [--repeat N] [--save FILE]

Every dialogue first reads ``--context`` cells of its user in one pass, then ``--rows`` rows pass, at each of which every output
stream says a token (silence is forbidden), so that the cache grows by the number of streams per row. The arms are taken in
turns, ``--repeat`` times. ``milliseconds`` is the median over rows, with quartiles; ``ratio`` is against one stream (goal on a
GPU, for ten: at most 1.25). float32 on the CPU, bfloat16 on CUDA. With one thread on the CPU seconds are those of the
processor, so that what else the machine does matters little; else those of the clock.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import corpus  # noqa: E402
from benchmarks.train import SHAPES  # noqa: E402
from pipeline.decoding import Decoder, Sampling  # noqa: E402
from pipeline.tables import TOKENS_SCHEMA_ID  # noqa: E402
from pipeline.training.grid import GridMetadata, Stream  # noqa: E402
from pipeline.training.model import MultistreamModel  # noqa: E402

STREAMS = (1, 2, 4, 10)
SILENCE, BOS, EOM = 0, 1, 2
WARM_UP = 4


def random_model(shape: str, device: torch.device) -> MultistreamModel:
    """Random weights; positions for every context that is asked for here."""
    torch.manual_seed(0)
    config = LlamaConfig(**SHAPES[shape], max_position_embeddings=131_072)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with device:
        llama = LlamaForCausalLM._from_config(config, dtype=dtype, attn_implementation="sdpa")
    model = MultistreamModel(llama, ("user", "assistant"))
    model.streams.to(device, dtype)
    return model.eval()


def row_seconds(model: MultistreamModel, outputs: int, args: argparse.Namespace) -> tuple[list[float], int]:
    """Seconds of every row but the first ``WARM_UP``, and the cells in the cache at the end."""
    vocabulary = int(model.causal_lm.config.vocab_size)
    metadata = GridMetadata(TOKENS_SCHEMA_ID, "random", "", vocabulary, BOS, EOM, SILENCE, 0)
    streams = (
        Stream("user", "user", 0, "input"),
        *(Stream(f"assistant/{i}", "assistant", i, "output") for i in range(outputs)),
    )
    never_silent = Sampling(silence_bias=-1e9)
    decoder = Decoder(model, metadata, "same_row", [streams] * args.dialogues, sampling=never_silent)
    tokens = np.random.default_rng(0).integers(EOM + 1, vocabulary, args.context).tolist()
    for dialogue in range(args.dialogues):
        decoder.prefill(dialogue, [{0: token} for token in tokens])
    nothing: list[dict[int, int]] = [{}] * args.dialogues
    seconds = []
    for _ in range(WARM_UP + args.rows):
        started = clock(model.device)
        decoder.step(nothing)
        seconds.append(clock(model.device) - started)
    cells = int(decoder.cache.lengths[0])
    assert cells == 1 + args.context + (WARM_UP + args.rows) * outputs, "a stream was silent"
    return seconds[WARM_UP:], cells


def clock(device: torch.device) -> float:
    """Seconds: of the clock once a GPU is done, of the processor where one thread of a CPU computes."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """All arms, in turns."""
    model = random_model(args.shape, torch.device(args.device))
    seconds: dict[int, list[float]] = {outputs: [] for outputs in STREAMS}
    cells: dict[int, int] = {}
    for _ in range(args.repeat):
        for outputs in STREAMS:
            taken, cells[outputs] = row_seconds(model, outputs, args)
            seconds[outputs] += taken
    one = float(np.median(seconds[1]))
    rows = []
    for outputs in STREAMS:
        low, middle, high = np.quantile(seconds[outputs], (0.25, 0.5, 0.75)) * 1e3
        rows.append(
            {
                "output_streams": outputs,
                "milliseconds": round(middle, 3),
                "quartiles": [round(low, 3), round(high, 3)],
                "ratio": round(middle / 1e3 / one, 3),
                "tokens_per_second": round(outputs * args.dialogues / middle * 1e3, 1),
                "cells_in_the_cache": cells[outputs],
            }
        )
    return rows


def main() -> None:
    """Parses the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="tiny")
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--context", type=int, default=1024, help="cells that were read before")
    parser.add_argument("--dialogues", type=int, default=1, help="dialogues side by side")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    on_gpu = args.device.startswith("cuda")
    result = {
        **corpus.machine("benchmarks/decode.py " + " ".join(sys.argv[1:])),
        "device": torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads",
        "packages": {name: version(name) for name in ("torch", "transformers")},
        "shape": args.shape,
        "context": args.context,
        "dialogues": args.dialogues,
        "rows": args.rows * args.repeat,
        "goal": "ratio of 10 streams <= 1.25 on a GPU",
        "streams": measure(args),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if args.save:
        args.save.write_text(text + "\n")


if __name__ == "__main__":
    main()
