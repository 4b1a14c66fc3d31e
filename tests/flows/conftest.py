"""Prefect servers for the flow's tests, and a small configuration of the example conversations."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

# Prefect reads its settings when it is first imported.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["DO_NOT_TRACK"] = "1"

import pytest

from tests.flows.live import Live, serving

CHECKOUT = Path(__file__).resolve().parents[2]
CONVERSATIONS = CHECKOUT / "examples" / "conversations"


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """Prefect's own test server, one for all tests."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server and a worker as people start them, one of each for all tests."""
    with serving(tmp_path_factory.mktemp("live")) as found:
        yield found


@pytest.fixture
def write_config(tmp_path: Path) -> Callable[..., Path]:
    """Writes a configuration without synthesis and training; ``shard_units`` forces several shards.

    ``copies``: of the source, each a file of its own, so that conversion takes a while.
    """

    def write(source: Path = CONVERSATIONS, shard_units: int = 24, copies: int = 1) -> Path:
        if copies > 1:
            many = tmp_path / "many"
            for number in range(copies):
                shutil.copytree(source, many / f"{number:03d}")
            source = many
        path = tmp_path / "config.yaml"
        path.write_text(
            f"name: small\nseed: 3\nsources: [{{path: '{source}', corpus: examples, license: Apache-2.0}}]\n"
            f"ingest: {{shard_units: {shard_units}}}\nshards: {{test_fraction: 0.2, shard_rows: 2000}}\n"
        )
        return path

    return write
