"""What ``multistream push`` prints: the files and what becomes of them, the card, and the commit."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.cli import console
from pipeline.errors import ConfigError
from pipeline.hub.checks import ALLOWED
from pipeline.hub.files import Package, gather
from pipeline.hub.sending import Change, Options, Plan, dry_run, push, raise_refusals


def run_push(path: Path, repo_id: str, options: Options, dry: bool, as_json: bool) -> None:
    """Pushes, or shows what a push would do, and prints it. Raises PipelineError; so does a dry run of a refused push."""
    _check_names(repo_id, options)
    package = gather(path, repo_id)
    if dry:
        plan = dry_run(package, repo_id, options)
        if as_json:
            console.print_json(
                {
                    "repo_id": repo_id,
                    "revision": options.revision,
                    "head": plan.remote.head if plan.remote else None,
                    "not_asked": plan.not_asked or None,
                    "files": [asdict(change) for change in plan.changes],
                    "left": list(package.left),
                    "refused": [asdict(refusal) for refusal in plan.refusals],
                    "card": package.card,
                }
            )
        else:
            _show(package, plan, repo_id, options)
        raise_refusals(plan.refusals)
        return
    pushed = push(package, repo_id, options, progress=console.err.is_terminal)
    if as_json:
        console.print_json({"repo_id": repo_id, "revision": options.revision, **asdict(pushed)})
    elif pushed.made:
        console.out.print(f"{_counts(pushed.changes)}\n{pushed.url}")
    else:
        console.out.print(f"nothing to push: {repo_id} holds these files already\n{pushed.url}")


#: What git allows in the name of no branch; commits, and refs that the Hub makes itself, are none.
_NO_BRANCH = re.compile(
    r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(/|$)|^[-/.]|[/.]$|^@$|^HEAD$|^refs/|^[0-9a-f]{40}$", re.ASCII
)


def _check_names(repo_id: str, options: Options) -> None:
    _check_endpoint()
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    if repo_id.count("/") != 1 or not all(repo_id.split("/")):
        raise ConfigError(f"{repo_id!r} is no repository id; it has the form OWNER/NAME")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ConfigError(f"{repo_id!r} is no repository id: {error}") from error
    if unknown := options.allow - ALLOWED.keys():
        raise ConfigError(f"--allow {min(unknown)}: there is no such reason, only {', '.join(ALLOWED)}")
    if not options.message.strip():
        raise ConfigError("--message is empty; say what this commit is")
    if not options.revision or _NO_BRANCH.search(options.revision):
        raise ConfigError(f"--revision {options.revision!r} is no name of a branch")


def _check_endpoint() -> None:
    """``huggingface_hub`` takes the address of another Hub from the environment as it is when it is imported."""
    given = os.environ.get("HF_ENDPOINT")
    try:
        good = given is None or (urlsplit(given).scheme in ("http", "https") and urlsplit(given).hostname)
    except ValueError:
        good = False
    if not good:
        raise ConfigError(f"HF_ENDPOINT={given!r} is no address of a Hub; it begins with https://")


def _show(package: Package, plan: Plan, repo_id: str, options: Options) -> None:
    console.table(["path", "bytes", ""], [(c.path, c.bytes, c.state) for c in plan.changes])
    if plan.not_asked:
        total = sum(c.bytes for c in plan.changes)
        console.out.print(
            f"{len(plan.changes)} files, {total:,} bytes; what of them is on the Hub is not known: {plan.not_asked}"
        )
    else:
        console.out.print(_counts(plan.changes))
        if plan.remote is None:
            kind = "private" if options.private else "public, unless its owner's default is private"
            console.out.print(f"{repo_id} is not there, or not for this token; it would be created: {kind}")
        elif not plan.remote.branch:
            console.out.print(f"the branch {options.revision} would be made from main")
    if package.left:
        names = ", ".join(package.left[:8]) + (f" and {len(package.left) - 8} more" if len(package.left) > 8 else "")
        console.out.print(f"stays here, as it is not part of the data set: {names}")
    if package.card is not None:
        console.out.print("\ncard:\n")
        console.out.print(package.card)
    console.out.print(f"nothing was sent; without --dry-run this goes to {repo_id} ({options.revision})")


def _counts(changes: Sequence[Change]) -> str:
    """How many files are in each state, and how many bytes go over the line."""
    counts = Counter(c.state for c in changes)
    said = [f"{counts[state]} {state}" for state in ("new", "changed", "unchanged", "deleted") if counts[state]]
    sent = sum(c.bytes for c in changes if c.state in ("new", "changed"))
    return f"{', '.join(said)}; {sent:,} bytes to send"
