"""The information policy: what scores let it allow, what it holds back all the same, and a run with the packaged model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from conversation_cases import call, events_on, message, result, talk

from pipeline.alignment import align_all, parse_align_spec
from pipeline.alignment.plan import Resources
from pipeline.checks import record_violations
from pipeline.conversation import Conversation
from pipeline.errors import ConfigError
from pipeline.leaks import lexical
from pipeline.records import Clock, Document, build_tables, encode_spans, to_json
from pipeline.scoring import PrefixQuery, PrefixScores
from pipeline.tokenization import TextTokenizer

READING = "The bridge was built long ago. It was painted once. It is closed today. Few remember it."
ASKED = talk(message("user", READING + " So?"), message("assistant", "I see what you mean. It is rather old."))


def table(gains: Sequence[Sequence[float]]) -> PrefixScores:
    """Scores in which output chunk c gains ``gains[j][c]`` nats per token from what comes behind prefix j."""
    values = np.array(gains, np.float32)
    return PrefixScores(-values * 4, np.full(values.shape[1], 4, np.int32))


def told(
    conversation: Conversation, spec: str, scores: Sequence[PrefixScores | None], tokenizer: TextTokenizer
) -> tuple[dict[str, Any], list[PrefixQuery]]:
    """The record under the scores, one per query, and the queries."""
    asked: list[PrefixQuery] = []

    def answer(queries: Sequence[PrefixQuery]) -> Sequence[PrefixScores | None]:
        asked.extend(queries)
        return scores

    (aligned,) = align_all([conversation], parse_align_spec(spec), Resources(scores=answer))
    document = Document(conversation, aligned.timeline, aligned.spec, labels=aligned.labels)
    encoded, first = encode_spans([aligned.timeline], tokenizer)
    records = build_tables([document], Clock(tokenizer), encoded, first).records
    assert record_violations(records) == []
    assert [f for f in lexical(records) if f.verdict != "clear"] == []
    return next(to_json(records)), asked


def test_a_chunk_starts_where_the_rest_of_the_input_tells_no_more_than_epsilon(smollm2: TextTokenizer) -> None:
    # Prefixes of one, two, … five chunks; the first answer chunk needs two of them, the second four.
    gains = [[0.5, 0.5], [0.05, 0.4], [0.0, 0.3], [0.0, 0.05], [0.0, 0.0]]
    record, (query,) = told(ASKED, "information:epsilon=0.1", [table(gains)], smollm2)
    assert query.prefixes == ((0, 1), (0, 2), (0, 3), (0, 4), (0, 5))
    assert query.segments[0].text[: query.segments[0].ends[1]] == "The bridge was built long ago. It was painted once."
    reading, said = events_on(record, "user"), events_on(record, "assistant")
    ends = {e["text"].strip(): e["end"] for e in reading}
    assert said[0]["start"] == ends["The bridge was built long ago. It was painted once."]
    assert said[1]["start"] == max(ends["It is closed today. Few remember it."], said[0]["end"])


@pytest.mark.parametrize(("epsilon", "overlaps"), [(0.01, False), (0.1, True), (1.0, True)])
def test_a_larger_epsilon_lets_more_overlap(smollm2: TextTokenizer, epsilon: float, overlaps: bool) -> None:
    gains = [[0.5, 0.5], [0.05, 0.4], [0.05, 0.05], [0.05, 0.05], [0.0, 0.0]]
    record, _ = told(ASKED, f"information:epsilon={epsilon}", [table(gains)], smollm2)
    assert (events_on(record, "assistant")[0]["start"] < events_on(record, "user")[-1]["end"]) is overlaps


def test_a_rise_behind_a_fall_is_waited_for(smollm2: TextTokenizer) -> None:
    gains = [[0.0, 0.0], [0.0, 0.0], [0.5, 0.0], [0.0, 0.0], [0.0, 0.0]]
    record, _ = told(ASKED, "information:epsilon=0.1", [table(gains)], smollm2)
    reading = [e for e in events_on(record, "user") if e["end"] <= events_on(record, "assistant")[0]["start"]]
    assert "".join(e["text"] for e in reading) == READING


def test_what_a_chunk_copies_is_waited_for_whatever_the_model_says(smollm2: TextTokenizer) -> None:
    conversation = talk(
        message("user", "It is green. It is cold. The order is 7731. Thank you."),
        message("assistant", "I note 7731. Fine."),
    )
    record, _ = told(conversation, "information:epsilon=0.1", [table([[0.0, 0.0]] * 4)], smollm2)
    (source,) = [e for e in events_on(record, "user") if "7731" in e["text"]]
    assert events_on(record, "assistant")[0]["start"] == source["end"] < events_on(record, "user")[-1]["end"]


def test_what_does_not_fit_the_window_waits_for_everything_and_is_counted(smollm2: TextTokenizer) -> None:
    record, _ = told(ASKED, "information", [None], smollm2)
    assert events_on(record, "assistant")[0]["start"] == events_on(record, "user")[-1]["end"]
    assert json.loads(record["labels"])["information"] == {"scored": 0, "over_window": 1}


def test_a_reading_call_leaves_before_the_ones_ahead_of_it_if_the_model_could_tell(smollm2: TextTokenizer) -> None:
    conversation = talk(
        message("user", "Both."),
        message("assistant", call("get_price", '{"id": "tea"}')),
        message("tool", result("Tea is dear.")),
        message("assistant", call("get_stock", '{"id": "tea"}')),
        message("tool", result("Enough.")),
        message("assistant", "There."),
    )
    quiet = [table([[0.0]] * 2)]
    record, asked = told(conversation, "information:over=results+tools_async", quiet, smollm2)
    assert [len(query.prefixes) for query in asked] == [2]
    first, second = events_on(record, "call")
    (price,) = [e for e in record["events"] if e["text"] == "Tea is dear."]
    assert second["start"] == first["end"] < price["end"]
    loud, _ = told(conversation, "information:over=results+tools_async", [table([[0.5], [0.0]])], smollm2)
    (price,) = [e for e in loud["events"] if e["text"] == "Tea is dear."]
    assert events_on(loud, "call")[1]["start"] == price["end"]


def test_without_a_scorer_the_policy_says_so() -> None:
    with pytest.raises(ConfigError, match="needs a scorer"):
        align_all([ASKED], parse_align_spec("information"))


@pytest.mark.slow
def test_the_packaged_model_scores_once_and_its_gains_stay_below_epsilon(tmp_path: Path) -> None:
    from pipeline.convert import ConvertConfig, Converter
    from pipeline.scoring import Scorer, ScoreStore, record_gains

    lines = (Path(__file__).resolve().parents[2] / "examples" / "conversations" / "context_qa.jsonl").read_bytes()
    units = [
        {
            "corpus": "c", "path": "p", "index": i, "format": "context_qa", "license": None, "key": None,
            "sha256": "0" * 64, "raw": line,
        }
        for i, line in enumerate(lines.splitlines()[:2])
    ]  # fmt: skip
    runs = []
    for _ in range(2):
        converter = Converter(ConvertConfig(align="information:epsilon=0.05,prefixes=4"))
        converter.scores_folder = tmp_path / "scores"
        runs.append(converter.convert(units))
        assert runs[-1].counts.realigned == 0
    assert runs[0].records.equals(runs[1].records)
    parts = sorted((tmp_path / "scores").glob("*.parquet"))
    assert sum(pq.read_metadata(part).num_rows for part in parts) == len(ScoreStore(tmp_path / "scores")) == 2
    gains, counters = record_gains(Scorer("smollm2"), runs[0].records)
    assert counters.scored == sum(gain is not None and gain != 0 for gain in gains)
    assert max((gain for gain in gains if gain is not None), default=0.0) <= 0.05 + 1e-3


def test_a_call_is_said_behind_the_words_it_was_scored_behind(smollm2: TextTokenizer) -> None:
    conversation = talk(
        message("user", "Which files are here?"), message("assistant", "I will list them.", call("ls", "{}"))
    )
    together, _ = told(conversation, "tools_async", [], smollm2)
    assert events_on(together, "call")[0]["start"] == events_on(together, "assistant")[0]["start"]
    scored, _ = told(conversation, "information+tools_async", [], smollm2)
    assert events_on(scored, "call")[0]["start"] == events_on(scored, "assistant")[0]["end"]
