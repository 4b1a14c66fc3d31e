"""One push: compare with the Hub, upload what it lacks, and make it visible in one commit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import PipelineError
from pipeline.hub.checks import Refusal, refusals
from pipeline.hub.files import CARD, SUMS, Package, Upload
from pipeline.hub.patience import WAITS, limits, network_error, passes, patiently, pause
from pipeline.hub.remote import CHANGED, NO_TOKEN, Remote, check_card, digest_of, look, one_line, quiet_logs

if TYPE_CHECKING:
    from huggingface_hub import HfApi

#: What the Hub takes in one commit.
_MOST_FILES = 25_000

MESSAGE = "Multi-stream data set"


@dataclass(frozen=True, slots=True)
class Options:
    """What a push may do beside uploading. ``allow``: words of ``checks.ALLOWED``; others have no effect."""

    private: bool = False
    revision: str = "main"
    message: str = MESSAGE
    allow: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of a file of the repository: ``new``, ``changed``, ``unchanged`` or ``deleted``; size in bytes.

    Without the Hub's answer it is "".
    """

    path: str
    state: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What a push does. ``not_asked``: why the Hub did not answer, "" if it did; ``remote``: None for a new repository."""

    changes: tuple[Change, ...]
    refusals: tuple[Refusal, ...]
    remote: Remote | None
    not_asked: str = ""

    def paths(self, *states: str) -> list[str]:
        """The files in one of the states."""
        return [c.path for c in self.changes if c.state in states]


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did. ``commit``: that the branch is at now, made by this push or, with ``made`` false, there before."""

    url: str
    commit: str
    made: bool
    changes: tuple[Change, ...]


def dry_run(package: Package, repo_id: str, options: Options) -> Plan:
    """What ``push`` would do. Changes nothing; does without the Hub if that does not answer, and says so."""
    local = _refused(refusals(package), options)
    with quiet_logs(False), limits(brief=True):
        api = _api()
        try:
            remote = look(api, repo_id, options.revision)
            changes, conflicts = _compare(api, package, repo_id, remote)
        except PipelineError as error:
            changes = tuple(Change(u.path, "", u.bytes) for u in package.uploads)
            return Plan(changes, local, None, str(error))
    return Plan(changes, (*local, *_refused([*conflicts, *_is_public(repo_id, remote, options)], options)), remote)


def push(package: Package, repo_id: str, options: Options, progress: bool = False) -> Pushed:
    """Uploads a package and commits it. Nothing is sent that is there, and no commit made if nothing changes.

    Readers see the commit before it or all of it. A push that was cut off goes on when it is repeated. Raises
    PipelineError: what was refused and why, or what went wrong; then nothing has been committed unless it says so.
    """
    from huggingface_hub import get_token

    raise_refusals(_refused(refusals(package), options))
    if len(package.uploads) > _MOST_FILES:
        raise PipelineError(
            f"{len(package.uploads):,} files are more than the {_MOST_FILES:,} that the Hub takes in one commit: "
            "build with a larger shards.shard_rows"
        )
    with quiet_logs(progress), limits(brief=False):
        if get_token() is None:
            raise PipelineError(NO_TOKEN)
        api = _api()
        plan = _planned(api, package, repo_id, options)
        if package.card is not None and CARD in plan.paths("new", "changed"):
            with one_line(repo_id, "checking the card for"):
                check_card(api, package.card)
        if plan.remote is None or not plan.remote.branch:
            _create(api, repo_id, plan.remote, options)
            plan = _planned(api, package, repo_id, options)
        if plan.remote is None:
            raise PipelineError(f"{repo_id} cannot be read with this token: use one with read and write access to it")
        if not plan.paths("new", "changed", "deleted"):
            return Pushed(_url(api, repo_id, plan.remote.head), plan.remote.head, False, plan.changes)
        return _commit(api, package, repo_id, plan.remote, plan, options)


def raise_refusals(found: Sequence[Refusal]) -> None:
    """Raises PipelineError that names all reasons and the words that allow them, if there are any."""
    if found:
        reasons = "; ".join(f"{r.message} (or --allow {r.word})" if r.word else r.message for r in found)
        raise PipelineError(f"not pushed: {reasons}")


def _refused(found: Sequence[Refusal], options: Options) -> tuple[Refusal, ...]:
    return tuple(r for r in found if r.word not in options.allow)


def _is_public(repo_id: str, remote: Remote | None, options: Options) -> list[Refusal]:
    if remote is None or not options.private or remote.private:
        return []
    return [Refusal("", f"{repo_id} is there and public: make it private in its settings, or push without --private")]


def _api() -> HfApi:
    from huggingface_hub import HfApi, get_token

    if not (get_token() or "").isascii():
        raise PipelineError("the token for the Hub has letters that no token has: see HF_TOKEN, or run: hf auth login")
    return HfApi(library_name="multistream")


def _url(api: HfApi, repo_id: str, commit: str) -> str:
    return f"{api.endpoint}/datasets/{repo_id}/commit/{commit}"


def _planned(api: HfApi, package: Package, repo_id: str, options: Options) -> Plan:
    """What is to be done. Changes nothing; raises PipelineError for what the repository speaks against."""
    remote = look(api, repo_id, options.revision)
    changes, conflicts = _compare(api, package, repo_id, remote)
    raise_refusals(_refused([*conflicts, *_is_public(repo_id, remote, options)], options))
    return Plan(changes, (), remote)


