"""Answers of the Hub that are errors, no answers, or cut off: one line, no secrets, and nothing half done."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from pipeline.hub.remote import quiet_logs
from tests.hub.hub_client import REPO, WRITING, Client
from tests.hub.hub_server import running_hub

SENDING = (("GET", "/revision/"), ("GET", "/tree/"), ("POST", "/validate-yaml"), ("POST", "/repos/create"),
           ("POST", "/branch/"), ("POST", "/preupload/"), ("POST", "/objects/batch"), ("PUT", "/store/"),
           ("POST", "/complete/"), ("POST", "/lfs/verify"), ("POST", "/commit/"))  # fmt: skip


def test_an_error_of_the_server_at_every_endpoint_is_waited_out(build: Path, tmp_path: Path) -> None:
    with running_hub(part=4000) as hub:
        for method, path in SENDING:
            hub.fail(method, path, "503", headers={"Retry-After": "0"})
        client = Client(hub, tmp_path)
        done = client.push(build, REPO, "--revision", "next")
        assert done.returncode == 0, done.stderr
        hub.fail("GET", "/resolve/", "503", headers={"Retry-After": "0"})
        again = client.push(build, REPO, "--revision", "next")
        assert "nothing to push" in again.stdout, again.stderr
        assert [fault.path for fault in hub.faults if fault.times] == []
        assert WRITING not in done.stderr + again.stderr
        assert len(hub.repos[REPO].commits) == 2


@pytest.mark.parametrize(
    ("method", "path", "answer", "says"),
    [
        ("GET", "/revision/", "[]", "none of a Hub's"),
        ("GET", "/tree/", "null", "none of a Hub's"),
        ("POST", "/validate-yaml", "null", "none of a Hub's"),
        ("POST", "/repos/create", "{}", "lacks 'url'"),
        ("POST", "/preupload/", "[]", "none of a Hub's"),
        ("POST", "/objects/batch", "<html>", "is HF_ENDPOINT right"),
    ],
)
def test_an_answer_that_is_none_is_one_line(
    client: Client, build: Path, method: str, path: str, answer: str, says: str
) -> None:
    if path == "/tree/":
        client.hub.create(REPO)
    client.hub.fail(method, path, "say", times=100, message=answer)
    done = client.push(build, REPO)
    assert done.returncode == 1
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert [len(repo.commits) for repo in client.hub.repos.values()] in ([], [1])


@pytest.mark.parametrize("answer", ["{}", "[]", "<html>"])
def test_a_commit_whose_answer_cannot_be_read_is_found(client: Client, build: Path, answer: str) -> None:
    client.hub.fail("POST", "/commit/", "say", times=100, message=answer)
    done = client.push(build, REPO)
    assert done.returncode == 0, done.stderr
    assert client.hub.repos[REPO].head("main").oid in done.stdout  # type: ignore[union-attr]
    assert len(client.hub.repos[REPO].commits) == 2


def test_an_outage_is_told_in_few_lines_and_json_stays_json(client: Client, build: Path) -> None:
    client.hub.fail("GET", "/revision/", "500", times=3, headers={"Retry-After": "0"})
    client.hub.fail("PUT", "/store/", "500", times=5, headers={"Retry-After": "0"})
    done = client.push(build, REPO, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["made"]
    assert WRITING not in done.stderr + done.stdout
    lines = done.stderr.strip().splitlines()
    assert len(lines) == len(set(lines))
    assert not any("%|" in line for line in lines)


def test_lines_of_the_client_are_shown_once_and_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("huggingface_hub")
    said: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    for _ in range(2):  # a second push says again what the first one said
        logger.addHandler(kept := Kept())
        try:
            with quiet_logs(False):
                for _ in range(3):
                    logger.warning("put %s?X-Amz-Signature=abc with hf_abcdefgh1", "https://x.org/y")
        finally:
            logger.removeHandler(kept)
    assert said == ["put https://x.org/y with hf_…"] * 2
    assert capsys.readouterr().out == ""


def test_a_token_that_cannot_be_one_is_told_without_it(client: Client, build: Path) -> None:
    done = client.push(build, REPO, token="hf_sécrétsécrét")
    assert done.returncode == 1
    assert "has letters that no token has" in done.stderr
    assert "crét" not in done.stderr
    assert client.hub.requests == []
