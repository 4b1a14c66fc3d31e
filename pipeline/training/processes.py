"""One training process, or several that torchrun started: what they share, and how the model is spread over them.

Several processes go through accelerate: FSDP2 on CUDA (weights, gradients and optimizer state sharded), DDP over gloo on
the CPU. One process is plain torch and needs no accelerate.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import nn

from pipeline.training.grid import TrainingError
from pipeline.training.model import choose_device
from pipeline.training.objective import is_bfloat16
from pipeline.training.settings import TrainConfig

T = TypeVar("T")


def world_size() -> int:
    """How many processes torchrun started, 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ or world_size() > 1


def rank() -> int:
    """The number of this process among them; the one of number 0 writes."""
    return int(os.environ.get("RANK", "0"))


def meet() -> None:
    """Waits for all processes, where training has brought them together."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()


class Processes:
    """One process. Its subclass speaks for several; whatever is summed or gathered is the same in all of them."""

    rank = 0
    world = 1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def prepare(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> nn.Module:
        """The module to call in the place of ``module``; ``optimizer`` keeps its parameters in step."""
        return module

    def accumulate(self, module: nn.Module) -> AbstractContextManager[Any]:
        """In this context gradients add up without being exchanged."""
        return nullcontext()

    def clip(self, module: nn.Module, max_norm: float) -> float:
        """Clips the gradients; returns their norm before."""
        return float(nn.utils.clip_grad_norm_(module.parameters(), max_norm))

    def sum(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The sum over all processes."""
        return values

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank."""
        return [value]

    def first(self, value: T) -> T:
        """The value that the process of rank 0 has."""
        return self.gather(value)[0]


class SeveralProcesses(Processes):
    """The processes of a torchrun call. ``layers``: class names of the blocks that FSDP2 shards one by one."""

    def __init__(self, config: TrainConfig, layers: Sequence[str]) -> None:
        try:
            from accelerate import Accelerator
        except ImportError as error:
            raise TrainingError("several processes need accelerate: pip install accelerate, or use one") from error
        device = choose_device(config.device)
        plugin = _fsdp(layers, is_bfloat16(device, config.precision)) if device.type == "cuda" else None
        self._accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="no", fsdp_plugin=plugin)
        super().__init__(cast(torch.device, self._accelerator.device))
        self.rank = dist.get_rank()
        self.world = dist.get_world_size()

    def prepare(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> nn.Module:
        prepared, _ = self._accelerator.prepare(module, optimizer)
        return cast(nn.Module, prepared)

    def accumulate(self, module: nn.Module) -> AbstractContextManager[Any]:
        return cast(AbstractContextManager[Any], self._accelerator.no_sync(module))

    def clip(self, module: nn.Module, max_norm: float) -> float:
        return float(whole(self._accelerator.clip_grad_norm_(module.parameters(), max_norm)))

    def sum(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        tensor = torch.from_numpy(values).to(self.device)
        dist.all_reduce(tensor)
        return cast(npt.NDArray[np.float64], tensor.cpu().numpy())

    def gather(self, value: T) -> list[T]:
        values: list[T | None] = [None] * self.world
        dist.all_gather_object(values, value)
        return cast(list[T], values)


def join(config: TrainConfig, layers: Sequence[str]) -> Processes:
    """This process, together with those that torchrun started beside it.

    Raises TrainingError where ``packs_per_step`` cannot be shared out, other processes are here than ``processes``, or
    accelerate is needed and not installed.
    """
    if config.processes not in (1, world_size()):
        raise TrainingError(
            f"processes is {config.processes}, but there are {world_size()}: torchrun is to start as many"
        )
    if world_size() == 1:
        return Processes(choose_device(config.device))
    if config.packs_per_step % world_size():
        raise TrainingError(f"packs_per_step {config.packs_per_step} is no multiple of the {world_size()} processes")
    return SeveralProcesses(config, layers)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that is not sharded; all processes must call this for one that is."""
    full = getattr(tensor, "full_tensor", None)
    return tensor if full is None else cast(torch.Tensor, full())


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor: all of one that is not sharded."""
    local = getattr(tensor, "to_local", None)
    return tensor if local is None else cast(torch.Tensor, local())


def _fsdp(layers: Sequence[str], bfloat16: bool) -> Any:
    """FSDP2 as ``precision`` means it: float32 weights and sums of gradients, computing in bfloat16 if asked."""
    from accelerate import FullyShardedDataParallelPlugin
    from torch.distributed.fsdp import MixedPrecisionPolicy

    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        reshard_after_forward=True,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=list(layers),
        cpu_ram_efficient_loading=False,
        mixed_precision_policy=MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if bfloat16 else None, reduce_dtype=torch.float32
        ),
    )
