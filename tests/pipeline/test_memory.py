"""Memory goes back to the system between shards."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import psutil, pyarrow as pa
from pipeline.memory import give_back
process = psutil.Process()
give_back()
before = process.memory_info().rss
# Small blocks with holes between them: what the C library does not give back by itself.
blocks = [bytes(1000) for _ in range(200_000)]
kept = blocks[::50]
del blocks
tables = [pa.array(range(1000)) for _ in range(2000)]
del tables
held = process.memory_info().rss - before
give_back()
left = process.memory_info().rss - before
print(held, left)
"""


def test_what_is_free_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    held, left = map(int, done.stdout.split())
    assert held > 100_000_000
    assert left < held / 2
