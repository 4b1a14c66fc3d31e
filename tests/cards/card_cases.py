"""Small data sets with sources, licences and names of our choice."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.convert import ConvertConfig
from pipeline.shards import ShuffleConfig
from pipeline.stages.convert import convert_stage
from pipeline.stages.dataset import dataset_stage
from pipeline.stages.ingest import IngestConfig, InputSource, ingest_stage

#: What breaks tables, code spans, front matter, HTML and terminals.
HOSTILE = "a|b `c` <script>alert(1)</script> [x](y) **z** \x1b[31m\n---\n{{ title }} \u202eabc"


def put(folder: Path, name: str, count: int, spoiled: bool = True, **extra: object) -> Path:
    """A file of tool conversations; the results come while the calls are spoken. ``spoiled``: with a line that is no JSON."""
    lines = []
    for i in range(count):
        calls = [
            {"id": c, "type": "function", "function": {"name": "look", "arguments": json.dumps({"place": f"{c}{i}"})}}
            for c in "ab"
        ]
        messages = [
            {"role": "user", "content": f"How is the weather in town {i} of {name}, and in the next one?"},
            {"role": "assistant", "content": "I look.", "tool_calls": calls},
            {"role": "tool", "tool_call_id": "a", "content": f"{i} degrees, rain from the west until the evening"},
            {"role": "tool", "tool_call_id": "b", "content": f"{i + 40} degrees and dry"},
            {"role": "assistant", "content": f"It has {i} degrees here and {i + 40} there."},
        ]
        lines.append(json.dumps({"messages": messages, **extra}) + "\n")
    path = folder / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines) + ("no json\n" if spoiled else ""))
    return path


def build(
    out: Path,
    licenses: Mapping[str, str | None],
    count: int = 12,
    spoiled: bool = True,
    lost: Sequence[str] = (),
    **extra: object,
) -> Path:
    """The build of a corpus per name, each with its licence; some of it is rejected, of those that are ``lost`` all."""
    sources = [
        InputSource(
            path=str(put(out.parent / "inputs", f"in{i}", 0 if corpus in lost else count, spoiled, **extra)),
            corpus=corpus,
            license=license_,
            format="openai_messages",
        )
        for i, (corpus, license_) in enumerate(licenses.items())
    ]
    ingest = ingest_stage(sources, Path(), out / "ingest", IngestConfig())
    converted = convert_stage(ingest, out / "convert", ConvertConfig(), workers=1, max_rejected_fraction=0.5)
    dataset_stage([converted], out / "dataset", ShuffleConfig(seed=1, test_fraction=0.25, shard_rows=10))
    return out
