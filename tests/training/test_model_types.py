"""What is exact for Llama is exact for every model of its form; and a checkpoint is a model of plain transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline.training.grid import Stream, TokenGrid
from pipeline.training.masks import MASK_KINDS, MaskKind, record_cells
from pipeline.training.model import (
    EMBEDDING_FILE,
    MAX_SLOTS,
    MODEL_TYPES,
    Attention,
    Checkpoint,
    MultistreamModel,
    load_base,
    load_checkpoint,
    save_checkpoint,
)
from pipeline.training.packing import make_pack
from tests.training.synthetic_grids import METADATA, VOCAB, grids, make_grid
from tests.training.test_training_model import CPU, ROLES, pack_logits, spoken_only

MODEL = settings(max_examples=8, deadline=None)
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def save_tiny(directory: Path, model_type: str, **more: object) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = AutoConfig.for_model(
            model_type,
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=256,
            **more,
        )
        AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    return directory


def load(directory: Path, attention: Attention = "sdpa") -> MultistreamModel:
    """The model with the same random stream embeddings at every call."""
    model = load_base(directory, ROLES, CPU, attention)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for table in (model.streams.role, model.streams.slot):
            table.weight[1:] = torch.randn(table.weight[1:].shape, generator=generator)
    return model.eval()


@pytest.fixture(scope="module", params=MODEL_TYPES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"), request.param)


@pytest.mark.parametrize("mask", MASK_KINDS)
def test_silence_and_packing_change_no_logit(folder: Path, mask: MaskKind) -> None:
    model = load(folder)

    @MODEL
    @given(grids(), grids())
    def check(first: TokenGrid, second: TokenGrid) -> None:
        documents = [record_cells(grid, METADATA)[0] for grid in (first, second)]
        packed = pack_logits(model, make_pack(documents, model.role_index, mask))
        spoken = [pack_logits(model, make_pack([spoken_only(c)], model.role_index, mask)) for c in documents]
        keys = torch.from_numpy(np.concatenate([c.is_key for c in documents]))
        torch.testing.assert_close(packed[keys], torch.cat(spoken), **CLOSE)

    check()


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("mask", MASK_KINDS)
def test_flex_attention_gives_the_logits_of_sdpa(folder: Path, mask: MaskKind) -> None:
    sdpa, flex = load(folder), load(folder, "flex_attention")
    assert flex.uses_flex
    assert not sdpa.uses_flex

    @MODEL
    @given(grids(), grids())
    def check(first: TokenGrid, second: TokenGrid) -> None:
        documents = [record_cells(grid, METADATA)[0] for grid in (first, second)]
        pack = make_pack(documents, sdpa.role_index, mask, pad_to=96)
        inside = torch.from_numpy(pack.document >= 0)
        torch.testing.assert_close(pack_logits(flex, pack)[inside], pack_logits(sdpa, pack)[inside], **CLOSE)

    check()


def test_plain_transformers_loads_a_checkpoint_and_leaves_the_stream_embeddings_out(
    folder: Path, tmp_path: Path
) -> None:
    model = load(folder)
    save_checkpoint(tmp_path, model, Checkpoint(ROLES, METADATA, "same_row", "/models/base", {}))
    plain, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert tuple(AutoConfig.from_pretrained(tmp_path).stream_roles) == ROLES
    assert load_file(tmp_path / EMBEDDING_FILE)["role"].any()

    ours = load_checkpoint(tmp_path, CPU)
    row = [(i, 0, token, 0) for i, token in enumerate((3, 1, 4, 1, 5, 9, 2, 6))]
    cells = spoken_only(record_cells(make_grid(row, 8, [Stream("u", "user", 0, "input")]), METADATA)[0])
    pack = make_pack([cells], ours.role_index, "same_row")
    with torch.no_grad():
        expected = plain.eval()(torch.from_numpy(pack.token)[None]).logits[0]
        with_streams = pack_logits(ours.eval(), pack)
        assert not torch.allclose(with_streams, expected, **CLOSE)
        for table in (ours.streams.role, ours.streams.slot):
            table.weight.zero_()
    torch.testing.assert_close(pack_logits(ours, pack), expected, **CLOSE)


def test_thirty_two_streams_of_one_role_are_told_apart(folder: Path) -> None:
    model = load(folder)
    assert MAX_SLOTS >= 32
    streams = [Stream(f"tool/{slot}", "role0", slot, "output") for slot in range(32)]
    (cells,) = record_cells(make_grid([(0, slot, 3, 1) for slot in range(32)], 2, streams), METADATA)
    pack = make_pack([cells], model.role_index, "strict")
    queries = (pack.row == 0) & pack.is_key
    assert queries.sum() == 32
    logits = pack_logits(model, pack)[torch.from_numpy(queries)]
    assert len(torch.unique((logits * 1e4).round(), dim=0)) == 32


def test_a_sliding_window_bounds_the_rows(tmp_path: Path) -> None:
    model = load(save_tiny(tmp_path, "mistral", sliding_window=16))
    assert model.max_rows == 15
    unlimited = save_tiny(tmp_path / "full", "mistral", sliding_window=None)
    assert load(unlimited).max_rows == 255
    row = [(i, 0, 1 + i % 7, 0) for i in range(15)]
    cells = spoken_only(record_cells(make_grid(row, 15, [Stream("u", "user", 0, "input")]), METADATA)[0])
    with torch.no_grad():
        for table in (model.streams.role, model.streams.slot):
            table.weight.zero_()
        expected = model.causal_lm(torch.from_numpy(cells.token)[None]).logits[0]
    torch.testing.assert_close(pack_logits(model, make_pack([cells], model.role_index, "same_row")), expected, **CLOSE)
