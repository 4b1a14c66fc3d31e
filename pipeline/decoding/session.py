"""A dialogue with a person: what is typed waits in a queue and is heard a token per row while the model speaks."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from pipeline.decoding.decoder import Decoder
from pipeline.decoding.sampling import Sampling
from pipeline.training.grid import GridMetadata, Stream, TrainingError
from pipeline.training.masks import MaskKind
from pipeline.training.model import MultistreamModel

#: Tokens that may be held back until they make whole characters; a character has at most four bytes.
_MOST_HELD = 8
_INCOMPLETE = "\ufffd"


class TextCodec(Protocol):
    """What a session asks of a tokenizer (``pipeline.tokenization.TextTokenizer`` has it)."""

    def encode(self, texts: Sequence[str]) -> Any:
        """Ids of texts as ``.ids``, special tokens off."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids."""
        ...


@dataclass(frozen=True)
class Event:
    """A run of cells of one stream without a pause, rows [start, end); ``final``: its last cell ends the message."""

    stream: str
    direction: str
    start: int
    end: int
    final: bool
    text: str
    token_ids: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "token_ids": list(self.token_ids)}


@dataclass(frozen=True)
class Cell:
    """One spoken cell. ``text`` is what it adds to its stream: empty where a character is not whole yet; ``final``: EOM."""

    stream: int
    token: int
    text: str
    final: bool


@dataclass(eq=False)
class _Speech:
    """What a stream has said: ids of the run that is going on, and what is needed to spell its next token."""

    start: int = 0
    run: list[int] = field(default_factory=list)
    shown: list[int] = field(default_factory=list)
    held: list[int] = field(default_factory=list)

    def spell(self, token: int, codec: TextCodec) -> str:
        """The text that a token adds; tokens of an unfinished character are held back."""
        self.held.append(token)
        before = codec.decode(self.shown)
        text = codec.decode([*self.shown, *self.held])
        if text.endswith(_INCOMPLETE) and len(self.held) < _MOST_HELD:
            return ""
        self.shown, self.held = self.held, []
        return text[len(before) :]


class Session:
    """One dialogue: ``say`` and ``end_message`` fill the queue, ``row`` lets a row pass.

    ``hears`` is the stream that the queue is heard on; ``silent_rows``: rows since somebody spoke or the queue was filled.
    """

    def __init__(
        self,
        model: MultistreamModel,
        metadata: GridMetadata,
        mask: MaskKind,
        streams: tuple[Stream, ...],
        codec: TextCodec,
        *,
        sampling: Sampling | None = None,
        max_rows: int | None = None,
    ) -> None:
        """Raises TrainingError where there is nobody to speak or to listen, and as ``Decoder`` does."""
        inputs = [i for i, stream in enumerate(streams) if stream.direction == "input"]
        if not inputs or len(inputs) == len(streams):
            raise TrainingError("a chat needs an input stream to type on and an output stream to read")
        self.decoder = Decoder(model, metadata, mask, [streams], sampling=sampling, max_rows=max_rows)
        self.streams = streams
        self.hears = next((i for i in inputs if streams[i].role == "user"), inputs[0])
        self.silent_rows = 0
        self.events: list[Event] = []
        self._codec, self._eom = codec, metadata.eom_id
        self._queue: deque[int] = deque()
        self._has_begun = False
        self._speech = [_Speech() for _ in streams]

    @property
    def rows(self) -> int:
        """Rows that have passed."""
        return self.decoder.rows[0]

    @property
    def is_over(self) -> bool:
        """Whether there is no row left."""
        return self.rows >= self.decoder.max_rows

    @property
    def waiting(self) -> int:
        """Tokens in the queue."""
        return len(self._queue)

    def say(self, text: str) -> None:
        """Puts text into the queue."""
        if text:
            self._queue.extend(int(token) for token in self._codec.encode([text]).ids)
            self._has_begun = True
            self.silent_rows = 0

    def end_message(self) -> None:
        """Puts the end of the message into the queue, if anything has been said since the last."""
        if not self._has_begun:
            return
        self._queue.append(self._eom)
        self._has_begun = False
        self.silent_rows = 0

    def row(self) -> list[Cell]:
        """Lets a row pass; the cells spoken at it, by stream. Raises TrainingError where no row is left."""
        row = self.rows
        heard = {self.hears: self._queue[0]} if self._queue else {}
        (said,) = self.decoder.step([heard])
        if heard:
            self._queue.popleft()
        spoken = {**heard, **said}
        self.silent_rows = 0 if spoken else self.silent_rows + 1
        for stream, speech in enumerate(self._speech):
            if speech.run and stream not in spoken:
                self._close(stream, final=False)
        return [self._take(row, stream, token) for stream, token in sorted(spoken.items())]

    def finish(self) -> None:
        """Closes the runs that are going on."""
        for stream, speech in enumerate(self._speech):
            if speech.run:
                self._close(stream, final=False)

    def until_silence(self, patience: int) -> Iterator[list[Cell]]:
        """Rows until everything has been heard and nobody has spoken for ``patience`` rows, or none is left."""
        while not self.is_over and (self._queue or self.silent_rows < patience):
            yield self.row()

    def _take(self, row: int, stream: int, token: int) -> Cell:
        speech = self._speech[stream]
        if not speech.run:
            speech.start = row
        speech.run.append(token)
        if token != self._eom:
            return Cell(stream, token, speech.spell(token, self._codec), final=False)
        self._close(stream, final=True)
        return Cell(stream, token, "", final=True)

    def _close(self, stream: int, final: bool) -> None:
        speech, who = self._speech[stream], self.streams[stream]
        text = self._codec.decode(speech.run[:-1] if final else speech.run)
        end = speech.start + len(speech.run)
        self.events.append(Event(who.name, who.direction, speech.start, end, final, text, tuple(speech.run)))
        if final:
            self._speech[stream] = _Speech()
        else:
            speech.run = []
