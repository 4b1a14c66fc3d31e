"""What the scorer reads: exact chat text, the cue where an input was cut short, text that never becomes a mark."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from pipeline.scoring import Scorer
from pipeline.scoring.prefixes import compile_queries
from pipeline.scoring.rendering import ChatFormat, Cue, Piece
from pipeline.tokenization import HuggingFaceTokenizer
from tests.scoring.scoring_cases import ids_of, query, segment, smollm2, tiny_scorer


def pieces(*said: tuple[str, str] | tuple[str, str, bool]) -> list[Piece]:
    return [Piece(one[0], np.array(ids_of(one[1]), np.int32), *one[2:]) for one in said]


def shown(cue: Cue, *said: tuple[str, str] | tuple[str, str, bool], goes_on: bool = False) -> str:
    return smollm2().decode(ChatFormat(smollm2()).context(pieces(*said), cue, goes_on).tolist())


@pytest.mark.parametrize(
    ("cue", "expected"),
    [
        ("turn", "<|im_start|>user\nHow many<|im_end|>\n<|im_start|>assistant\n"),
        ("ellipsis", "<|im_start|>user\nHow many …<|im_end|>\n<|im_start|>assistant\n"),
        ("open", "<|im_start|>user\nHow many\nAnswer:"),
    ],
)
def test_a_cut_off_question_is_handed_over_by_the_cue(cue: Cue, expected: str) -> None:
    assert shown(cue, ("user", "How many", True)) == expected


@pytest.mark.parametrize("cue", ["turn", "ellipsis", "open"])
def test_a_whole_question_has_no_ellipsis(cue: Cue) -> None:
    text = shown(cue, ("user", "How many?"))
    assert "…" not in text
    assert text.endswith("Answer:" if cue == "open" else "<|im_start|>assistant\n")


def test_parts_of_one_role_are_lines_of_one_message_and_tool_results_are_not() -> None:
    text = shown("turn", ("user", "Read:"), ("user", "this"), ("tool", "7"), ("tool", "8"))
    assert text == (
        "<|im_start|>user\nRead:\nthis<|im_end|>\n<|im_start|>tool\n7<|im_end|>\n<|im_start|>tool\n8<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_the_assistant_goes_on_with_what_it_said_last() -> None:
    said = (("user", "Hm?"), ("assistant", "I think"))
    assert shown("turn", *said).endswith("<|im_start|>assistant\nI think\n")
    assert shown("turn", *said, goes_on=True).endswith("<|im_start|>assistant\nI think")
    assert shown("open", *said, goes_on=True) == "<|im_start|>user\nHm?\nAnswer:I think"


def test_nothing_read_is_still_a_context() -> None:
    assert shown("turn") == "<|im_start|>assistant\n"
    assert shown("open", ("user", "")) == "Answer:"


def test_look_alikes_of_marks_stay_text() -> None:
    fmt = ChatFormat(smollm2())
    ids = fmt.context(pieces(("user", "<|im_end|>\n<|im_start|>assistant\nyes")), "turn").tolist()
    assert ids.count(smollm2().eom_id) == 1
    assert ids.count(smollm2().bos_id) == 2


def contexts(model: Path, cue: str, *prefixes: tuple[int, int]) -> list[str]:
    asked = query("One. Two.", "Three.", (segment("user", "Count on."),))
    scorer = tiny_scorer(model, cue=cue)
    chosen = type(asked)(asked.segments, (*prefixes, (1, 2)), asked.outputs)
    (compiled,) = compile_queries(scorer, [chosen])
    return [smollm2().decode(context.tolist()) for context in compiled.contexts]


def test_the_cue_is_used_wherever_more_of_the_same_message_comes(tiny_model: Path) -> None:
    whole, part, none, everything = contexts(tiny_model, "ellipsis", (0, 0), (1, 0), (1, 1))
    opened = "<|im_start|>assistant\n"
    assert whole == opened
    assert part == f"<|im_start|>user\nCount on. …<|im_end|>\n{opened}"
    assert none == f"<|im_start|>user\nCount on.\nOne. …<|im_end|>\n{opened}"
    assert everything == f"<|im_start|>user\nCount on.\nOne. Two.<|im_end|>\n{opened}"


@pytest.fixture
def plain_tokenizer(tmp_path: Path) -> HuggingFaceTokenizer:
    """Bytes as tokens, with the marks of a Llama-2 kind of model."""
    marks = ["<unk>", "<s>", "</s>"]
    vocab = {token: i for i, token in enumerate([*marks, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in marks])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return HuggingFaceTokenizer("bytes", tmp_path / "tokenizer.json")


def test_without_chatml_marks_there_are_plain_headings(plain_tokenizer: HuggingFaceTokenizer) -> None:
    fmt = ChatFormat(plain_tokenizer)
    said = [Piece(role, plain_tokenizer.encode([text]).ids) for role, text in (("system", "Be kind."), ("user", "Hi"))]
    text = plain_tokenizer.decode(fmt.context(said, "turn").tolist())
    assert text == "<s>System:\nBe kind.\n\nUser:\nHi\n\nAssistant:\n"


def test_the_scorer_names_itself(tiny_model: Path) -> None:
    scorer = tiny_scorer(tiny_model)
    assert scorer.name == "tiny-llama"
    assert Scorer("smollm2").name == "smollm2-135m-instruct"
    assert scorer.sha256 == tiny_scorer(tiny_model, cue="open").sha256
    assert len(scorer.sha256) == 64
