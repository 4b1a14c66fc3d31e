"""What a build was asked to do, written into its folder, so that nobody has to say it again. No fingerprint depends on it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline import folders, storage
from pipeline.claim import claimed, is_held
from pipeline.config import BuildConfig, ConfigError, load_config, parse_config
from pipeline.errors import PipelineError
from pipeline.manifest import publish_text, remove_temporaries

RECORD = "build.json"


@dataclass(frozen=True, slots=True)
class Asked:
    """A configuration, and what its paths are relative to.

    ``path`` and ``overrides``: the file that it was read from, and what was set beside it; None where there is no file.
    ``failed``: why the last run of it stopped, None where it did not.
    """

    config: BuildConfig
    base: Path
    path: Path | None = None
    overrides: tuple[str, ...] = ()
    failed: str | None = None


@contextmanager
def recording(out: Path, asked: Asked) -> Iterator[None]:
    """Holds the folder of a build from its first stage to its last, and writes down what it is asked to do, and if it fails
    why.

    Raises PipelineError where nothing can be written, or another run writes to ``out`` or a stage of it.
    """
    with claimed(out):
        for name in folders.STAGES:
            if is_held(out / name):
                place = storage.shown(out / name)
                raise PipelineError(f"another run is writing to {place}: wait for it, or choose another folder")
        remove_temporaries(out, below=False)
        _write(out, asked, None)
        try:
            yield
        except (PipelineError, OSError) as error:
            with suppress(PipelineError, OSError):  # the first error is the one to tell
                _write(out, asked, " ".join(str(error).split()))
            raise


def _write(out: Path, asked: Asked, failed: str | None) -> None:
    value = {
        "config": None if asked.path is None else str(asked.path.absolute()),
        "overrides": list(asked.overrides),
        "base": str(asked.base.absolute()),
        "failed": failed,
        "effective": asked.config.model_dump(mode="json"),
    }
    publish_text(out / RECORD, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_asked(out: Path) -> Asked | None:
    """What the build in a folder was last asked to do; None where nothing says so.

    Raises ConfigError where the record is damaged, or of a version that cannot be read here.
    """
    storage.pull(out / RECORD)
    try:
        value = json.loads((out / RECORD).read_text(encoding="utf-8"))
        path = None if value["config"] is None else Path(value["config"])
        base, overrides, failed = Path(value["base"]), tuple(map(str, value["overrides"])), value["failed"]
        effective = value["effective"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise ConfigError(f"{RECORD} is cut off or no JSON ({' '.join(str(error).split())})") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{RECORD} is not what a build writes") from error
    return Asked(parse_config(effective, RECORD), base, path, overrides, failed)


def asked_of(path: Path, overrides: Sequence[str] = ()) -> Asked:
    """A configuration file as it is now. Raises ConfigError."""
    return Asked(load_config(path, overrides), path.resolve().parent, path, tuple(overrides))


def asked_now(out: Path, path: Path | None = None, overrides: Sequence[str] = ()) -> tuple[Asked | None, str]:
    """What the build in a folder should be now, and a line about it where it is not what its configuration file says now.

    That is the file ``path`` with ``overrides``; else the file that the build was made from, as it is now, with what was set
    then and ``overrides``; else, where that is gone, what it said then. Raises ConfigError.
    """
    if path is not None:
        return asked_of(path, overrides), ""
    try:
        recorded = read_asked(out)
    except ConfigError as error:
        recorded, why = None, str(error)
    else:
        why = f"there is no {RECORD}"
    if recorded is not None and recorded.path is not None and recorded.path.is_file():
        now = asked_of(recorded.path, (*recorded.overrides, *overrides))
        return replace(now, failed=recorded.failed if now.config == recorded.config else None), ""
    if overrides:
        raise ConfigError(f"--set changes a configuration file, and {out} names none: name it with --config")
    if recorded is None:
        return (
            None,
            f"what this build was asked for is not known ({why}): what is stale cannot be told without --config",
        )
    if recorded.path is None:
        return recorded, ""
    return recorded, f"{recorded.path} is gone: compared with what it said when the build was last run"
