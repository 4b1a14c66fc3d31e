"""card, push, deploy: from shards to people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.places import READ

Build = Annotated[Path, typer.Argument(help="Folder of a build.", show_default=False, **READ)]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (card, push, deploy):
        app.command(rich_help_panel="Publish")(command)


def card(
    path: Build, title: Annotated[str, typer.Option(help="Title of the card.")] = "Multi-stream conversations"
) -> None:
    """Writes the data set's card from its manifests and records, and prints where it is.

    Example: `multistream card build/demo`
    """
    from pipeline.card import write_card
    from pipeline.cli import console

    console.out.print(console.shown(write_card(path, title)))


def push(
    path: Build,
    repo_id: Annotated[str, typer.Argument(help="Repository on the Hub, OWNER/NAME.", show_default=False)],
    private: Annotated[bool, typer.Option("--private", help="Create the repository private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be sent.")] = False,
) -> None:
    """Pushes the data set, its card and its report to the Hugging Face Hub. Refused while the evaluation's gate fails.

    Example: `multistream push build/demo OWNER/NAME --dry-run`
    """
    from pipeline.cli import console
    from pipeline.errors import PipelineError
    from pipeline.hub import plan_upload
    from pipeline.hub import push as send

    if repo_id.count("/") != 1 or not all(repo_id.split("/")):
        raise PipelineError(f"{repo_id!r} is no repository id; it has the form OWNER/NAME")
    if not dry_run:
        console.out.print(send(path, repo_id, private))
        return
    uploads = plan_upload(path)
    console.table(["path", "bytes"], [(u.path, u.bytes) for u in uploads])
    console.out.print(f"{len(uploads)} files, {sum(u.bytes for u in uploads):,} bytes would go to {repo_id}")


def deploy(
    runner: Annotated[
        str | None, typer.Option(help="Where shards are converted: local, ray or dask.", show_default="local")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="Address of the Ray or Dask cluster: HOST:PORT, ray://HOST:PORT, or auto for Ray."),
    ] = None,
    gpus: Annotated[
        int | None,
        typer.Option(
            help="GPUs that each stage that loads a model asks Ray for; 0: none of Ray's.", min=0, show_default="0"
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Converting processes, or shards out at once on a cluster; 0: by the cores.", min=0, show_default="0"
        ),
    ] = None,
    config: Annotated[str | None, typer.Option(help="YAML configuration.", show_default="that of prefect.yaml")] = None,
    out: Annotated[
        str | None, typer.Option("--out", "-o", help="Folder or URL to write to.", show_default="build/NAME")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key: --set convert.align=turns", metavar="KEY=VALUE")
    ] = None,
    cron: Annotated[str | None, typer.Option(help="Run by a cron schedule, like '0 3 * * *'.")] = None,
    interval: Annotated[str | None, typer.Option(help="Run again and again: 90s, 30m, 6h, 1d.")] = None,
    timezone: Annotated[
        str | None, typer.Option(help="Time zone of the schedule, like Europe/Berlin.", show_default="UTC")
    ] = None,
    stage: Annotated[str | None, typer.Option(help="Only this stage, as a deployment of its own flow.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the deployment.", show_default="that of the runner")] = None,
    work_pool: Annotated[
        str | None,
        typer.Option(help="Work pool of type process; made if it is not there.", show_default="that of prefect.yaml"),
    ] = None,
    reset: Annotated[
        bool, typer.Option("--reset", help="Keep no parameters, schedules or work pool that the deployment has now.")
    ] = False,
) -> None:
    """Registers a deployment, `build-multistream-dataset/local`, with the Prefect server that PREFECT_API_URL names.

    Run it in the root of a checkout, which becomes the working directory of the runs. What is not given stays as it is in
    a deployment that is there. See docs/orchestration.md.

    Example: `PREFECT_API_URL=http://127.0.0.1:4200/api multistream deploy --config my.yaml --cron '0 3 * * *'`
    """
    from flows.deployments import Wanted
    from flows.deployments import deploy as register_deployment
    from pipeline.cli import console

    wanted = Wanted(
        name, stage, work_pool, runner, address, gpus, workers, config, out, tuple(set_ or ()), cron,
        interval, timezone, reset,
    )  # fmt: skip
    for line in register_deployment(wanted):
        console.out.print(line, markup=False)
