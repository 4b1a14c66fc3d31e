"""Tokenizers: text to ids in batches, exact to the byte, special tokens never parsed out of text.

A spec is ``smollm2`` (packaged), a directory or file of a Hugging Face tokenizer, ``tiktoken:PATH`` for a Llama-3
``tokenizer.model``, or a Hub id.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.byte_level import ByteLevel, byte_level, covers
from pipeline.errors import PipelineError
from pipeline.faults import client_errors, told

if TYPE_CHECKING:
    import tiktoken
    import tokenizers

IntArray = npt.NDArray[np.int64]

#: Split pattern of the Llama-3 tiktoken encoding, as published with the model (meta-llama/llama-models, tokenizer.py).
_LLAMA3_PATTERN = "|".join(
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
_LLAMA3_SPECIAL = {"<|begin_of_text|>": 0, "<|end_of_text|>": 1, "<|reserved_special_token_0|>": 2, "<|eot_id|>": 9}
_LLAMA3_RESERVED = 256

#: Candidates for the three structural tokens of a Hugging Face tokenizer, the first that is there is taken.
_BOS = ("<|begin_of_text|>", "<|im_start|>", "<s>", "<bos>", "<|endoftext|>")
_EOM = ("<|eot_id|>", "<|im_end|>", "<|eot|>", "<end_of_turn>", "</s>", "<eos>")
_SILENCE = ("<|reserved_special_token_0|>", "<|endoftext|>", "<|fim_pad|>", "<pad>", "<unk>")

#: Characters from which on it pays to look for the faster encoding of a tokenizer, which takes a quarter of a second.
_PAYS = 2_000_000
#: Fewer texts than this are not worth a thread.
_TEXTS_OF_A_THREAD = 16


class TokenizerError(PipelineError):
    """A tokenizer spec that cannot be used; one line that says what to do."""


@dataclass(frozen=True)
class Encoded:
    """A batch of texts as one flat array. Text ``i`` has ids ``ids[offsets[i]:offsets[i+1]]``.

    ``ends[j]`` is the number of bytes of its text (UTF-8) that tokens up to and with ``j`` cover. ``lossy``: the texts
    whose tokens do not decode to them again (the vocabulary has no token for some byte).
    """

    ids: npt.NDArray[np.int32]
    offsets: IntArray
    ends: IntArray
    lossy: frozenset[int] = frozenset()

    @cached_property
    def counts(self) -> IntArray:
        """Tokens per text."""
        return np.diff(self.offsets)


class TextTokenizer(Protocol):
    """What the pipeline asks of a tokenizer. The three special ids are ones that text can never produce."""

    name: str
    sha256: str
    vocab_size: int
    bos_id: int
    eom_id: int
    silence_id: int

    @property
    def longest_token(self) -> int:
        """Bytes of text that one token covers at most."""
        ...

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Encodes a batch, special tokens off."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens spelled out."""
        ...


def metadata(tokenizer: TextTokenizer) -> dict[str, Any]:
    """What a file of tokens says of its tokenizer."""
    return {
        "tokenizer": tokenizer.name,
        "tokenizer_sha256": tokenizer.sha256,
        "vocab_size": tokenizer.vocab_size,
        "bos_id": tokenizer.bos_id,
        "eom_id": tokenizer.eom_id,
        "silence_id": tokenizer.silence_id,
    }


def token_ends(tokenizer: TextTokenizer, text: str) -> list[int]:
    """Where the tokens of a text end, in characters; ends inside a character are left out."""
    ends = tokenizer.encode([text]).ends
    starts = np.append((np.frombuffer(text.encode(), dtype=np.uint8) & 0xC0) != 0x80, True)
    found: list[int] = (np.cumsum(starts) - 1)[ends[starts[ends]]].tolist()
    return found


def load_tokenizer(spec: str) -> TextTokenizer:
    """Loads a tokenizer by its spec. Raises TokenizerError; StoreError where the Hub may answer another time."""
    if spec == "smollm2":
        from pipeline.packaged import PackagedModelError, tokenizer_file

        try:
            return HuggingFaceTokenizer(
                "smollm2", tokenizer_file(), bos="<|im_start|>", eom="<|im_end|>", silence="<|endoftext|>"
            )
        except PackagedModelError as error:
            raise TokenizerError(str(error)) from error
    if spec.startswith("tiktoken:"):
        return TiktokenTokenizer(Path(spec.removeprefix("tiktoken:")))
    path = Path(spec)
    if path.is_dir():
        path = path / "tokenizer.json"
        if not path.exists():
            raise TokenizerError(f"tokenizer {spec!r}: the folder holds no tokenizer.json")
    elif not path.exists():
        path = _from_hub(spec)
    return HuggingFaceTokenizer(Path(spec).name, path)


