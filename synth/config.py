"""The configuration of a synthesis run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from synth.scenarios import Scenario


class EngineOptions(BaseModel):
    """Options of the vLLM engine. ``None`` means: what suits the device (float32 and eager on the CPU)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    enforce_eager: bool | None = None
    max_model_len: Annotated[int, Field(ge=256)] = 4096
    cpu_kv_cache_gib: Annotated[int, Field(ge=1)] = 2
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    tensor_parallel_size: Annotated[int, Field(ge=1)] = 1


class SynthConfig(BaseModel):
    """What to write, and with which model.

    ``scenarios``: paths, globs or scenarios inline. ``samples``: tables to ask for; what comes back is accepted or
    rejected, never asked for again. ``model``: ``smollm2`` (packaged), a model directory, or a Hub id. ``timing``: who
    speaks in which row is drawn from the scenario's ``scores`` and held by the grammar (a small model cannot keep
    time), or left to the model, as it is for scenarios without scores. ``max_rows`` caps the scenarios' own ranges;
    ``max_cell_chars`` is the longest cell in characters; ``batch_size`` the number of requests given to the engine at
    once, which also bounds memory.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    scenarios: Annotated[list[str | Scenario], Field(min_length=1)]
    samples: Annotated[int, Field(ge=1)]
    generator: Literal["table"] = "table"
    timing: Literal["scored", "free"] = "scored"
    model: Annotated[str, Field(min_length=1)] = "smollm2"
    seed: Annotated[int, Field(ge=0)] = 0
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.8
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    max_tokens: Annotated[int, Field(ge=16)] = 800
    max_rows: Annotated[int, Field(ge=2)] = 8
    max_cell_chars: Annotated[int, Field(ge=24)] = 64
    batch_size: Annotated[int, Field(ge=1)] = 32
    engine: EngineOptions = EngineOptions()
