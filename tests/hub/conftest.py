"""A small build, and a loopback Hub that the command line is run against."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub.hub_client import Client, make_build
from tests.hub.hub_server import running_hub


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build of several shards, not to be written to."""
    return make_build(tmp_path_factory.mktemp("finished"), 40, 10)


@pytest.fixture
def build(finished: Path, tmp_path: Path) -> Path:
    """A copy of the build."""
    return shutil.copytree(finished, tmp_path / "build")


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    """A Hub without any repository, and who asks it."""
    home = tmp_path / "home"
    home.mkdir()
    with running_hub() as hub:
        yield Client(hub, home)
        assert hub.wrong == []
