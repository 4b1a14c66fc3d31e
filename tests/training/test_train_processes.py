"""Several processes on the CPU, over gloo on loopback: the same as one process on the same packs."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from pipeline.training.grid import TrainingError, find_shards
from pipeline.training.loading import WindowDataset, endless_packs
from pipeline.training.loop import TrainConfig, train
from pipeline.training.masks import record_cells
from pipeline.training.model import load_base
from pipeline.training.objective import Objective, make_optimizer
from pipeline.training.packing import PackCounters, make_pack
from pipeline.training.processes import whole
from pipeline.training.state import collect, placed, restore
from tests.training.synthetic_grids import METADATA, SILENCE, echo_grids, save_tiny_llama, tiny_llama, write_dataset
from tests.training.train_runs import Moment, in_processes, run_train

ROLES = ("assistant", "user")
CONFIG = TrainConfig(
    steps=6,
    packs_per_step=4,
    max_cells=64,
    learning_rate=3e-3,
    embedding_learning_rate=1e-2,
    shuffle_buffer=8,
    save_every=2,
    device="cpu",
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("data")
    write_dataset(directory, echo_grids(40), echo_grids(2, seed=1))
    return directory


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model.safetensors") | load_file(out / "stream_embedding.safetensors")


def log_of(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "train_log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "tokens_per_second"} for line in lines]


def test_two_processes_take_the_step_of_one_on_the_same_packs(tmp_path: Path, base: Path, dataset: Path) -> None:
    once = replace(CONFIG, steps=1)
    message = tmp_path / "message"
    assert in_processes(2, run_train, dataset, base, tmp_path / "out", once, None, message) == [0, 0]
    windows = WindowDataset(
        find_shards(dataset, "train"),
        METADATA,
        {role: i for i, role in enumerate(ROLES, 1)},
        mask="same_row",
        max_cells=64,
        silence_rate=0.1,
        shuffle_buffer=8,
    )
    packs = [pack for rank in (0, 1) for pack, _ in islice(endless_packs(windows, PackCounters(), share=(rank, 2)), 2)]
    model = load_base(base, ROLES, torch.device("cpu"))
    objective = Objective(model, SILENCE, 1.0, "float32")
    optimizer = make_optimizer(model, once)
    texts = sum(pack.text_count(SILENCE) for pack in packs)
    silences = sum(pack.silence_count for pack in packs)
    sums = torch.zeros(4, dtype=torch.float64)
    for pack in packs:
        loss, table = objective(pack, texts, silences)
        loss.backward()
        sums += table.sum(0)
    norm = nn.utils.clip_grad_norm_(model.parameters(), once.max_gradient_norm)
    optimizer.step()
    (line,) = log_of(tmp_path / "out")
    assert line["text_loss"] == pytest.approx(float(sums[0]) / texts, abs=1e-5)
    assert line["silence_loss"] == pytest.approx(float(sums[2]) / silences, abs=1e-5)
    assert line["gradient_norm"] == pytest.approx(float(norm), abs=1e-4)
    assert line["tokens"] == sum(pack.spoken_count for pack in packs)
    trained = weights(tmp_path / "out")
    for name, parameter in model.causal_lm.named_parameters():
        torch.testing.assert_close(trained[name], parameter.detach(), atol=2e-4, rtol=0)
    torch.testing.assert_close(trained["role"], model.streams.role.weight.detach(), atol=2e-4, rtol=0)


@pytest.mark.parametrize("changes", [{}, {"lora_rank": 4, "lora_dropout": 0.1}], ids=["full", "lora"])
def test_killed_processes_go_on_together(tmp_path: Path, base: Path, dataset: Path, changes: dict[str, Any]) -> None:
    config = replace(CONFIG, **changes)
    message = tmp_path / "message"
    assert in_processes(2, run_train, dataset, base, tmp_path / "whole", config, None, message) == [0, 0]
    codes = in_processes(2, run_train, dataset, base, tmp_path / "out", config, Moment("step", "5."), message)
    assert codes[0] == -9
    assert codes[1] != 0
    assert in_processes(2, run_train, dataset, base, tmp_path / "out", config, None, message) == [0, 0]
    assert log_of(tmp_path / "out") == log_of(tmp_path / "whole")
    mine, theirs = weights(tmp_path / "out"), weights(tmp_path / "whole")
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_packs_that_cannot_be_shared_out_are_refused(tmp_path: Path, base: Path, dataset: Path) -> None:
    config = replace(CONFIG, packs_per_step=3)
    message = tmp_path / "message"
    assert in_processes(2, run_train, dataset, base, tmp_path / "out", config, None, message) == [3, 3]
    assert "packs_per_step 3 is no multiple of the 2 processes" in message.read_text()


def shard_and_restore(base: Path, folder: Path) -> None:
    """FSDP2 of torch on the CPU: what is collected from shards is whole, and goes back into shards."""
    import torch.distributed as dist
    from safetensors.torch import save_file
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    dist.init_process_group("gloo")
    model = load_base(base, ROLES, torch.device("cpu"))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    fully_shard(model)
    optimizer = make_optimizer(model, CONFIG)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    tensors = collect(model, optimizer, keep=True)
    for name, tensor in before.items():
        assert tensors[f"{name}/weight"].shape == tensors[f"{name}/exp_avg"].shape == tensor.shape
        assert not torch.equal(tensors[f"{name}/weight"], tensor)
    if dist.get_rank() == 0:
        folder.mkdir()
        save_file(tensors, folder / "state.safetensors")
    dist.barrier()
    other = load_base(base, ROLES, torch.device("cpu"))
    fully_shard(other)
    again = make_optimizer(other, CONFIG)
    restore(folder, other, again)
    assert all(isinstance(parameter, DTensor) for parameter in other.parameters())
    parameter = next(other.parameters())
    assert isinstance(again.state[parameter]["exp_avg"], DTensor)
    assert not isinstance(placed(torch.zeros(()), parameter), DTensor)
    restored = collect(other, again, keep=True)
    assert restored.keys() == tensors.keys()
    assert all(torch.equal(restored[key], tensors[key]) for key in tensors)
    dist.destroy_process_group()


def test_a_sharded_model_is_saved_whole_and_restored_sharded(tmp_path: Path, base: Path) -> None:
    assert in_processes(2, shard_and_restore, base, tmp_path / "state") == [0, 0]


def shard_and_differentiate(base: Path) -> None:
    """The objective under FSDP2 of torch on the CPU, sharded as accelerate does it, against one that is whole."""
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo")
    packs = [make_pack(record_cells(g, METADATA), {"assistant": 1, "user": 2}, "same_row") for g in echo_grids(4)]
    texts, silences = sum(p.text_count(SILENCE) for p in packs), sum(p.silence_count for p in packs)
    objectives = []
    for sharded in (False, True):
        model = load_base(base, ROLES, torch.device("cpu"))
        model.causal_lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        objective: Any = Objective(model, SILENCE, 1.0, "float32").train()
        if sharded:
            for layer in model.causal_lm.model.layers:
                fully_shard(layer, reshard_after_forward=True)
            fully_shard(objective)
        mine = packs[dist.get_rank() :: 2] if sharded else packs
        for index, pack in enumerate(mine):
            if sharded:
                objective.set_requires_gradient_sync(index == len(mine) - 1)
            loss, _ = objective(pack, texts, silences)
            (loss * (2 if sharded else 1)).backward()
        objectives.append(objective)
    whole_one, sharded_one = (dict(objective.named_parameters()) for objective in objectives)
    for name, parameter in sharded_one.items():
        torch.testing.assert_close(whole(parameter.grad), whole_one[name].grad, atol=1e-5, rtol=0)
    dist.destroy_process_group()


@pytest.mark.parametrize("tied", [False, True])
def test_the_gradients_of_a_sharded_model_are_those_of_a_whole_one(tmp_path: Path, base: Path, tied: bool) -> None:
    if tied:
        model = tiny_llama()
        model.config.tie_word_embeddings = True
        model.tie_weights()
        model.save_pretrained(tmp_path / "tied")
    assert in_processes(2, shard_and_differentiate, tmp_path / "tied" if tied else base) == [0, 0]


def test_one_process_trains_where_accelerate_is_not_installed(
    tmp_path: Path, base: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert train(dataset, base, tmp_path / "out", replace(CONFIG, steps=1)).log
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="several processes need accelerate"):
        train(dataset, base, tmp_path / "other", CONFIG)
