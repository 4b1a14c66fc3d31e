"""What a run is given beside scenarios: converted conversations, to re-write or to be about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.conversation import Conversation, RecordError, from_json, group_of, to_json
from pipeline.convert import conversations_of
from pipeline.manifest import publish, sha256_file
from pipeline.stages.ingest import IngestConfig, InputSource, ingest_stage
from synth.samples import Topic

_GROUP = 256
_TOPIC_CHARS = 200
_SCHEMA = pa.schema([pa.field("conversation", pa.binary(), nullable=False)])


class Conversations(Sequence[Conversation]):
    """The conversations of a Parquet file, of which one row group is held at a time."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path)
        self._held: tuple[int, list[bytes]] = (-1, [])

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    @overload
    def __getitem__(self, index: int) -> Conversation: ...
    @overload
    def __getitem__(self, index: slice) -> list[Conversation]: ...
    def __getitem__(self, index: int | slice) -> Conversation | list[Conversation]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        group, row = divmod(index, _GROUP)
        if self._held[0] != group:
            self._held = (group, self._file.read_row_group(group).column(0).to_pylist())
        value = orjson.loads(self._held[1][row])
        return from_json({k: v for k, v in value.items() if k not in ("schema", "id")})


@dataclass(frozen=True, slots=True)
class Material:
    """Conversations in the order of their sources; ``inputs``: digest of what they were read from; ``left_out``: units and
    conversations that none could be made of, by reason."""

    conversations: Conversations
    inputs: dict[str, str]
    left_out: dict[str, int]

    def topics(self) -> tuple[Topic, ...]:
        """What the conversations are about: the first words of their first user message."""
        found = (_topic(conversation) for conversation in self.conversations)
        return tuple(topic for topic in found if topic is not None)


def read_material(paths: Sequence[str], base: Path | None, directory: Path) -> Material:
    """Reads files of any format that the pipeline reads; what it makes lies in ``directory``.

    Raises:
        PipelineError: nothing is there, or nothing can be read.
    """
    sources = [InputSource(path=path) for path in paths]
    ingest = ingest_stage(sources, base or Path(), directory / "ingest", IngestConfig())
    ingest.fetch("units-")
    left_out: Counter[str] = Counter(ingest.manifest.counters.get("reject_reasons", {}))
    target = directory / "conversations.parquet"
    with publish(target) as temporary, pq.ParquetWriter(temporary, _SCHEMA, compression="zstd") as writer:
        waiting: list[bytes] = []
        for conversation in _conversations(ingest.manifest.paths(ingest.directory, "units-"), left_out):
            waiting.append(orjson.dumps(to_json(conversation)))
            if len(waiting) == _GROUP:
                writer.write_table(pa.table([pa.array(waiting, pa.binary())], schema=_SCHEMA))
                waiting = []
        if waiting:
            writer.write_table(pa.table([pa.array(waiting, pa.binary())], schema=_SCHEMA))
    return Material(Conversations(target), {"conversations": sha256_file(target)}, dict(left_out))


def _conversations(units: Sequence[Path], left_out: Counter[str]) -> Iterator[Conversation]:
    for path in units:
        for batch in pq.ParquetFile(path).iter_batches(_GROUP):
            for unit in batch.to_pylist():
                try:
                    told = list(conversations_of(unit))
                except RecordError as error:
                    left_out[error.code] += 1
                    continue
                for item in told:
                    if item.script is not None:
                        left_out["streams_already"] += 1
                    elif not item.conversation.has_output():
                        left_out["no_answer"] += 1
                    else:
                        yield item.conversation


def _topic(conversation: Conversation) -> Topic | None:
    for message in conversation.messages:
        text = " ".join(" ".join(part.text for part in message.parts if part.kind == "text").split())
        if message.role == "user" and text:
            if len(text) > _TOPIC_CHARS:
                text = text[:_TOPIC_CHARS].rsplit(" ", 1)[0] + " …"
            domain = conversation.sources[0].corpus if conversation.sources else ""
            return Topic(text, domain, group_of(conversation))
    return None
