"""squad and hotpot: every question a conversation, gold evidence beside it, no answer where there is none."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from corpus_checks import missing, read_any

from converters import convert, format_votes, squad
from pipeline.conversation import Conversation, Message, Part, RecordError, group_of

CONTEXT = "The mill was built in 1790. Its wheel is of elm."
ARTICLE: dict[str, Any] = {
    "title": "Mill",
    "paragraphs": [
        {
            "context": CONTEXT,
            "qas": [
                {
                    "id": "a",
                    "question": "When was it built?",
                    "answers": [{"text": "1790", "answer_start": 22}, {"text": "in 1790", "answer_start": 19}],
                },
                {
                    "id": "b",
                    "question": "Who built it?",
                    "is_impossible": True,
                    "answers": [],
                    "plausible_answers": [{"text": "elm", "answer_start": 44}],
                },
            ],
        }
    ],
}


def converted(format: str, unit: Any) -> list[Conversation]:
    return list(convert(format, unit))  # type: ignore[arg-type]


def asked(question: str, *contexts: str) -> Message:
    return Message("user", (Part("text", question), *(Part("context", context) for context in contexts)))


def said(answer: str) -> Message:
    return Message("assistant", (Part("text", answer),))


def test_each_question_of_a_file_or_an_article_is_a_conversation() -> None:
    first, second = converted("squad", {"data": [ARTICLE], "version": "v2.0"})
    assert first.messages == (asked("When was it built?", CONTEXT), said("1790"))
    assert first.extra == {
        "file": {"version": "v2.0"},
        "title": "Mill",
        "id": "a",
        "answers": [{"text": "1790", "answer_start": 22}, {"text": "in 1790", "answer_start": 19}],
    }
    assert second.group == first.group == "title:Mill"
    assert [c.messages for c in converted("squad", ARTICLE)] == [first.messages, second.messages]


def test_a_question_without_an_answer_is_not_answered() -> None:
    _, second = converted("squad", ARTICLE)
    assert second.messages == (asked("Who built it?", CONTEXT),)
    assert not second.has_output()
    assert second.extra["is_impossible"] is True
    assert second.extra["plausible_answers"] == [{"text": "elm", "answer_start": 44}]


def test_a_flat_row_reads_as_its_article_does() -> None:
    row = {
        "id": "a",
        "title": "Mill",
        "context": CONTEXT,
        "question": "When was it built?",
        "answers": {"text": ["1790", "in 1790"], "answer_start": [22, 19]},
    }
    (flat,) = converted("squad", row)
    assert (flat.messages, flat.group) == (converted("squad", ARTICLE)[0].messages, "title:Mill")
    assert flat.extra["answers"] == row["answers"]
    (unanswered,) = converted("squad", {**row, "answers": {"text": [], "answer_start": []}})
    assert not unanswered.has_output()


def test_without_a_title_the_context_is_the_group() -> None:
    rows = [
        {"context": context, "question": question, "answers": {"text": ["elm"], "answer_start": [44]}}
        for context, question in ((CONTEXT, "q1"), (CONTEXT + "\n", "q2"), ("Another elm.", "q1"))
    ]
    one, two, three = (group_of(converted("squad", row)[0]) for row in rows)
    assert one == two != three


@pytest.mark.parametrize("start", [23, -4, 10**30])
def test_a_wrong_offset_is_noted_and_the_answer_kept(start: int) -> None:
    article = copy.deepcopy(ARTICLE)
    article["paragraphs"][0]["qas"][0]["answers"][0]["answer_start"] = start
    first, second = converted("squad", article)
    assert first.messages[1] == said("1790")
    assert first.extra["misplaced_answers"] == [0]
    assert "misplaced_answers" not in second.extra


def test_an_empty_question_costs_only_its_own_answer() -> None:
    article = copy.deepcopy(ARTICLE)
    article["paragraphs"][0]["qas"][0]["question"] = " "
    first, _ = converted("squad", article)
    assert not first.has_output()
    assert first.extra["answers"][0]["text"] == "1790"


def test_what_paragraphs_and_articles_say_is_kept() -> None:
    article = copy.deepcopy(ARTICLE) | {"url": "u"}
    article["paragraphs"][0]["document_id"] = 5
    assert missing({"data": [article]}, converted("squad", {"data": [article]})) == set()
    assert converted("squad", article)[0].extra["paragraph"] == {"document_id": 5}
    assert converted("squad", article)[1].extra["article"] == {"url": "u"}


HOTPOT = {
    "_id": "h",
    "question": "q",
    "answer": "yes",
    "level": "hard",
    "supporting_facts": [["T2", 0]],
    "context": [["T1", ["One.", " Two."]], ["T2", ["Three."]]],
}


def test_hotpot_titles_and_sentences_are_context_parts() -> None:
    (conversation,) = converted("hotpot", HOTPOT)
    assert conversation.messages == (asked("q", "T1", "One.", " Two.", "T2", "Three."), said("yes"))
    assert conversation.extra == {"_id": "h", "level": "hard", "supporting_facts": [["T2", 0]]}


def test_hotpot_columns_read_as_pairs_do_and_a_withheld_answer_is_not_made_up() -> None:
    columns = {
        **HOTPOT,
        "context": {"title": ["T1", "T2"], "sentences": [["One.", " Two."], ["Three."]]},
        "supporting_facts": {"title": ["T2"], "sent_id": [0]},
    }
    assert format_votes([columns]) == {"hotpot": 1}
    assert converted("hotpot", columns)[0].messages == converted("hotpot", HOTPOT)[0].messages
    (unanswered,) = converted("hotpot", {key: value for key, value in HOTPOT.items() if key != "answer"})
    assert not unanswered.has_output()


def test_the_example_has_its_answers_where_it_says() -> None:
    for conversation in converted("squad", squad.EXAMPLE):
        assert "misplaced_answers" not in conversation.extra


@pytest.mark.parametrize(
    ("format", "unit", "code"),
    [
        ("squad", [], "wrong_type"),
        ("squad", {"question": "q"}, "missing_field"),
        ("squad", {"data": [{"title": "t"}]}, "missing_field"),
        ("squad", {"data": [{"paragraphs": [{"context": "c", "qas": [{"id": 1}]}]}]}, "missing_field"),
        ("squad", {"question": "q", "context": "c", "answers": [{"text": "c", "answer_start": "0"}]}, "wrong_type"),
        ("squad", {"question": "q", "context": "c", "answers": {"text": ["c"], "answer_start": []}}, "wrong_type"),
        ("squad", {"question": "q", "context": "c", "answers": "c"}, "wrong_type"),
        ("hotpot", {**HOTPOT, "question": ""}, "empty_question"),
        ("hotpot", {**HOTPOT, "answer": " "}, "empty_answer"),
        ("hotpot", {**HOTPOT, "context": []}, "no_context"),
        ("hotpot", {**HOTPOT, "context": [["T1"]]}, "wrong_type"),
        ("hotpot", {**HOTPOT, "context": {"title": ["T"], "sentences": []}}, "wrong_type"),
        ("hotpot", {"question": "q"}, "missing_field"),
    ],
)
def test_what_cannot_be_honoured_is_rejected_with_its_code(format: str, unit: Any, code: str) -> None:
    with pytest.raises(RecordError) as caught:
        converted(format, unit)
    assert caught.value.code == code


@pytest.mark.parametrize(("language", "articles", "questions"), [("en", 12, 322), ("zh", 4, 135), ("ar", 4, 135)])
def test_xquad(language: str, articles: int, questions: int) -> None:
    (unit,) = read_any(f"rc-xquad/xquad.{language}.json")
    assert format_votes([unit]) == {"squad": 1}
    conversations = converted("squad", unit)
    source = [(p["context"], q) for a in unit["data"] for p in a["paragraphs"] for q in p["qas"]]
    assert len(unit["data"]) == articles
    assert len(conversations) == len(source) == questions
    for conversation, (context, question) in zip(conversations, source, strict=True):
        assert conversation.messages == (asked(question["question"], context), said(question["answers"][0]["text"]))
        start = conversation.extra["answers"][0]["answer_start"]
        assert context[start:].startswith(conversation.messages[1].rebuild())
        assert "misplaced_answers" not in conversation.extra
    assert len({conversation.group for conversation in conversations}) == articles
    assert missing(unit, conversations) == set()
