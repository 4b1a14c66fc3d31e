"""Asking the Hub: what a repository holds, and errors in one line without secrets."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import PipelineError
from pipeline.hub.files import CARD, SUMS, parse_sums
from pipeline.hub.patience import network_error, patiently

if TYPE_CHECKING:
    from huggingface_hub import HfApi, RepoFile

NO_TOKEN = "there is no token for the Hub: set HF_TOKEN, or run: hf auth login"
CHANGED = "{} was changed by somebody else meanwhile: nothing was committed; look at it and push again"

_QUERY = re.compile(r"(https?://[^\s'\"?]+)\?[^\s'\")]*")
_ADVICE = re.compile(r" For more information check: \S+")
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{8,}")


@dataclass(frozen=True, slots=True)
class Remote:
    """A branch of a repository as it is now.

    ``head``: the commit that it is at. ``files``: by path. ``pushed``: digests of what an earlier push put there, by path.
    ``branch``: whether the branch itself is there; else this is ``main``, of which it would be made.
    """

    head: str
    private: bool
    files: Mapping[str, RepoFile]
    pushed: Mapping[str, str] = field(default_factory=dict)
    branch: bool = True


def look(api: HfApi, repo_id: str, revision: str) -> Remote | None:
    """What a branch of a data set's repository holds; None if the repository is not there, or not for this token.

    Raises PipelineError where the Hub does not answer, or refuses the token.
    """
    from huggingface_hub import RepoFile
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    branch = True
    with one_line(repo_id, "asking the Hub about"):
        try:
            try:
                info = patiently(lambda: api.dataset_info(repo_id, revision=revision))
            except RevisionNotFoundError:
                branch = False
                info = patiently(lambda: api.dataset_info(repo_id))
        except RepositoryNotFoundError:
            return None
        if info.sha is None:
            raise PipelineError(f"{repo_id} has no commit yet: create one on the Hub, or remove the repository")
        head = info.sha
        tree = patiently(lambda: list(api.list_repo_tree(repo_id, recursive=True, revision=head, repo_type="dataset")))
        files = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
        pushed = parse_sums(read_file(api, repo_id, head, SUMS).decode("utf-8", "replace")) if SUMS in files else {}
    return Remote(head, bool(info.private), files, pushed, branch)


def read_file(api: HfApi, repo_id: str, commit: str, path: str) -> bytes:
    """What a file held in a commit; nothing of it is left in a cache."""
    with tempfile.TemporaryDirectory() as cache:
        got = patiently(
            lambda: api.hf_hub_download(repo_id, path, repo_type="dataset", revision=commit, cache_dir=cache)
        )
        return Path(got).read_bytes()


def digest_of(api: HfApi, repo_id: str, remote: Remote, path: str) -> str:
    """sha256 of a file on the Hub; a small one is read for it."""
    file = remote.files[path]
    return file.lfs.sha256 if file.lfs else hashlib.sha256(read_file(api, repo_id, remote.head, path)).hexdigest()


def check_card(api: HfApi, text: str) -> None:
    """Asks the Hub whether it takes a card's metadata. Raises PipelineError with what is wrong with them."""
    from huggingface_hub import get_session
    from huggingface_hub.errors import BadRequestError
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

    def ask() -> None:
        body = {"content": text, "repoType": "dataset"}
        hf_raise_for_status(
            get_session().post(f"{api.endpoint}/api/validate-yaml", json=body, headers=build_hf_headers())
        )

    try:
        patiently(ask)
    except BadRequestError as error:
        raise PipelineError(
            f"the Hub does not take the metadata of the card ({redacted(error.server_message or str(error))}): nothing was "
            f"sent; correct them at the top of {CARD}"
        ) from error


@contextmanager
def one_line(repo_id: str, doing: str, kept: bool = False) -> Iterator[None]:
    """Errors of the Hub and its client as PipelineError of one line that says what to do, without tokens.

    ``kept``: what was uploaded before the error is not sent again.
    """
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, RepositoryNotFoundError

    after = "; what was uploaded is kept: push again to go on"
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise PipelineError(NO_TOKEN) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401 and not isinstance(error, RepositoryNotFoundError):
            raise PipelineError(
                "the Hub does not know this token: make one, then: hf auth login, or HF_TOKEN"
            ) from error
        if status == 403:
            said = f" ({redacted(error.server_message)})" if error.server_message else ""
            raise PipelineError(
                f"{doing} {repo_id}: this token may not do that{said}: use one with write access to {repo_id}"
            ) from error
        if status in (409, 412):
            raise PipelineError(CHANGED.format(repo_id)) from error
        raise PipelineError(f"{doing} {repo_id}: {_said(error)}{after if kept else ''}") from error
    except KeyError as error:
        raise PipelineError(f"{doing} {repo_id}: an answer of the Hub lacks {redacted(str(error))}") from error
    except (AttributeError, TypeError, json.JSONDecodeError) as error:  # the client takes every answer as it comes
        raise PipelineError(
            f"{doing} {repo_id}: an answer was none of a Hub's ({_said(error)}): is HF_ENDPOINT right, is a proxy between?"
        ) from error
    except ValueError as error:
        raise PipelineError(f"{doing} {repo_id}: {_said(error)}") from error
    except (OSError, RuntimeError, network_error()) as error:
        raise PipelineError(f"{doing} {repo_id}: {_said(error)}{after if kept else ''}") from error


def _said(error: BaseException) -> str:
    """What an error says, with what caused it where it is only a wrapper of that."""
    cause = error.__cause__
    text = str(error) + (f" {cause}" if isinstance(error, RuntimeError) and cause is not None else "")
    return redacted(text).rstrip(".") or type(error).__name__


def redacted(text: str) -> str:
    """One line without tokens, and without the queries of URLs: those of uploads are signed."""
    from huggingface_hub import get_token

    text = _TOKEN.sub("hf_…", _QUERY.sub(r"\1", _ADVICE.sub("", " ".join(text.split()))))
    token = get_token()
    return text.replace(token, "…") if token else text


class _Redacting(logging.Filter):
    """Lets each line through once, without secrets: in an outage the same is said of every try."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redacted(record.getMessage()), ()
        new = record.msg not in self._said
        self._said.add(record.msg)
        return new


@contextmanager
def quiet_logs(progress: bool) -> Iterator[None]:
    """Makes the log lines of ``huggingface_hub`` safe to print; its progress bars are shown only with ``progress``."""
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    filters = [(handler, _Redacting()) for handler in logging.getLogger("huggingface_hub").handlers]
    for handler, redacting in filters:
        handler.addFilter(redacting)
    hide = not progress and not are_progress_bars_disabled()
    if hide:
        disable_progress_bars()
    try:
        yield
    finally:
        for handler, redacting in filters:
            handler.removeFilter(redacting)
        if hide:
            enable_progress_bars()
