"""A run in shards: several engines, each of which asks for a range of the dialogues, and one pass that makes the files.

A shard only fills a store of answers: it runs the code of the run, the judge's part included, on its own dialogues, and what
comes out is thrown away. The last pass runs it again over all dialogues in their order, and finds every answer stored. So the
files are those of one engine, near-duplicates are found across shards, and a shard may be asked for anywhere.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.manifest import sha256_file
from pipeline.records import Clock
from pipeline.tokenization import load_tokenizer
from synth.config import EngineOptions, SynthConfig
from synth.diversity import Diversity
from synth.engines import Completion, Engine
from synth.engines.cache import AnswerCache
from synth.engines.open import open_engine
from synth.engines.replay import StoredFirst, identities
from synth.errors import SynthError
from synth.finish import BATCH, Finisher
from synth.generators import Dialogue, Maker
from synth.kept import KeptAnswers
from synth.making import has_own_judge, judge_engine, make
from synth.material import Conversations, Material
from synth.run import Usage, outcomes
from synth.scenarios import load_scenarios

CACHE = "answers.sqlite"
JUDGE_CACHE = f"judge-{CACHE}"
#: What is read of conversations, while a run lasts.
MATERIAL = ".material"
CONVERSATIONS = f"{MATERIAL}/conversations.parquet"
#: What SQLite may leave beside a file.
BESIDE = ("", "-wal", "-shm", "-journal")

_STORE = re.compile(r"(judge-)?answers-\d{5}-[0-9a-f]{8}\.sqlite")


@dataclass(frozen=True, slots=True)
class Shard:
    """The dialogues from ``first`` to before ``stop``; ``store``: the name of the file of their answers, which no other
    run uses (the judge's is named ``judge-…``)."""

    number: int
    first: int
    stop: int
    store: str

    @property
    def stores(self) -> tuple[str, str]:
        """The files of the writer's and the judge's answers."""
        return self.store, f"judge-{self.store}"


@dataclass(frozen=True, slots=True)
class Work:
    """What all shards of a run share; it goes to other machines with them.

    ``config``: scenarios inline, paths absolute. ``tokenizer``, ``lag``: of the clock. ``material``: digest of the
    conversations in the run's folder, None where there are none. ``stored``: how many answers of the writer and of the
    judge are in the run's own files. ``mounted``: what the folder is mounted on.
    """

    config: SynthConfig
    tokenizer: str
    lag: int
    material: str | None
    stored: tuple[int, int]
    mounted: tuple[storage.Mount, ...] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """What a shard came to. ``usage``: of the writer; ``writer``, ``judge``: what ran (``Engine.describe``) and what it
    called itself; ``failed``: what was said to requests that got no answer, by key."""

    number: int
    usage: Usage
    writer: dict[str, Any]
    judge: dict[str, Any] | None
    identities: tuple[dict[str, Any], ...]
    failed: dict[bytes, Completion] = field(default_factory=dict)


#: Told where a shard stands: its number, its usage until now.
Tell = Callable[[int, Usage], None]

#: Asks for shards, in any order and at any place, and yields what each came to; ``synthesize_shard`` is the work of one.
RunShards = Callable[[Sequence[Shard], Path, Work, Tell], Iterator[Asked]]


def cut(count: int, shards: int) -> list[Shard]:
    """``count`` dialogues as at most ``shards`` ranges of about the same size."""
    shards = min(shards, count)
    run = uuid.uuid4().hex[:8]
    edges = [count * number // shards for number in range(shards + 1)]
    return [
        Shard(number, first, stop, f"answers-{number:05d}-{run}.sqlite")
        for number, (first, stop) in enumerate(pairwise(edges))
    ]


def synthesize_shard(
    shard: Shard, directory: Path, work: Work, tell: Tell | None = None, engine: Engine | None = None
) -> Asked:
    """Asks for what is not stored of one shard's dialogues. An engine is opened only where an answer is missing.

    ``directory``: of the run; where it is mounted on a store the shard's answers are kept there too. It may be called again
    for the same shard, at the same place or another. ``engine``: asked instead of those that the configuration names.

    Raises:
        SynthError: no engine can run, or it cannot go on; what was answered is kept.
        StoreError: the store did not answer.
    """
    storage.mount(*work.mounted)
    config = work.config
    kept = KeptAnswers([directory / name for name in shard.stores])
    kept.restore()
    clock = Clock(load_tokenizer(work.tokenizer), work.lag)
    maker = _Part(make(config, load_scenarios(config.scenarios), _material(directory, work), clock), shard)
    usage = Usage()

    def watch(_: Usage) -> None:
        kept.copy_now_and_then()
        if tell is not None:
            tell(shard.number, usage)

    with ExitStack() as stack:
        stack.callback(kept.copy)
        asking = [engine_of(config, judge) for judge in ((False, True) if has_own_judge(config) else (False,))]
        opened = []
        for place, (model, options) in enumerate(asking):
            base = directory / (CACHE, JUDGE_CACHE)[place]
            others = [AnswerCache(base, fixed=True)] if _fetched(base, work.stored[place]) else []
            opening = opener(config, model, options, engine)
            store = AnswerCache(directory / shard.stores[place])
            opened.append(
                stack.enter_context(StoredFirst(store, others, identities_of(model, options, engine), opening))
            )
        writer, critic = opened[0], opened[-1]
        told = outcomes(maker, writer, config.batch_size, usage, watch)
        finisher = Finisher(config, clock, Diversity(config.diversity), critic, None)
        while batch := list(islice(told, BATCH)):
            if config.judge is not None:
                finisher.finish(batch)
        names = tuple(one.identity() for one in opened)
        judged = critic.describe() if critic is not writer else None
        failed = {**writer.failures, **critic.failures}
        asked = Asked(shard.number, usage, writer.describe(), judged, names, failed)
    if storage.url_of(directory) is not None:
        for name in shard.stores:
            remove_store(directory / name)  # it is kept there
    return asked


def engine_of(config: SynthConfig, judge: bool) -> tuple[str, EngineOptions]:
    """The model and options of the writer or the judge."""
    return judge_engine(config) if judge else (config.model, config.engine)


def opener(
    config: SynthConfig, model: str, options: EngineOptions, engine: Engine | None
) -> Callable[[], AbstractContextManager[Engine]]:
    """What opens an engine, or gives the one that is there."""
    if engine is not None:
        return lambda: nullcontext(engine)
    return lambda: open_engine(model, options, config.batch_size, config.seed, None)


def identities_of(model: str, options: EngineOptions, engine: Engine | None) -> list[dict[str, Any]]:
    """What an engine may call itself."""
    return [engine.identity()] if engine is not None else identities(model, options)


class Stores:
    """The files of answers in a run's folder: ``answers.sqlite`` and the judge's, and what shards have filled."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._own = [directory / CACHE, directory / JUDGE_CACHE]
        self._copies = KeptAnswers(self._own)

    def gather(self) -> None:
        """Puts all that shards have stored, of this run or one that was broken off, into the run's own files."""
        stores = self._of_shards()
        if not stores:
            return
        self._copies.restore()
        for path in stores:
            self._absorb(path)
            if storage.is_kept(path):
                remove_store(path)
                storage.download(path)
                self._absorb(path)
        self._copies.copy()  # before what it was made of goes
        for path in stores:
            storage.remove(path)
            remove_store(path)

    def share(self) -> tuple[int, int]:
        """Makes the run's own files ready for others to read; how many answers of the writer and of the judge are there."""
        self._copies.restore()
        for own in self._own:
            _settle(own)
        self._copies.copy()
        writer, judge = (_count(path) for path in self._own)
        return writer, judge

    def forget(self) -> None:
        """Removes all that was stored."""
        self._copies.forget()
        for path in self._own:
            remove_store(path)
        for path in self._of_shards():
            storage.remove(path)
            remove_store(path)

    def copy(self) -> None:
        """Keeps a copy of the run's own files in the folder's store."""
        self._copies.copy()

    def _of_shards(self) -> list[Path]:
        there = {path.name for path in self._directory.glob("*.sqlite")} | set(
            storage.files_below(self._directory) or ()
        )
        return [self._directory / name for name in sorted(there) if _STORE.fullmatch(name)]

    def _absorb(self, path: Path) -> None:
        if not path.is_file():
            return
        own = AnswerCache(self._own[path.name.startswith("judge-")])
        try:
            own.absorb(path)
        finally:
            own.close()


def remove_store(path: Path) -> None:
    """Removes a file of answers from this disk."""
    for ending in BESIDE:
        path.with_name(f"{path.name}{ending}").unlink(missing_ok=True)


def total(usages: Sequence[Usage], seconds: float) -> Usage:
    """The usage of several shards, which took so many seconds together."""
    names = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "new_tokens", "open", "finished")
    return replace(Usage(), seconds=seconds, **{name: sum(getattr(one, name) for one in usages) for name in names})


class _Part:
    """The dialogues of one shard, numbered from 0."""

    def __init__(self, maker: Maker, shard: Shard) -> None:
        self._maker, self._shard = maker, shard

    @property
    def count(self) -> int:
        return self._shard.stop - self._shard.first

    def dialogue(self, index: int) -> Dialogue:
        return self._maker.dialogue(self._shard.first + index)


def _material(directory: Path, work: Work) -> Material | None:
    if work.material is None:
        return None
    path = directory / CONVERSATIONS
    if not (path.is_file() and sha256_file(path) == work.material) and not (
        storage.download(path) and sha256_file(path) == work.material
    ):
        raise SynthError(
            f"{storage.shown(path)} is not what the run has read: the run's folder must be one that all machines see"
        )
    return Material(Conversations(path), {"conversations": work.material}, {})


def _fetched(path: Path, wanted: int) -> bool:
    """Whether there are stored answers to look at; they are got from the folder's store where fewer are here."""
    if not wanted:
        return False
    if storage.url_of(path) is not None:
        _settle(path)
        if _count(path) < wanted:
            storage.download(path)
    return path.is_file()


def _settle(path: Path) -> None:
    """Puts what a killed process left beside a file into it."""
    if path.is_file():
        AnswerCache(path).close()


def _count(path: Path) -> int:
    if not path.is_file():
        return 0
    cache = AnswerCache(path, fixed=True)
    try:
        return len(cache)
    finally:
        cache.close()
