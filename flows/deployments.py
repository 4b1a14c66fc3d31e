"""Deployments of ``build-multistream-dataset`` and of its stages: what ``multistream deploy`` registers."""

from __future__ import annotations

import asyncio
import re
import zoneinfo
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast, get_args

import httpx
import yaml
from prefect import Flow
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, WorkPoolCreate
from prefect.deployments.runner import DeploymentApplyError
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.schedules import Cron, Interval, Schedule
from prefect.settings import get_current_settings
from prefect.workers.process import ProcessWorker

from flows.runners import Place, RunnerName
from flows.stages import GPU_LIMIT, STAGES, checked
from pipeline.config import ConfigError
from pipeline.errors import PipelineError

PREFECT_FILE = "prefect.yaml"

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A deployment as it is asked for; None (and nothing set): as ``prefect.yaml`` says.

    ``stage``: one stage's flow, not the whole build's. ``cron`` or ``interval`` (``90s``, ``30m``, ``6h``, ``1d``) make a
    schedule, in ``timezone`` (IANA name).
    """

    name: str | None = None
    stage: str | None = None
    work_pool: str | None = None
    runner: str = "local"
    address: str | None = None
    gpus: int = 0
    workers: int = 0
    config: str | None = None
    out: str | None = None
    overrides: Sequence[str] = ()
    cron: str | None = None
    interval: str | None = None
    timezone: str | None = None


@dataclass(frozen=True, slots=True)
class _Made:
    """What the server has now."""

    name: str
    pool: bool
    limit: bool


def deploy(wanted: Wanted) -> Iterator[str]:
    """Registers a deployment and yields lines for people: what was registered, how to start a worker and a run.

    The work pool (of type process; default: that of ``prefect.yaml``) and the limit ``multistream-gpu`` are made if they
    are not there. The current folder, which must be the root of a checkout, becomes the working directory of the runs.
    Raises PipelineError where there is no ``prefect.yaml``, a parameter is wrong, no server is named, it does not answer,
    or it refuses.
    """
    if wanted.runner not in get_args(RunnerName):
        raise ConfigError(f"--runner {wanted.runner!r} is none of {', '.join(get_args(RunnerName))}")
    checkout = Path.cwd()
    settings = read_deployment(checkout / PREFECT_FILE, wanted.runner)
    schedule = schedule_of(wanted)
    settings["parameters"] = parameters_of(wanted, settings.get("parameters") or {})
    settings["name"] = wanted.name or settings["name"]
    if wanted.stage is not None:
        settings["entrypoint"] = f"{settings['entrypoint'].rpartition(':')[0]}:{wanted.stage}"
        settings["description"] = None
    pool = wanted.work_pool or settings["work_pool"]["name"]
    url = get_current_settings().api.url
    if not url:
        raise PipelineError(
            "PREFECT_API_URL names no Prefect server: start one with `prefect server start`, then "
            "`export PREFECT_API_URL=http://127.0.0.1:4200/api` and run this again"
        )
    try:
        made = asyncio.run(_register(settings, checkout, pool, schedule))
    except httpx.TransportError as error:
        raise PipelineError(f"the Prefect server at {url} does not answer ({error}): is it running?") from error
    except (PrefectHTTPStatusError, DeploymentApplyError) as error:
        raise PipelineError(f"the Prefect server at {url} refused: {str(error).splitlines()[0]}") from error
    yield f"{'made' if made.pool else 'found'} work pool {pool} (type process) on {url}"
    yield f"{'made' if made.limit else 'found'} concurrency limit {GPU_LIMIT}"
    yield f"registered {made.name}, working directory {checkout}"
    if schedule is not None:
        every = wanted.cron or f"every {wanted.interval}"
        yield f"scheduled:       {every} ({wanted.timezone or 'UTC'})"
    yield f"start a worker:  prefect worker start --pool {pool}"
    yield f"run it:          prefect deployment run {made.name} --watch"


def parameters_of(wanted: Wanted, given: dict[str, Any]) -> dict[str, Any]:
    """The deployment's parameters: those of ``prefect.yaml`` with what was asked for. Raises PipelineError."""
    asked_for: dict[str, Any] = {
        "config": wanted.config, "out": wanted.out, "overrides": list(wanted.overrides), "workers": wanted.workers,
        "address": wanted.address, "gpus": wanted.gpus,
    }  # fmt: skip
    parameters = {**given, **{key: value for key, value in asked_for.items() if value}}
    place = Place(cast(RunnerName, wanted.runner), parameters.get("address"), wanted.workers, wanted.gpus)
    checked(parameters["config"], wanted.out, wanted.overrides, False, place)
    if wanted.stage is None:
        return parameters
    known = _flow_of(wanted.stage).parameters.properties
    for key in ("workers", "address", "gpus"):
        if asked_for[key] and key not in known:
            raise ConfigError(f"stage {wanted.stage} takes no {key}")
    return {key: value for key, value in parameters.items() if key in known}


