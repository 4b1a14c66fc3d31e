"""What a card says: facts of manifests, records and the report, ready for its template."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import folders
from pipeline.asked import Asked, read_asked
from pipeline.errors import ConfigError
from pipeline.license_mix import Conflict, by_corpus
from pipeline.manifest import Manifest
from pipeline.statistics.rejects import FILTERED, FLAGGED, Rejected
from pipeline.statistics.sums import PolicyStats, merged
from pipeline.stats import RecordStats

PAPER = """@misc{su2026multistream,
  title         = {Multi-Stream LLMs: Unblocking Language Models with Parallel Streams of Thoughts, Inputs and Outputs},
  author        = {Su, Guinan and Yang, Yanwu and Li, Xueyan and Geiping, Jonas},
  year          = {2026},
  eprint        = {2605.12460},
  archivePrefix = {arXiv},
  primaryClass  = {cs.LG},
  url           = {https://arxiv.org/abs/2605.12460}
}"""

#: What made synthetic records, by the names that stand in the place of a policy.
_SYNTHETIC = {
    "synth/table": "a chat model wrote all streams as a table, a row at a time; each row before the rows below it",
    "synth/concurrent": "a chat model wrote each stream slice by slice, having seen all streams up to the slice",
    "synth/teacher": "a chat model wrote the output again, chunk by chunk, from what had been read by then",
}

_TABLED = (
    folders.INGEST, folders.CONVERT, folders.SYNTH, *folders.LEAVING_OUT, folders.DATASET, folders.CHECKPOINT, folders.REPORT,
)  # fmt: skip
_PLAIN_VALUE = re.compile(r"[\w.:,=+*-]{1,80}")
_SECRET = re.compile(r"(^|_)(key|token|secret|password|url|path|dir|host)$", re.IGNORECASE)


def command(out: Path) -> str:
    """The command that the build was made with: no folders of the machine, and no value that may be a secret or a place."""
    asked = asked_of_build(out)
    if asked is None:
        return ""
    if asked.path is None:
        convert = asked.config.model_dump(mode="json").get("convert") or {}
        options = [
            f"--{key} {convert[key]}" for key in ("align", "tokenizer") if _PLAIN_VALUE.fullmatch(str(convert.get(key)))
        ]
        return " ".join(["multistream convert INPUT --out DIR", *options])
    name = asked.path.name if re.fullmatch(r"[\w.-]+", asked.path.name) else "CONFIG.yaml"
    sets = [f"--set {_override(each)}" for each in asked.overrides]
    return " ".join([f"multistream build {name} --out DIR", *sets])


def asked_of_build(out: Path) -> Asked | None:
    """What a build was asked to do; None where that cannot be told."""
    try:
        return read_asked(out)
    except ConfigError:
        return None


def _override(text: str) -> str:
    key, _, value = text.partition("=")
    if not re.fullmatch(r"[\w.\[\]-]{1,80}", key):
        return "…"
    return (
        f"{key}={value}" if _PLAIN_VALUE.fullmatch(value) and not _SECRET.search(key.rsplit(".", 1)[-1]) else f"{key}=…"
    )


def stages(manifests: Mapping[str, Manifest]) -> list[dict[str, Any]]:
    """The stages that a card names, with their books."""
    return [
        {
            "name": name,
            "version": m.version,
            "fingerprint": m.fingerprint[:12] if name in _TABLED[: _TABLED.index(folders.DATASET) + 1] else "",
            **{side: m.counters.get(side) for side in ("in", "out", "rejected", "filtered")},
        }
        for name, m in manifests.items()
        if name in _TABLED
    ]


def settings(manifests: Mapping[str, Manifest]) -> str:
    """The configuration of conversion and of the data set, and the short settings of synthesis, as YAML."""
    import yaml

    shown: dict[str, Any] = {}
    for name in (folders.CONVERT, folders.SYNTH, *folders.LEAVING_OUT, folders.DATASET):
        if name in manifests:
            shown[name] = {
                key: value
                for key, value in manifests[name].config.items()
                if name in folders.LEAVING_OUT
                or (not isinstance(value, list) and (name != folders.SYNTH or not isinstance(value, dict)))
            }
    return yaml.safe_dump(shown, sort_keys=True, allow_unicode=False, width=100).replace("`", "'") if shown else ""


def sources(stats: RecordStats, manifests: Mapping[str, Manifest], rejects: Sequence[Rejected]) -> list[dict[str, Any]]:
    """A row per corpus: files, version or digest, formats, licences, records and tokens; also of one that left no records."""
    ingest = manifests.get(folders.INGEST)
    licenses = by_corpus(stats.corpus_licenses)
    groups: dict[str, list[PolicyStats]] = {}
    for (corpus, _), own in stats.by_policy.items():
        groups.setdefault(corpus, []).append(own)
    rejected: Counter[str] = Counter()
    for each in rejects:
        rejected[each.corpus] += each.count
    made = []
    for corpus in sorted({*licenses, *groups, *filter(None, rejected)}):
        total = merged(groups.get(corpus, ()))
        found = _inputs(ingest, corpus) if ingest is not None else {}
        made.append(
            {
                "corpus": corpus,
                "files": len(found),
                "version": _version(found),
                "formats": sorted({f for n, f in _formats(ingest).items() if n in found or n.startswith(f"{corpus}/")}),
                "licenses": licenses.get(corpus, {}),
                "records": total.records,
                "tokens": total.tokens,
                "rejected": rejected[corpus],
            }
        )
    return made


def _inputs(ingest: Manifest, corpus: str) -> dict[str, str]:
    """The inputs of a corpus with their digests or revisions."""
    hub = {
        f"hub:{s[1]}/{s[2] or 'default'}/{s[3]}"
        for s in ingest.config.get("sources", ())
        if len(s) > 4 and s[0] == "hub" and corpus == (s[4] or str(s[1]).replace("/", "__"))
    }
    return {name: digest for name, digest in ingest.inputs.items() if name.startswith(f"{corpus}/") or name in hub}


def _formats(ingest: Manifest | None) -> Mapping[str, str]:
    return ingest.notes.get("formats", {}) if ingest is not None else {}


def _version(inputs: Mapping[str, str]) -> str:
    """The digest or revision of one input; of several, the digest of the list of theirs."""
    if len(inputs) == 1:
        return next(iter(inputs.values()))
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(inputs.items()))
    return hashlib.sha256(lines.encode()).hexdigest() if inputs else ""


def policies(stats: RecordStats) -> list[dict[str, Any]]:
    """A row per policy with its figures, the most records first."""
    groups: dict[str, list[PolicyStats]] = {}
    for (_, policy), own in stats.by_policy.items():
        groups.setdefault(policy, []).append(own)
    made = []
    for policy, parts in groups.items():
        total = merged(parts)
        row: dict[str, Any] = {
            "policy": policy, "records": total.records, "overlapped": total.overlapped, "saved": total.saved_share,
            "overlap": total.overlap_rows / total.rows if total.rows else None, "latency": {},
        }  # fmt: skip
        for name in ("rows_to_first_output", "time_to_first_output", "response_latency", "decode_steps"):
            if name in total.layout and total.layout[name].counts:
                row["latency"][name] = (total.layout[name].quantiles([0.5])[0], total.turns[name].quantiles([0.5])[0])
        made.append(row)
    return sorted(made, key=lambda row: (-row["records"], row["policy"]))


def claims(names: Sequence[str]) -> list[tuple[str, str]]:
    """Each policy that occurs in the names, with a line on what it lets overlap."""
    from pipeline.alignment import POLICIES

    single = sorted({part for name in names for part in (name.split("+") if name not in _SYNTHETIC else [name])})
    known = {name: module.CLAIM for name, module in POLICIES.items()} | _SYNTHETIC
    return [(name, known[name]) for name in single if name in known]


def filters(manifests: Mapping[str, Manifest], rejects: Sequence[Rejected]) -> list[dict[str, Any]]:
    """What was left out, by stage and reason, with its share of what the stage was given and the corpora of rejects."""
    given = {m.stage: m.counters.get("in") for m in manifests.values()}
    given |= {FILTERED: given.get(folders.DATASET), FLAGGED: given.get(folders.FILTER)}
    counts: dict[tuple[str, str], int] = {}
    corpora: dict[tuple[str, str], Counter[str]] = {}
    for each in rejects:
        counts[each.stage, each.code] = counts.get((each.stage, each.code), 0) + each.count
        corpora.setdefault((each.stage, each.code), Counter())[each.corpus] += each.count
    booked = (
        (folders.CONVERT, "excluded", "excluded"),
        (folders.CONVERT, "input_only", "input_only"),
    )
    for folder, name, reason in booked:
        if (manifest := manifests.get(folder)) is not None and manifest.counters.get(name):
            counts[manifest.stage, reason] = manifest.counters[name]
    return [
        {
            "stage": stage,
            "reason": reason,
            "count": count,
            "share": count / of if (of := given.get(stage)) else None,
            "corpora": sorted(corpora.get((stage, reason), {}).items(), key=lambda i: (-i[1], i[0])),
        }
        for (stage, reason), count in sorted(counts.items(), key=lambda i: (i[0][0], -i[1], i[0][1]))
    ]


def limits(
    stats: RecordStats,
    splits: Mapping[str, RecordStats],
    manifests: Mapping[str, Manifest],
    conflicts: Sequence[Conflict],
    report: Mapping[str, Any] | None,
) -> Iterator[str]:
    """What is known to be missing or weak, from the data itself."""
    whole, looked = stats.all(), stats.looked_at
    outputs = looked["output"]
    leaks, weak = whole.verdicts["leak"], whole.verdicts["weak"]
    yield (
        f"Causal honesty was looked at by words only where words can tell: {looked['lexical']:,} of {outputs:,} output events "
        f"have a verdict, {leaks:,} of them a leak, {weak:,} a weak one."
    )
    for name, words in (("gain", "how much the unread input would have told"), ("judged", "a chat model's verdict")):
        if looked[name] < outputs:
            yield (
                f"{looked[name]:,} of {outputs:,} output events were measured for {words}."
                if looked[name]
                else (f"No output event was measured for {words}.")
            )
    if whole.compared_turns_rows and not whole.shortened:
        yield "Nothing overlaps: every record takes as many rows as under `turns`."
    elif whole.compared_turns_rows and (whole.saved_share or 0) < 0.05:
        yield (
            f"Little overlaps: {whole.saved_share or 0:.1%} of the rows are saved. Text that was written after reading "
            "everything leaves little room."
        )
    if whole.real_time:
        yield f"{whole.real_time:,} records are laid out in real time; they are not compared with `turns`."
    stated = sum(stats.languages.values())
    if not stated:
        yield "No source states a language, so none is named here."
    elif stated < whole.conversations:
        yield f"A language is stated for {stated:,} of {whole.conversations:,} conversations only."
    if whole.segments:
        yield f"{whole.segments:,} records are pieces of conversations that are longer than the window."
    test = splits["test"].records if "test" in splits else 0
    if whole.records and test < 100:
        yield f"The test split has {test:,} records: figures on it are rough."
    yield from _not_looked_for(manifests)
    if conflicts:
        yield "The licences of the sources need a look: see *Sources and licences*."
    synth = manifests.get(folders.SYNTH)
    if synth is not None:
        judged = bool(synth.config.get("judge"))
        c = synth.counters
        yield (
            f"{c.get('out', 0):,} dialogues were written by a chat model, of {c.get('in', 0):,} that were asked for"
            f"{'' if judged else '; they were accepted by form and evidence, no judge has read them'}."
        )
    if report is None:
        yield "No model has been trained on it for this card: there is no evaluation."


def read_report(out: Path, manifests: Mapping[str, Manifest]) -> dict[str, Any] | None:
    """The evaluation's report, if it is of this data set."""
    path = out / folders.REPORT / "report.json"
    if folders.REPORT not in manifests or not path.is_file():
        return None
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report


def _not_looked_for(manifests: Mapping[str, Manifest]) -> Iterator[str]:
    """What no filter of the build looked for."""
    filtering = manifests.get(folders.FILTER)
    used = {step["filter"] for step in filtering.config["filters"]} if filtering is not None else set()
    looks = {
        "quality": {"repetition", "quality", "encoding", "length"},
        "secrets": {"secrets"},
        "personal data": {"personal"},
        "evaluation sets": {"contamination"},
    }
    missing = [words for words, names in looks.items() if not used & names]
    if missing:
        yield f"No filter has looked for {', '.join(missing[:-1])}{' or ' if missing[1:] else ''}{missing[-1]}."
    if folders.DEDUP not in manifests:
        yield "No stage has looked for near-copies. Copies of one first input are kept on one side of the split."
