"""The memory that the training benchmark tells of an arm is that arm's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.train import peak_resident_mib

ROOT = Path(__file__).resolve().parents[2]


def test_the_peak_of_a_program_is_not_that_of_the_one_which_started_it() -> None:
    before = peak_resident_mib()
    held = np.ones((int(before) + 200) * 2**17)  # so many MiB of float64
    assert peak_resident_mib() > held.nbytes / 2**20
    call = [sys.executable, "-c", "from benchmarks.train import peak_resident_mib; print(peak_resident_mib())"]
    told = float(subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True, close_fds=False).stdout)
    assert 10 < told < held.nbytes / 2**20
