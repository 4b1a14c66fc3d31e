"""The settings of a spot-evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.training.checks import check_types
from pipeline.training.grid import TrainingError
from pipeline.training.settings import Attention, Precision

#: Controls that need no training, in the order in which they are run: see docs/evaluation.md.
CONTROLS = ("permuted_at_test", "turns", "untrained_embedding")


@dataclass(frozen=True)
class GateConfig:
    """Thresholds, in nats per text token, rows and shares; None turns a check off, where it is allowed.

    ``min_improvement``: the text loss over all streams must fall by more than this; ``stream_tolerance``: that of one
    stream role may rise by this; ``row_tolerance``: the median of rows to first output may exceed that of ``turns`` by
    this; ``control_margin``: the control's text loss must exceed the checkpoint's by more than this (checked where there
    is a control); ``permuted_margin``: so must the checkpoint's own on permuted inputs. ``require_significance``: these
    differences must hold at the end of their paired intervals that is nearer to 0.

    ``min_valid``: share of generated records that must be well-formed; ``max_silence_gap``: their share of silence may
    differ from the data's by this; ``min_speak_f1``: F1 of speaking over all decisions; ``max_overlap_price``: the text
    loss may exceed that under ``turns`` by this; ``max_injection_followed``: share of planted instructions that may be
    followed, by generation or by likelihood. Raises TrainingError on a value of another type.
    """

    min_improvement: float = 0.0
    stream_tolerance: float = 0.05
    row_tolerance: float | None = 0.0
    control_margin: float = 0.0
    permuted_margin: float | None = 0.0
    require_significance: bool = False
    min_valid: float | None = None
    max_silence_gap: float | None = None
    min_speak_f1: float | None = None
    max_overlap_price: float | None = None
    max_injection_followed: float | None = None

    def __post_init__(self) -> None:
        check_types(self)


@dataclass(frozen=True)
class EvaluateConfig:
    """``max_cells`` bounds a sequence; ``max_records`` the held-out records used, the first of the split (None: all).

    ``control`` is a checkpoint trained like the one evaluated but with ``TrainConfig.shuffle_inputs``; it is tested on
    permuted inputs. ``controls``: those of ``CONTROLS`` that are run on the checkpoint itself, one pass over the records
    each.

    ``resamples`` draws of groups, ``seed`` and ``confidence`` make the intervals. ``generate_records`` of at most
    ``generate_rows`` rows are written freely (0: none); ``injection_records`` with planted instructions are looked at (0:
    none). Raises TrainingError on a value of another type or out of range.
    """

    max_cells: int = 2048
    max_records: int | None = None
    device: str = "auto"
    attention: Attention = "auto"
    precision: Precision = "auto"
    control: Path | None = None
    controls: Sequence[str] = CONTROLS
    resamples: int = 2000
    confidence: float = 0.95
    seed: int = 0
    generate_records: int = 8
    generate_rows: int = 512
    injection_records: int = 32
    gate: GateConfig = field(default_factory=GateConfig)

    def __post_init__(self) -> None:
        check_types(self)
        _require(self.max_cells >= 2, "max_cells must be at least 2")
        _require(self.max_records is None or self.max_records >= 1, "max_records must be at least 1")
        _require(set(self.controls) <= set(CONTROLS), f"controls must be a list of {', '.join(CONTROLS)}")
        _require(self.resamples >= 100, "resamples must be at least 100")
        _require(0.0 < self.confidence < 1.0, "confidence must lie between 0 and 1")
        _require(self.seed >= 0, "seed must not be negative")
        _require(self.generate_records >= 0, "generate_records must not be negative")
        _require(self.generate_rows >= 1, "generate_rows must be at least 1")
        _require(self.injection_records >= 0, "injection_records must not be negative")
        if self.control is not None:
            object.__setattr__(self, "control", Path(self.control))
        object.__setattr__(self, "controls", tuple(name for name in CONTROLS if name in self.controls))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise TrainingError(message)
