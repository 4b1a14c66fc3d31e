"""Where a text holds what should not be published: keys and passwords (``secrets``), data of persons (``personal``).

Each module has ``KINDS`` and ``find(texts, ...) -> a list of spans per text``; filters take conversations by them, and
masking replaces the same spans.
"""

from __future__ import annotations

from pipeline.sensitive.spans import Span, masked

__all__ = ["Span", "masked"]