def _flow_of(stage: str) -> Flow[..., Any]:
    from flows.build import FLOWS

    if stage not in FLOWS:
        raise ConfigError(f"there is no stage {stage!r}: it is one of {', '.join(STAGES)}")
    return FLOWS[stage]


def schedule_of(wanted: Wanted) -> Schedule | None:
    """The schedule that was asked for; None for none. Raises ConfigError."""
    zone = wanted.timezone
    if zone is not None and zone not in zoneinfo.available_timezones():
        raise ConfigError(f"--timezone {zone!r} is none: it is a name like Europe/Berlin or UTC")
    if wanted.cron is not None and wanted.interval is not None:
        raise ConfigError("--cron and --interval are two schedules: give one of them")
    if wanted.cron is not None:
        try:
            return Cron(wanted.cron, timezone=zone)
        except ValueError as error:
            raise ConfigError(f"--cron {wanted.cron!r}: {' '.join(str(error).split())}") from error
    if wanted.interval is not None:
        found = re.fullmatch(r"(\d{1,7})([smhd])", wanted.interval)
        if found is None or int(found[1]) == 0:
            raise ConfigError(f"--interval {wanted.interval!r} is none: it is a number with s, m, h or d, like 6h")
        return Interval(timedelta(seconds=int(found[1]) * _SECONDS[found[2]]), timezone=zone)
    if zone is not None:
        raise ConfigError("--timezone is that of a schedule: add --cron or --interval")
    return None


async def _register(settings: dict[str, Any], checkout: Path, pool: str, schedule: Schedule | None) -> _Made:
    async with get_client() as client:
        made_pool = await _ensure_process_pool(client, pool)
        made_limit = await _ensure_limit(client)
    flow: Flow[..., Any] = await Flow.afrom_source(str(checkout), settings["entrypoint"])
    deployment = await flow.ato_deployment(
        settings["name"],
        parameters=settings["parameters"],
        description=settings.get("description"),
        tags=settings.get("tags", []),
        schedules=[schedule] if schedule is not None else None,
        work_pool_name=pool,
        job_variables=settings["work_pool"].get("job_variables", {}),
    )
    await deployment.aapply()
    return _Made(deployment.full_name, made_pool, made_limit)


async def _ensure_process_pool(client: PrefectClient, name: str) -> bool:
    """Makes the work pool unless it is there; whether it was made. Raises PipelineError if it is of another type."""
    try:
        pool = await client.read_work_pool(name)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        wanted = WorkPoolCreate(name=name, type=ProcessWorker.type, base_job_template=template)
        await client.create_work_pool(wanted)
        return True
    if pool.type != ProcessWorker.type:
        raise PipelineError(
            f"work pool {name} is of type {pool.type}, not {ProcessWorker.type}: name another with --work-pool"
        )
    return False


async def _ensure_limit(client: PrefectClient) -> bool:
    """Makes the limit of stages that load a model, 1 at a time, unless it is there; whether it was made."""
    try:
        await client.read_global_concurrency_limit_by_name(GPU_LIMIT)
    except ObjectNotFound:
        await client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=GPU_LIMIT, limit=1))
        return True
    return False


def read_deployment(path: Path, name: str) -> dict[str, Any]:
    """The deployment called ``name`` of a ``prefect.yaml``. Raises PipelineError."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PipelineError(f"there is no {path}: run this in the root of a checkout") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PipelineError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    deployments: list[dict[str, Any]] = value.get("deployments") or [] if isinstance(value, dict) else []
    found = next((d for d in deployments if d.get("name") == name), None)
    if found is None:
        raise PipelineError(f"{path} holds no deployment called {name!r}")
    return found
