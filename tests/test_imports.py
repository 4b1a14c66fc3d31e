"""Every module can be imported first: a process that a stage starts begins with any of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

#: Run in a process of its own: forgets the project's modules before each import, not the libraries.
CODE = """
import importlib, sys
from pathlib import Path
failed = []
names = [
    ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    for top in ("converters", "pipeline", "schemas")
    for path in sorted(Path(top).rglob("*.py"))
    if path.name != "__main__.py"
]
for name in names:
    for known in [n for n in sys.modules if n.split(".")[0] in ("converters", "pipeline", "schemas", "synth")]:
        del sys.modules[known]
    try:
        importlib.import_module(name)
    except ImportError as error:
        failed.append(f"{name}: {error}")
print(len(names), *failed, sep="\\n")
"""


def test_every_module_can_be_imported_first() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    count, *failed = done.stdout.splitlines() or ["0"]
    assert (done.returncode, failed) == (0, []), done.stderr
    assert int(count) > 200
