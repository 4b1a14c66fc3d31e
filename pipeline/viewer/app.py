"""The terminal application of ``multistream view``."""

from __future__ import annotations

from typing import ClassVar

from textual.app import App
from textual.binding import Binding, BindingType

from pipeline.viewer.record_screen import RecordScreen, Start
from pipeline.viewer.rejects import Rejects
from pipeline.viewer.samples import Samples


class ViewerApp(App[None]):
    """Looks at records, one at a time, and at rejects."""

    TITLE = "multistream view"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+c", "quit", "leave", show=False, priority=True)]

    def __init__(self, samples: Samples, rejects: Rejects, start: Start | None = None) -> None:
        super().__init__()
        self.records = RecordScreen(samples, rejects, start or Start())

    def on_mount(self) -> None:
        """The first record."""
        self.push_screen(self.records)
