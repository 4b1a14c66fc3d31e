from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.evaluation.evaluate import EvaluateConfig, evaluate
from pipeline.evaluation.generation import (
    ENDLESS_CELLS,
    PROBLEMS,
    TextCodec,
    chosen_records,
    examine,
    generated,
    messages,
    parses,
    problems,
    repeats,
    silence_share,
)
from pipeline.evaluation.intervals import Bootstrap
from pipeline.training.grid import Stream, TokenGrid
from pipeline.training.loop import TrainConfig, train
from pipeline.training.model import load_checkpoint
from tests.training.synthetic_grids import (
    ASSISTANT,
    EOM,
    METADATA,
    USER,
    echo_grids,
    make_grid,
    save_tiny_llama,
    write_dataset,
)

CALL = Stream("call", "call", 0, "output")
#: One token per character of a small alphabet.
ALPHABET = 'abcdefghij{}":, \n'
LETTERS = TextCodec(lambda text: [ALPHABET.index(c) for c in text], lambda ids: "".join(ALPHABET[i] for i in ids))


def answer(
    ids: list[int], start: int = 3, stream: int = 1, streams: tuple[Stream, ...] = (USER, ASSISTANT)
) -> TokenGrid:
    """The user says one word at row 0, an output stream the ids from ``start`` on; 12 rows, or as many as it takes."""
    cells = [(0, 0, 1, 0), *((start + i, stream, token, 1) for i, token in enumerate(ids))]
    return make_grid(cells, max(12, start + len(ids)), streams)


DATA = answer([1, 2, EOM])


@pytest.mark.parametrize(
    ("made", "wrong"),
    [
        (answer([4, EOM, 5, EOM]), ()),
        (answer([]), ("silent",)),
        (answer([4, EOM, 5]), ("no_end",)),
        (answer([4, 5, 6] * 11 + [EOM]), ("repetition",)),
        (answer([4] * ENDLESS_CELLS), ("no_end", "repetition")),
    ],
)
def test_each_problem_is_found_by_name(made: TokenGrid, wrong: tuple[str, ...]) -> None:
    assert problems(DATA, made, EOM) == wrong


def test_silence_is_no_problem_where_the_data_is_silent() -> None:
    assert problems(answer([]), answer([]), EOM) == ()


def test_repetition_is_a_long_run_of_one_ngram_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    assert not repeats([])
    assert not repeats([7])
    assert not repeats([7] * (ENDLESS_CELLS - 1))
    assert repeats([7] * ENDLESS_CELLS)
    assert repeats([*rng.integers(0, 9, 50), *list(range(16)) * 2, *rng.integers(0, 9, 50)])
    assert not repeats(list(range(17)) * 4)
    assert not repeats(rng.integers(0, 9, 500))


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ('a\n{"b": {}}', True),
        ("a\n{}", True),
        ("a", False),
        ('a\n{"b"', False),
        ('\n{"b": {}}', False),
        ('a\n"b"', False),
        ("a\n" + "[" * 100_000, False),
        ('a\n{"b": ' + "1" * 5000 + "}", False),
    ],
)
def test_a_call_is_a_name_and_a_json_object(text: str, good: bool) -> None:
    assert parses(text) is good


def test_calls_are_read_only_with_a_tokenizer() -> None:
    streams = (USER, CALL)
    good, bad = (answer([*LETTERS.encode(text), EOM], streams=streams) for text in ('a\n{"b": {}}', 'a\n{"b": {}'))
    assert problems(good, good, EOM, LETTERS) == ()
    assert problems(good, bad, EOM, LETTERS) == ("bad_call",)
    assert problems(good, bad, EOM) == ()
    found = examine([(good, good), (good, bad)], EOM, Bootstrap(200), text=LETTERS)
    assert (found.calls, found.parsed, found.data_calls, found.data_parsed) == (2, 1, 2, 2)


def test_messages_end_with_their_cell_of_end() -> None:
    assert [part.tolist() for part in messages(answer([1, 2, EOM, EOM, 3]), 1, EOM)] == [[1, 2], [], [3]]


def test_the_share_of_silence_is_over_the_datas_rows() -> None:
    assert silence_share(answer([1, 2, EOM]), 12) == pytest.approx(9 / 12)
    assert silence_share(answer([1] * 20), 12) == pytest.approx(3 / 12)


def test_what_was_generated_is_summed_up() -> None:
    made = [answer([4, EOM], start=5), answer([]), answer([5], start=2)]
    found = examine([(DATA, each) for each in made], EOM, Bootstrap(200), passed_over=2)
    assert (found.records, found.valid, found.passed_over) == (3, 1, 2)
    assert found.problems == {**dict.fromkeys(PROBLEMS, 0), "silent": 1, "no_end": 1}
    assert found.silence == pytest.approx((10 + 12 + 11) / 36)
    assert found.data_silence == pytest.approx(9 / 12)
    assert [rows.generated for rows in found.first_output] == [5, None, 2]
    assert found.median_first_output.data == 3


def test_records_that_are_too_long_or_say_nothing_are_passed_over() -> None:
    records = [answer([1] * 40), answer([]), answer([1, EOM]), answer([2, EOM]), answer([3, EOM])]
    chosen, longer = chosen_records(records, 2, 20)
    assert chosen == records[2:4]
    assert longer == 1


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint that repeats what the user said, and its data."""
    folder = tmp_path_factory.mktemp("echo")
    data = write_dataset(folder / "data", echo_grids(400), echo_grids(6, seed=1))
    config = TrainConfig(
        steps=200, packs_per_step=2, max_cells=256, learning_rate=5e-3, embedding_learning_rate=1e-2, device="cpu"
    )
    train(data, save_tiny_llama(folder / "base"), folder / "checkpoint", config)
    return folder / "checkpoint", data


def test_a_model_that_has_learnt_its_task_generates_well_formed_records(echo: tuple[Path, Path]) -> None:
    records = echo_grids(6, seed=1)
    model = load_checkpoint(echo[0], torch.device("cpu")).eval()
    with torch.no_grad():
        made = list(generated(model, METADATA, "same_row", records))
    found = examine(list(zip(records, made, strict=True)), EOM, Bootstrap(200))
    assert found.valid == 6
    assert found.silence == pytest.approx(found.data_silence)
    assert [(rows.generated, rows.data) for rows in found.first_output] == [(5, 5)] * 6


def test_a_model_that_uses_its_inputs_passes_the_gate_with_every_threshold(
    echo: tuple[Path, Path], tmp_path: Path
) -> None:
    config = EvaluateConfig(device="cpu", resamples=200, generate_records=6)
    result = evaluate(echo[0], None, echo[1], tmp_path / "out", config)
    permuted, zeroed = result.differences["permuted_at_test"].text, result.differences["untrained_embedding"].text
    assert permuted is not None
    assert permuted.high is not None
    assert permuted.high < -0.5
    assert zeroed is not None
    assert zeroed.value < 0
    assert result.generation is not None
    assert result.generation.valid == 6
    assert result.failures == ()
