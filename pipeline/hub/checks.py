"""Why a data set should not be pushed as it is. Each reason has a word by which a user may say otherwise."""

from __future__ import annotations

import json
import posixpath
import re
from collections import Counter
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow.parquet as pq
import yaml

from pipeline import folders, storage
from pipeline.asked import read_asked
from pipeline.card_edits import is_edited
from pipeline.hub.files import CARD, CROISSANT, PICTURES, Package
from pipeline.sections import stages_of
from pipeline.together import manifests_of

#: The words of ``--allow``, and what each lets through.
ALLOWED = {
    "no-card": "a data set without a card",
    "stale-card": "a card that was made of other data",
    "failed-gate": "data whose evaluation did not pass its gate",
    "unfinished": "a build of which stages are still to be run",
    "unknown-license": "sources of which nobody said the licence",
    "overwrite": "replacing or deleting files on the Hub that no push put there, or that were changed since",
}

_NO_LICENSE = frozenset({"", "unknown", "none", "noassertion"})

_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a push is refused, what to do about it, and the word that allows it."""

    word: str
    message: str


def refusals(package: Package) -> list[Refusal]:
    """All that speaks against pushing a package, as far as can be seen here. Reads licences from the records."""
    found = [*_card(package), *_stages(package)]
    unknown = unknown_licenses(package)
    if unknown:
        names = ", ".join(f"{name} ({count:,})" for name, count in sorted(unknown.items()))
        found.append(
            Refusal(
                "unknown-license",
                f"no licence is known for the sources of {names}: name it with `license:` in the configuration or "
                "--license and build again",
            )
        )
    return found


def _card(package: Package) -> list[Refusal]:
    text, place = package.card, storage.shown(package.out)
    if text is None:
        return [Refusal("no-card", f"there is no card: run multistream card {place}")]
    if package.out == package.dataset:
        return [Refusal("stale-card", "what the card was made of cannot be told without its build: name that folder")]
    anew = f"run multistream card {place}"
    if is_edited(text):
        anew = f"move {CARD}, which was edited by hand, away, {anew}, and put what you wrote into the new one"
    if not _is_current(package.out, text):
        return [Refusal("stale-card", f"the card was made of other data: {anew}")]
    sent = {u.path for u in package.uploads}
    missing = [link for link in pictures_of(_FRONT_MATTER.sub("", text, count=1)) if link not in sent]
    if not missing:
        return []
    if (package.dataset / missing[0]).is_file():
        kinds = ", ".join(sorted(PICTURES))
        why = f"which does not go to the Hub: only {kinds} of the data set's folder go, and nothing hidden"
    else:
        why = "which is not there: put it there, or take it out of the card"
    return [Refusal("stale-card", f"the card shows {missing[0]}, {why}; if it is not yours, {anew}")]


def pictures_of(markdown: str) -> list[str]:
    """The relative paths of the pictures that a card shows, by Markdown or HTML, in order; those in code are not shown."""
    from markdown_it import MarkdownIt

    found: list[str] = []
    for block in MarkdownIt().enable("table").parse(markdown):
        for token in [block, *(block.children or ())]:
            if token.type == "image":
                found.append(str(token.attrs["src"]))
            elif token.type in ("html_block", "html_inline"):
                tags = _Pictures()
                tags.feed(token.content)
                found += tags.found
    parts = [urlsplit(link) for link in found]
    return [posixpath.normpath(unquote(p.path)) for p in parts if p.path and not p.scheme and not p.netloc]


class _Pictures(HTMLParser):
    """Collects what HTML shows."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "src" and value:
                self.found.append(value.strip())
            elif name == "srcset" and value:
                self.found += [words[0] for each in value.split(",") if (words := each.split())]


def _stages(package: Package) -> list[Refusal]:
    found = []
    manifests = manifests_of(package.out)
    report = manifests.get(folders.REPORT)
    if report is not None and report.notes.get("gate_failures"):
        why = "; ".join(str(failure["message"]) for failure in report.notes["gate_failures"])
        found.append(Refusal("failed-gate", f"the evaluation's gate failed: {why}"))
    asked = read_asked(package.out)
    if asked is not None and (missing := [s for s in stages_of(asked.config) if s not in manifests]):
        names = ", ".join(missing)
        found.append(Refusal("unfinished", f"the build is not finished ({names}): run multistream build again"))
    return found


def unknown_licenses(package: Package) -> Counter[str]:
    """How many source pointers of each corpus have no licence."""
    unknown: Counter[str] = Counter()
    for path in package.manifest.paths(package.dataset, "records-"):
        columns = ["sources.list.element.license", "sources.list.element.corpus"]
        for batch in pq.ParquetFile(path).iter_batches(1 << 16, columns=columns):
            sources = batch.column(0).flatten()
            corpora, licenses = sources.field("corpus").to_pylist(), sources.field("license").to_pylist()
            unknown.update(
                corpus
                for corpus, name in zip(corpora, licenses, strict=True)
                if (name or "").strip().lower() in _NO_LICENSE
            )
    return unknown


def _is_current(out: Path, text: str) -> bool:
    """Whether a card is of what there is now: told by the line that ``multistream card`` ends it with, wherever that is.

    Its words, and the title that its front matter gives, may be changed.
    """
    from pipeline.card import made_of, title_of

    front = _FRONT_MATTER.match(text)
    try:
        metadata = yaml.safe_load(front[1]) if front else None
    except yaml.YAMLError:
        return False
    if not isinstance(metadata, dict):
        return False
    titles = (str(metadata.get("pretty_name")), title_of(out), _title_beside(out))
    lines = text.splitlines()
    return any(title is not None and made_of(out, title) in lines for title in titles)


def _title_beside(out: Path) -> str | None:
    """The title under which the card was made, by the metadata that was written with it."""
    try:
        metadata = json.loads((out / folders.DATASET / CROISSANT).read_bytes())
    except (OSError, ValueError):
        return None
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) else None
