"""Deployments of ``build-multistream-dataset`` and of its stages: what ``multistream deploy`` registers."""

from __future__ import annotations

import asyncio
import json
import re
import zoneinfo
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, cast, get_args

import httpx
import yaml
from prefect import Flow
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule
from prefect.deployments.runner import DeploymentApplyError
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.schedules import Cron, Interval, Schedule
from prefect.server.schemas.schedules import CronSchedule as CronDates
from prefect.settings import get_current_settings
from prefect.workers.process import ProcessWorker
from pydantic import ValidationError

from flows.runners import Place, RunnerName
from flows.stages import DEMO, GPU_LIMIT, STAGES, checked
from pipeline.config import ConfigError
from pipeline.errors import PipelineError

PREFECT_FILE = "prefect.yaml"

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

#: The shortest and the longest interval of a schedule, in seconds.
SHORTEST, LONGEST = 60, 366 * 86400


@dataclass(frozen=True, slots=True)
class Wanted:
    """A deployment as it is asked for; None (and nothing set): as it is on the server, else as ``prefect.yaml`` says.

    ``stage``: one stage's flow, not the whole build's. ``cron`` or ``interval`` (``90s``, ``30m``, ``6h``, ``1d``) make a
    schedule, in ``timezone`` (IANA name). ``reset``: what is on the server does not count.
    """

    name: str | None = None
    stage: str | None = None
    work_pool: str | None = None
    runner: str | None = None
    address: str | None = None
    gpus: int | None = None
    workers: int | None = None
    config: str | None = None
    out: str | None = None
    overrides: Sequence[str] = ()
    cron: str | None = None
    interval: str | None = None
    timezone: str | None = None
    reset: bool = False


@dataclass(slots=True)
class _Made:
    """What the server has now; ``kept``: what of it was there before and is not what ``prefect.yaml`` says."""

    name: str = ""
    pool: str = ""
    pool_is_new: bool = False
    limit_is_new: bool = False
    kept: list[str] = field(default_factory=list)


def deploy(wanted: Wanted) -> Iterator[str]:
    """Registers a deployment and yields lines for people: what was registered, how to start a worker and a run.

    Where the deployment is there, what is not asked for stays as it is: parameters, schedules, work pool. The work pool (of
    type process; default: that of ``prefect.yaml``) and the limit ``multistream-gpu`` are made if they are not there. The
    current folder, which must be the root of a checkout, becomes the working directory of the runs. Raises PipelineError
    where there is no ``prefect.yaml``, a parameter is wrong, no server is named, it does not answer, or it refuses.
    """
    if wanted.runner is not None and wanted.runner not in get_args(RunnerName):
        raise ConfigError(f"--runner {wanted.runner!r} is none of {', '.join(get_args(RunnerName))}")
    checkout = Path.cwd()
    settings = read_deployment(checkout / PREFECT_FILE, wanted.runner or "local")
    schedule = schedule_of(wanted)
    parameters_of(wanted, settings["parameters"])
    url = get_current_settings().api.url
    if not url:
        raise PipelineError(
            "PREFECT_API_URL names no Prefect server: start one with `prefect server start`, then "
            "`export PREFECT_API_URL=http://127.0.0.1:4200/api` and run this again"
        )
    try:
        made = asyncio.run(_register(wanted, settings, checkout, schedule))
    except httpx.TransportError as error:
        raise PipelineError(f"the Prefect server at {url} does not answer ({error}): is it running?") from error
    except (PrefectHTTPStatusError, DeploymentApplyError) as error:
        raise PipelineError(f"the Prefect server at {url} refused: {_line(error)[:300]}") from error
    yield f"{'made' if made.pool_is_new else 'found'} work pool {made.pool} (type process) on {url}"
    yield f"{'made' if made.limit_is_new else 'found'} concurrency limit {GPU_LIMIT}"
    yield f"registered {made.name}, working directory {checkout}"
    for one in made.kept:
        yield f"kept:            {one} (--reset drops it)"
    if schedule is not None:
        every = wanted.cron or f"every {wanted.interval}"
        yield f"scheduled:       {every} ({wanted.timezone or 'UTC'})"
    yield f"start a worker:  prefect worker start --pool {made.pool}"
    yield f"run it:          prefect deployment run {made.name} --watch"


