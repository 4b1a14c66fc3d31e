from __future__ import annotations

from pathlib import Path

import pytest

from tests.scoring.scoring_cases import save_scorer


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a two-layer random model with the packaged tokenizer."""
    return save_scorer(tmp_path_factory.mktemp("scorer") / "tiny-llama")
