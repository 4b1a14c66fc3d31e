"""Gold evidence: what a corpus itself says that its answers rest on.

* *SQuAD form* (``converters/squad.py``): the sentence in which the answer stands, at the offset that is annotated.
* *HotpotQA form* (``converters/hotpot.py``): every sentence among the supporting facts.

In both the question must have been read too, wherever it stands. PubMedQA's answers rest on all of its contexts, which is what
``turns`` waits for anyway. ProsQA and ProntoQA give a proof, whose last premise (who it is about) stands at the end of the
text, before nothing but the question: there is nothing to gain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pipeline.conversation import Conversation, Message


@dataclass(frozen=True, slots=True)
class Place:
    """The text of a part up to character ``end`` must have been read."""

    message: int
    part: int
    end: int


def supports(conversation: Conversation) -> Mapping[int, tuple[Place, ...]]:
    """Per assistant message that gold evidence is known for, all places that must have been read before it is said."""
    extra = conversation.extra
    if "answers" not in extra and "supporting_facts" not in extra:
        return {}
    messages = conversation.messages
    if len(messages) < 2 or messages[-1].role != "assistant" or messages[-2].role != "user":
        return {}
    asked, said = messages[-2], messages[-1]
    context = [p for p, part in enumerate(asked.parts) if part.kind == "context"]
    answer = [part.text for part in said.parts]
    if not context or len(answer) != 1 or said.parts[0].kind != "text":
        return {}
    if "answers" in extra:
        last = _squad(extra["answers"], asked, context, answer[0])
    else:
        last = _hotpot(extra["supporting_facts"], asked, context)
    if last is None:
        return {}
    index = len(messages) - 2
    question = [
        Place(index, p, len(part.text)) for p, part in enumerate(asked.parts) if part.kind == "text" and part.text
    ]
    return {index + 1: (*question, Place(index, *last))}


def rests_on_all(conversation: Conversation) -> frozenset[int]:
    """The assistant messages that rest on everything before them: those of PubMedQA, which conclude an abstract."""
    if not {"MESHES", "LABELS", "reasoning_required_pred"} & conversation.extra.keys():
        return frozenset()
    return frozenset(i for i, message in enumerate(conversation.messages) if message.role == "assistant")


def _squad(answers: Any, asked: Message, context: list[int], answer: str) -> tuple[int, int] | None:
    """The part, and the end of the sentence in it, in which the answer that is given stands by its offset."""
    if isinstance(answers, dict):
        texts, starts = answers.get("text"), answers.get("answer_start")
        pairs = list(zip(texts, starts, strict=False)) if isinstance(texts, list) and isinstance(starts, list) else []
    elif isinstance(answers, list):
        pairs = [(a.get("text"), a.get("answer_start")) for a in answers if isinstance(a, dict)]
    else:
        return None
    if len(context) != 1:
        return None
    text = asked.parts[context[0]].text
    for told, start in pairs:
        if told == answer and isinstance(start, int) and start >= 0 and text.startswith(answer, start):
            return context[0], _sentence_end(text, start + len(answer.rstrip()))
    return None


def _sentence_end(text: str, offset: int) -> int:
    """The end of the sentence or line in which the character before ``offset`` lies, without white space behind it."""
    end = next((end for end in _sentence_ends(text) if end >= offset), len(text))
    line = text.find("\n", offset, end)
    return max(len(text[: end if line < 0 else line].rstrip()), offset)


@lru_cache(maxsize=256)
def _sentence_ends(text: str) -> tuple[int, ...]:
    from sentencex import get_sentence_boundaries

    return tuple(boundary["end_index"] for boundary in get_sentence_boundaries("en", text))


def _hotpot(facts: Any, asked: Message, context: list[int]) -> tuple[int, int] | None:
    """The last part that a supporting fact can be.

    Parts are titles and sentences in order. Empty ones are left out, and a sentence may say no more than a title does, so a
    fact stands where this says or before.
    """
    if isinstance(facts, dict):
        titles, numbers = facts.get("title"), facts.get("sent_id")
        pairs = (
            list(zip(titles, numbers, strict=False)) if isinstance(titles, list) and isinstance(numbers, list) else []
        )
    elif isinstance(facts, list):
        pairs = [(fact[0], fact[1]) for fact in facts if isinstance(fact, list) and len(fact) == 2]
        if len(pairs) != len(facts):
            return None
    else:
        return None
    last_of = {asked.parts[p].text: at for at, p in enumerate(context)}
    last = -1
    for title, number in pairs:
        if not isinstance(title, str) or not isinstance(number, int) or number < 0 or title not in last_of:
            return None
        last = max(last, min(last_of[title] + 1 + number, len(context) - 1))
    return (context[last], len(asked.parts[context[last]].text)) if last >= 0 else None
