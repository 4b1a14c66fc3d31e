"""How likely text is after a context, measured with a small language model: was it knowable from what had been read?"""

from pipeline.scoring.gains import GainCounters, record_gains, with_gains
from pipeline.scoring.prefixes import PrefixQuery, PrefixScores, Segment, score_prefixes
from pipeline.scoring.scorer import Branch, Scorer, branch
from pipeline.scoring.store import ScoreStore, query_key, score_all

__all__ = [
    "Branch",
    "GainCounters",
    "PrefixQuery",
    "PrefixScores",
    "ScoreStore",
    "Scorer",
    "Segment",
    "branch",
    "query_key",
    "record_gains",
    "score_all",
    "score_prefixes",
    "with_gains",
]
