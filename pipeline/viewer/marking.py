"""Marking the record that is shown: good or bad, with a note."""

from __future__ import annotations

from pipeline.errors import PipelineError
from pipeline.storage import shown
from pipeline.viewer.browsing import Browsing
from pipeline.viewer.dialogs import Prompt
from pipeline.viewer.marks import Judgement, Mark, add_mark
from pipeline.viewer.samples import Samples


class Marking(Browsing):
    """Goes through the records of ``samples``, and marks them. ``marks``: those that are known, by record id."""

    def __init__(self, samples: Samples, at: int) -> None:
        super().__init__(len(samples), at)
        self.samples = samples
        self.marks: dict[str, Mark] = {}

    @property
    def marked_id(self) -> str | None:
        """The id of the record that is shown."""
        raise NotImplementedError

    def action_mark(self, mark: Judgement) -> None:
        """Asks for a note, and marks."""
        if (id_ := self.marked_id) is None:
            return
        known = self.marks.get(id_)
        title = f"Mark record {self.cursor.at:,} {mark}: a note, or nothing."
        prompt = Prompt(title, known.note if known else "")
        self.app.push_screen(prompt, lambda note: None if note is None else self._keep_mark(id_, mark, note.strip()))

    def action_unmark(self) -> None:
        """Takes the mark back."""
        if (id_ := self.marked_id) is None:
            return
        if id_ in self.marks:
            self._keep_mark(id_, None, "")
        else:
            self.say("this record has no mark")

    def load_marks(self) -> None:
        """Reads the marks; runs in a thread."""
        try:
            self.from_thread(self._marked, self.samples.marks())
        except PipelineError as error:
            self.from_thread(self.say, str(error), "error")

    def _keep_mark(self, id_: str, mark: Judgement | None, note: str) -> None:
        def keep() -> None:
            path = self.samples.marks_path
            try:
                add_mark(path, id_, mark, note)
                marks = self.samples.marks()
            except OSError as error:
                said = f"the mark is not kept in {shown(path)}: {error.strerror or error}"
                self.from_thread(self.say, said, "error")
            except PipelineError as error:
                self.from_thread(self.say, str(error), "error")
            else:
                self.from_thread(self._marked, marks)

        self.run_worker(keep, thread=True, group="mark")

    def _marked(self, marks: dict[str, Mark]) -> None:
        self.marks = marks
        self.tell()
