"""Answers on disk, so that nothing is asked twice: not in a run that was broken off and runs again, nor within one.

One SQLite file. An answer is committed before anybody sees it, so a process may be killed at any instant. Several
processes may share a file: each waits for its turn to write, and all of them use the answer that was there first.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pipeline.manifest import canonical_json
from synth.engines import Completion, Engine, Request
from synth.errors import SynthError

#: Goes up when the table or what a key is made of changes.
VERSION = 1
#: Ends that are answers. A refusal is none: asking again costs nothing, and what it was refused for may have been put right.
KEPT = frozenset({"stop", "length"})

_APPLICATION = 0x6D735341  # "msSA": whose file it is, in SQLite's header
_WAIT_SECONDS = 60.0
_TABLE = """
CREATE TABLE answers (
    key BLOB PRIMARY KEY,
    text TEXT NOT NULL,
    finish_reason TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL
) WITHOUT ROWID
"""
_COLUMNS = "text, finish_reason, prompt_tokens, completion_tokens, cached_tokens"


def key_of(identity: dict[str, Any], request: Request) -> bytes:
    """sha256 of all that an answer depends on. A schema keeps its order: properties are written in it."""
    asked = asdict(replace(request, schema=None))
    schema = None if request.schema is None else json.dumps(request.schema)
    return hashlib.sha256(canonical_json([identity, asked, schema]).encode("utf-8", "surrogatepass")).digest()


class AnswerCache:
    """The answers in a file, which is made if it is not there.

    ``fixed``: the file is there, nobody writes to it meanwhile, and it is only read, without locks: so it may lie on any
    file system, and any number of processes on any machine may read it.

    Raises:
        SynthError: here and in every method, where the file is damaged, not ours, of another version, or not free.
    """

    def __init__(self, path: Path, fixed: bool = False) -> None:
        self.path, self._fixed = path, fixed
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SynthError(f"cannot keep answers in {path}: {error.strerror or error}") from error
        name = f"{path.absolute().as_uri()}?mode=ro&immutable=1" if fixed else str(path)
        with self._speaking():
            self._connection: sqlite3.Connection | None = sqlite3.connect(
                name, timeout=_WAIT_SECONDS, isolation_level=None, uri=fixed
            )
            try:
                if fixed:
                    self._check_version(self._connection)
                else:
                    self._prepare(self._connection)
            except BaseException:
                self._connection.close()
                raise

    def get(self, key: bytes) -> Completion | None:
        """The answer that is kept."""
        with self._speaking():
            row = self._open().execute(f"SELECT {_COLUMNS} FROM answers WHERE key = ?", (key,)).fetchone()
        return None if row is None else replace(Completion(*row), stored=True)

    def keep(self, key: bytes, completion: Completion) -> Completion:
        """Commits an answer. Gives it back, or the one that was there first."""
        values = (getattr(completion, name) for name in _COLUMNS.split(", "))
        with self._speaking():
            new = self._open().execute(
                f"INSERT INTO answers (key, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (key, *values),
            )
        there = None if new.rowcount else self.get(key)
        return completion if there is None else replace(there, stored=False)

    def absorb(self, path: Path) -> None:
        """Takes all answers of another file that are not here. Nothing of it is changed, but what SQLite keeps beside it
        is put into it."""
        AnswerCache(path).close()
        with self._speaking():
            connection = self._open()
            connection.execute("ATTACH DATABASE ? AS other", (str(path),))
            try:
                columns = f"key, {_COLUMNS}"
                connection.execute(
                    f"INSERT OR IGNORE INTO answers ({columns}) SELECT {columns} FROM other.answers ORDER BY key"
                )
            finally:
                connection.execute("DETACH DATABASE other")

    def __len__(self) -> int:
        with self._speaking():
            (count,) = self._open().execute("SELECT count(*) FROM answers").fetchone()
        return int(count)

    def close(self) -> None:
        """Leaves one file, unless another process has it open; safe to call twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with self._speaking():
                try:
                    if not self._fixed:
                        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                finally:
                    connection.close()

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise SynthError(f"the answers in {self.path} are closed: open them again")
        return self._connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Makes a new file, or looks whether an old one is ours. Nothing of somebody else's file is changed."""
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application != _APPLICATION and (application or tables):
            raise SynthError(f"{self.path} is a database, but holds no answers: move it away")
        # What is committed outlives the process; only a power cut may take the last answers, never the file.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("BEGIN IMMEDIATE")
        try:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            if application != _APPLICATION:
                connection.execute(_TABLE)
                connection.execute(f"PRAGMA user_version = {VERSION}")
                connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
        self._check_version(connection)

    def _check_version(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != VERSION:
            raise SynthError(f"{self.path} holds answers of version {version}, this is version {VERSION}: delete it")

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """Turns what SQLite says into one line."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
                raise SynthError(
                    f"{self.path} is being written by another process: wait until that has ended"
                ) from error
            raise SynthError(f"cannot keep answers in {self.path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise SynthError(f"{self.path} is damaged, or holds no answers ({error}): delete it to ask anew") from error


class CachedEngine:
    """An engine that keeps its answers. Equal requests of a batch are asked once.

    ``asked`` and ``from_cache``: requests that went to the engine, and that did not. Closing it closes both.
    """

    def __init__(self, engine: Engine, cache: AnswerCache) -> None:
        self._engine = engine
        self._cache = cache
        self.asked = 0
        self.from_cache = 0

    def answers(self, requests: Sequence[Request]) -> Generator[tuple[int, Completion], None, None]:
        """What is kept, then what the engine answers, each committed before it is given.

        Raises:
            SynthError: of the engine; what it had answered is kept.
        """
        identity = self._engine.identity()
        places: dict[bytes, list[int]] = {}
        for place, request in enumerate(requests):
            places.setdefault(key_of(identity, request), []).append(place)
        missing: list[bytes] = []
        for key, same in places.items():
            kept = self._cache.get(key)
            if kept is None:
                missing.append(key)
                continue
            for place in same:
                self.from_cache += 1
                yield place, kept
        if not missing:
            return
        with closing(self._ask([requests[places[key][0]] for key in missing])) as answers:
            for at, completion in answers:
                key = missing[at]
                if completion.finish_reason in KEPT:
                    completion = self._cache.keep(key, completion)
                first, *others = places[key]
                self.asked += 1
                yield first, completion
                for place in others:
                    self.from_cache += 1
                    yield place, replace(completion, stored=True)

    def _ask(self, requests: Sequence[Request]) -> Generator[tuple[int, Completion], None, None]:
        try:
            yield from self._engine.answers(requests)
        except SynthError as error:
            raise SynthError(f"{error}; what was answered is kept") from error

    def identity(self) -> dict[str, Any]:
        """The engine's own."""
        return self._engine.identity()

    def describe(self) -> dict[str, Any]:
        """The engine's own, with ``asked`` and ``from_cache``."""
        return self._engine.describe() | {"asked": self.asked, "from_cache": self.from_cache}

    def close(self) -> None:
        """Closes the engine and the file; safe to call twice."""
        try:
            self._engine.close()
        finally:
            self._cache.close()
