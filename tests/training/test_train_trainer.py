from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainingArguments

from pipeline.training.grid import TrainingError
from pipeline.training.loop import TrainConfig, train
from pipeline.training.model import load_checkpoint, save_checkpoint
from pipeline.training.trainer import StreamDataset, stream_collator, stream_module
from tests.training.synthetic_grids import echo_grids, make_grid, save_tiny_llama, tiny_llama, write_dataset

CONFIG = TrainConfig(steps=1, packs_per_step=1, max_cells=128, learning_rate=5e-3, device="cpu")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_tiny_llama(tmp_path / "base")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data", echo_grids(40), echo_grids(2, seed=1))


def arguments(tmp_path: Path, steps: int, workers: int = 0) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(tmp_path / "trainer"),
        per_device_train_batch_size=1,
        max_steps=steps,
        learning_rate=5e-3,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_num_workers=workers,
    )


def test_the_trainer_of_transformers_trains_on_packs(tmp_path: Path, base: Path, data: Path) -> None:
    dataset = StreamDataset(data, CONFIG)
    module = stream_module(base, dataset)
    trainer = Trainer(model=module, args=arguments(tmp_path, 25), train_dataset=dataset, data_collator=stream_collator)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 25
    assert losses[-1] < losses[0] - 0.3
    (first,) = train(data, base, tmp_path / "ours", CONFIG).log
    assert losses[0] == pytest.approx(first.text_loss + first.silence_loss, abs=1e-4)
    (tmp_path / "saved").mkdir()
    save_checkpoint(tmp_path / "saved", module.model, dataset.checkpoint(base))
    loaded = load_checkpoint(tmp_path / "saved", torch.device("cpu"))
    assert torch.equal(loaded.streams.role.weight, module.model.streams.role.weight)
    assert loaded.streams.role.weight.any()


def test_workers_of_the_trainer_read_every_record_once(tmp_path: Path, data: Path) -> None:
    dataset = StreamDataset(data, replace(CONFIG, shuffle_buffer=8))
    loader = torch.utils.data.DataLoader(dataset, batch_size=1, collate_fn=list, num_workers=2)
    records = [record for (pack,) in islice(loader, 8) for record in pack.records]
    assert len(records) > 40
    assert len({records.count(f"echo-0-{i}") for i in range(40)} - {1, 2, 3}) == 0


def test_several_packs_in_a_batch_are_refused(data: Path) -> None:
    packs = list(islice(StreamDataset(data, CONFIG), 2))
    with pytest.raises(TrainingError, match="per_device_train_batch_size=1"):
        stream_collator(packs)
    assert {tensor.shape[0] for tensor in stream_collator(packs[:1]).values()} == {1}


def test_padded_packs_give_the_same_loss(base: Path, data: Path) -> None:
    dataset, padded = (StreamDataset(data, CONFIG, pad=pad) for pad in (False, True))
    module = stream_module(base, dataset).eval()
    (pack,), (other,) = (islice(each, 1) for each in (dataset, padded))
    assert len(other) == 128 > len(pack)
    with torch.no_grad():
        losses = [module(**stream_collator([each]))["loss"] for each in (pack, other)]
    torch.testing.assert_close(*losses)


def test_records_beyond_the_positions_of_the_model_are_left_out(tmp_path: Path) -> None:
    tiny_llama(max_positions=14).save_pretrained(tmp_path / "base")
    high = make_grid([(0, 0, 1, 0), (20, 1, 2, 1)], 22, id="high")
    data = write_dataset(tmp_path / "data", [high, *echo_grids(10)], echo_grids(1))
    dataset = StreamDataset(data, CONFIG)
    module = stream_module(tmp_path / "base", dataset)
    packs = list(islice(dataset, 8))
    assert max(int(pack.row.max()) for pack in packs) + 1 <= module.model.max_rows
    assert dataset.counters.over_budget_ids == ["high"]
    with pytest.raises(TrainingError, match="cannot be trained on the CPU"):
        stream_module(tmp_path / "base", StreamDataset(data, replace(CONFIG, attention="flex_attention")))
