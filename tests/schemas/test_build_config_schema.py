"""The published schema of a build configuration is that of the model which reads it."""

from __future__ import annotations

from pathlib import Path

import yaml

import schemas
from pipeline.config import BuildConfig

CONFIGS = Path(__file__).resolve().parents[2] / "examples" / "configs"


def test_the_schema_is_generated_from_the_model() -> None:
    stored = schemas.load("build_config")
    assert stored.pop("$schema").endswith("2020-12/schema")
    assert stored.pop("$id") == "urn:multistream:build-config:1"
    assert stored == BuildConfig.model_json_schema(), "write it again: BuildConfig.model_json_schema()"


def test_the_example_configurations_fit_it_and_a_wrong_key_does_not() -> None:
    values = [yaml.safe_load(path.read_text()) for path in sorted(CONFIGS.glob("*.yaml"))]
    assert len(values) >= 2
    assert list(schemas.violations("build_config", values)) == []
    assert list(schemas.reference_violations("build_config", values)) == []
    wrong = [{**value, "sourcs": []} for value in values]
    assert len(list(schemas.violations("build_config", wrong))) == len(values)
