"""The configuration of a synthesis run."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    HttpUrl,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from synth.scenarios import Scenario


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VllmOptions(_Strict):
    """vLLM in this process. ``None`` means: what suits the device (float32 and eager on the CPU).

    ``prefix_caching``: keep the computation of prompts that begin alike. ``lora``: folder of an adapter. ``at_once``: shards of
    a run that are asked at the same time on this machine, in processes; ``None``: one per ``tensor_parallel_size`` GPUs.
    """

    kind: Literal["vllm"] = "vllm"
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    enforce_eager: bool | None = None
    max_model_len: Annotated[int, Field(ge=256)] = 4096
    cpu_kv_cache_gib: Annotated[int, Field(ge=1)] = 2
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    tensor_parallel_size: Annotated[int, Field(ge=1)] = 1
    prefix_caching: bool = True
    lora: str | None = None
    at_once: Annotated[int, Field(ge=1)] | None = None


class OpenAIOptions(_Strict):
    """Any endpoint that speaks OpenAI's chat completions, such as ``vllm serve``.

    ``url`` ends in ``/v1``. ``api_key_env``: the environment variable that holds the key. ``concurrency``: requests in
    flight at once. A request is asked again up to ``retries`` times, after ``backoff`` seconds and twice as many each time
    (with jitter, and at least what the server asks for), where it ran into ``timeout`` seconds, a connection error, 408, 409,
    429 or 5xx. One that failed for good although the server is there gives up its dialogue (``aborted``); after ``give_up``
    such requests in a row the server counts as gone, and the run stops.
    ``structured``: how a JSON Schema is sent (``response_format``, vLLM's ``structured_outputs``, or not at all).
    ``at_once``: shards of a run that ask at the same time from this machine, each ``concurrency`` requests; ``None``: all.
    """

    kind: Literal["openai"]
    url: Annotated[str, Field(pattern=r"^https?://[!-~]+$")]
    api_key_env: str = "OPENAI_API_KEY"
    concurrency: Annotated[int, Field(ge=1)] = 64
    timeout: Annotated[float, Field(gt=0)] = 120.0
    retries: Annotated[int, Field(ge=0)] = 5
    backoff: Annotated[float, Field(gt=0)] = 0.5
    give_up: Annotated[int, Field(ge=1)] = 3
    structured: Literal["response_format", "structured_outputs", "none"] = "response_format"
    at_once: Annotated[int, Field(ge=1)] | None = None

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        try:
            HttpUrl(value)
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"]) from error
        return value


def _kind(value: Any) -> str:
    kind = value.get("kind", "vllm") if isinstance(value, dict) else getattr(value, "kind", "vllm")
    return str(kind)


EngineOptions = Annotated[
    Annotated[VllmOptions, Tag("vllm")] | Annotated[OpenAIOptions, Tag("openai")], Discriminator(_kind)
]


def _source(value: Any) -> str:
    return "path" if isinstance(value, str) else "inline"


ScenarioSource = Annotated[
    Annotated[str, Tag("path")] | Annotated[Scenario, Tag("inline")],
    Discriminator(_source),
]


class TableOptions(_Strict):
    """The ``table`` generator. ``timing``: who speaks in which row is drawn from the scenario's ``scores`` and held by the
    grammar (a small model cannot keep time), or left to the model, as it is for scenarios without scores. ``max_rows`` caps
    the scenarios' own ranges; ``max_cell_chars`` is the longest cell in characters."""

    timing: Literal["scored", "free"] = "scored"
    max_rows: Annotated[int, Field(ge=2)] = 8
    max_cell_chars: Annotated[int, Field(ge=24)] = 64


class ConcurrentOptions(_Strict):
    """The ``concurrent`` generator. ``timing``, ``max_slices``, ``max_slice_chars``: as ``TableOptions`` has them for rows.
    ``silent_slices``: a dialogue without score ends after so many slices in which nobody speaks."""

    timing: Literal["scored", "free"] = "scored"
    max_slices: Annotated[int, Field(ge=2)] = 16
    max_slice_chars: Annotated[int, Field(ge=24)] = 96
    silent_slices: Annotated[int, Field(ge=1)] = 2


class TeacherOptions(_Strict):
    """The ``teacher`` generator. ``slice_chars``: sentences of what is read are put together up to so many characters.
    ``min_coverage``: share of a sentence of the original answer that must have been read before it is told to the writer.
    ``max_slice_chars``: what may be said in one slice. ``max_gain``: ceiling of the future-information gain of an event, in
    nats per token; None: not measured."""

    slice_chars: Annotated[int, Field(ge=1)] = 160
    min_coverage: Annotated[float, Field(ge=0, le=1)] = 0.6
    max_slice_chars: Annotated[int, Field(ge=24)] = 240
    max_gain: Annotated[float, Field(gt=0)] | None = None


class JudgeOptions(_Strict):
    """Verdicts of a chat model on what passed the deterministic checks.

    ``model`` and ``engine``: another judge than the writer; None: the writer. Scores are 1 to 5; a dialogue below a threshold,
    or with more than ``max_acausal`` events that the judge calls unknowable, is rejected.
    """

    model: str | None = None
    engine: EngineOptions | None = None
    min_fluency: Annotated[int, Field(ge=1, le=5)] = 3
    min_consistency: Annotated[int, Field(ge=1, le=5)] = 3
    max_acausal: Annotated[int, Field(ge=0)] = 0
    max_tokens: Annotated[int, Field(ge=64)] = 1024


class DiversityOptions(_Strict):
    """Near-duplicates: a dialogue whose word ``shingle``s overlap with one accepted before, or with an input, by an
    estimated Jaccard similarity of at least ``threshold`` (MinHash of ``permutations`` hashes) is rejected."""

    threshold: Annotated[float, Field(gt=0, le=1)] = 0.7
    shingle: Annotated[int, Field(ge=1)] = 3
    permutations: Annotated[int, Field(ge=16)] = 128


class SynthConfig(_Strict):
    """What to write, and with which model.

    ``generator``: ``table`` and ``concurrent`` write ``samples`` dialogues from ``scenarios`` (paths, globs, or scenarios
    inline); ``teacher`` re-writes the answers of ``conversations`` (paths or globs of files in any format that ``multistream
    formats`` lists), the first ``samples`` of them, all if None. With the other generators ``conversations`` are topics.
    What comes back is accepted or rejected, never asked for again. ``model``: ``smollm2`` (packaged), a model directory, a Hub
    id, or the endpoint's name for it. ``batch_size``: dialogues that are open at once, which also bounds memory.
    ``max_tokens``: of one answer. ``judge``: no judge if None. ``cache``: keep every answer, so that a run that was broken off
    asks nothing twice. ``max_rejected_fraction``: a run of which more is rejected is an error; None: any share may be.
    ``shards``: engines that share the dialogues out, which changes no record; see ``synth/shards.py``. ``license``: SPDX
    expression of what is written, as the model's terms say; what ``teacher`` re-writes keeps its source's.
    """

    generator: Literal["table", "concurrent", "teacher"] = "table"
    scenarios: list[ScenarioSource] = []
    conversations: list[str] = []
    samples: Annotated[int, Field(ge=1)] | None = None
    model: Annotated[str, Field(min_length=1)] = "smollm2"
    seed: Annotated[int, Field(ge=0)] = 0
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.8
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    max_tokens: Annotated[int, Field(ge=16)] = 800
    batch_size: Annotated[int, Field(ge=1)] = 32
    table: TableOptions = TableOptions()
    concurrent: ConcurrentOptions = ConcurrentOptions()
    teacher: TeacherOptions = TeacherOptions()
    engine: EngineOptions = VllmOptions()
    judge: JudgeOptions | None = None
    diversity: DiversityOptions = DiversityOptions()
    cache: bool = True
    max_rejected_fraction: Annotated[float, Field(ge=0, le=1)] | None = None
    shards: Annotated[int, Field(ge=1)] = 1
    license: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _has_material(self) -> Self:
        if self.generator == "teacher":
            if not self.conversations:
                raise ValueError("generator teacher needs conversations: paths of files to re-write")
        elif not self.scenarios:
            raise ValueError(f"generator {self.generator} needs scenarios: paths, globs, or scenarios inline")
        elif self.samples is None:
            raise ValueError(f"generator {self.generator} needs samples: how many dialogues to ask for")
        if self.shards > 1 and not self.cache:
            raise ValueError("shards need cache: true, what each of them is answered is stored")
        return self
