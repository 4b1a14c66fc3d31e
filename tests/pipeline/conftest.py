"""The two tokenizers that the data model is tested with: the packaged one, and Llama 3's out of llama-models."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from pipeline.tokenization import TextTokenizer, load_tokenizer


@pytest.fixture(scope="session")
def llama3_file() -> str:
    """The spec of the Llama-3 tokenizer that the package llama-models ships (the package itself is not imported)."""
    found = find_spec("llama_models")
    if found is None or not found.submodule_search_locations:
        pytest.skip("llama-models is not installed")
    return f"tiktoken:{Path(next(iter(found.submodule_search_locations))) / 'llama3' / 'tokenizer.model'}"


@pytest.fixture(scope="session")
def smollm2() -> TextTokenizer:
    return load_tokenizer("smollm2")


@pytest.fixture(scope="session")
def llama3(llama3_file: str) -> TextTokenizer:
    return load_tokenizer(llama3_file)


@pytest.fixture(scope="session", params=["smollm2", "llama3"])
def tokenizer(request: pytest.FixtureRequest) -> TextTokenizer:
    return request.getfixturevalue(request.param)
