"""The one error that synthesis raises for what a person must put right."""

from __future__ import annotations


class SynthError(RuntimeError):
    """Synthesis cannot start or go on; the message is one line that says what to do."""
