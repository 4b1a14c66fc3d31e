"""Interaction patterns: what may happen between streams. A pattern is one file here and one line in ``PATTERNS``.

A pattern module has

* ``NAME``, as scenarios name it; ``TOLD``, one line that tells a writer what happens;
* ``ROLES``: roles that a scene has to have for it;
* ``shown(scene) -> bool``: whether it did happen. Timing decides, and words where timing cannot tell; cue words are English.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from synth.patterns import (
    audit,
    back_channel,
    barge_in,
    correction,
    injection_in_tool_result,
    out_of_order_results,
    parallel_tools,
    proactive_notice,
    self_monitoring,
    slow_tool,
    ten_streams,
    think_while_reading,
    tool_lookup,
    translation,
    turn_taking,
)
from synth.scenes import Scene


class Pattern(Protocol):
    """What a module of this package offers."""

    @property
    def NAME(self) -> str: ...
    @property
    def TOLD(self) -> str: ...
    @property
    def ROLES(self) -> tuple[str, ...]: ...

    def shown(self, scene: Scene) -> bool:
        """Whether the pattern happens in the scene."""
        ...


_MODULES: tuple[Pattern, ...] = (
    turn_taking,
    barge_in,
    back_channel,
    correction,
    think_while_reading,
    translation,
    tool_lookup,
    parallel_tools,
    slow_tool,
    out_of_order_results,
    proactive_notice,
    self_monitoring,
    audit,
    injection_in_tool_result,
    ten_streams,
)

PATTERNS: Mapping[str, Pattern] = {pattern.NAME: pattern for pattern in _MODULES}
