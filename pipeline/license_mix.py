"""Licences of a data set's sources: what the Hub calls them, and which of them do not go together.

Nothing here is legal advice, and nothing is decided: what was found is passed on, and what is known to conflict is named.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

UNKNOWN = "unknown"

#: The identifiers that the Hub's cards take (https://huggingface.co/docs/hub/repositories-licenses).
_HUB = """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m afl-3.0
    artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0
    cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0
    cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0
    epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl
    mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license llama2
    gemma unknown other
"""
HUB = frozenset(_HUB.split())

#: SPDX identifiers that the Hub spells in its own way.
_SPELLED = {"odbl-1.0": "odbl", "odc-by-1.0": "odc-by", "pddl-1.0": "pddl", "bsl-1.0": "bsl-1.0"}

_NOTHING = frozenset(("", "unknown", "none", "noassertion", "other"))
_JOINED = re.compile(r"\s+(?:and|or)\s+", re.IGNORECASE)
_COPYLEFT = re.compile(r"(a?gpl|gfdl|osl|eupl|cdla-sharing|odbl)\b|cc-by(-nc)?-sa\b")
_RESTRICTED = re.compile(r"(openrail|.*-(open)?rail\b|.*rail-|llama|gemma|deepfloyd)")


@dataclass(frozen=True, slots=True)
class Conflict:
    """What does not go together, or is not known: the rule, the licences as found, and the corpora that have them."""

    message: str
    licenses: tuple[str, ...]
    corpora: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CardLicense:
    """The licence fields of a card's front matter."""

    license: str | list[str]
    license_name: str | None = None


def card_license(names: Iterable[str]) -> CardLicense:
    """What a card says of the licences that were found, ``unknown`` among them where a source names none.

    One identifier or a list of those that the Hub knows; where one is not known to it, ``other`` and the names as found.
    """
    parts = sorted({part for name in names for part in parts_of(name)})
    known = [hub_id(part) for part in parts]
    if any(each is None for each in known):
        return CardLicense("other", _slug("-and-".join(parts)))
    listed = sorted({each for each in known if each is not None})
    return CardLicense(listed[0] if len(listed) == 1 else listed or UNKNOWN)


def hub_id(name: str) -> str | None:
    """The Hub's identifier of a single licence; None where it has none. Nothing said is ``unknown``."""
    lower = re.sub(r"-(only|or-later)$", "", name.strip().lower())
    if lower in _NOTHING:
        return UNKNOWN
    lower = _SPELLED.get(lower, lower)
    return lower if lower in HUB else None


def parts_of(name: str) -> list[str]:
    """The single licences of an SPDX expression, or of what stands in its place."""
    return [part.strip("() ") for part in _JOINED.split(name.strip())] if name.strip() else [UNKNOWN]


def conflicts(sources: Mapping[tuple[str, str], int]) -> list[Conflict]:
    """What to know before the sources of a data set are used or published together, by rule.

    ``sources``: source pointers by (corpus, licence). A choice ("MIT OR GPL-2.0") counts as all that it names.
    """
    found: dict[str, set[str]] = {}
    spelled: dict[str, str] = {}
    for corpus, name in sorted(sources):
        for part in parts_of(name):
            lower = UNKNOWN if part.lower() in _NOTHING else part.lower()
            found.setdefault(lower, set()).add(corpus)
            spelled.setdefault(lower, UNKNOWN if lower == UNKNOWN else part)
    names = sorted(found)
    free = [n for n in names if "-nc" in n]
    shared = [n for n in names if _COPYLEFT.match(n)]
    open_shared = [n for n in shared if "-nc" not in n]
    commercial = [n for n in names if n != UNKNOWN and "-nc" not in n]
    rules: list[tuple[str, Sequence[str]]] = []
    if UNKNOWN in found:
        rules.append(("No licence is known: nobody said that these may be passed on.", [UNKNOWN]))
    if strange := [n for n in names if hub_id(n) is None]:
        rules.append(("No licence that the Hub knows: read what it says.", strange))
    if bare := [n for n in names if re.search(r"-nd\b", n)]:
        rules.append(
            ("No derivatives: a converted text may be an adaptation, which these do not allow to share.", bare)
        )
    if free and commercial:
        rules.append(
            ("Some sources are for non-commercial use only, the others are not: the whole is non-commercial.", free)
        )
    elif free:
        rules.append(("For non-commercial use only.", free))
    if free and open_shared:
        why = "Share-alike without limits and non-commercial terms cannot both hold for one adapted work."
        rules.append((why, [*open_shared, *free]))
    if len(_families(open_shared)) > 1:
        rules.append(("Each of these asks that a work made of it is under its own terms.", open_shared))
    if "gpl-2.0-only" in found and (
        after := [n for n in names if n.startswith(("apache-2.0", "gpl-3", "agpl-3", "lgpl-3"))]
    ):
        rules.append(("GPL-2.0 without a later version does not go with these.", ["gpl-2.0-only", *after]))
    if shared and len(names) > len(shared):
        rules.append(("Share-alike or copyleft: works made of these are to be under the same terms.", shared))
    if limited := [n for n in names if _RESTRICTED.match(n)]:
        rules.append(("The terms limit what a model made of these may be used for.", limited))
    return [
        Conflict(
            message,
            tuple(dict.fromkeys(spelled[n] for n in those)),
            tuple(sorted(set().union(*(found[n] for n in those)))),
        )
        for message, those in rules
    ]


def by_corpus(sources: Mapping[tuple[str, str], int]) -> dict[str, Counter[str]]:
    """The licences of each corpus, with their source pointers."""
    found: dict[str, Counter[str]] = {}
    for (corpus, name), count in sorted(sources.items()):
        found.setdefault(corpus, Counter())[name or UNKNOWN] += count
    return found


def _families(names: Iterable[str]) -> set[str]:
    """Copyleft licences without their versions; those of the GNU GPL family go together in their later versions."""
    return {re.sub(r"-?[\d.]+(-only|-or-later)?$", "", name).replace("agpl", "gpl") for name in names}


def _slug(text: str) -> str:
    return re.sub(r"-{2,}", "-", re.sub(r"[^a-z0-9.+-]+", "-", text.lower())).strip("-")[:96]
