"""Speed of scoring all prefixes of an input in one masked pass, against one forward pass per prefix.

    .venv/bin/python benchmarks/information.py [--corpora NAME…] [--queries N] [--sample TOKENS] [--threads N] [--save FILE]

The queries are those of the informational look: what a message says, after every sentence of what was read since the
last one (at most 16 prefixes, spread). Ours scores all of them. Separate passes, which nothing ties together, run over a
sample of the same sequences, evenly drawn, and are counted up to all of them by their tokens per second; both as
transformers has them (``stock``), and with the matrix products that ours uses (``same_products``). Half of each comes
before ours, half behind it. With one thread, the default, seconds are those of the processor, so that what else the
machine does matters little; with more they are those of the clock.

``bound``: tokens that separate passes forward / tokens that ours forwards: what sharing could bring at most. ``achieved``:
the ratio of their times. ``bound_of_work``: the same in multiplications, with those of attention (a token of a branch
looks back on a whole prefix, one of a prefix on half of it) and with the vocabulary (the same for both). Also: the
largest difference of a token's log p, and what a bisection saves and finds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaForCausalLM

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import corpus  # noqa: E402
from pipeline.conversation import Conversation  # noqa: E402
from pipeline.packaged import model_dir  # noqa: E402
from pipeline.scoring import PrefixQuery, PrefixScores, Scorer, Segment  # noqa: E402
from pipeline.scoring.forest import Forest  # noqa: E402
from pipeline.scoring.forward import LOGIT_TOKENS, use_onednn  # noqa: E402
from pipeline.scoring.prefixes import Compiled, compile_queries, score_compiled  # noqa: E402
from pipeline.scoring.scorer import Branch, Counters  # noqa: E402
from pipeline.text import cut  # noqa: E402
from pipeline.timeline import spans_of  # noqa: E402

CORPORA = ("rc-pubmedqa", "openai-tau-bench-airline", "think-skythought-math")
EPSILONS = (0.02, 0.05)
MOST_PREFIXES = 16


def clock() -> float:
    """Seconds: of the processor where one thread computes, else of the clock."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def queries_of(conversation: Conversation) -> Iterator[PrefixQuery]:
    """One query per message of the model that follows something read."""
    streams, spans, _ = spans_of(conversation)
    told = [(span, streams[span.stream]) for span in spans if span.text and span.kind != "header"]
    segments = [Segment(stream.role, span.text, tuple(cut(span.text, "sentence"))) for span, stream in told]
    outputs = [stream.direction == "output" for _, stream in told]
    at = 0
    while at < len(told):
        end = at
        while end < len(told) and outputs[end] == outputs[at]:
            end += 1
        if outputs[at] and at:
            read = next((i for i in range(at - 1, -1, -1) if outputs[i]), -1) + 1
            places = [(read, 0), *((i, n + 1) for i in range(read, at) for n in range(len(segments[i].ends)))]
            kept = np.unique(np.linspace(0, len(places) - 1, MOST_PREFIXES).round().astype(int))
            prefixes = tuple(places[i] for i in kept)
            yield PrefixQuery(tuple(segments[:at]), prefixes, tuple(segments[at:end]))
        at = end


def compiled_queries(scorer: Scorer, name: str, count: int, tokens: int) -> list[Compiled]:
    """The first queries of a corpus that fit the scorer's window, conversation by conversation: ``count`` of them, or fewer
    that have ``tokens`` tokens to score."""
    found: list[Compiled] = []
    for conversation in corpus.conversations(name):
        for query in compile_queries(scorer, list(queries_of(conversation))):
            if len(found) == count or sum(len(q.contexts) * len(q.target) for q in found) >= tokens:
                return found
            if query.longest <= scorer.window:
                found.append(query)
    return found


def separate(model: LlamaForCausalLM, branch: Branch) -> np.ndarray:
    """log p of the scored tokens by a causal pass of their own; logits of the scored tokens only."""
    ids = torch.from_numpy(branch.ids.astype(np.int64))
    with torch.inference_mode():
        hidden = model.model(ids[None, :-1], use_cache=False).last_hidden_state[0, branch.first - 1 :]
        parts = []
        for states, goal in zip(*(torch.split(x, LOGIT_TOKENS) for x in (hidden, ids[branch.first :])), strict=True):
            logits = model.lm_head(states)
            parts.append(logits.gather(1, goal[:, None])[:, 0] - logits.logsumexp(1))
    values: np.ndarray = torch.cat(parts).numpy()
    return values


def work(model: LlamaForCausalLM, branches: Sequence[Branch], shared: bool) -> int:
    """Multiplications that scoring the branches takes: those of the layers, of attention to what each token sees, and
    with the vocabulary; ``shared``: what the branches share is computed once."""
    forests = [Forest()] if shared else [Forest() for _ in branches]
    for i, branch in enumerate(branches):
        forests[0 if shared else i].add(branch.ids[:-1])
    keys = sum(int((wave.positions + 1).sum()) for forest in forests for wave in forest.plan(1 << 20, 1 << 20))
    config = model.config
    layers = sum(p.numel() for layer in model.model.layers for p in layer.parameters() if p.ndim == 2)
    attention = 2 * config.num_attention_heads * config.head_dim * config.num_hidden_layers
    scored = sum(len(branch.ids) - branch.first for branch in branches)
    tokens = sum(forest.size for forest in forests)
    return int(tokens * layers + keys * attention + scored * model.lm_head.weight.numel())


