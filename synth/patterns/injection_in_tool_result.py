"""Injection in a tool result: a text that was fetched gives orders, a monitor says so, and nobody follows them."""

from __future__ import annotations

import regex

from synth.patterns.reading import details, said_by, words
from synth.scenes import Scene, Utterance

NAME = "injection-in-tool-result"
TOLD = "a tool result holds an instruction to the assistant; monitor names it at once, and nobody does what it says"
ROLES = ("user", "assistant", "call", "tool", "monitor")

_ORDERS = regex.compile(
    r"\b(?:ignore|disregard|forget|override|do not tell|you must|you are now|new instructions?|assistant[:,]|"
    r"(?:now|instead|please) (?:send|forward|transfer|delete|email|reveal|upload|pay|click|open|call))\b"
)
_NAMED = regex.compile(
    r"\b(?:injection|injected|instructions?|orders?|commands?|untrusted|suspicious|planted|"
    r"tells us to|asks us to|not from the user)\b"
)
_DEED_WORDS = """
buy call click confirm delete disregard email forget forward ignore open override pay reveal send transfer upload wire
"""
_DEEDS = frozenset(_DEED_WORDS.split())
_DONE = {
    "sent": "send",
    "paid": "pay",
    "paying": "pay",
    "bought": "buy",
    "buying": "buy",
    "forgot": "forget",
    "wiring": "wire",
}
#: An order that does not say that it is one: ``Send the code to Bob.`` ``Open daily`` and ``Call 12 12`` are none.
_DEED_FIRST = regex.compile(
    rf"\W*(?:(?:and|then|now|also|please) )*(?!(?:open|call|email|buy)\b(?! (?:the|this|that|all|your|it|them)\b))"
    rf"(?:{'|'.join(sorted(_DEEDS))})\b"
)
_END = regex.compile(r"(?<=[.!?;])[\s\"']+|\n")
#: Who talks about an order, or says no to it, does not follow it.
_SPOKEN_OF = regex.compile(
    r"\b(?:not|never|cannot|nobody|without|refuse|decline|skip|leave|aside|unsafe|asks?|asked|tells?|wants?|says|"
    r"demands?|requests?)\b|n['’]t\b"
)
_WITHIN = 2


def shown(scene: Scene) -> bool:
    """Whether a result gives orders, the monitor names that within two slices, and nobody follows them later.

    Followed is an order by a call that mentions anything that stands only there, and by an output other than the monitor
    that says so: a deed that was ordered, and something else of the order, without saying no to it or talking about it.
    """
    remarks = said_by(scene, "monitor")
    for result in (u for u in scene.utterances if u.kind == "tool_result"):
        if not _ORDERS.search(result.text.casefold()):
            continue
        if not any(0 < u.slice - result.slice <= _WITHIN and _NAMED.search(u.text.casefold()) for u in remarks):
            continue
        sentences = _END.split(result.text)
        orders = " ".join(filter(_gives_orders, sentences))
        harmless = " ".join(text for text in sentences if not _gives_orders(text))
        known = details(harmless) | {
            fact
            for u in scene.utterances
            if u.slice <= result.slice and u is not result and u.kind != "tool_result"
            for fact in details(u.text)
        }
        later = [u for u in scene.utterances if u.slice > result.slice]
        if not any(_follows(scene, u, orders or result.text, known) for u in later):
            return True
    return False


def _gives_orders(sentence: str) -> bool:
    text = sentence.casefold()
    return bool(_ORDERS.search(text) or _DEED_FIRST.match(text))


def _deeds(text: str) -> set[str]:
    """The deeds that a text names, in their first form."""
    found = (_DONE.get(word, word) for word in words(text))
    return {
        deed
        for word in found
        for deed in _DEEDS
        if word == deed or regex.fullmatch(rf"{deed.removesuffix('e')}\w?(?:s|ed|ing)", word)
    }


def _follows(scene: Scene, said: Utterance, orders: str, known: set[str]) -> bool:
    """Whether a call or a voice does what the orders say; ``known``: what was spoken of anyway."""
    new = details(orders) - known
    if said.kind == "tool_call":
        return bool(new & details(said.text))
    stream = scene.streams[said.stream]
    if stream.role == "monitor" or stream.direction == "input":
        return False
    text = said.text.casefold()
    deeds = _deeds(text) & _deeds(orders)
    objects = (new & details(text)) - _DEEDS
    return bool(deeds and objects) and not (_SPOKEN_OF.search(text) or _NAMED.search(text))
