"""The packaged model as scorer: what could not be known has a large gain, and its scores are those of transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from pipeline.packaged import model_dir
from pipeline.scoring import PrefixQuery, Scorer, record_gains, score_prefixes
from pipeline.scoring.prefixes import compile_queries
from tests.scoring.scoring_cases import event, plain_logp, queries, record, segment, table

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer("smollm2", device="cpu")


def test_scores_equal_one_plain_forward_pass_per_prefix(scorer: Scorer) -> None:
    model = LlamaForCausalLM.from_pretrained(model_dir(), dtype=torch.float32).eval()
    asked = queries()
    for scores, compiled in zip(score_prefixes(scorer, asked), compile_queries(scorer, asked), strict=True):
        assert scores is not None
        for prefix, context in enumerate(compiled.contexts):
            logp = plain_logp(model, context.tolist(), compiled.target.tolist())
            expected = np.bincount(compiled.chunk, logp, compiled.chunks)
            np.testing.assert_allclose(scores.logp[prefix], expected, atol=5e-4)


def test_an_answer_is_far_likelier_once_its_question_is_known(scorer: Scorer) -> None:
    """Paris shares no word with France: only a model that knows the world can tell."""
    asked = segment("user", "I have a question. What is the capital of France?")
    (scores,) = score_prefixes(scorer, [PrefixQuery((asked,), ((0, 1), (0, 2)), (segment("assistant", "Paris"),))])
    assert scores is not None
    assert scores.gains()[0, 0] > 2.0


def test_gains_tell_a_leak_from_an_honest_opening(scorer: Scorer) -> None:
    def record_with(answer: str) -> dict[str, object]:
        events = [
            event(0, "I have a question.", 0, 5, message=0, part=0),
            event(0, " What is the capital of France?", 5, 13, message=0, part=0, final=True),
            event(1, answer, 5, 12, message=1, part=0, final=True),
        ]
        return record(["user", "assistant"], events)

    gains, counters = record_gains(scorer, table(record_with("The capital is Paris."), record_with("Sure, ask me.")))
    leak, opening = gains[2], gains[5]
    assert counters.scored == 2
    assert leak is not None
    assert opening is not None
    assert leak > 0.5
    assert opening < 0.2
