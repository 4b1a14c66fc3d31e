"""Generators: each makes tables of one run, index by index. What all of them give back stands here."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.timeline import Stream


@dataclass(frozen=True, slots=True)
class Table:
    """An accepted table.

    ``rows[i][s]`` is what stream ``s`` says in row ``i``, None for silence. Row ``i`` happens after row ``i - 1``; a
    cell depends on earlier rows only. ``index`` is the number of the sample within the run, ``seed`` that of its
    request, ``prompt_sha256`` the hash of its messages (:func:`synth.generators.table.prompt_sha256`).
    """

    scenario: str
    streams: tuple[Stream, ...]
    rows: tuple[tuple[str | None, ...], ...]
    prompt_sha256: str
    seed: int
    index: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """A completion that is no table. ``code`` is one of :data:`synth.generators.table.REASONS`; ``raw`` is its text."""

    scenario: str
    prompt_sha256: str
    seed: int
    index: int
    code: str
    message: str
    raw: str
