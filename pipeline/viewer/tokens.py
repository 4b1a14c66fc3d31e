"""The tokens of a record as text, from the token shards beside its records."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.storage import shown
from pipeline.tables import TOKENS
from pipeline.tokenization import TextTokenizer, load_tokenizer
from pipeline.viewer.lanes import FINAL_MARK, one_line
from pipeline.viewer.rows import Rows
from pipeline.viewer.samples import Samples


def record_tokens(samples: Samples, index: int, tokenizer: str | None = None) -> Mapping[tuple[int, int], str]:
    """What a record's token grid says at (row, lane), as harmless text; ``⟨7⟩`` for the bytes of a character that is cut.

    ``tokenizer`` is a spec; without one the packaged one is taken where it made the tokens, else ids are shown.
    Raises InputError where there are no token shards beside the records, or they belong to others.
    """
    shard, row = samples.where(index)
    record = samples.record(index)
    rows = _grids(shard)
    if row >= len(rows):
        raise InputError(f"{shown(rows.paths[0])} has fewer rows than {shown(shard)}: they are not of one build")
    grid: dict[str, Any] = rows.row(row).to_pylist()[0]
    if grid["id"] != record["id"]:
        raise InputError(f"{shown(rows.paths[0])} holds the tokens of other records than {shown(shard)}")
    pieces = _Pieces(_tokenizer_of(record["clock"], tokenizer))
    cells = zip(grid["token_rows"], grid["token_streams"], grid["token_ids"], strict=True)
    finals = {(e["end"] - 1, e["stream"]) for e in record["events"] if e["final"]}
    return {(at, lane): FINAL_MARK if (at, lane) in finals else pieces.text(id_) for at, lane, id_ in cells}


class _Pieces:
    def __init__(self, tokenizer: TextTokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}

    def text(self, id_: int) -> str:
        if id_ not in self._known:
            text = "�" if self._tokenizer is None else self._tokenizer.decode([id_])
            self._known[id_] = f"⟨{id_}⟩" if "�" in text else one_line(text)
        return self._known[id_]


@lru_cache(maxsize=4)
def _grids(shard: Path) -> Rows:
    beside = sorted(shard.parent.glob(shard.name.replace("records-", "tokens-*-", 1)))
    if not beside or not shard.name.startswith("records-"):
        raise InputError(f"no tokens-* shard beside {shown(shard)}: only text can be shown")
    return Rows(beside[:1], TOKENS.names)


@lru_cache(maxsize=4)
def _loaded(spec: str) -> TextTokenizer:
    return load_tokenizer(spec)


def _tokenizer_of(clock: Mapping[str, Any], spec: str | None) -> TextTokenizer | None:
    if spec is None and clock["tokenizer"] != "smollm2":
        return None
    loaded = _loaded(spec or "smollm2")
    if loaded.sha256 != clock["tokenizer_sha256"]:
        if spec is not None:
            raise InputError(f"tokenizer {spec!r} is not the one that made these rows ({clock['tokenizer']!r})")
        return None
    return loaded
