"""What a stage's flow reads: the finished stages before it, looked at unless the build around it has just done so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType

from prefect import get_run_logger

from pipeline import folders, storage
from pipeline.asked import Asked
from pipeline.errors import PipelineError
from pipeline.manifest import Result, damaged, read_manifest
from pipeline.plan import differences
from pipeline.plans import inputs_of, plan_stage

#: What the build around a subflow has just made, or found whole, by directory.
_NEW: ContextVar[Mapping[Path, Result]] = ContextVar("_NEW", default=MappingProxyType({}))

#: Flows that are not called as their stage's folder is.
_NAMES = {folders.CHECKPOINT: "train", folders.REPORT: "evaluate"}


@contextmanager
def just_made(results: Sequence[Result]) -> Iterator[None]:
    """Subflows that run in the block read these stages as they are."""
    token = _NEW.set({result.directory: result for result in results})
    try:
        yield
    finally:
        _NEW.reset(token)


def finished(asked: Asked, out: Path, folder: str) -> Result:
    """A stage that was run before, whole, and what the configuration wants, as are those before it.

    Raises PipelineError where it is not; of the inputs of those before it only what can be seen of them counts.
    """
    if (new := _NEW.get().get(out / folder)) is not None:
        return new
    result = _as_wanted(asked, out, folder, digests=True)
    if found := damaged(result.directory, result.manifest.outputs):
        more = f" (and {len(found) - 1:,} more)" if len(found) > 1 else ""
        raise PipelineError(f"{storage.shown(result.directory)}/{found[0]}{more}: {_first(folder)}")
    return result


def _as_wanted(asked: Asked, out: Path, folder: str, digests: bool) -> Result:
    """A finished stage that is not stale, nor are those before it. ``digests`` false: its inputs from outside are not read."""
    directory = out / folder
    if (new := _NEW.get().get(directory)) is not None:
        return new
    manifest = read_manifest(directory)
    if manifest is None:
        raise PipelineError(f"{storage.shown(directory)} holds no finished stage: {_first(folder)}")
    made = {name: _as_wanted(asked, out, name, digests=False) for name in inputs_of(folder, asked)}
    try:
        wanted = plan_stage(folder, asked, made, digests)
    except PipelineError as error:
        if digests or made:
            raise
        get_run_logger().warning("%s is taken as it is, its inputs are not here: %s", folder, error)
        return Result(directory, manifest, skipped=True)
    if why := differences(manifest, wanted):
        more = f", and {len(why) - 2:,} more" if len(why) > 2 else ""
        raise PipelineError(f"{storage.shown(directory)} is stale ({', '.join(why[:2])}{more}): {_first(folder)}")
    return Result(directory, manifest, skipped=True)


def _first(folder: str) -> str:
    return f"run multistream-{_NAMES.get(folder, folder)} first, or the whole build"