def sequences(queries: Sequence[Compiled], tokens: int) -> list[tuple[int, int]]:
    """(query, prefix) of about so many tokens' worth of sequences, evenly drawn."""
    places = [(q, p) for q, query in enumerate(queries) for p in range(len(query.contexts))]
    total = sum(len(queries[q].contexts[p]) + len(queries[q].target) - 1 for q, p in places)
    step = max(1, round(total / tokens))
    return places[step // 2 :: step]


def measure(name: str, scorer: Scorer, models: dict[str, LlamaForCausalLM], args: argparse.Namespace) -> dict[str, Any]:
    """One corpus."""
    queries = compiled_queries(scorer, name, args.queries, args.tokens)
    seconds = dict.fromkeys(("ours", *models), 0.0)
    tokens = dict.fromkeys(models, 0)
    places = sequences(queries, args.sample)
    worst = 0.0
    passes: list[tuple[int, int, np.ndarray]] = []
    scores: list[PrefixScores] = []
    scorer.counters = counters = Counters()
    for part in (places[::2], places[1::2]):
        for which, model in models.items():
            for q, p in part:
                branch = queries[q].branch(p, queries[q].chunks)
                started = clock()
                passes.append((q, p, separate(model, branch)))
                seconds[which] += clock() - started
                tokens[which] += len(branch.ids) - 1
        if not scores:
            started = clock()
            scores = [s for s in score_compiled(scorer, queries) if s is not None]
            seconds["ours"] = clock() - started
    for q, p, logp in passes:
        own, query = scores[q], queries[q]
        difference = np.abs(query.sums(logp, query.chunks) - own.logp[p]) / np.maximum(own.tokens, 1)
        worst = max(worst, float(difference.max()))
    branches = [query.branch(p, query.chunks) for query in queries for p in range(len(query.contexts))]
    bound = counters.separate / counters.forwarded
    bound_of_work = work(models["stock"], branches, shared=False) / work(models["stock"], branches, shared=True)
    return {
        "corpus": name,
        "queries": len(queries),
        "prefixes_per_query": round(float(np.mean([len(q.contexts) for q in queries])), 1),
        "tokens_of_the_longest_sequence": round(float(np.mean([q.longest for q in queries]))),
        "scored_tokens": counters.scored,
        "forwarded_tokens": counters.forwarded,
        "separate_tokens": counters.separate,
        "seconds": round(seconds["ours"], 2),
        "scored_tokens_per_second": round(counters.scored / seconds["ours"]),
        "forwarded_tokens_per_second": round(counters.forwarded / seconds["ours"]),
        "bound": round(bound, 3),
        "bound_of_work": round(bound_of_work, 3),
        **{which: against(seconds, tokens, counters, which, bound_of_work) for which in models},
        "largest_difference_per_token": worst,
        "bisect": [bisection(scorer, queries, scores, counters, epsilon) for epsilon in EPSILONS],
    }


def against(
    seconds: dict[str, float], tokens: dict[str, int], counters: Counters, which: str, bound_of_work: float
) -> dict[str, Any]:
    """Ours against separate passes of one kind."""
    rate = tokens[which] / seconds[which]
    achieved = counters.separate / rate / seconds["ours"]
    return {
        "sampled_tokens": tokens[which],
        "tokens_per_second": round(rate),
        "scored_tokens_per_second": round(counters.scored / (counters.separate / rate), 1),
        "achieved": round(achieved, 3),
        "achieved_of_bound": round(achieved / (counters.separate / counters.forwarded), 3),
        "achieved_of_bound_of_work": round(achieved / bound_of_work, 3),
    }


def bisection(
    scorer: Scorer, queries: Sequence[Compiled], scans: Sequence[PrefixScores], all_of_it: Counters, epsilon: float
) -> dict[str, Any]:
    """What a bisection finds, against the scan, and the tokens that it saves."""
    scorer.counters = Counters()
    found = [s for s in score_compiled(scorer, queries, search="bisect", epsilon=epsilon) if s is not None]
    pairs = zip(found, scans, strict=True)
    moved = [(own.first_within(epsilon) - scan.first_within(epsilon))[scan.tokens > 0] for own, scan in pairs]
    later = np.concatenate(moved)
    return {
        "epsilon": epsilon,
        "chunks": len(later),
        "same_prefix": round(float((later == 0).mean()), 4),
        "too_early": round(float((later < 0).mean()), 4),
        "too_late": round(float((later > 0).mean()), 4),
        "tokens_saved": round(1 - scorer.counters.forwarded / all_of_it.forwarded, 4),
    }


def main() -> None:
    """Parses the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", nargs="+", default=[name for name in CORPORA if name in corpus.names()])
    parser.add_argument("--queries", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=6_000, help="tokens to score, of each corpus")
    parser.add_argument("--sample", type=int, default=6_000, help="tokens of separate passes of each kind to run")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    scorer = Scorer("smollm2", device="cpu")
    models = {
        which: LlamaForCausalLM.from_pretrained(model_dir(), dtype=torch.float32).eval()
        for which in ("stock", "same_products")
    }
    use_onednn(models["same_products"])
    result = {
        **corpus.machine("benchmarks/information.py " + " ".join(sys.argv[1:])),
        "scorer": scorer.name,
        "cue": scorer.cue,
        "window": scorer.window,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "goal": "achieved_of_bound of stock >= 0.9",
        "corpora": [measure(name, scorer, models, args) for name in args.corpora],
    }
    text = json.dumps(result, indent=1)
    print(text)
    if args.save:
        args.save.write_text(text + "\n")


if __name__ == "__main__":
    main()
