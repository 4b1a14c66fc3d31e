"""What happens to a dialogue after its generator has accepted it: the record, and every look at it, in a fixed order.

Record and invariants (of a scene also that every slice waits for those before it), the lexical look, the informational look
(where a ceiling is set), the judge (where there is one), near-duplicates. Each can reject; a dialogue is in exactly one of
the two tables at the end.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

import synth.judge as judge
from pipeline import leaks
from pipeline.checks import record_violations
from pipeline.errors import ConservationError
from pipeline.models import name_of
from pipeline.records import Clock, Document, build_tables, encode_spans, to_json
from pipeline.tables import RECORDS, REJECTS, TOKENS
from synth.config import SynthConfig
from synth.diversity import Diversity
from synth.engines import Completion, Engine
from synth.generators import Outcome, Rejected, Written
from synth.run import answer
from synth.samples import CORPUS
from synth.scenes import check_slices

if TYPE_CHECKING:
    from pipeline.scoring import Scorer

STAGE = "synthesize"
#: So many dialogues are finished together, whatever the batch size: files depend on it.
BATCH = 16


@dataclass(frozen=True, slots=True)
class Placed:
    """What placed the events of a synthesized record (``pipeline.records.Policy``)."""

    policy: str
    params: str


@dataclass(frozen=True, slots=True)
class Finished:
    """A batch: tables of what is accepted, and every outcome in order, accepted or rejected."""

    records: pa.Table
    tokens: pa.Table
    rejects: pa.Table
    outcomes: list[Outcome]


class Finisher:
    """Takes batches of outcomes in order. ``judge_engine``: who judges, None for nobody; ``agreement``: what it and the
    lexical look said of the same events."""

    def __init__(
        self,
        config: SynthConfig,
        clock: Clock,
        diversity: Diversity,
        judge_engine: Engine | None,
        scorer: Scorer | None,
    ) -> None:
        self._config, self._clock, self._diversity = config, clock, diversity
        self._judge_engine, self._scorer = judge_engine, scorer
        self.agreement = judge.Agreement()
        self.judge_usage: list[Completion] = []

    def finish(self, batch: Sequence[Outcome]) -> Finished:
        """The tables of a batch. Raises ConservationError where a record breaks an invariant: that is our fault."""
        written = [one for one in batch if isinstance(one, Written)]
        fate: dict[int, Rejected] = {}
        records, tokens, built = self._build(written, fate)
        if records.num_rows:
            findings = leaks.lexical(records)
            records = leaks.with_verdicts(records, findings)
            if violations := record_violations(records):
                raise ConservationError(f"a synthesized record breaks an invariant: {violations[0].message}")
            texts = records.column("events").combine_chunks()
            for one, events in zip(built, texts, strict=True):
                if one.scene is not None:
                    check_slices(one.scene, events.as_py(), self._clock.lag)
            records = self._judged(records, built, fate)
            for finding in findings:
                one = built[finding.record]
                if finding.verdict == "leak" and one.index not in fate:
                    fate[one.index] = _reject(one, "leak", _quoted(finding, texts[finding.record].as_py()))
            records = self._gained(records, built, fate)
            self._varied(built, fate)
            keep = pa.array([one.index not in fate for one in built])
            records, tokens = records.filter(keep), tokens.filter(keep)
        outcomes: list[Outcome] = [fate.get(one.index, one) for one in batch]
        return Finished(records, tokens, reject_table([o for o in outcomes if isinstance(o, Rejected)]), outcomes)

    def _build(self, written: Sequence[Written], fate: dict[int, Rejected]) -> tuple[pa.Table, pa.Table, list[Written]]:
        documents = [
            Document(one.conversation, one.timeline, Placed(one.policy, one.params), ordinal=0, labels=one.labels)
            for one in written
        ]
        if not documents:
            return RECORDS.empty_table(), TOKENS.empty_table(), []
        encoded, first = encode_spans([document.timeline for document in documents], self._clock.tokenizer)
        tables = build_tables(documents, self._clock, encoded, first)
        for number, error in tables.failed:
            fate[written[number].index] = _reject(written[number], "unencodable", str(error))
        return tables.records, tables.tokens, [one for one in written if one.index not in fate]

    def _judged(self, records: pa.Table, built: Sequence[Written], fate: dict[int, Rejected]) -> pa.Table:
        options = self._config.judge
        if options is None or self._judge_engine is None:
            return records
        told = list(to_json(records))
        completions = answer(self._judge_engine, [judge.request(record, self._config) for record in told])
        self.judge_usage.extend(completions)
        verdicts: list[judge.Verdict | None] = []
        for one, record, completion in zip(built, told, completions, strict=True):
            verdict = judge.read(record, completion, name_of(options.model or self._config.model))
            if isinstance(verdict, str):
                fate[one.index] = _reject(one, "unjudged", verdict)
                verdicts.append(None)
                continue
            verdicts.append(verdict)
            self.agreement.add(record, verdict)
            if decided := judge.decide(verdict, options):
                fate[one.index] = _reject(one, *decided)
        return judge.with_judgements(records, verdicts)

    def _gained(self, records: pa.Table, built: Sequence[Written], fate: dict[int, Rejected]) -> pa.Table:
        ceiling = self._config.teacher.max_gain
        if self._scorer is None or ceiling is None:
            return records
        from pipeline.scoring import record_gains
        from pipeline.scoring.gains import with_gains

        gains, _ = record_gains(self._scorer, records)
        at = 0
        for one, events in zip(built, records.column("events").to_pylist(), strict=True):
            for event, gain in zip(events, gains[at : at + len(events)], strict=True):
                if gain is not None and gain > ceiling and one.index not in fate:
                    message = f"{gain:.3f} nats per token, ceiling {ceiling}: {event['text'].strip()[:120]}"
                    fate[one.index] = _reject(one, "high_gain", message)
            at += len(events)
        return with_gains(records, gains)

    def _varied(self, built: Sequence[Written], fate: dict[int, Rejected]) -> None:
        for one in built:
            if one.index in fate:
                continue
            text = text_of(one)
            if near := self._diversity.check(text):
                message = f"like {near.name} (estimated Jaccard similarity {near.similarity:.2f})"
                fate[one.index] = _reject(one, "duplicate", message)
            else:
                self._diversity.accept(text, f"dialogue {one.index}")


def _quoted(finding: leaks.Finding, events: Sequence[dict[str, Any]]) -> str:
    said = events[finding.event]["text"].strip()[:120]
    early = "; ".join(f"{fact!r} of {events[source]['text'].strip()[:80]!r}" for fact, source in finding.evidence[:3])
    return f"{said!r} says {early} before it had been read"


def text_of(one: Written) -> str:
    """What is compared of a dialogue: everything that it says, in order; of a re-written one its own answers only."""
    messages = one.conversation.messages
    rewritten = one.labels.get("teacher", {}).get("messages")
    chosen = messages if rewritten is None else [messages[i] for i in rewritten]
    return "\n".join(part.text for message in chosen for part in message.parts)


def _reject(one: Written, code: str, message: str) -> Rejected:
    events = [{"role": m.role, "name": m.name, "text": [p.text for p in m.parts]} for m in one.conversation.messages]
    raw = json.dumps({"messages": events, "rows": one.scene.rows() if one.scene else None}, ensure_ascii=False)
    return Rejected(one.index, one.scenario, code, " ".join(message.split()), raw)


def reject_table(rejected: Sequence[Rejected]) -> pa.Table:
    """The reject rows of dialogues, with what had been written."""
    return pa.Table.from_pylist(list(_reject_rows(rejected)), schema=REJECTS)


def _reject_rows(rejected: Sequence[Rejected]) -> Iterator[dict[str, object]]:
    for item in rejected:
        raw = item.raw.encode(errors="replace")
        yield {
            "corpus": CORPUS,
            "path": item.scenario,
            "index": item.index,
            "stage": STAGE,
            "code": item.code,
            "message": item.message.encode(errors="replace").decode(),
            "license": None,
            "sha256": hashlib.sha256(raw).hexdigest(),
            "bytes": len(raw),
            "raw": raw,
        }
