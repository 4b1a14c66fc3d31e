"""The fast encoding of a byte-level tokenizer gives the tokenizer's ids; where it might not, there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pipeline import tokenization
from pipeline.byte_level import ByteLevel, byte_level, covers
from pipeline.packaged import tokenizer_file
from pipeline.tokenization import HuggingFaceTokenizer, load_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    loaded = Tokenizer.from_file(str(tokenizer_file()))
    loaded.encode_special_tokens = True
    return loaded


@pytest.fixture(scope="module")
def fast(tokenizer: Tokenizer) -> ByteLevel:
    found = byte_level(tokenizer)
    assert found is not None
    return found


def differ(tokenizer: Tokenizer, fast: ByteLevel, texts: list[str]) -> list[str]:
    """The texts that the two encode differently, but for those that are left to the tokenizer."""
    expected = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return [
        text
        for text, slow, ids in zip(texts, expected, map(fast.encoding.encode_ordinary, texts), strict=True)
        if ids != slow.ids and covers(text) and max(ids, default=0) < fast.missing
    ]


@pytest.mark.slow
def test_every_character_is_encoded_alike(tokenizer: Tokenizer, fast: ByteLevel) -> None:
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    for low in range(0, len(characters), 50_000):
        part = characters[low : low + 50_000]
        assert not differ(tokenizer, fast, [f"1{c}{c} {c}a  {c}" for c in part])
        assert not differ(tokenizer, fast, [f"!{c}'s\n{c}" for c in part])


def test_what_one_library_does_not_know_yet_is_left_to_the_tokenizer() -> None:
    assert not covers("a \U00011de3")
    assert covers("naïve 中文 \U0001f600")


PIECES = st.sampled_from(
    ["a", "the", " The", "  ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "7", "42", "²", "Ⅷ", "½", "'s", "'LL", "’t", "!?",
     "<|im_end|>", "é", "e\u0301", "ß", "中文", "。", "\u200b", "👩\u200d🚀", "\u0663", "\ufeff", "_x", "€", "\x04", "ſ", "'ſ"]
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(PIECES, st.text(max_size=6)), max_size=40).map("".join))
def test_any_text_is_encoded_alike(tokenizer: Tokenizer, fast: ByteLevel, text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    assert not differ(tokenizer, fast, [text])


def test_long_runs_are_encoded_alike(tokenizer: Tokenizer, fast: ByteLevel) -> None:
    runs = [unit * 20_000 for unit in ("a", "ab", " ", "\n", " \n\t", "!", "1", "中", "é", "'s", " a")]
    assert not differ(tokenizer, fast, runs)


def test_every_token_is_encoded_alike(tokenizer: Tokenizer, fast: ByteLevel) -> None:
    texts = [tokenizer.decode([i], skip_special_tokens=False) for i in range(tokenizer.get_vocab_size())]
    assert not differ(tokenizer, fast, texts)
    assert not differ(tokenizer, fast, [a + b for a, b in zip(texts, reversed(texts), strict=True)])


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Encodes texts by the tokenizer alone, and with its fast encoding."""

    def both(texts: list[str]) -> tuple[Any, Any]:
        loaded = load_tokenizer("smollm2")
        monkeypatch.setattr(tokenization, "_PAYS", 10**12)
        slow = loaded.encode(texts)
        monkeypatch.setattr(tokenization, "_PAYS", 0)
        return slow, loaded.encode(texts)

    return both


def test_a_batch_is_the_same_by_both_ways(ways: Any) -> None:
    texts = [
        "",
        "one two",
        "\x04 has no token",
        "<|im_start|>text",
        "naïve 中文 \U0001f600",
        "new \U00011de3 digit",
        " 12 3",
    ]
    slow, fast = ways(texts * 200)
    for name in ("ids", "offsets", "ends"):
        assert np.array_equal(getattr(slow, name), getattr(fast, name)), name
    assert slow.lossy == fast.lossy == frozenset(range(2, 1400, 7))
    assert slow.ids.dtype == fast.ids.dtype == np.int32


def test_no_texts(ways: Any) -> None:
    slow, fast = ways([])
    assert len(slow.ids) == len(fast.ids) == 0
    assert len(fast.offsets) == 1


def small(**changes: Any) -> dict[str, Any]:
    """A tokenizer of a few merges, with changes to its top level."""
    alphabet = {chr(0x100 + b) if b < 0x21 else chr(b): b for b in range(127)}
    vocabulary = {**alphabet, "ab": 127, "abc": 128, "<|e|>": 129, "<|s|>": 130, "<|p|>": 131}
    model = {"type": "BPE", "vocab": vocabulary, "merges": [["a", "b"], ["ab", "c"]]}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    off = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    special = [{"id": 129 + i, "content": f"<|{name}|>", "special": True, **off} for i, name in enumerate("esp")]
    return {"version": "1.0", "added_tokens": special, "pre_tokenizer": level, "model": model, **changes}


def read(value: dict[str, Any]) -> Tokenizer:
    loaded = Tokenizer.from_str(json.dumps(value))
    loaded.encode_special_tokens = True
    return loaded


def test_a_plain_byte_level_tokenizer_has_a_fast_encoding() -> None:
    loaded = read(small())
    found = byte_level(loaded)
    assert found is not None
    assert not differ(loaded, found, ["abcab cab", "bc abc 'sab", "<|e|>abc"])
    assert found.encoding.encode_ordinary("é")[0] >= found.missing


SMALL = small()
LEVEL, MODEL = SMALL["pre_tokenizer"], SMALL["model"]
VOCABULARY = MODEL["vocab"]


def split_first(step: dict[str, Any]) -> dict[str, Any]:
    return small(pre_tokenizer={"type": "Sequence", "pretokenizers": [step, LEVEL]})


def learned(tokens: dict[str, int], *merges: str) -> dict[str, Any]:
    return small(model={"type": "BPE", "vocab": VOCABULARY | tokens, "merges": [merge.split() for merge in merges]})


@pytest.mark.parametrize(
    "value",
    [
        small(normalizer={"type": "NFC"}),
        small(normalizer={"type": "Lowercase"}),
        small(pre_tokenizer=None),
        small(pre_tokenizer={"type": "Whitespace"}),
        small(pre_tokenizer={**LEVEL, "add_prefix_space": True}),
        small(pre_tokenizer={**LEVEL, "use_regex": False}),
        split_first({"type": "Digits", "individual_digits": False}),
        small(model={**MODEL, "ignore_merges": True}),
        small(model={**MODEL, "byte_fallback": True}),
        small(model={**MODEL, "dropout": 0.1}),
        small(added_tokens=[{**token, "special": False} for token in SMALL["added_tokens"]]),
        # A token that its own text does not merge to: b and c are merged first.
        learned({"bc": 127, "ab": 128, "abc": 132}, "b c", "a b", "ab c"),
        # Two ways to one token.
        learned({"bc": 128, "abc": 132}, "a b", "b c", "ab c", "a bc"),
        # Merges in another order than the ids.
        learned({"bc": 132}, "b c", "a b", "ab c"),
    ],
)  # fmt: skip
def test_where_ids_might_differ_there_is_none(value: dict[str, Any]) -> None:
    assert byte_level(read(value)) is None


def test_a_tokenizer_without_one_encodes_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(small(model={**MODEL, "ignore_merges": True})))
    loaded = HuggingFaceTokenizer("t", path, bos="<|s|>", eom="<|e|>", silence="<|p|>")
    monkeypatch.setattr(tokenization, "_PAYS", 0)
    assert loaded.encode(["abc ab"]).ids.tolist() == [128, 32, 127]
