"""Pushing a data set to the Hugging Face Hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline import folders
from pipeline.errors import InputError, PipelineError
from pipeline.manifest import damaged, need_manifest
from pipeline.together import manifests_of


@dataclass(frozen=True, slots=True)
class Upload:
    """What a push sends: path in the repository, file, size in bytes."""

    path: str
    file: Path
    bytes: int


def plan_upload(out: Path) -> list[Upload]:
    """The files of a build's data set, card first. Raises InputError/PipelineError if they are not whole, or a gate failed."""
    dataset = out / folders.DATASET if (out / folders.DATASET).is_dir() else out
    manifest = need_manifest(dataset)
    if problems := damaged(dataset, manifest.outputs):
        raise PipelineError(f"{dataset}: {problems[0]}; build it again before pushing")
    report = manifests_of(out).get(folders.REPORT)
    if report is not None and report.notes.get("gate_failures"):
        raise PipelineError(
            "the evaluation's gate failed: " + "; ".join(f["message"] for f in report.notes["gate_failures"])
        )
    card = dataset / "README.md"
    if not card.is_file():
        raise InputError(f"{dataset} has no card; run: multistream card {out}")
    files = [card, dataset / "manifest.json", *(dataset / o.path for o in manifest.outputs)]
    extra = [p for p in (out / folders.REPORT).glob("*") if p.is_file() and p.name != "manifest.json"] if report else []
    uploads = [Upload(f.relative_to(dataset).as_posix(), f, f.stat().st_size) for f in files]
    return uploads + [Upload(f"report/{f.name}", f, f.stat().st_size) for f in sorted(extra)]


def push(out: Path, repo_id: str, private: bool) -> str:
    """Uploads in one commit; returns its address. Raises PipelineError."""
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    uploads = plan_upload(out)
    api = HfApi()
    try:
        api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        operations = [CommitOperationAdd(u.path, str(u.file)) for u in uploads]
        commit = api.create_commit(repo_id, operations, commit_message="Multi-stream data set", repo_type="dataset")
    except (HfHubHTTPError, ValueError, OSError) as error:
        raise PipelineError(f"push to {repo_id} failed: {str(error).splitlines()[0]}") from error
    return str(commit.commit_url)
