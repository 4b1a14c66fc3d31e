"""How much of each source is in a data set: caps and proportions, by a seeded draw of whole conversations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
import xxhash
from pydantic import BaseModel, ConfigDict, Field

#: Places in the draw: 64 bits, the lowest are taken first.
Places = npt.NDArray[np.uint64]


class MixConfig(BaseModel):
    """How much of each source is taken. A name is that of a corpus; ``*`` stands for all that are not named."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cap: dict[str, Annotated[int, Field(ge=0)]] = Field(
        default_factory=dict, description="at most so many conversations of a corpus"
    )
    weights: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        default_factory=dict,
        description="proportions of the corpora in conversations; as much is taken as the scarcest allows; 0: nothing",
    )

    def of(self, values: Mapping[str, float], corpus: str) -> float | None:
        """The value for a corpus; None where it is not named and ``*`` neither."""
        return values.get(corpus, values.get("*"))


@dataclass(frozen=True, slots=True)
class Share:
    """What is taken of a corpus: conversations whose place in the draw is below ``limit``. ``why``: cap or weights."""

    there: int
    taken: int
    limit: int
    why: str


def places(conversations: Iterable[str], seed: int) -> Places:
    """The place of each conversation in the draw: a seeded hash of its id, whatever shard it lies in."""
    listed = list(conversations)
    hashes = (xxhash.xxh3_64_intdigest(c.encode(), seed=seed + 2) for c in listed)
    return np.fromiter(hashes, dtype=np.uint64, count=len(listed))


def shares(there: Mapping[str, Places], config: MixConfig) -> dict[str, Share]:
    """What is taken of each corpus. ``there``: the places of its conversations.

    A cap counts first; then proportions are kept exactly to the nearest conversation, by what is there of the scarcest corpus.
    Corpora without a weight, where there is no ``*``, are taken whole.
    """
    counts = {corpus: len(found) for corpus, found in there.items()}
    wanted = {
        corpus: min(n, int(cap)) if (cap := config.of(config.cap, corpus)) is not None else n
        for corpus, n in counts.items()
    }
    capped = dict(wanted)
    weights = {c: w for c in counts if (w := config.of(config.weights, c)) is not None}
    scales = [wanted[corpus] / weight for corpus, weight in weights.items() if weight > 0 and wanted[corpus]]
    scale = min(scales, default=0.0)
    for corpus, weight in weights.items():
        wanted[corpus] = min(wanted[corpus], round(scale * weight))
    made = {}
    for corpus, found in sorted(there.items()):
        n, take = counts[corpus], wanted[corpus]
        limit = 2**64 if take >= n else int(np.partition(found, take)[take])
        made[corpus] = Share(n, take, limit, "weights" if take < capped[corpus] else "cap")
    return made