def parameters_of(wanted: Wanted, given: Mapping[str, Any], there: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The deployment's parameters: what is asked for, else what is ``there`` already, else what ``prefect.yaml`` has given.

    Of another runner than the one that is asked for neither address nor GPUs are kept. Raises PipelineError.
    """
    asked_for = _asked_for(wanted)
    kept = dict(there or {})
    if wanted.runner is not None and kept.get("runner", "local") != wanted.runner:
        kept = {key: value for key, value in kept.items() if key not in ("runner", "address", "gpus")}
    parameters = {**given, **kept, **asked_for}
    place = Place(
        cast(RunnerName, parameters.get("runner") or "local"),
        parameters.get("address"),
        parameters.get("workers") or 0,
        parameters.get("gpus") or 0,
    )
    overrides = tuple(map(str, parameters.get("overrides") or ()))
    checked(parameters.get("config") or DEMO, parameters.get("out"), overrides, False, place)
    known = _flow_of(wanted.stage).parameters.properties
    for key in ("workers", "address", "gpus"):
        if key in asked_for and key not in known:
            raise ConfigError(f"stage {wanted.stage} takes no {key}")
    return {key: value for key, value in parameters.items() if key in known}


def _asked_for(wanted: Wanted) -> dict[str, Any]:
    values: dict[str, Any] = {
        "config": wanted.config, "out": wanted.out, "overrides": list(wanted.overrides) or None,
        "workers": wanted.workers, "address": wanted.address, "gpus": wanted.gpus,
    }  # fmt: skip
    return {key: value for key, value in values.items() if value is not None}


def _flow_of(stage: str | None) -> Flow[..., Any]:
    """The flow of a stage; of the whole build for None. Raises ConfigError."""
    from flows.build import FLOWS, build_multistream_dataset

    if stage is None:
        return build_multistream_dataset
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
        if not wanted.cron.startswith("@") and len(wanted.cron.split()) != 5:
            raise ConfigError(f"--cron {wanted.cron!r} is none: it has five fields, from minutes to weekdays")
        try:
            asyncio.run(CronDates(cron=wanted.cron, timezone=zone).get_dates(1))
            return Cron(wanted.cron, timezone=zone)
        except ValidationError as error:
            raise ConfigError(f"--cron {wanted.cron!r}: {error.errors()[0]['msg']}") from error
        except ValueError as error:
            raise ConfigError(f"--cron {wanted.cron!r} names no time that will come: {_line(error)}") from error
    if wanted.interval is not None:
        found = re.fullmatch(r"(\d{1,7})([smhd])", wanted.interval)
        if found is None or int(found[1]) == 0:
            raise ConfigError(f"--interval {wanted.interval!r} is none: it is a number with s, m, h or d, like 6h")
        seconds = int(found[1]) * _SECONDS[found[2]]
        if not SHORTEST <= seconds <= LONGEST:
            raise ConfigError(f"--interval {wanted.interval!r} is no time between a minute and a year")
        return Interval(timedelta(seconds=seconds), timezone=zone)
    if zone is not None:
        raise ConfigError("--timezone is that of a schedule: add --cron or --interval")
    return None


async def _register(wanted: Wanted, settings: dict[str, Any], checkout: Path, schedule: Schedule | None) -> _Made:
    made = _Made()
    async with get_client() as client:
        made.limit_is_new = await _ensure_limit(client)
        entrypoint = settings["entrypoint"]
        if wanted.stage is not None:
            entrypoint = f"{entrypoint.rpartition(':')[0]}:{wanted.stage}"
        flow: Flow[..., Any] = await Flow.afrom_source(str(checkout), entrypoint)
        name = wanted.name or settings["name"]
        there = await _there(client, f"{flow.name}/{name}")
        if there is not None and wanted.reset:
            await _drop_schedules(client, there)
            there = None
        before = there.parameters if there is not None else {}
        if wanted.runner is None and before.get("runner", "local") != "local":
            settings = read_deployment(checkout / PREFECT_FILE, before["runner"])
        parameters = parameters_of(wanted, settings["parameters"], before)
        default = (settings.get("work_pool") or {}).get("name")
        made.pool = wanted.work_pool or (there.work_pool_name if there is not None else None) or default or ""
        if not made.pool:
            raise PipelineError(f"{checkout / PREFECT_FILE} names no work pool: name one with --work-pool")
        if there is not None:
            made.kept = list(_kept(wanted, there, settings["parameters"], parameters, default))
            if schedule is not None:
                await _drop_schedules(client, there)
            else:
                made.kept += [f"schedule {_in_words(one)}" for one in there.schedules]
        made.pool_is_new = await _ensure_process_pool(client, made.pool)
    deployment = await flow.ato_deployment(
        name,
        parameters=parameters,
        description=None if wanted.stage is not None else settings.get("description"),
        tags=settings.get("tags") or [],
        schedules=[schedule] if schedule is not None else None,
        paused=there.paused if there is not None else None,
        concurrency_limit=_limit_of(there) if there is not None else None,
        work_pool_name=made.pool,
        job_variables=(settings.get("work_pool") or {}).get("job_variables") or {},
    )
    if there is not None and schedule is None:
        deployment.model_fields_set.discard(
            "schedules"
        )  # what is not set is not sent: the server leaves them as they are
    await deployment.aapply()
    made.name = deployment.full_name
    return made


def _limit_of(there: DeploymentResponse) -> ConcurrencyLimitConfig | None:
    """How many runs of a deployment somebody lets go on at once."""
    limit, options = there.global_concurrency_limit, there.concurrency_options
    if limit is None:
        return None
    return ConcurrencyLimitConfig(limit=limit.limit, **(options.model_dump(exclude_none=True) if options else {}))


async def _there(client: PrefectClient, name: str) -> DeploymentResponse | None:
    try:
        return await client.read_deployment_by_name(name)
    except ObjectNotFound:
        return None


async def _drop_schedules(client: PrefectClient, there: DeploymentResponse) -> None:
    for one in there.schedules:
        await client.delete_deployment_schedule(there.id, one.id)


def _kept(
    wanted: Wanted, there: DeploymentResponse, given: Mapping[str, Any], now: Mapping[str, Any], pool: str | None
) -> Iterator[str]:
    """What was not asked for, and would be otherwise if the deployment were new."""
    asked_for = _asked_for(wanted)
    for key, value in now.items():
        if key not in asked_for and value != given.get(key):
            yield f"{key}={value if isinstance(value, str) else json.dumps(value)}"
    if wanted.work_pool is None and there.work_pool_name not in (None, pool):
        yield f"work pool {there.work_pool_name}"
    if there.paused:
        yield "paused, as it was"
    if (limit := _limit_of(there)) is not None:
        yield f"at most {limit.limit} runs at once"


def _in_words(one: DeploymentSchedule) -> str:
    """A schedule: when, in which time zone, and whether it is off."""
    schedule = one.schedule
    if isinstance(schedule, CronSchedule):
        when = schedule.cron
    elif isinstance(schedule, IntervalSchedule):
        when = f"every {schedule.interval}"
    elif isinstance(schedule, RRuleSchedule):
        when = schedule.rrule
    else:
        return "none"
    return f"{when} ({schedule.timezone or 'UTC'})" + ("" if one.active else ", which is off")


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
    deployments = value.get("deployments") if isinstance(value, dict) else None
    named = deployments if isinstance(deployments, list) else []
    found = next((d for d in named if isinstance(d, dict) and d.get("name") == name), None)
    if found is None:
        raise PipelineError(f"{path} holds no deployment called {name!r}")
    if ":" not in str(found.get("entrypoint")):
        raise PipelineError(f"{path}: deployment {name!r} has no entrypoint of the form FILE:FLOW")
    for key in ("parameters", "work_pool"):
        if not isinstance(found.get(key) or {}, dict):
            raise PipelineError(f"{path}: {key} of deployment {name!r} is no mapping")
    return {**found, "parameters": found.get("parameters") or {}}


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