def check_tokenizer(spec: str) -> None:
    """Loads a tokenizer if it is here; of a Hub id nothing is fetched. Raises TokenizerError."""
    if spec == "smollm2" or spec.startswith("tiktoken:") or Path(spec).exists():
        load_tokenizer(spec)
    else:
        _refuse_path(spec)


def _refuse_path(spec: str) -> None:
    if spec.count("/") != 1 or spec.startswith((".", "/")):
        raise TokenizerError(
            f"tokenizer {spec!r} is not there; use smollm2, a folder, a Hub id (owner/name) or tiktoken:PATH"
        )


def _from_hub(spec: str) -> Path:
    _refuse_path(spec)
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(spec, "tokenizer.json"))
    except client_errors() as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise told(error, f"tokenizer {spec!r} could not be fetched from the Hub: {said}", TokenizerError) from error


@lru_cache(maxsize=1)
def _parsed(data: bytes) -> tokenizers.Tokenizer:
    """The tokenizer of a ``tokenizer.json``, shared by all who load the same one: building it takes a tenth of a second.

    Nothing changes it once it is shared. Raises ValueError.
    """
    from tokenizers import Tokenizer

    made: tokenizers.Tokenizer = Tokenizer.from_buffer(data)
    made.no_truncation()
    made.no_padding()
    made.encode_special_tokens = True
    return made


@lru_cache(maxsize=1)
def _fast(tokenizer: tokenizers.Tokenizer) -> ByteLevel | None:
    return byte_level(tokenizer)


class HuggingFaceTokenizer:
    """A ``tokenizer.json`` through the ``tokenizers`` library; where there is much text, through tiktoken if it gives the same
    ids (see ``byte_level``)."""

    def __init__(
        self, name: str, path: Path, bos: str | None = None, eom: str | None = None, silence: str | None = None
    ) -> None:
        try:
            data = path.read_bytes()
            self._tokenizer = _parsed(data)
        except OSError as error:
            raise TokenizerError(f"tokenizer {str(path)!r}: {error.strerror}") from error
        except ValueError as error:
            raise TokenizerError(f"tokenizer {str(path)!r} is no tokenizer.json: {error}") from error
        self._seen = 0
        self.name = name
        self.path = path
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.vocab_size = self._tokenizer.get_vocab_size(with_added_tokens=True)
        added = {
            token.content: id_ for id_, token in self._tokenizer.get_added_tokens_decoder().items() if token.special
        }
        self.bos_id = _special(added, "beginning", (bos,) if bos else _BOS, name)
        self.eom_id = _special(added, "end-of-message", (eom,) if eom else _EOM, name)
        self.silence_id = _special(
            {t: i for t, i in added.items() if i not in (self.bos_id, self.eom_id)},
            "silence",
            (silence,) if silence else _SILENCE,
            name,
        )

    @cached_property
    def _byte_lengths(self) -> npt.NDArray[np.int32]:
        """Bytes per token id for a byte-level vocabulary, where one character of a token spells one byte."""
        lengths = np.zeros(self.vocab_size, dtype=np.int32)
        for token, id_ in self._tokenizer.get_vocab(with_added_tokens=False).items():
            if id_ < self.vocab_size:
                lengths[id_] = len(token)
        return lengths

    @cached_property
    def longest_token(self) -> int:
        """Bytes of text that one token covers at most."""
        return int(self._byte_lengths.max(initial=1))

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Encodes a batch, special tokens off; look-alikes of special tokens stay text."""
        self._seen += sum(map(len, texts))
        fast = _fast(self._tokenizer) if self._seen > _PAYS else None
        if fast is None:
            encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
            return _encoded([encoded.ids for encoded in encodings], texts, self._byte_lengths, self)
        ids = _encode_all(fast.encoding, texts)
        others = [i for i, text in enumerate(texts) if not covers(text) or max(ids[i], default=0) >= fast.missing]
        for i in others:
            ids[i] = self._tokenizer.encode(texts[i], add_special_tokens=False).ids
        return _encoded(ids, texts, self._byte_lengths, self)

    def slow_ends(self, text: str) -> IntArray:
        """Byte ends from the tokenizer's own character offsets, for vocabularies that are not byte-level."""
        offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
        sizes = np.concatenate([[0], np.cumsum([len(c.encode()) for c in text])]).astype(np.int64)
        ends: IntArray = sizes[np.maximum.accumulate(np.array([end for _, end in offsets], dtype=np.int64))]
        if len(ends):
            ends[-1] = sizes[-1]
        return ends

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens spelled out."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))


