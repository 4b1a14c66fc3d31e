"""The byte-level BPE of a ``tokenizer.json`` as a tiktoken encoding, which gives the same ids in a quarter of the time.

Both merge the two neighbours that were learned first. ``tokenizers`` looks up whether the pair was learned, tiktoken whether
the two together are a token. That is the same where every token was learned once, in the order of the ids, and is what its own
text merges to: what lies between two places that no merge has crossed was merged as if it stood alone. ``byte_level`` checks
it. How texts are split before that must be known too. Other tokenizers, and texts that ``covers`` denies, are left to
``tokenizers``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    import tiktoken
    from tokenizers import Tokenizer

#: Where the two libraries know different versions of Unicode: digits and letter numbers that came in 16.0 and 17.0.
_NEW_IN_UNICODE = re.compile("[\U00011de0-\U00011de9\U00016ff4-\U00016ff6]")

#: The split of the byte-level pre-tokenizer (GPT-2), and with a token for every digit: a space before a digit is left alone.
_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_GPT2_DIGITS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class ByteLevel:
    """``encoding`` gives the ids of a tokenizer, but for texts that hold a byte that its vocabulary lacks: they have ids from
    ``missing`` on."""

    encoding: tiktoken.Encoding
    missing: int


def byte_level(tokenizer: Tokenizer) -> ByteLevel | None:
    """The encoding that gives the ids of ``tokenizer``, special tokens never parsed; None where none surely does."""
    import tiktoken

    value = orjson.loads(tokenizer.to_str())
    model, pattern = value["model"], _pattern(value.get("pre_tokenizer"))
    if pattern is None or value.get("normalizer") or not _is_plain(model):
        return None
    added = value.get("added_tokens") or []
    if not all(token["special"] for token in added):
        return None
    special = {token["content"] for token in added}
    vocabulary: dict[str, int] = {token: id_ for token, id_ in model["vocab"].items() if token not in special}
    merged = ["".join(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"]]
    ids = [vocabulary.get(token, -1) for token in merged]
    learned = len(merged) + sum(len(token) == 1 for token in vocabulary)
    if learned != len(vocabulary) or any(a >= b for a, b in pairwise([-1, *ids])):
        return None
    if not all(len(tokenizer.model.tokenize(token)) == 1 for token in vocabulary):
        return None
    byte_of = _bytes_by_character()
    try:
        ranks = {bytes(map(byte_of.__getitem__, token)): id_ for token, id_ in vocabulary.items()}
    except KeyError:
        return None
    beyond = max([*model["vocab"].values(), *(token["id"] for token in added)]) + 1
    lacking = [byte for byte in map(int.to_bytes, range(256)) if byte not in ranks]
    ranks.update({byte: beyond + i for i, byte in enumerate(lacking)})
    return ByteLevel(tiktoken.Encoding("byte-level", pat_str=pattern, mergeable_ranks=ranks, special_tokens={}), beyond)


def covers(text: str) -> bool:
    """Whether both libraries split the text alike."""
    return text.isascii() or _NEW_IN_UNICODE.search(text) is None


def _is_plain(model: Mapping[str, Any]) -> bool:
    unusual = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges")
    return model.get("type") == "BPE" and not any(model.get(name) for name in unusual)


def _pattern(pre_tokenizer: Mapping[str, Any] | None) -> str | None:
    """How texts are split before they are merged."""
    digits = {"type": "Digits", "individual_digits": True}
    steps = [] if pre_tokenizer is None else pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    if not steps or steps[:-1] not in ([], [digits]):
        return None
    last = steps[-1]
    if last["type"] != "ByteLevel" or last["add_prefix_space"] or not last.get("use_regex", True):
        return None
    return _GPT2_DIGITS if steps[:-1] else _GPT2


def _bytes_by_character() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary spells: itself if printable, else the next from U+0100 on.

    As in GPT-2's encoder (openai/gpt-2, ``bytes_to_unicode``).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}
