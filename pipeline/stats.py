"""Statistics of records: streams, tokens, silence, overlap, latency, leaks, and what overlapping saves against ``turns``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import InputError
from pipeline.statistics.languages import language_of
from pipeline.statistics.sums import (
    LATENCIES,
    PER_TURN,
    PolicyStats,
    Shares,
    Spread,
    merge_fields,
    merged,
    ordered,
    rounded,
)
from pipeline.statistics.timing import BoolArray, IntArray, Timed, Turns, columns_of, timed, turns_of
from pipeline.tables import RECORDS

__all__ = ["LATENCIES", "PER_TURN", "PolicyStats", "RecordStats", "Shares", "Spread", "merged", "stats_of"]

_BATCH = 1024


@dataclass
class RecordStats:
    """Sums over records, mergeable. Rows are tokens of the clock; a row is *silent* on a stream that says nothing in it.

    Of several sources the first names the corpus. ``corpus_licenses``: source pointers by corpus and licence;
    ``languages``: conversations by the language that their source states; ``lengths``: records by tokens; ``looked_at``:
    output events by the look at their honesty that has a verdict on them.
    """

    by_policy: dict[tuple[str, str], PolicyStats] = field(default_factory=dict)
    tokens_per_role: Counter[str] = field(default_factory=Counter)
    slots_per_role: Counter[str] = field(default_factory=Counter)
    output_roles: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    looked_at: Counter[str] = field(default_factory=Counter)
    corpus_licenses: Counter[tuple[str, str]] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    lengths: Spread = field(default_factory=Spread)

    @property
    def records(self) -> int:
        """How many there are."""
        return sum(own.records for own in self.by_policy.values())

    def all(self) -> PolicyStats:
        """The sums over all corpora and policies."""
        return merged(self.by_policy.values())

    def add(self, table: pa.Table) -> None:
        """Adds a table of records. Raises InputError where a record's indices lead nowhere."""
        if not table.num_rows:
            return
        t = timed(table)
        events = table.column("events").combine_chunks().flatten()
        self._add_streams(t, table)
        self.kinds.update(_counted(events.field("kind")))
        self.looked_at["output"] += int(t.output.sum())
        for look in ("lexical", "gain", "judged"):
            self.looked_at[look] += int(pc.is_valid(events.field(look)).to_numpy(zero_copy_only=False)[t.output].sum())
        tokens = np.bincount(t.record, t.end - t.start, t.records).astype(np.int64)
        self.lengths.add(tokens)
        sources = table.column("sources").combine_chunks()
        pointers = sources.flatten()
        licenses = pc.fill_null(pointers.field("license"), "unknown")
        self.corpus_licenses.update(zip(pointers.field("corpus").to_pylist(), licenses.to_pylist(), strict=True))
        first = _is_first(table)
        self.languages.update(_languages(table.column("extra").filter(pa.array(first))))
        names, group = _groups(table, sources)
        facts = _facts(table, t, tokens, first)
        turns = turns_of(t)
        verdicts = events.field("lexical").dictionary_encode()
        verdict = pc.fill_null(verdicts.indices, len(verdicts.dictionary)).to_numpy()
        for number, key in enumerate(names):
            own = self.by_policy.setdefault(key, PolicyStats())
            _add_group(own, group == number, t, turns, facts)
            found = np.bincount(verdict[(group == number)[t.record]], minlength=len(verdicts.dictionary)).tolist()
            own.verdicts.update(dict(zip(verdicts.dictionary.to_pylist(), found, strict=False)))

    def _add_streams(self, t: Timed, table: pa.Table) -> None:
        roles = table.column("streams").combine_chunks().flatten().field("role").dictionary_encode()
        names, role = roles.dictionary.to_pylist(), roles.indices.to_numpy()
        record = np.repeat(np.arange(t.records), np.diff(t.stream_offsets))
        for counter, where, weights in (
            (self.tokens_per_role, role[t.stream], t.end - t.start),
            (self.slots_per_role, role, t.rows[record]),
            (self.output_roles, role, t.stream_output.astype(np.int64)),
        ):
            counter.update(dict(zip(names, np.bincount(where, weights, len(names)).astype(int).tolist(), strict=True)))

    def merge(self, other: RecordStats) -> None:
        """Adds another's records to these."""
        merge_fields(self, other)

    def summary(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        whole = self.all()
        median, upper, best = whole.saved.quantiles([0.5, 0.75, 1.0])
        policies: Counter[str] = Counter()
        for (_, policy), own in self.by_policy.items():
            policies[policy] += own.records
        corpora: Counter[str] = Counter()
        licenses: Counter[str] = Counter()
        for (corpus, name), count in self.corpus_licenses.items():
            corpora[corpus] += count
            licenses[name] += count
        return {
            "records": whole.records,
            "conversations": whole.conversations,
            "segments_of_long_conversations": whole.segments,
            "rows": whole.rows,
            "tokens": whole.tokens,
            "output_tokens": whole.output_tokens,
            "tokens_per_role": ordered(self.tokens_per_role),
            "silence_per_role": {
                role: round(1 - self.tokens_per_role[role] / slots, 4)
                for role, slots in ordered(self.slots_per_role).items()
                if slots
            },
            "silence_fraction": rounded(whole.silence),
            "overlapped_records": whole.overlapped,
            "shortened_records": whole.shortened,
            "rows_with_overlap": whole.overlap_rows,
            "rows_under_turns": whole.turns_rows,
            "rows_saved_fraction": {
                "all": rounded(whole.saved_share),
                "median": median,
                "p75": upper,
                "best": best,
            },
            "tokens_per_record": self.lengths.summary(),
            "events": ordered(self.kinds),
            "policies": ordered(policies),
            "corpora": ordered(corpora),
            "licenses": ordered(licenses),
            "languages": ordered(self.languages),
            "lexical_verdicts": ordered(whole.verdicts),
            "output_events_looked_at": {name: self.looked_at[name] for name in ("output", "lexical", "gain", "judged")},
            "by_corpus_and_policy": [
                {"corpus": corpus, "policy": policy, **own.to_json()}
                for (corpus, policy), own in sorted(self.by_policy.items())
            ],
        }


def stats_of(paths: Iterable[Path], progress: Callable[[int], None] = lambda records: None) -> RecordStats:
    """Statistics of record shards, read in batches and without their texts. ``progress`` gets the records read since.

    Raises InputError for a table of something else.
    """
    stats = RecordStats()
    for path in paths:
        with pq.ParquetFile(path) as file:
            if missing := sorted(set(RECORDS.names) - set(file.schema_arrow.names)):
                raise InputError(f"{path} holds no records of ours: it has no column {missing[0]!r}")
            columns = columns_of(file.schema.column(i).path for i in range(len(file.schema)))
            for batch in file.iter_batches(_BATCH, columns=columns):
                stats.add(pa.Table.from_batches([batch]))
                progress(batch.num_rows)
    return stats


def _is_first(table: pa.Table) -> BoolArray:
    """Whether each record is the first of its conversation."""
    k = table.column("segment").combine_chunks().field("k")
    return np.asarray(k.to_numpy() == 1, dtype=np.bool_)


def _facts(table: pa.Table, t: Timed, tokens: IntArray, first: BoolArray) -> dict[str, IntArray]:
    """What is summed per record, by the name of the sum."""
    output = np.bincount(t.record, (t.end - t.start) * t.output, t.records).astype(np.int64)
    streams = np.diff(t.stream_offsets)
    n = table.column("segment").combine_chunks().field("n").to_numpy()
    return {
        "conversations": first.astype(np.int64),
        "segments": (n > 1).astype(np.int64),
        "events": np.diff(t.offsets),
        "tokens": tokens,
        "output_tokens": output,
        "slots": t.rows * streams,
        "rows": t.rows,
        "streams": streams,
        "real_time": t.real_time.astype(np.int64),
    }


def _add_group(own: PolicyStats, chosen: BoolArray, t: Timed, turns: Turns, facts: dict[str, IntArray]) -> None:
    own.records += int(chosen.sum())
    for name, values in facts.items():
        setattr(own, name, getattr(own, name) + int(values[chosen].sum()))
    own.overlap_rows += int(turns.overlap[chosen].sum())
    own.overlapped += int((turns.overlap[chosen] > 0).sum())
    own.no_output += int(turns.no_output[chosen].sum())
    own.turns_rows += int(turns.turns.rows_to_end[chosen].sum())
    compared = chosen & ~t.real_time
    rows, turns_rows = t.rows[compared], turns.turns.rows_to_end[compared]
    own.compared_rows += int(rows.sum())
    own.compared_turns_rows += int(turns_rows.sum())
    own.shortened += int((rows < turns_rows).sum())
    own.saved.add(1 - rows / np.maximum(turns_rows, 1))
    speaking = compared & ~turns.no_output
    if not speaking.any():
        return
    answered = speaking[turns.turn_record]
    for spreads, latencies in ((own.layout, turns.layout), (own.turns, turns.turns)):
        for name in LATENCIES:
            chosen = answered if name in PER_TURN else speaking
            spreads.setdefault(name, Spread()).add(getattr(latencies, name)[chosen])


def _groups(table: pa.Table, sources: pa.Array) -> tuple[list[tuple[str, str]], IntArray]:
    """The (corpus, policy) pairs of a table, and which of them each record has; "" is the corpus of no source."""
    corpora = sources.flatten().field("corpus").dictionary_encode()
    counts = pc.list_value_length(sources).to_numpy()
    first = np.cumsum(counts) - counts
    of_pointer = np.append(corpora.indices.to_numpy(), 0)
    corpus = np.where(counts > 0, of_pointer[np.minimum(first, len(of_pointer) - 1)] + 1, 0)
    policies = table.column("alignment").combine_chunks().field("policy").dictionary_encode()
    names = policies.dictionary.to_pylist()
    pairs, group = np.unique(corpus * len(names) + policies.indices.to_numpy(), return_inverse=True)
    listed = ["", *corpora.dictionary.to_pylist()]
    return [(listed[pair // len(names)], names[pair % len(names)]) for pair in pairs.tolist()], group.astype(np.int64)


def _languages(extra: pa.ChunkedArray) -> Iterable[str]:
    """The languages that sources state, each once per conversation: ISO 639 codes without regions, none of programs.

    They stand in ``lang`` or ``language`` of ``extra``, or of each message in its ``messages``. What is no JSON object
    states none.
    """
    for text in extra.filter(pc.match_substring(extra, '"lang')).to_pylist():
        try:
            stated = orjson.loads(text)
        except orjson.JSONDecodeError:
            continue
        messages = stated.get("messages") if isinstance(stated, dict) else None
        places = [stated, *(messages.values() if isinstance(messages, dict) else ())]
        values = [p.get("lang", p.get("language")) for p in places if isinstance(p, dict)]
        yield from {code for v in values if (code := language_of(v)) is not None}


def _counted(array: pa.Array) -> dict[str, int]:
    return {v["values"]: v["counts"] for v in pc.value_counts(array).to_pylist() if v["values"] is not None}
