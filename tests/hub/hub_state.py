"""What the loopback Hub of tests keeps: repositories in memory, tokens, faults to come, and what was asked of it."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Blob:
    """A file of a commit: what it holds, and whether it is kept by LFS."""

    data: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def oid(self) -> str:
        data = self.data
        if self.lfs:
            data = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(data)}\n".encode()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass(frozen=True)
class Commit:
    """A state of a repository."""

    parent: str | None
    message: str
    files: Mapping[str, Blob]

    @property
    def oid(self) -> str:
        listed = [self.parent, self.message, sorted((p, b.oid) for p, b in self.files.items())]
        return hashlib.sha1(json.dumps(listed).encode()).hexdigest()


@dataclass
class Repo:
    """A repository: commits by id, heads of branches, and the LFS objects that were verified."""

    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)

    def head(self, revision: str) -> Commit | None:
        return self.commits.get(self.branches.get(revision, revision))

    def put(self, branch: str, message: str, files: Mapping[str, Blob]) -> Commit:
        commit = Commit(self.branches.get(branch), message, dict(files))
        self.commits[commit.oid] = commit
        self.branches[branch] = commit.oid
        return commit


@dataclass
class Fault:
    """What to do with the next requests that match: answer ``status``; ``cut`` the connection in the middle of their body;
    ``lose`` the answer of what was done; ``hold`` it until ``released``, then cut; ``stop`` in the middle of the answer, the
    same; do it and ``say`` the message as the answer; ``go`` on. ``before`` is called first."""

    method: str
    path: str
    do: str
    times: int = 1
    headers: Mapping[str, str] = field(default_factory=dict)
    message: str = "on request"
    before: Callable[[], object] | None = None
    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)


class Hub(ThreadingHTTPServer):
    """The server. ``tokens``: what each may do, "read" or "write". ``part``: LFS files above this size go in parts.
    ``cas``: the folder that stands for the Xet storage, where that is used."""

    daemon_threads = True

    def __init__(self, handler: type[BaseHTTPRequestHandler], part: int) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.part = part
        self.cas: Path | None = None
        self.tokens = {"hf_writing0token": "write", "hf_reading0token": "read"}
        self.repos: dict[str, Repo] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.uploaded: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.waiting: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.lock = threading.RLock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def create(self, repo_id: str, private: bool = False) -> Repo:
        repo = self.repos[repo_id] = Repo(private)
        repo.put("main", "initial commit", {".gitattributes": Blob(b"*.parquet filter=lfs\n", False)})
        return repo

    def fail(self, method: str, path: str, do: str, times: int = 1, **more: Any) -> Fault:
        fault = Fault(method, path, do, times, **more)
        self.faults.append(fault)
        return fault

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times and fault.method == method and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None

    def handle_error(self, request: Any, address: Any) -> None:
        """A client that was killed is no error of this server."""
