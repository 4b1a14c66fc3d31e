"""One writer per directory, whatever becomes of it."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.claim import claimed
from pipeline.errors import PipelineError
from pipeline.manifest import run_stage

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys, time
from pathlib import Path
from pipeline.claim import claimed
with claimed(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_directory_that_another_process_writes_to_is_refused_until_that_ends(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(PipelineError, match="another run is writing to"):
            run_stage(folder, "s", 1, {}, {}, lambda: ([], {}, {}))
        command = [sys.executable, "-m", "pipeline.cli", "synth", "examples/configs/demo.yaml", "--out", str(folder)]
        refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert refused.returncode == 1
        assert refused.stderr.count("\n") == 1
        assert "another run is writing to" in refused.stderr
        assert not list(folder.iterdir())
    finally:
        holder.kill()
        holder.wait()
    assert not run_stage(folder, "s", 1, {}, {}, lambda: ([], {}, {})).skipped


def test_a_call_may_claim_again_what_it_holds_and_a_thread_beside_it_may_not(tmp_path: Path) -> None:
    refusals: list[str] = []

    def beside() -> None:
        try:
            with claimed(tmp_path):
                pass
        except PipelineError as error:
            refusals.append(str(error))

    with claimed(tmp_path):
        with claimed(tmp_path):
            pass
        thread = threading.Thread(target=beside)
        thread.start()
        thread.join()
        assert len(refusals) == 1
    thread = threading.Thread(target=beside)
    thread.start()
    thread.join()
    assert len(refusals) == 1
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_a_directory_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PipelineError, match="cannot write to"), claimed(tmp_path / "file"):
        pass
