"""The deployment ``build-multistream-dataset/local``: what ``multistream deploy`` registers out of ``prefect.yaml``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import yaml
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.deployments.runner import DeploymentApplyError
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import get_current_settings
from prefect.workers.process import ProcessWorker

from pipeline.errors import PipelineError

PREFECT_FILE, LOCAL = "prefect.yaml", "local"


def deploy_local(work_pool: str | None = None) -> Iterator[str]:
    """Registers the deployment and yields lines for people: what was registered, how to start a worker and a run.

    The work pool (of type process; default: that of ``prefect.yaml``) is made if it is not there. The current folder,
    which must be the root of a checkout, becomes the working directory of the runs. Raises PipelineError where there
    is no ``prefect.yaml``, no server is named, it does not answer, or it refuses.
    """
    checkout = Path.cwd()
    settings = read_deployment(checkout / PREFECT_FILE, LOCAL)
    pool = work_pool or settings["work_pool"]["name"]
    url = get_current_settings().api.url
    if not url:
        raise PipelineError(
            "PREFECT_API_URL names no Prefect server: start one with `prefect server start`, then "
            "`export PREFECT_API_URL=http://127.0.0.1:4200/api` and run this again"
        )
    try:
        made, name = asyncio.run(_register(settings, checkout, pool))
    except httpx.TransportError as error:
        raise PipelineError(f"the Prefect server at {url} does not answer ({error}): is it running?") from error
    except (PrefectHTTPStatusError, DeploymentApplyError) as error:
        raise PipelineError(f"the Prefect server at {url} refused: {str(error).splitlines()[0]}") from error
    yield f"{'made' if made else 'found'} work pool {pool} (type process) on {url}"
    yield f"registered {name}, working directory {checkout}"
    yield f"start a worker:  prefect worker start --pool {pool}"
    yield f"run it:          prefect deployment run {name} --watch"


async def _register(settings: dict[str, Any], checkout: Path, pool: str) -> tuple[bool, str]:
    """Whether the work pool had to be made, and the full name of the deployment."""
    made = await _ensure_process_pool(pool)
    flow: Flow[..., Any] = await Flow.afrom_source(str(checkout), settings["entrypoint"])
    deployment = await flow.ato_deployment(
        settings["name"],
        parameters=settings.get("parameters", {}),
        description=settings.get("description"),
        tags=settings.get("tags", []),
        work_pool_name=pool,
        job_variables=settings["work_pool"].get("job_variables", {}),
    )
    await deployment.aapply()
    return made, deployment.full_name


async def _ensure_process_pool(name: str) -> bool:
    """Makes the work pool unless it is there; whether it was made. Raises PipelineError if it is of another type."""
    async with get_client() as client:
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
