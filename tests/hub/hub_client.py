"""A small build, and who pushes it as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pipeline.card import write_card
from pipeline.convert import ConvertConfig
from pipeline.shards import ShuffleConfig
from pipeline.stages.convert import convert_stage
from pipeline.stages.dataset import dataset_stage
from pipeline.stages.ingest import IngestConfig, InputSource, ingest_stage
from tests.hub.hub_state import Hub

ROOT = Path(__file__).resolve().parents[2]
REPO, WRITING, READING = "me/sums", "hf_writing0token", "hf_reading0token"


def make_build(place: Path, records: int, shard_rows: int, license: str | None = "MIT") -> Path:
    """A finished build of sums in ``place/out``, with its card."""
    place.mkdir(parents=True, exist_ok=True)
    source = place / "sums.jsonl"
    lines = (f'{{"question": "What is {i} and {7 * i}?", "answer": "#### {8 * i}"}}\n' for i in range(records))
    source.write_text("".join(lines))
    out = place / "out"
    ingest = ingest_stage(
        [InputSource(path=str(source), corpus="sums", license=license)], Path(), out / "ingest", IngestConfig()
    )
    convert = convert_stage(ingest, out / "convert", ConvertConfig(), workers=1)
    dataset_stage([convert], out / "dataset", ShuffleConfig(shard_rows=shard_rows))
    write_card(out, "Sums")
    return out


@dataclass(frozen=True)
class Client:
    """Runs commands against a Hub as a user would. ``home`` holds what ``huggingface_hub`` keeps."""

    hub: Hub
    home: Path

    def environment(self, token: str | None = WRITING) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        made = {
            "HF_ENDPOINT": self.hub.url,
            "HF_HOME": str(self.home),
            "HF_HUB_DISABLE_XET": "1" if self.hub.cas is None else "0",
            "PYTHONPATH": str(ROOT),
        }
        return {**kept, **made, **({"HF_TOKEN": token} if token else {})}

    def command(self, *arguments: str | Path) -> list[str]:
        return [sys.executable, "-m", "pipeline.cli", "push", *map(str, arguments)]

    def push(self, *arguments: str | Path, token: str | None = WRITING) -> subprocess.CompletedProcess[str]:
        command, env = self.command(*arguments), self.environment(token)
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)

    def python(self, code: str, *arguments: str | Path) -> str:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        done = subprocess.run(
            command, env=self.environment(), capture_output=True, text=True, check=False, cwd=self.home, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout
