"""The large files of the loopback Hub: git-LFS in one piece or in parts, and the tokens of Xet storage."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from tests.hub.hub_state import Hub, Repo

SIGNATURE = "X-Amz-Signature=s3cret-signature"


class Refused(Exception):
    """An answer other than 200. ``more``: what its JSON says beside the message."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
        more: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.headers, self.more = status, message, code, headers, more


class Uploads:
    """What a request handler does with large files; ``Handler`` has the rest."""

    server: Hub
    path: str
    body: bytes
    headers: Any

    def _repo(self, repo_id: str, write: bool = False) -> Repo:
        raise NotImplementedError

    def lfs_batch(self, repo_id: str) -> Any:
        repo, hub, answers = self._repo(repo_id, write=True), self.server, []
        for asked in json.loads(self.body)["objects"]:
            oid, size = asked["oid"], asked["size"]
            answer: dict[str, Any] = {"oid": oid, "size": size}
            if oid not in repo.objects:
                upload: dict[str, Any] = {"href": f"{hub.url}/store/{oid}?{SIGNATURE}"}
                if size > hub.part:
                    count = -(-size // hub.part)
                    numbered = {str(i + 1): f"{hub.url}/store/{oid}/{i + 1}?{SIGNATURE}" for i in range(count)}
                    upload = {"href": f"{hub.url}/complete/{oid}?{SIGNATURE}"}
                    upload["header"] = {"chunk_size": str(hub.part), **numbered}
                verify = {"href": f"{hub.url}/datasets/{repo_id}.git/info/lfs/verify"}
                answer["actions"] = {"upload": upload, "verify": verify}
            answers.append(answer)
        return {"transfer": "basic", "objects": answers}

    def store(self, oid: str, part: str = "") -> Any:
        self._check_signed()
        self.server.uploaded[f"{oid}/{part}" if part else oid] += 1
        if part:
            self.server.parts[oid, int(part)] = self.body
            return 200, {"ETag": f'"{hashlib.md5(self.body).hexdigest()}"'}, b""
        self._stored(oid, self.body)
        return 200, {}, b""

    def complete(self, oid: str) -> Any:
        self._check_signed()
        asked = json.loads(self.body)
        parts = [self.server.parts.get((oid, p["partNumber"]), b"") for p in asked["parts"]]
        if [f'"{hashlib.md5(p).hexdigest()}"' for p in parts] != [p["etag"] for p in asked["parts"]]:
            raise Refused(400, "the parts are not those that were sent")
        self._stored(oid, b"".join(parts))
        return {}

    def _check_signed(self) -> None:
        if SIGNATURE not in self.path:
            raise Refused(403, "the address is not signed")
        if "Authorization" in self.headers:
            self.server.wrong.append("the token went to the store")

    def _stored(self, oid: str, data: bytes) -> None:
        if hashlib.sha256(data).hexdigest() != oid:
            raise Refused(400, "the digest is not that of the content")
        self.server.waiting[oid] = data

    def xet_token(self, repo_id: str, right: str, revision: str) -> Any:
        self._repo(repo_id, write=right == "write")
        return {"casUrl": f"local://{self.server.cas}", "accessToken": "xet", "exp": int(time.time()) + 3600}

    def verify(self, repo_id: str) -> Any:
        asked, repo = json.loads(self.body), self._repo(repo_id, write=True)
        data = self.server.waiting.get(asked["oid"])
        if data is None or len(data) != asked["size"]:
            raise Refused(422, "the object is not there, or of another size")
        repo.objects[asked["oid"]] = data
        return {}