class TiktokenTokenizer:
    """A Llama-3 ``tokenizer.model`` through tiktoken."""

    def __init__(self, path: Path) -> None:
        import tiktoken
        from tiktoken.load import load_tiktoken_bpe

        if not path.is_file():
            raise TokenizerError(f"tokenizer file {str(path)!r} is not there")
        data = path.read_bytes()
        try:
            ranks = load_tiktoken_bpe(str(path))
        except ValueError as error:
            raise TokenizerError(f"tokenizer {str(path)!r} is no tiktoken file: {error}") from error
        base = len(ranks)
        self.name = "llama3" if base == 128000 else path.stem
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.vocab_size = base + _LLAMA3_RESERVED
        special = {token: base + i for token, i in _LLAMA3_SPECIAL.items()}
        self.bos_id, self.eom_id = special["<|begin_of_text|>"], special["<|eot_id|>"]
        self.silence_id = special["<|reserved_special_token_0|>"]
        self._encoding: tiktoken.Encoding = tiktoken.Encoding(
            self.name, pat_str=_LLAMA3_PATTERN, mergeable_ranks=ranks, special_tokens=special
        )
        self._byte_lengths = np.zeros(self.vocab_size, dtype=np.int32)
        for token, id_ in ranks.items():
            self._byte_lengths[id_] = len(token)
        self.longest_token = int(self._byte_lengths.max(initial=1))

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Encodes a batch, special tokens off; look-alikes of special tokens stay text."""
        return _encoded(_encode_all(self._encoding, texts), texts, self._byte_lengths, None)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens spelled out."""
        return self._encoding.decode(list(ids))


def _special(added: dict[str, int], what: str, candidates: Sequence[str], name: str) -> int:
    for token in candidates:
        if token in added:
            return added[token]
    raise TokenizerError(
        f"tokenizer {name!r} has no special token to serve as {what}; looked for: {', '.join(candidates)}"
    )


def _encode_all(encoding: tiktoken.Encoding, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text, special tokens off, on all cores that this process may use."""
    threads = 1 if os.environ.get("TOKENIZERS_PARALLELISM") == "false" else os.cpu_count() or 1
    size = -(-len(texts) // (4 * threads))
    if threads == 1 or size < _TEXTS_OF_A_THREAD:
        return list(map(encoding.encode_ordinary, texts))
    parts = [texts[i : i + size] for i in range(0, len(texts), size)]
    with ThreadPoolExecutor(threads) as pool:
        return list(chain.from_iterable(pool.map(lambda part: list(map(encoding.encode_ordinary, part)), parts)))


def _encoded(
    parts: Sequence[Sequence[int]],
    texts: Sequence[str],
    byte_lengths: npt.NDArray[np.int32],
    slow: HuggingFaceTokenizer | None,
) -> Encoded:
    counts = np.fromiter(map(len, parts), dtype=np.int64, count=len(parts))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    ids = np.fromiter(chain.from_iterable(parts), dtype=np.int32, count=int(offsets[-1]))
    running = np.concatenate([[0], np.cumsum(byte_lengths[ids], dtype=np.int64)])
    base = running[offsets[:-1]]
    ends = running[1:] - np.repeat(base, counts)
    sizes = np.fromiter((len(t) if t.isascii() else len(t.encode()) for t in texts), dtype=np.int64, count=len(texts))
    lossy: set[int] = set()
    for i in np.flatnonzero(running[offsets[1:]] - base != sizes):
        if slow is None or slow.decode(parts[i]) != texts[i]:
            lossy.add(int(i))
        if slow is not None:
            ends[offsets[i] : offsets[i + 1]] = slow.slow_ends(texts[i])
    return Encoded(ids, offsets, ends, frozenset(lossy))


def tokenizer_json(tokenizer: TextTokenizer) -> str:
    """The ``token_grid`` metadata of a token file, but for the clock's lag, as canonical JSON."""
    return json.dumps(metadata(tokenizer), sort_keys=True, separators=(",", ":"))
