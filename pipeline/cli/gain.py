"""gain: the informational look at honesty, with a small language model."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.places import LOCAL, READ

if TYPE_CHECKING:
    from pipeline.scoring.summary import GroupGains


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(rich_help_panel="Look")(gain)


def gain(
    paths: Annotated[
        list[Path], typer.Argument(help="Builds, data sets, stage folders or shards.", show_default=False, **READ)
    ],
    model: Annotated[str, typer.Option(help="smollm2 (packaged), a folder, or a Hub id of a Llama model.")] = "smollm2",
    cue: Annotated[str, typer.Option(help="How a cut-off input is handed over: turn, ellipsis or open.")] = "turn",
    sample: Annotated[
        int, typer.Option(help="Records per policy and corpus, drawn with the seed.", min=0, show_default="all")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the sample.", min=0)] = 0,
    max_gain: Annotated[
        float | None,
        typer.Option(help="Fail where a corpus' mean is above, in nats per token.", show_default="no limit"),
    ] = None,
    max_context: Annotated[
        int | None, typer.Option(help="Longest context to score, in tokens.", min=2, show_default="4096 on a CPU")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    store: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps scores, to go on after a break.", show_default="none", **LOCAL),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write the records with their gains here.", show_default="none", **LOCAL),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Future-information gain of what overlaps: how much likelier it was to one who had read on, in nats per token.

    Example: `multistream gain build/demo --sample 2`
    """
    from pipeline.cli import console
    from pipeline.errors import ConfigError
    from pipeline.folders import find_records
    from pipeline.scoring import Scorer, ScoreStore
    from pipeline.scoring.summary import choose, summarize

    if out is not None and out.suffix != ".parquet":
        raise ConfigError(f"--out {out}: name a file that ends in .parquet")
    chosen = choose([shard for path in paths for shard in find_records(path).answered], sample, seed)
    scorer = Scorer(model, device=device, cue=cue, max_context=max_context)
    with console.bar("scoring", sum(len(rows) for _, rows in chosen)) as advance:
        groups = summarize(scorer, chosen, ScoreStore(store) if store is not None else None, max_gain, out, advance)
    over = [group for group in groups if group.is_above]
    if as_json:
        about = {"scorer": scorer.name, "scorer_sha256": scorer.sha256, "cue": scorer.cue, "window": scorer.window}
        console.print_json({**about, "max_gain": max_gain, "groups": [group.to_json() for group in groups]})
    else:
        for policy, members in groupby(groups, key=lambda group: group.policy):
            headers = ["corpus", "records", "early", "scored", "too long", "mean", "p90", "max"]
            limit = [] if max_gain is None else [f"above {max_gain:g}"]
            console.table([*headers, *limit], [_row(group, bool(limit)) for group in members], title=policy)
            console.out.print()
        console.out.print(
            f"nats per token; scorer {scorer.name}, cue {scorer.cue}, window {scorer.window:,} tokens", markup=False
        )
        for group in over:
            console.out.print(f"{group.corpus}, {group.policy}: the mean is above {max_gain}", markup=False)
    if over:
        raise typer.Exit(1)


def _row(group: GroupGains, limited: bool) -> list[Any]:
    measured = [None if value is None else f"{value:.3f}" for value in (group.mean, group.p90, group.largest)]
    share = [] if not limited else [None if group.share_above is None else f"{group.share_above:.1%}"]
    counts = [group.records, group.overlapping, group.scored, group.over_window]
    return [group.corpus, *counts, *measured, *share]