def _create(api: HfApi, repo_id: str, remote: Remote | None, options: Options) -> None:
    """Makes the repository and the branch, whichever of them is not there."""
    if remote is None:
        with one_line(repo_id, "creating"):
            private = options.private or None
            patiently(lambda: api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True))
        remote = look(api, repo_id, options.revision)
    if remote is not None and not remote.branch:
        with one_line(repo_id, f"creating the branch {options.revision} of"):
            branch = options.revision
            patiently(lambda: api.create_branch(repo_id, repo_type="dataset", branch=branch, exist_ok=True))


def _compare(
    api: HfApi, package: Package, repo_id: str, remote: Remote | None
) -> tuple[tuple[Change, ...], list[Refusal]]:
    """What becomes of each file, and what of it would undo somebody else's work."""
    if remote is None:
        return tuple(Change(u.path, "new", u.bytes) for u in package.uploads), []
    changes = [Change(u.path, _state(u, remote), u.bytes) for u in package.uploads]
    sent = {u.path for u in package.uploads}
    gone = [path for path in sorted(remote.pushed) if path in remote.files and path not in sent]
    changes += [Change(path, "deleted", remote.files[path].size) for path in gone]
    with one_line(repo_id, "reading"):
        foreign = [
            c.path
            for c in changes
            if c.state in ("changed", "deleted")
            and not (c.path == SUMS and remote.pushed)
            and remote.pushed.get(c.path) != digest_of(api, repo_id, remote, c.path)
        ]
    if not foreign:
        return tuple(changes), []
    names = ", ".join(foreign[:3]) + (f" and {len(foreign) - 3} more" if len(foreign) > 3 else "")
    message = (
        f"{repo_id} has files that somebody else put there or changed: {names}; save them, or name another repository"
    )
    return tuple(changes), [Refusal("overwrite", message)]


def _state(upload: Upload, remote: Remote) -> str:
    there = remote.files.get(upload.path)
    if there is None:
        return "new"
    same = there.size == upload.bytes
    if same:
        same = there.lfs.sha256 == upload.sha256 if there.lfs else there.blob_id == upload.blob()
    return "unchanged" if same else "changed"


def _commit(api: HfApi, package: Package, repo_id: str, remote: Remote, plan: Plan, options: Options) -> Pushed:
    """Uploads what changes, then makes it visible all at once; nothing if the branch is no longer where it was."""
    from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete

    wanted = set(plan.paths("new", "changed"))
    uploads = [u for u in package.uploads if u.path in wanted]
    with one_line(repo_id, "pushing to", kept=True):
        additions = [
            CommitOperationAdd(u.path, u.source if isinstance(u.source, bytes) else str(u.source)) for u in uploads
        ]
        api.preupload_lfs_files(repo_id, additions, repo_type="dataset", revision=options.revision, free_memory=False)
        if ignored := [a.path_in_repo for a in additions if a._should_ignore]:
            more = f" and {len(ignored) - 1} more are" if len(ignored) > 1 else " is"
            raise PipelineError(
                f"{ignored[0]}{more} named in the .gitignore of {repo_id}: nothing was committed; take them out there and "
                "push again, what was uploaded is kept"
            )
        for upload, sent in zip(uploads, additions, strict=True):
            if sent.upload_info.is_hashed and sent.upload_info.sha256.hex() != upload.sha256:
                raise PipelineError(f"{upload.path} changed while it was pushed: nothing was committed; push again")
        operations: list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete] = [
            *additions,
            *(CommitOperationDelete(path, is_folder=False) for path in plan.paths("deleted")),
        ]
        waits = iter(WAITS)
        commit: str | None = None
        while commit is None:
            try:
                commit = api.create_commit(
                    repo_id,
                    operations,
                    commit_message=options.message,
                    repo_type="dataset",
                    revision=options.revision,
                    parent_commit=remote.head,
                ).oid
            except (KeyError, TypeError, ValueError):  # an answer that the client cannot read
                commit = _made_unheard(api, package, repo_id, remote, options)
                if commit is None:
                    raise
            except (OSError, network_error()) as error:
                wait = next(waits, None)
                if wait is None or not passes(error):
                    raise
                pause(error, wait)
                commit = _made_unheard(api, package, repo_id, remote, options)
    _check_made(api, package, repo_id, commit)
    return Pushed(_url(api, repo_id, commit), commit, True, plan.changes)


def _made_unheard(api: HfApi, package: Package, repo_id: str, before: Remote, options: Options) -> str | None:
    """The commit that was made though its answer was lost; None if none was. Raises PipelineError for one of others."""
    now = look(api, repo_id, options.revision)
    if now is None or now.head == before.head:
        return None
    changes, _ = _compare(api, package, repo_id, now)
    if any(c.state != "unchanged" for c in changes):
        raise PipelineError(CHANGED.format(repo_id))
    return now.head


def _check_made(api: HfApi, package: Package, repo_id: str, commit: str) -> None:
    """Looks whether the Hub lists in a commit what was sent."""
    made = look(api, repo_id, commit)
    wrong = [u.path for u in package.uploads if made is None or _state(u, made) != "unchanged"]
    if wrong:
        raise PipelineError(
            f"{repo_id} at {commit} does not hold {wrong[0]} as it was sent ({len(wrong)} such files): look at that commit, "
            "and push again"
        )
