"""What the settings of filters have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class FilterParams(BaseModel):
    """The thresholds of a filter. Unknown keys are errors; values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)
