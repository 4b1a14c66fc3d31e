"""A loopback server that speaks what the Hub documents for repositories of data sets, and fails on request.

It keeps commits in memory, takes uploads as the Hub does (small text in the commit, the rest by git-LFS, basic or in parts),
and believes nothing: digests, sizes, tokens, signatures of upload addresses and parents of commits are checked. Of
Xet storage it gives out tokens only: the client writes to a folder then, not over a network.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub.hub_lfs import Refused, Uploads
from tests.hub.hub_state import Blob, Commit, Hub, Repo
from tests.hub.hub_xet import read_stored

_LARGE = frozenset({".parquet", ".png"})


@contextmanager
def running_hub(part: int = 1 << 30) -> Iterator[Hub]:
    """A server on a free port of this machine."""
    hub = Hub(Handler, part)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        for fault in hub.faults:
            fault.released.set()
        hub.shutdown()
        hub.server_close()
        thread.join()


class Handler(Uploads, BaseHTTPRequestHandler):
    """One request. Routes are (method, pattern, method of this class)."""

    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""

    def do_GET(self) -> None:
        self._route("GET")

    def do_HEAD(self) -> None:
        self._route("HEAD")

    def do_POST(self) -> None:
        self._route("POST")

    def do_PUT(self) -> None:
        self._route("PUT")

    def _route(self, method: str) -> None:
        hub, parts = self.server, urlsplit(self.path)
        hub.requests.append((method, parts.path))
        self.query = parse_qs(parts.query)
        fault = hub.take_fault(method, parts.path)
        if fault is not None and fault.before is not None:
            fault.before()
        if fault is not None and fault.do in ("cut", "hold"):
            chunked = "Transfer-Encoding" in self.headers
            self.rfile.read(int(self.headers.get("Content-Length", 2 if chunked else 0)) // 2)
            fault.reached.set()
            if fault.do == "hold":
                fault.released.wait()
            self.close_connection = True
            self.connection.close()
            return
        self.body = self._read_body()
        try:
            if fault is not None and fault.do.isdigit():
                raise Refused(int(fault.do), fault.message, headers=fault.headers)
            status, headers, content = self._answer(method, parts.path)
            if fault is not None and fault.do == "say":
                headers, content = {"Content-Type": "application/json"}, fault.message.encode()
        except Refused as refused:
            status, content = refused.status, json.dumps({"error": refused.message, **refused.more}).encode()
            headers = {"X-Error-Message": refused.message, **refused.headers}
            if refused.code:
                headers["X-Error-Code"] = refused.code
        if fault is not None and fault.do == "lose":
            fault.reached.set()
            self.close_connection = True
            self.connection.close()
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if fault is not None and fault.do == "stop":
            self.wfile.write(content[: len(content) // 2])
            fault.reached.set()
            fault.released.wait()
            self.close_connection = True
            self.connection.close()
        elif method != "HEAD":
            self.wfile.write(content)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline().strip() or b"0", 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, method: str, path: str) -> tuple[int, dict[str, str], bytes]:
        for verb, pattern, name in ROUTES:
            if (verb == method or (verb == "GET" and method == "HEAD")) and (found := re.fullmatch(pattern, path)):
                with self.server.lock:
                    value = getattr(self, name)(*map(unquote, found.groups()))
                if isinstance(value, tuple):
                    return value
                return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()
        self.server.wrong.append(f"no such endpoint: {method} {path}")
        raise Refused(404, "no such endpoint")

    def _right(self) -> str | None:
        """What the token of the request may do; None without one."""
        sent = self.headers.get("Authorization")
        if sent is None:
            return None
        right = self.server.tokens.get(sent.removeprefix("Bearer "))
        if right is None:
            raise Refused(401, "Invalid credentials in Authorization header")
        return right

    def _repo(self, repo_id: str, write: bool = False) -> Repo:
        right, repo = self._right(), self.server.repos.get(repo_id)
        if repo is None or (repo.private and right is None):
            raise Refused(401 if right is None else 404, "Repository not found", "RepoNotFound")
        if write and right != "write":
            raise Refused(401 if right is None else 403, "You do not have the rights to write here")
        return repo

    def _commit(self, repo_id: str, revision: str) -> Commit:
        commit = self._repo(repo_id).head(revision)
        if commit is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def harnesses(self) -> Any:
        return {}

    def create_repo(self) -> Any:
        asked = json.loads(self.body)
        if self._right() != "write":
            raise Refused(401 if self._right() is None else 403, "You do not have the rights to create a repository")
        repo_id = f"{asked['organization']}/{asked['name']}"
        url = {"url": f"{self.server.url}/datasets/{repo_id}"}
        if asked.get("type") != "dataset":
            self.server.wrong.append(f"created as {asked.get('type')}")
        if repo_id in self.server.repos:
            raise Refused(409, "You already created this dataset repo", more=url)
        self.server.create(repo_id, asked.get("visibility") == "private")
        return url

    def info(self, repo_id: str, revision: str = "main") -> Any:
        commit = self._commit(repo_id, revision)
        siblings = [{"rfilename": path} for path in sorted(commit.files)]
        repo = self.server.repos[repo_id]
        return {"id": repo_id, "sha": commit.oid, "private": repo.private, "siblings": siblings, "tags": [],
                "downloads": 0, "likes": 0, "disabled": False, "gated": False, "author": repo_id.split("/")[0]}  # fmt: skip

    def refs(self, repo_id: str) -> Any:
        heads = self._repo(repo_id).branches.items()
        listed = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid} for name, oid in heads]
        return {"branches": listed, "converts": [], "tags": []}

    def branch(self, repo_id: str, name: str) -> Any:
        repo = self._repo(repo_id, write=True)
        if name in repo.branches:
            raise Refused(409, "Reference already exists")
        start = json.loads(self.body or b"{}").get("startingPoint", "main")
        repo.branches[name] = self._commit(repo_id, start).oid
        return {}

    def tree(self, repo_id: str, revision: str, below: str = "") -> Any:
        commit = self._commit(repo_id, revision)
        entries, folders = [], set()
        inside = f"{below.strip('/')}/" if below.strip("/") else ""
        for path, blob in sorted(commit.files.items()):
            if path.startswith(inside):
                rest = path.removeprefix(inside)
                parents = [str(p) for p in PurePosixPath(rest).parents if str(p) != "."]
                recursive = self.query.get("recursive", ["false"])[0].lower() == "true"
                folders |= {inside + p for p in (parents if recursive else parents[-1:])}
                if recursive or not parents:
                    entries.append(_entry(path, blob))
        if inside and not entries and not folders:
            raise Refused(404, f"{below} does not exist", "EntryNotFound")
        entries += [{"type": "directory", "path": p, "oid": hashlib.sha1(p.encode()).hexdigest(), "size": 0}
                    for p in sorted(folders)]  # fmt: skip
        start = int(self.query.get("cursor", ["0"])[0])
        page, headers = entries[start : start + 5], {"Content-Type": "application/json"}
        if len(entries) > start + 5:
            asked = "&".join(f"{k}={v[0]}" for k, v in self.query.items() if k != "cursor")
            headers["Link"] = f'<{self.server.url}{urlsplit(self.path).path}?{asked}&cursor={start + 5}>; rel="next"'
        return 200, headers, json.dumps(page).encode()

    def paths_info(self, repo_id: str, revision: str) -> Any:
        commit = self._commit(repo_id, revision)
        asked = parse_qs(self.body.decode()).get("paths", [])
        return [_entry(path, commit.files[path]) for path in asked if path in commit.files]

    def validate_yaml(self) -> Any:
        import yaml

        content = json.loads(self.body)["content"]
        try:
            data = yaml.safe_load(content.split("---", 2)[1])
        except (yaml.YAMLError, IndexError):
            data = None
        if not isinstance(data, dict):
            message = json.dumps({"errors": [{"message": "the metadata are no mapping"}], "warnings": []}).encode()
            return 400, {"Content-Type": "application/json"}, message
        return {"errors": [], "warnings": []}

    def preupload(self, repo_id: str, revision: str) -> Any:
        self._repo(repo_id, write=True)
        files = self._commit(repo_id, revision).files
        ignored = files[".gitignore"].data.decode().split() if ".gitignore" in files else []
        answers = []
        for asked in json.loads(self.body)["files"]:
            path, there = asked["path"], files.get(asked["path"])
            large = PurePosixPath(path).suffix in _LARGE or asked["size"] > 10 << 20
            known = (there.sha256 if there.lfs else there.oid) if there else None
            answers.append(
                {
                    "path": path,
                    "uploadMode": "lfs" if large else "regular",
                    "oid": known,
                    "shouldIgnore": path in ignored,
                }
            )
        return {"files": answers}

    def commit(self, repo_id: str, branch: str) -> Any:
        repo = self._repo(repo_id, write=True)
        head = repo.head(branch)
        if head is None or branch not in repo.branches:
            raise Refused(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        first, *lines = [json.loads(line) for line in self.body.splitlines()]
        parent = first["value"].get("parentCommit")
        if first["key"] != "header" or not lines:
            raise Refused(400, "a commit has a header and operations")
        if parent is None:
            self.server.wrong.append("a commit without a parent")
        if parent != head.oid:
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        files = dict(head.files)
        if self.server.cas is not None:
            large = (line["value"]["oid"] for line in lines if line["key"] == "lfsFile")
            repo.objects.update(read_stored(self.server.cas, large))
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
            elif line["key"] == "lfsFile":
                data = repo.objects.get(value["oid"])
                if data is None or len(data) != value["size"] or value["algo"] != "sha256":
                    raise Refused(422, f"{value['path']}: the object was not uploaded")
                files[value["path"]] = Blob(data, True)
            elif line["key"] == "deletedFile" and value["path"] in files:
                del files[value["path"]]
            else:
                raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
        made = repo.put(branch, first["value"]["summary"], files)
        return {"commitUrl": f"{self.server.url}/datasets/{repo_id}/commit/{made.oid}", "commitOid": made.oid}

    def resolve(self, repo_id: str, revision: str, path: str) -> Any:
        commit = self._commit(repo_id, revision)
        blob = commit.files.get(path)
        if blob is None:
            raise Refused(404, "Entry not found", "EntryNotFound")
        etag = blob.sha256 if blob.lfs else blob.oid
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if blob.lfs:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(blob.data))}
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(wanted[1]), min(int(wanted[2] or len(blob.data)), len(blob.data) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(blob.data)}"
            return 206, headers, blob.data[start : end + 1]
        return 200, headers, blob.data


def _entry(path: str, blob: Blob) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(blob.data), "oid": blob.oid}
    if blob.lfs:
        entry["lfs"] = {"oid": blob.sha256, "size": len(blob.data), "pointerSize": 130}
    return entry


_ID = r"([^/]+/[^/]+)"
ROUTES = (
    ("GET", "/api/agent-harnesses", "harnesses"),
    ("POST", "/api/repos/create", "create_repo"),
    ("POST", "/api/validate-yaml", "validate_yaml"),
    ("GET", f"/api/datasets/{_ID}", "info"),
    ("GET", f"/api/datasets/{_ID}/revision/([^/]+)", "info"),
    ("GET", f"/api/datasets/{_ID}/refs", "refs"),
    ("POST", f"/api/datasets/{_ID}/branch/([^/]+)", "branch"),
    ("GET", f"/api/datasets/{_ID}/tree/([^/]+)", "tree"),
    ("GET", f"/api/datasets/{_ID}/tree/([^/]+)/(.+)", "tree"),
    ("POST", f"/api/datasets/{_ID}/paths-info/([^/]+)", "paths_info"),
    ("POST", f"/api/datasets/{_ID}/preupload/([^/]+)", "preupload"),
    ("POST", f"/api/datasets/{_ID}/commit/([^/]+)", "commit"),
    ("POST", rf"/datasets/{_ID}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("POST", rf"/datasets/{_ID}\.git/info/lfs/verify", "verify"),
    ("GET", f"/api/datasets/{_ID}/xet-(read|write)-token/([^/]+)", "xet_token"),
    ("PUT", "/store/([0-9a-f]{64})", "store"),
    ("PUT", r"/store/([0-9a-f]{64})/(\d+)", "store"),
    ("POST", "/complete/([0-9a-f]{64})", "complete"),
    ("GET", f"/datasets/{_ID}/resolve/([^/]+)/(.+)", "resolve"),
)
