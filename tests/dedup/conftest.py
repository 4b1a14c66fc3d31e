"""Conversations that are alike, for several files."""

from __future__ import annotations

import pytest
from dedup_cases import OTHER, A, Q, converted, edited, text

from pipeline.manifest import Result


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Three corpora of several licences, with exact and near copies among them, in shards of three."""
    near = (Q, edited(A, [40]))
    corpora = {
        "late": ("MIT", [(Q, A), OTHER, (text(5), text(6)), (Q, A)]),
        "early": ("MIT", [(f" {Q}\n", A), near, (Q, text(7))]),
        "shared": ("CC-BY-SA-4.0", [(Q, A), (text(8), text(9)), (text(8), edited(text(9), [5]))]),
        "nobody": (None, [(text(8), text(9))]),
    }
    return converted(tmp_path_factory.mktemp("mixed"), corpora, shard_units=3)
