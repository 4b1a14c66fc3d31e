"""Scores after prefixes are those of one plain forward pass per prefix; a search looks at fewer of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.scoring import PrefixQuery, PrefixScores, Scorer, Segment, branch, score_prefixes
from pipeline.scoring.prefixes import compile_queries, encode_chunks
from tests.scoring.scoring_cases import (
    ANSWER,
    QUESTION,
    chat,
    ids_of,
    plain_logp,
    queries,
    query,
    reference,
    segment,
    smollm2,
    tiny_scorer,
)


@pytest.fixture(scope="module")
def scorer(tiny_model: Path) -> Scorer:
    return tiny_scorer(tiny_model)


def test_every_prefix_equals_a_plain_forward_pass_over_the_rendered_text(scorer: Scorer) -> None:
    (scores,) = score_prefixes(scorer, [query()])
    assert scores is not None
    ends = segment("assistant", ANSWER).ends
    pieces = [ANSWER[a:b] for a, b in zip((0, *ends), ends, strict=False)]
    assert scores.tokens.tolist() == [len(ids_of(piece)) for piece in pieces]
    cuts = [0, *segment("user", QUESTION).ends]
    assert scores.logp.shape == (len(cuts), len(pieces))
    for prefix, end in enumerate(cuts):
        context = chat(("user", QUESTION[:end])) if end else chat()
        logp = plain_logp(reference(), context, ids_of(ANSWER))
        expected = [part.sum() for part in np.split(logp, np.cumsum(scores.tokens)[:-1])]
        np.testing.assert_allclose(scores.logp[prefix], expected, atol=1e-4)


@pytest.mark.parametrize("group_tokens", [16, 100, 1024])
@pytest.mark.parametrize("cue", ["turn", "ellipsis", "open"])
def test_queries_scored_together_equal_plain_forward_passes(tiny_model: Path, cue: str, group_tokens: int) -> None:
    scorer = tiny_scorer(tiny_model, cue=cue, group_tokens=group_tokens)
    asked = queries()
    found = score_prefixes(scorer, asked)
    for scores, compiled in zip(found, compile_queries(scorer, asked), strict=True):
        assert scores is not None
        for prefix, context in enumerate(compiled.contexts):
            logp = plain_logp(reference(), context.tolist(), compiled.target.tolist())
            expected = np.bincount(compiled.chunk, logp, compiled.chunks)
            np.testing.assert_allclose(scores.logp[prefix], expected, atol=1e-4)


def test_what_queries_share_is_computed_once(scorer: Scorer) -> None:
    asked = queries()[1:]
    alone = []
    for one in asked:
        before = scorer.counters.forwarded
        score_prefixes(scorer, [one])
        alone.append(scorer.counters.forwarded - before)
    before = scorer.counters.forwarded
    score_prefixes(scorer, asked)
    together = scorer.counters.forwarded - before
    shared = chat(("system", "Answer briefly."), ("user", "Hello!"), ("assistant", "Good day."), then="")
    assert sum(alone) - together >= len(shared)


def test_outputs_follow_one_another_and_a_separator_is_not_scored(scorer: Scorer) -> None:
    asked = segment("user", "Where is it?")
    outputs = (segment("thought", "They ask for the place."), segment("call", 'find\n{"what": "it"}'))
    (scores,) = score_prefixes(scorer, [PrefixQuery((asked,), ((0, 1),), outputs)])
    assert scores is not None
    texts = [output.text for output in outputs]
    context = chat(("user", "Where is it?"))
    first = plain_logp(reference(), context, ids_of(texts[0]))
    second = plain_logp(reference(), [*context, *ids_of(texts[0]), *ids_of("\n")], ids_of(texts[1]))
    chunks = len(outputs[0].ends)
    np.testing.assert_allclose(scores.logp[0, :chunks].sum(), first.sum(), atol=1e-4)
    np.testing.assert_allclose(scores.logp[0, chunks:].sum(), second.sum(), atol=1e-4)
    assert scores.tokens.sum() == len(first) + len(second)


def test_prefixes_over_several_segments_see_all_earlier_ones(scorer: Scorer) -> None:
    first, second = segment("user", "Read this. And this."), segment("tool", "Seven. Eight.")
    asked = PrefixQuery((first, second), ((0, 1), (0, 2), (1, 0), (1, 1), (1, 2)), (segment("assistant", "Seven."),))
    (scores,) = score_prefixes(scorer, [asked])
    assert scores is not None
    read = [
        [("user", "Read this.")],
        [("user", "Read this. And this.")],
        [("user", "Read this. And this.")],
        [("user", "Read this. And this."), ("tool", "Seven.")],
        [("user", "Read this. And this."), ("tool", "Seven. Eight.")],
    ]
    expected = [plain_logp(reference(), chat(*messages), ids_of("Seven.")).sum() for messages in read]
    np.testing.assert_allclose(scores.logp[:, 0], expected, atol=1e-4)


def test_a_branch_with_holes_equals_a_plain_forward_pass_without_what_stood_in_them(scorer: Scorer) -> None:
    trunk = np.array(ids_of("one two three four five six seven eight nine ten eleven twelve"), np.int32)
    cue, target = np.array(ids_of(" so"), np.int32), np.array(ids_of(" thirteen is next"), np.int32)
    visible = [5, [(0, 3), (6, 8), (9, len(trunk))], [(2, 4)], [(0, 3), (3, 5)]]
    for shown, found in zip(
        visible, scorer.score_branches([branch(trunk, v, cue, target) for v in visible]), strict=True
    ):
        ranges = [(0, shown)] if isinstance(shown, int) else shown
        context = [t for start, end in ranges for t in trunk[start:end].tolist()] + cue.tolist()
        np.testing.assert_allclose(found, plain_logp(reference(), context, target.tolist()), atol=1e-5)


def test_a_branch_needs_a_context() -> None:
    with pytest.raises(ValueError, match="no context"):
        branch(np.arange(4, dtype=np.int32), 0, np.zeros(0, np.int32), np.arange(2, dtype=np.int32))


def test_a_prefix_ends_at_the_token_boundary_at_or_before_its_chunk() -> None:
    text = "naïve café, 東京 and 👩‍👩‍👧"
    ends = list(range(1, len(text) + 1))
    ((ids, upto),) = encode_chunks(smollm2(), [(text, ends)])
    decoded = [smollm2().decode(ids[:count].tolist()) for count in upto]
    for end, shown, count in zip(ends, decoded, upto, strict=True):
        if "\ufffd" not in shown:
            assert text[:end].startswith(shown)
        if count < len(ids):
            assert len(smollm2().decode(ids[: count + 1].tolist())) > len(shown) or "\ufffd" in shown
    assert upto[-1] == len(ids)
    assert (np.diff(upto) >= 0).all()


def test_longer_than_the_window_is_not_scored(tiny_model: Path) -> None:
    short, long = query("Short. Text.", "Yes."), query()
    scorer = tiny_scorer(tiny_model)
    exact = max(compiled.longest for compiled in compile_queries(scorer, [long]))
    assert [s is not None for s in score_prefixes(tiny_scorer(tiny_model, max_context=exact), [short, long])] == [
        True,
        True,
    ]
    assert [s is not None for s in score_prefixes(tiny_scorer(tiny_model, max_context=exact - 1), [short, long])] == [
        True,
        False,
    ]
    assert scorer.window == 512


@pytest.mark.parametrize("epsilon", [0.0, 0.002, 0.01, 0.05])
def test_a_bisection_looks_at_fewer_prefixes_and_sees_what_the_scan_sees(scorer: Scorer, epsilon: float) -> None:
    words = " ".join(f"Line {n} says something else." for n in range(24))
    asked = [query(words, "Line three. Line twenty is what I say."), *queries()]
    scans, found = score_prefixes(scorer, asked), score_prefixes(scorer, asked, search="bisect", epsilon=epsilon)
    for scan, one in zip(scans, found, strict=True):
        assert scan is not None
        assert one is not None
        looked = ~np.isnan(one.logp)
        np.testing.assert_allclose(one.logp[looked], scan.logp[looked], atol=1e-4)
        assert looked[-1].all()
        first = one.first_within(epsilon)
        gains = one.gains()
        for chunk, prefix in enumerate(first.tolist()):
            assert looked[prefix, chunk] or not one.tokens[chunk]
            assert not gains[prefix, chunk] > epsilon
            assert prefix == 0 or gains[prefix - 1, chunk] > epsilon
    assert sum(np.isnan(one.logp).any(axis=1).sum() for one in found if one is not None) > 0


def test_where_gains_fall_steadily_both_searches_agree() -> None:
    gains = np.array([[3.0, 0.5], [2.0, 0.0], [1.0, 0.0], [0.0, 0.0]], np.float32)
    scores = PrefixScores(-gains * np.array([2, 1], np.float32), np.array([2, 1], np.int32))
    np.testing.assert_allclose(scores.gains(), gains)
    assert scores.first_within(1.0).tolist() == [2, 0]
    assert scores.first_within(0.99).tolist() == [3, 0]
    assert scores.first_within(0.0).tolist() == [3, 1]
    bumpy = PrefixScores(-np.array([[0.0], [2.0], [0.0]], np.float32), np.array([1], np.int32))
    assert bumpy.first_within(0.5).tolist() == [2]


@pytest.mark.parametrize(
    "wrong",
    [
        PrefixQuery((segment("user", "a"),), ((0, 0),), (segment("assistant", "b"),)),
        PrefixQuery((segment("user", "a"),), ((0, 1), (0, 0), (0, 1)), (segment("assistant", "b"),)),
        PrefixQuery((segment("user", "a"),), ((0, 1),), ()),
        PrefixQuery((Segment("user", "abc", (1, 2)),), ((0, 2),), (segment("assistant", "b"),)),
    ],
)
def test_a_query_that_was_built_wrongly_is_an_error(scorer: Scorer, wrong: PrefixQuery) -> None:
    with pytest.raises(ValueError, match="ascend"):
        score_prefixes(scorer, [wrong])


def test_unknown_searches_and_cues_are_told(tiny_model: Path, scorer: Scorer) -> None:
    with pytest.raises(ConfigError, match="choose one of scan, bisect"):
        score_prefixes(scorer, [], search="guess")
    with pytest.raises(ConfigError, match="needs epsilon"):
        score_prefixes(scorer, [], search="bisect")
    with pytest.raises(ConfigError, match="choose one of turn, ellipsis, open"):
        tiny_scorer(tiny_model, cue="shout")
