"""Whether a card is as it was written, or a person has edited it: it ends with the digest of its own text."""

from __future__ import annotations

import codecs
import hashlib
import re
from pathlib import Path

_SEAL = re.compile(r"^<!-- as written ([0-9a-f]{64}) -->\n", re.MULTILINE)


def sealed(text: str, last: str) -> str:
    """A card's text with the line by which ``is_edited`` knows it, and the line that is to be its last."""
    digest = _digest(f"{text}{last}\n")
    return f"{text}<!-- as written {digest} -->\n{last}\n"


def read_card(path: Path) -> str:
    """The text of a card, whatever its line ends are; what is no UTF-8 is shown as such. Raises OSError."""
    return path.read_bytes().removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace").replace("\r\n", "\n")


def is_edited(text: str) -> bool:
    """Whether a card has another text than the one that was written, or was not written by ``multistream card`` at all."""
    found = list(_SEAL.finditer(text))
    return not found or _digest(text[: found[-1].start()] + text[found[-1].end() :]) != found[-1][1]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
