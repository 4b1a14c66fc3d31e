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
    path: Build,
    title: Annotated[str | None, typer.Option(help="Title of the card.", show_default="the build's")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a card that was edited by hand.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Writes the data set's card with its pictures and `croissant.json`, of manifests and records, and prints where it is.

    A card that was edited by hand is left as it is. Licences that are unknown or do not go together are warned of. See
    docs/card.md.

    Example: `multistream card build/demo`
    """
    from pipeline import folders
    from pipeline.card import publish_card, title_of
    from pipeline.cli import console
    from pipeline.viewer.lanes import one_line

    made = publish_card(path, title_of(path) if title is None else title, force)
    place = console.shown(path / folders.DATASET / "README.md")
    if as_json:
        warnings = [{"message": c.message, "licenses": c.licenses, "corpora": c.corpora} for c in made.conflicts]
        console.print_json({"card": place, "files": sorted(made.files), "warnings": warnings})
        return
    for each in made.conflicts:
        names = f"{', '.join(each.licenses)} in {', '.join(each.corpora[:8])}{', …' if len(each.corpora) > 8 else ''}"
        console.err.print(one_line(f"warning: {each.message} {names}", 1000), markup=False)
    console.out.print(place, markup=False)


def push(
    path: Build,
    repo_id: Annotated[str, typer.Argument(help="Repository on the Hub, OWNER/NAME.", show_default=False)],
    private: Annotated[
        bool, typer.Option("--private", help="Create the repository private; refused if it is there and public.")
    ] = False,
    revision: Annotated[
        str, typer.Option(help="Branch to push to; made from `main` if it is not there.", metavar="BRANCH")
    ] = "main",
    message: Annotated[str, typer.Option("--message", "-m", help="Message of the commit.")] = "Multi-stream data set",
    allow: Annotated[
        list[str] | None,
        typer.Option(
            help="Push although: `no-card`, `stale-card`, `failed-gate`, `unfinished`, `unknown-license`, or `overwrite` "
            "(files on the Hub that no push put there, or that were changed since). May be repeated.",
            metavar="REASON",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Send nothing: list the files, compare with the Hub, show the card.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Pushes the data set, its card and its report to the Hugging Face Hub, in one commit.

    What is there already is not sent; a push that was cut off goes on when it is repeated. The token is that of
    `HF_TOKEN` or of `hf auth login`. See docs/publishing.md.

    Example: `multistream push build/demo OWNER/NAME --dry-run`
    """
    from pipeline.cli.pushing import run_push
    from pipeline.hub.sending import Options

    run_push(path, repo_id, Options(private, revision, message, frozenset(allow or ())), dry_run, as_json)


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
