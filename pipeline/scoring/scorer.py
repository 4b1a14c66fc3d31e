"""The scorer: a small causal language model that says how likely text is after a context."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError, InputError
from pipeline.manifest import canonical_json
from pipeline.models import model_digest, resolve_model
from pipeline.scoring.forest import Forest
from pipeline.scoring.rendering import ChatFormat, Cue, check_cue
from pipeline.tokenization import TextTokenizer, load_tokenizer
from pipeline.training.masks import Int32Array, Int64Array

if TYPE_CHECKING:
    import torch

    from pipeline.scoring.forward import Session, TreeModel

#: Raised when the scores of the same model change: part of its fingerprint.
SCORING_VERSION = 1
#: Longest context on a CPU, in tokens, unless told otherwise.
CPU_WINDOW = 4096
#: Tokens of a forward pass: on a CPU the speed is the same from some 200 on, on CUDA it is what fills the card.
GROUP_TOKENS = {"cpu": 1024, "cuda": 8192}
#: Sequences are gathered until their forest has so many tokens; more of them share more.
_FOREST_TOKENS = 16_384
#: Bytes of keys and values that a search in rounds may hold between its rounds.
_HELD_BYTES = 512 << 20

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Branch:
    """A sequence of tokens of which those from ``first`` on are scored, each after all before it (``first`` >= 1)."""

    ids: Int32Array
    first: int


def branch(trunk: Int32Array, visible: int | Sequence[tuple[int, int]], cue: Int32Array, target: Int32Array) -> Branch:
    """``target`` after what is visible of ``trunk`` and after ``cue``.

    ``visible``: a number of tokens from the start, or ranges [start, end) in order. Positions count visible tokens only,
    and a token behind a hole is read anew without it: its old keys would tell what stood in the hole. So the scores are
    those of a plain forward pass over ``trunk[visible] + cue + target``.
    """
    ranges = [(0, visible)] if isinstance(visible, int) else visible
    context = np.concatenate([*(trunk[start:end] for start, end in ranges), cue]).astype(np.int32)
    if not len(context):
        raise ValueError("the first token of a sequence has no context to be scored in")
    return Branch(np.concatenate([context, target.astype(np.int32)]), len(context))


@dataclass
class Counters:
    """Work done: tokens ``scored``, tokens ``forwarded`` through the model; ``separate``: tokens that one pass per
    scored sequence would have forwarded."""

    scored: int = 0
    forwarded: int = 0
    separate: int = 0


class Scorer:
    """A model with its tokenizer and cue; weights are read when something is scored for the first time.

    ``model``: ``smollm2`` (packaged), the folder of a Llama model, or a Hub id. ``device``: ``auto``, ``cpu``, ``cuda``.
    ``max_context``: longest sequence that is scored, in tokens (default: 4096 on the CPU, else the model's own).
    ``group_tokens``: tokens per forward pass. Raises ConfigError, ModelError, TokenizerError.
    """

    def __init__(
        self,
        model: str = "smollm2",
        *,
        device: str = "auto",
        cue: str = "turn",
        max_context: int | None = None,
        group_tokens: int | None = None,
    ) -> None:
        self.cue: Cue = check_cue(cue)
        self.counters = Counters()
        self._path = resolve_model(model)
        self._model_name = model
        self._device_name = device
        self._max_context = max_context
        self._group_tokens = group_tokens
        if max_context is not None and max_context < 2:
            raise ConfigError(f"max_context is {max_context}, it must be at least 2 tokens")

    @property
    def name(self) -> str:
        """The model, for people: ``smollm2-135m-instruct``, the name of its folder, or its Hub id."""
        if self._model_name == "smollm2":
            from pipeline.packaged import NAME

            return NAME.lower()
        path = Path(self._model_name)
        return path.resolve().name if path.exists() else self._model_name

    @cached_property
    def sha256(self) -> str:
        """Fingerprint (hex) of all that scores depend on but the cue: weights, tokenizer, number format, rendering."""
        identity = [SCORING_VERSION, model_digest(self._path), self.tokenizer.sha256, self.dtype]
        return hashlib.sha256(canonical_json(identity).encode()).hexdigest()

    @cached_property
    def window(self) -> int:
        """Longest sequence that is scored, in tokens."""
        own = self._own_window()
        if self._max_context is not None:
            return min(own, self._max_context)
        return min(own, CPU_WINDOW) if self._device.type == "cpu" else own

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        """The model's tokenizer."""
        return load_tokenizer("smollm2" if self._model_name == "smollm2" else str(self._path))

    @cached_property
    def chat(self) -> ChatFormat:
        """How conversations are rendered for the model."""
        return ChatFormat(self.tokenizer)

    @property
    def dtype(self) -> str:
        """Number format of the forward pass: ``float32`` on the CPU, ``bfloat16`` on CUDA."""
        return "float32" if self._device.type == "cpu" else "bfloat16"

    @property
    def group_tokens(self) -> int:
        """Tokens of a forward pass."""
        return self._group_tokens or GROUP_TOKENS.get(self._device.type, GROUP_TOKENS["cuda"])

    def score_branches(self, branches: Iterable[Branch]) -> Iterator[Float32Array]:
        """log p in nats of the scored tokens of each branch. What branches share from their start on is computed once.

        Holds some forward passes' worth of branches at a time. The caller sees to it that none is longer than ``window``.
        """
        forest = Forest()
        asked: list[tuple[Int64Array, Int32Array]] = []
        for one in branches:
            asked.append(self._put(forest, one))
            if forest.size >= _FOREST_TOKENS:
                yield from self._score(self.session(forest), asked)
                forest, asked = Forest(), []
        if asked:
            yield from self._score(self.session(forest), asked)

    def score_more(self, session: Session, branches: Sequence[Branch], pinned: Sequence[int]) -> list[Float32Array]:
        """``score_branches`` in rounds: of each branch the first ``pinned`` tokens stay for the rounds to come."""
        asked = [self._put(session.forest, b, keep) for b, keep in zip(branches, pinned, strict=True)]
        return self._score(session, asked)

    def session(self, forest: Forest) -> Session:
        """A forest to be scored in rounds."""
        from pipeline.scoring.forward import Session

        return Session(self._model, forest, self.group_tokens)

    @property
    def held_tokens(self) -> int:
        """Tokens that a session should pin at most."""
        return max(1, _HELD_BYTES // self._model.cache_bytes)

    def _put(self, forest: Forest, branch: Branch, pinned: int = 0) -> tuple[Int64Array, Int32Array]:
        """The branch's tokens but the last, which nothing follows, and what follows those of its scored end."""
        path = forest.add(branch.ids[:-1], fresh_from=branch.first - 1, pinned=pinned)
        self.counters.separate += len(path)
        return path[branch.first - 1 :], branch.ids[branch.first :]

    def _score(self, session: Session, asked: list[tuple[Int64Array, Int32Array]]) -> list[Float32Array]:
        """log p of every (token, what follows it); where several ask for the same, it is computed once."""
        if not asked:
            return []
        after = np.concatenate([a for a, _ in asked])
        follows = np.concatenate([f for _, f in asked]).astype(np.int64)
        keys, back = np.unique(after << 32 | follows, return_inverse=True)
        before = session.forest.done
        values = session.log_probabilities(keys >> 32, keys & 0xFFFFFFFF)[back]
        self.counters.scored += len(values)
        self.counters.forwarded += session.forest.done - before
        return np.split(values, np.cumsum([len(a) for a, _ in asked])[:-1])

    @cached_property
    def _device(self) -> torch.device:
        import torch

        if self._device_name == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self._device_name.startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError(f"device is {self._device_name!r} but torch sees no GPU; use device 'cpu' or 'auto'")
        try:
            return torch.device(self._device_name)
        except RuntimeError:
            raise ConfigError(f"device is {self._device_name!r}, choose auto, cpu or cuda") from None

    @cached_property
    def _model(self) -> TreeModel:
        from pipeline.scoring.forward import load

        return load(self._path, self._device)

    def _own_window(self) -> int:
        try:
            config: dict[str, Any] = json.loads((self._path / "config.json").read_text())
            return int(config["max_position_embeddings"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self._path / 'config.json'} does not say max_position_embeddings") from error
