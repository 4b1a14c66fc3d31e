"""Corpora and small helpers for the converters' tests."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CORPORA = Path(__file__).resolve().parents[2].parent / "shared" / "corpora"


@pytest.fixture(scope="session")
def read_corpus() -> Callable[[str], list[Any]]:
    """Reads one file of the corpora, named by its path there, as a list of units."""

    def read(path: str) -> list[Any]:
        if not (CORPORA / path).exists():
            pytest.skip(f"{CORPORA / path} is not here")
        raw = (CORPORA / path).read_bytes()
        text = (gzip.decompress(raw) if path.endswith(".gz") else raw).decode()
        if ".jsonl" in path:
            return [json.loads(line) for line in text.split("\n") if line.strip()]
        value = json.loads(text)
        if path.startswith("rc-pubmedqa"):
            return list(value.values())
        return value if isinstance(value, list) else [value]

    return read
