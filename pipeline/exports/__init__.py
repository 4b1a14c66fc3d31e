"""Data sets in the forms that other people's tools read: one file per target, and ``TARGETS``, the registry."""

from __future__ import annotations

from importlib import import_module

from pipeline.errors import ConfigError
from pipeline.exports.targets import Options, Target

__all__ = ["TARGETS", "Options", "Target", "target_of"]

#: Name of each target and the module that holds its ``TARGET``.
TARGETS: dict[str, str] = {
    "upstream-grid": "pipeline.exports.upstream_grid",
    "upstream-npz": "pipeline.exports.upstream_npz",
    "tables": "pipeline.exports.tables",
    "openai": "pipeline.exports.openai",
    "webdataset": "pipeline.exports.webdataset",
}


def target_of(name: str) -> Target:
    """The target of a name. Raises ConfigError where there is none."""
    if name not in TARGETS:
        raise ConfigError(f"there is no export target {name!r}: choose one of {', '.join(TARGETS)}")
    target = import_module(TARGETS[name]).TARGET
    assert isinstance(target, Target)
    return target
