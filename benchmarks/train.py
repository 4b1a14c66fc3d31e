"""Training speed: multi-stream training against what one would do instead, with the same model on the same tokens.

    OMP_NUM_THREADS=2 .venv/bin/python benchmarks/train.py [--model smollm2 | --shape tiny|smollm2|llama-3.1-8b] [--cells N]
        [--steps N] [--repeat N] [--device cpu|cuda] [--lora-rank N] [--save FILE]

Two comparisons, arms taken in turns, each in a process of its own, medians of the steps after the first ``--warm-up``:

* chat text (``--corpus`` under ``auto`` alignment): ours (``pipeline.training.loop.train``, silence sampled) against
  single-stream packed SFT of the same tokens by TRL's ``SFTTrainer`` (``packing=True``). Goal: at least 0.9 of its tokens/s;
* ten streams (synthetic grids, ``--spoken`` of the cells speak): ours against the dense grid of the paper's sections 5 to 7,
  written anew here: every silent cell is a token of the sequence, and an N×N float mask goes to SDPA. Goal: at least 4 times.

Told: spoken tokens per second, peak memory (resident on the CPU, allocated on CUDA), and on CUDA the model FLOPs utilization
(6 · parameters · tokens + attention, against ``--peak-flops``).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import corpus  # noqa: E402
from pipeline.tables import LOSS_TARGET, TOKENS, TOKENS_SCHEMA_ID  # noqa: E402

#: Shapes of public models (their config.json), for random weights.
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "vocab_size": 49152, "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 6,
        "num_attention_heads": 3, "num_key_value_heads": 3, "tie_word_embeddings": True,
    },
    "smollm2": {
        "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True, "rope_theta": 100_000.0,
    },
    "llama-3.1-8b": {
        "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False, "rope_theta": 500_000.0,
    },
}  # fmt: skip
STREAMS, ROWS = 10, 200
BOS, EOM, SILENCE = 1, 2, 0


def main() -> None:
    """Parses the command line; measures all arms, or the one that ``--arm`` names in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None, help="smollm2 or a folder")
    parser.add_argument(
        "--shape", choices=sorted(SHAPES), default="tiny", help="random weights, where no --model is given"
    )
    parser.add_argument("--corpus", default="sharegpt-glaive-toolcall")
    parser.add_argument("--spoken", type=float, default=0.2, help="share of the cells of ten streams that speak")
    parser.add_argument("--cells", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--lora-rank", type=int, default=0)
    parser.add_argument("--peak-flops", type=float, default=989e12, help="H100 and H200, bfloat16, dense")
    parser.add_argument("--arm", choices=sorted(ARMS))
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    if args.arm:
        print(json.dumps(ARMS[args.arm](args)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        args.folder = Path(scratch)
        prepare(args)
        rows = compare(args)
    if args.save:
        result = {**corpus.machine("benchmarks/train.py " + " ".join(sys.argv[1:])), **described(args), "rows": rows}
        args.save.write_text(json.dumps(result, indent=1) + "\n")


def described(args: argparse.Namespace) -> dict[str, Any]:
    """What is not in the command line."""
    from importlib.metadata import version

    import torch

    device = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return {"device": device, "packages": {n: version(n) for n in ("torch", "transformers", "trl", "accelerate")}}


# ------------------------------------------------------------------------------------------------------------------ data


def prepare(args: argparse.Namespace) -> None:
    """The model (random weights, unless one is named) and both data sets, on disk."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    if args.model is None:
        torch.manual_seed(0)
        config = LlamaConfig(**SHAPES[args.shape], max_position_embeddings=131_072)
        with torch.device("cuda" if args.device == "cuda" else "cpu"):
            model = LlamaForCausalLM._from_config(
                config, dtype=torch.bfloat16 if args.device == "cuda" else torch.float32
            )
        model.save_pretrained(args.folder / "model")
    corpus.convert(corpus.CORPORA / args.corpus, args.folder / "chat", "auto")
    ten_streams(args.folder / "ten", args.spoken)


def ten_streams(folder: Path, spoken: float, records: int = 400) -> None:
    """Grids of one input and nine output streams, ``ROWS`` rows; streams speak in runs of 12 tokens, ended by EOM."""
    rng = np.random.default_rng(0)
    streams = [{"name": "user", "role": "user", "slot": 0, "direction": "input"}]
    streams += [{"name": f"s{i}", "role": f"s{i}", "slot": 0, "direction": "output"} for i in range(1, STREAMS)]
    run = 12
    rows = []
    for number in range(records):
        speaks = np.repeat(rng.random((-(-ROWS // run), STREAMS)) < spoken, run, axis=0)[:ROWS]
        row, stream = np.nonzero(speaks)
        token = rng.integers(3, 1000, len(row)).astype(np.int32)
        token[row % run == run - 1] = EOM
        rows.append(
            {
                "id": str(number), "conversation_id": str(number), "group": str(number), "rows": ROWS, "streams": streams,
                "token_ids": token, "token_rows": row.astype(np.int32), "token_streams": stream.astype(np.uint8),
                "token_loss": np.where(stream > 0, LOSS_TARGET, 0).astype(np.uint8),
            }
        )  # fmt: skip
    grid = {
        "schema": TOKENS_SCHEMA_ID, "tokenizer": "benchmark", "tokenizer_sha256": "0" * 64, "vocab_size": 1000,
        "bos_id": BOS, "eom_id": EOM, "silence_id": SILENCE, "lag": 0,
    }  # fmt: skip
    (folder / "train").mkdir(parents=True)
    schema = TOKENS.with_metadata({b"token_grid": json.dumps(grid).encode()})
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "train" / "tokens-00000.parquet")


# ------------------------------------------------------------------------------------------------------------------ arms


def ours(args: argparse.Namespace, data: Path) -> dict[str, Any]:
    """``pipeline.training.loop.train`` as it is; tokens/s as its log has them."""
    from pipeline.training.loop import TrainConfig, train

    config = TrainConfig(
        steps=args.steps + args.warm_up, packs_per_step=1, max_cells=args.cells, device=args.device,
        lora_rank=args.lora_rank, gradient_checkpointing=args.lora_rank > 0,
    )  # fmt: skip
    result = train(data, model_folder(args), args.folder / f"checkpoint-{os.getpid()}", config)
    return told(args, [(step.tokens_per_second, 0.0) for step in result.log])


def sft(args: argparse.Namespace) -> dict[str, Any]:
    """TRL's SFTTrainer, packed, on the spoken tokens of the same records, one stream after the other."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    from pipeline.models import resolve_model

    table = pq.read_table(next((args.folder / "chat" / "dataset" / "train").glob("tokens-*.parquet")))
    marks: list[float] = []

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            marks.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append(time.perf_counter())

    sizes: list[int] = []

    class Counted(SFTTrainer):
        def training_step(self, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
            sizes.append(int(inputs["input_ids"].numel()))
            return super().training_step(model, inputs, *rest, **more)  # type: ignore[no-untyped-call]

    model = AutoModelForCausalLM.from_pretrained(model_folder(args), dtype=torch.float32)
    settings = SFTConfig(
        output_dir=str(args.folder / "trl"), max_steps=args.steps + args.warm_up, per_device_train_batch_size=1,
        max_length=args.cells, packing=True, learning_rate=1e-5, use_cpu=args.device == "cpu", bf16=args.device == "cuda",
        report_to=[], save_strategy="no", disable_tqdm=True, logging_steps=1000, gradient_checkpointing=args.lora_rank > 0,
        dataloader_pin_memory=False,
    )  # fmt: skip
    lora = None
    if args.lora_rank:
        from peft import LoraConfig

        lora = LoraConfig(r=args.lora_rank, lora_alpha=2 * args.lora_rank, target_modules="all-linear")
    # Token ids are given; the tokenizer is only what the trainer asks for.
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("smollm2"), gguf_file=gguf_of(resolve_model("smollm2")))
    trainer = Counted(
        model=model, args=settings, train_dataset=Dataset.from_dict({"input_ids": table.column("token_ids").to_pylist()}),
        processing_class=tokenizer, callbacks=[Watch()], peft_config=lora,
    )  # fmt: skip
    trainer.train()
    seconds = [end - start for start, end in zip(marks[::2], marks[1::2], strict=True)]
    return told(args, [(size / s, s) for size, s in zip(sizes, seconds, strict=True)])


def dense(args: argparse.Namespace) -> dict[str, Any]:
    """The dense grid: each of the R × 10 cells a token, silence too; an N×N float mask; a target per output cell."""
    import torch
    from transformers import AutoModelForCausalLM

    from pipeline.training.grid import iter_grids
    from pipeline.training.model import StreamEmbedding

    model = AutoModelForCausalLM.from_pretrained(model_folder(args), dtype=torch.float32, attn_implementation="sdpa")
    model.to(args.device).train()
    embedding = StreamEmbedding(STREAMS, model.config.hidden_size).to(args.device)
    optimizer = torch.optim.AdamW([*model.parameters(), *embedding.parameters()], lr=1e-5)
    marks = []
    grids = iter_grids([args.folder / "ten" / "train" / "tokens-00000.parquet"])
    rows = max(args.cells // STREAMS, 2)
    for _, grid in zip(range(args.steps + args.warm_up), grids, strict=False):
        started = time.perf_counter()
        keep = grid.token_rows < rows
        cells = np.full((min(rows, grid.rows), STREAMS), SILENCE, np.int64)
        cells[grid.token_rows[keep], grid.token_streams[keep]] = grid.token_ids[keep]
        row = torch.from_numpy(np.repeat(np.arange(len(cells)), STREAMS)).to(args.device)
        token = torch.from_numpy(cells.reshape(-1)).to(args.device)
        stream = torch.arange(STREAMS, device=args.device).repeat(len(cells)) + 1
        target = torch.roll(token, -STREAMS)
        target[-STREAMS:] = -100
        target[stream == 1] = -100
        visible = (row[None, :] < row[:, None]) | torch.eye(len(row), dtype=torch.bool, device=args.device)
        mask = torch.zeros(len(row), len(row), device=args.device).masked_fill_(
            ~visible, torch.finfo(torch.float32).min
        )
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(args.device, torch.bfloat16, enabled=args.device == "cuda"):
            embeds = model.get_input_embeddings()(token) + embedding(stream, torch.zeros_like(stream))
            logits = model(
                inputs_embeds=embeds[None], attention_mask=mask[None, None], position_ids=row[None], use_cache=False
            ).logits[0]
            loss = torch.nn.functional.cross_entropy(logits.float(), target)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if args.device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        marks.append((int(keep.sum()) / seconds, seconds))
    return told(args, marks)


ARMS = {
    "chat ours": lambda args: ours(args, args.folder / "chat"),
    "chat sft": sft,
    "ten ours": lambda args: ours(args, args.folder / "ten"),
    "ten dense": dense,
}
PAIRS = (("chat ours", "chat sft", 0.9), ("ten ours", "ten dense", 4.0))


def model_folder(args: argparse.Namespace) -> Path:
    """The model of all arms: as it was made by ``prepare``, or the one that is named."""
    from pipeline.models import resolve_model

    return args.folder / "model" if args.model is None else resolve_model(args.model)


def gguf_of(folder: Path) -> str | None:
    """The one GGUF file of a folder without a tokenizer of its own."""
    files = sorted(folder.glob("*.gguf"))
    return files[0].name if files and not (folder / "tokenizer.json").is_file() else None


def told(args: argparse.Namespace, steps: list[tuple[float, float]]) -> dict[str, Any]:
    """Tokens per second after the warm-up, and the peak memory of this process in MiB."""
    import torch

    rates = [rate for rate, _ in steps[args.warm_up :]]
    peak = peak_resident_mib()
    if args.device == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    return {"tokens_per_second": round(median(rates), 1), "peak_mib": round(peak), "steps": len(rates)}


def peak_resident_mib() -> float:
    """The most memory that this program had resident since it was started (Linux).

    ``ru_maxrss`` would be at least that of the process that started it.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


# ------------------------------------------------------------------------------------------------------------ comparison


def compare(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every pair of arms, in turns."""
    rows = []
    for left, right, goal in PAIRS:
        runs: dict[str, list[dict[str, Any]]] = {left: [], right: []}
        for number in range(args.repeat):
            for arm in (left, right) if number % 2 == 0 else (right, left):
                runs[arm].append(measured(arm, args))
        rates = {arm: median(run["tokens_per_second"] for run in found) for arm, found in runs.items()}
        ratios = [a["tokens_per_second"] / b["tokens_per_second"] for a, b in zip(runs[left], runs[right], strict=True)]
        row = {
            "arms": [left, right],
            "tokens_per_second": rates,
            "ratio": round(median(ratios), 3),
            "ratios": [round(r, 3) for r in ratios],
            "goal": goal,
            "peak_mib": {arm: max(run["peak_mib"] for run in found) for arm, found in runs.items()},
        }
        if args.device == "cuda":
            row["mfu"] = {arm: round(rate * flops_per_token(args) / args.peak_flops, 3) for arm, rate in rates.items()}
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def flops_per_token(args: argparse.Namespace) -> float:
    """Forward and backward of one token: 6 per weight that is multiplied (4 where frozen), 12 · L · H per key seen, halved."""
    shape = SHAPES[args.shape]
    hidden, layers = shape["hidden_size"], shape["num_hidden_layers"]
    head = hidden // shape["num_attention_heads"]
    attention = hidden * (2 * hidden + 2 * head * shape["num_key_value_heads"])
    weights = layers * (attention + 3 * hidden * shape["intermediate_size"]) + hidden * shape["vocab_size"]
    return float((4 if args.lora_rank else 6) * weights + 6 * layers * hidden * args.cells)


def measured(arm: str, args: argparse.Namespace) -> dict[str, Any]:
    """One arm in a process of its own."""
    command = [
        sys.executable, str(Path(__file__).resolve()), "--arm", arm, "--folder", str(args.folder), "--cells", str(args.cells),
        "--steps", str(args.steps), "--warm-up", str(args.warm_up), "--device", args.device, "--shape", args.shape,
        "--lora-rank", str(args.lora_rank), *(["--model", args.model] if args.model else []),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{arm}: {done.stderr.strip()[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
