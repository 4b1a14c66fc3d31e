"""Errors that a user can act on. The command line prints them in one line; nothing else is caught."""

from __future__ import annotations


class PipelineError(Exception):
    """A run that cannot go on; the message says what to do."""


class ConfigError(PipelineError):
    """A configuration or an argument that cannot be used."""


class InputError(PipelineError):
    """An input that cannot be read."""


class ConservationError(PipelineError):
    """The books of a stage do not balance, or a record breaks an invariant."""
