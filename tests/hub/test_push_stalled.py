"""Connections over which nothing comes: a push asks anew, and neither it nor a dry run waits for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.hub.patience import STALL, limits
from tests.hub.hub_client import REPO, Client


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection is given up after half a second."""
    monkeypatch.setenv(STALL, "0.5")


def test_a_push_asks_again_where_nothing_comes(client: Client, build: Path) -> None:
    asked = (("GET", "/tree/"), ("POST", "/repos/create"), ("POST", "/preupload/"), ("POST", "/objects/batch"),
             ("PUT", "/store/"), ("POST", "/commit/"))  # fmt: skip
    held = [client.hub.fail(method, path, "hold") for method, path in asked]
    done = client.push(build, REPO)
    assert done.returncode == 0, done.stderr
    assert [fault.reached.is_set() for fault in held] == [True] * len(asked)
    assert "asking the Hub again" in done.stderr
    assert len(client.hub.repos[REPO].commits) == 2


def test_a_push_gives_up_where_nothing_ever_comes(client: Client, build: Path) -> None:
    client.hub.create(REPO)
    client.hub.fail("GET", "/tree/", "hold", times=1000)
    done = client.push(build, REPO)
    assert done.returncode == 1
    assert f"asking the Hub about {REPO}: the Hub has not answered for" in done.stderr


def test_a_push_gives_up_where_every_answer_stops_in_the_middle(client: Client, build: Path) -> None:
    client.hub.create(REPO)
    client.hub.fail("GET", "/tree/", "stop", times=1000)
    done = client.push(build, REPO)
    assert done.returncode == 1
    assert f"asking the Hub about {REPO}: the Hub has not answered for" in done.stderr
    assert len([path for _, path in client.hub.requests if "/tree/" in path]) <= 6


def test_an_answer_that_stops_in_the_middle_is_asked_for_again(client: Client, build: Path) -> None:
    stopped = [client.hub.fail(method, path, "stop") for method, path in (("GET", "/revision/"), ("POST", "/commit/"))]
    done = client.push(build, REPO)
    assert done.returncode == 0, done.stderr
    assert all(fault.reached.is_set() for fault in stopped)
    assert len(client.hub.repos[REPO].commits) == 2


@pytest.mark.parametrize("path", ["/revision/", "/tree/"])
def test_a_dry_run_does_without_a_hub_that_does_not_answer(client: Client, build: Path, path: str) -> None:
    client.hub.create(REPO)
    client.hub.fail("GET", path, "hold", times=1000)
    done = client.push(build, REPO, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "is not known: " in done.stdout
    assert "has not answered" in done.stdout


@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan", "inf"])
def test_a_time_that_is_none_is_bad_usage(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(STALL, value)
    with pytest.raises(ConfigError, match=STALL), limits(brief=True):
        pass
