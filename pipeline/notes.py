"""Notes of the files that an unfinished stage has finished: by them a run that was killed keeps them.

A note lies beside the files on the disk where they were written, not in a store, and is gone once the manifest is there,
which says the same.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from pipeline.manifest import Output, output_of, publish, sha256_file

FOLDER = "finished"


class Notes:
    """Which files of a stage with one fingerprint are finished; notes of another fingerprint count for nothing."""

    def __init__(self, directory: Path, fingerprint: str) -> None:
        self._directory, self._fingerprint = directory, fingerprint
        self._outputs: dict[Path, Output] = {}

    def finished(self, path: Path, content: str = "") -> Output | None:
        """The entry of a file that a run has finished and that is whole; None of any other. ``content``: of ``remember``."""
        try:
            value = json.loads(self._note(path).read_text(encoding="utf-8"))
            output = Output(**value["output"])
            same = value["fingerprint"] == self._fingerprint and value["content"] == content
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        # What a store keeps is sent at the end of the stage: here only this disk counts.
        if not same or not path.is_file() or path.stat().st_size != output.bytes or sha256_file(path) != output.sha256:
            return None
        self._outputs[path] = output
        return output

    def remember(self, path: Path, rows: int, content: str = "") -> Output:
        """Notes that a file is published. ``content``: what a later run compares before it keeps the file."""
        output = self._outputs[path] = output_of(path, self._directory, rows)
        value = {"fingerprint": self._fingerprint, "content": content, "output": asdict(output)}
        with publish(self._note(path)) as temporary:
            temporary.write_text(json.dumps(value), encoding="utf-8")
        return output

    def output(self, path: Path) -> Output:
        """The entry of a file that was finished or remembered."""
        return self._outputs[path]

    def forget(self) -> None:
        """Removes all notes."""
        folder = self._directory / FOLDER
        if folder.is_dir():
            shutil.rmtree(folder)

    def _note(self, path: Path) -> Path:
        name = path.relative_to(self._directory).as_posix().replace("/", ".")
        return self._directory / FOLDER / f"{name}.json"
