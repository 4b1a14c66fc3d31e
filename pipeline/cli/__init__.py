"""The command line: ``multistream``. One file per group of commands; heavy imports happen inside the commands."""

from __future__ import annotations

import sys
from typing import Any

import typer

from pipeline.cli import build, chat, data, export, filter, gain, model, publish, stats, status, synthesize, view
from pipeline.cli.stopping import Stopped
from pipeline.errors import ConfigError, PipelineError

app = typer.Typer(
    name="multistream",
    help="Multi-stream training data: from message corpora and chat models to checked shards and a checkpoint.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (build, status, data, view, stats, filter, gain, synthesize, model, chat, publish, export):
    group.register(app)


#: What the parser raises for bad usage, whether typer brings its own click or imports one.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]

#: The exit code that typer makes of Ctrl-C.
_INTERRUPTED = 130

_GO_ON = "what was finished is kept, run the same command to go on"


def main() -> None:
    """Runs the command line. Exit code 0: ok, 1: the work failed, 2: bad usage. Errors are one line on standard error.

    130: Ctrl-C; 143 and 129: SIGTERM and SIGHUP in a build.
    """
    try:
        code = app(standalone_mode=False)
    except _UsageError as error:
        _bad_usage(error)
    except ConfigError as error:
        _fail(str(error), 2)
    except PipelineError as error:
        _fail(str(error))
    except Stopped as stop:
        _fail(f"{stop}; {_GO_ON}", 128 + stop.number)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _fail(f"{place}{error.strerror or error}")
    except _unreadable() as error:
        _fail(f"{str(error).splitlines()[0]}; if a file is damaged, `multistream validate` names it")
    else:
        if code == _INTERRUPTED:
            _fail(f"interrupted; {_GO_ON}", code)
        sys.exit(code if isinstance(code, int) else 0)


def _unreadable() -> tuple[type[Exception], ...]:
    """What Arrow raises for a file that is damaged; it is imported inside the commands only."""
    arrow = sys.modules.get("pyarrow")
    return (arrow.ArrowInvalid,) if arrow is not None else ()


def _bad_usage(error: Any) -> None:
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        sys.exit(2)
    command = error.ctx.command_path if error.ctx else "multistream"
    _fail(f"{error.format_message().rstrip('.')}; see {command} --help", 2)


def _fail(message: str, code: int = 1) -> Any:
    from pipeline.cli.console import visible

    print(f"error: {visible(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(code)
