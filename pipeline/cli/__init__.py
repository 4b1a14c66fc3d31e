"""The command line: ``multistream``. One file per group of commands; heavy imports happen inside the commands."""

from __future__ import annotations

import sys
from typing import Any

import typer

from pipeline.cli import build, data, model, publish, synthesize
from pipeline.errors import PipelineError

app = typer.Typer(
    name="multistream",
    help="Multi-stream training data: from message corpora and chat models to checked shards and a checkpoint.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (build, data, synthesize, model, publish):
    group.register(app)


def main() -> None:
    """Runs the command line. Exit code 0: ok, 1: the work failed, 2: bad usage."""
    try:
        app()
    except PipelineError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("interrupted; what was finished is kept, run the same command to go on", 130)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _fail(f"{place}{error.strerror or error}")


def _fail(message: str, code: int = 1) -> Any:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
