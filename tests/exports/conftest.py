"""A data set of made conversations, and one of made ten-stream tables."""

from __future__ import annotations

from pathlib import Path

import pytest
from export_cases import chat, tables_of, ten, write_data_set


@pytest.fixture(scope="session")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve conversations with tools, reasoning, overlaps and odd text, in two train shards and a test shard."""
    return write_data_set(tmp_path_factory.mktemp("chats"), tables_of([chat(i) for i in range(12)]))


@pytest.fixture(scope="session")
def tens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight records of ten streams, laid out for the strict mask."""
    tables = tables_of([ten(i) for i in range(8)], "stream_table", lag=1)
    return write_data_set(tmp_path_factory.mktemp("tens"), tables)
