from __future__ import annotations

import json
import statistics
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import schemas
from pipeline.checks import record_violations, token_violations
from pipeline.conversation import Conversation, Message, Part, Source, conversation_id, group_of
from pipeline.leaks import lexical
from pipeline.records import Clock, Document, build_tables, encode_spans, to_json
from pipeline.relayout import rebuild
from pipeline.scoring import Scorer
from pipeline.timeline import Timeline
from pipeline.tokenization import TextTokenizer, load_tokenizer
from synth.answers import calls_of, final_answer, final_of
from synth.checks import REASONS
from synth.config import SynthConfig
from synth.diversity import Diversity
from synth.engines import Completion, Request
from synth.finish import Finisher, Placed
from synth.generators import Outcome, Rejected, Written
from synth.generators.teacher import Teacher
from synth.reading import Retold, Said, tasks_of, timeline_of
from synth.run import Usage, outcomes

CASES: list[dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parent / "teacher_cases" / "conversations.yaml").read_text()
)
CONFIG = SynthConfig(generator="teacher", conversations=["-"])
OPTIONS = CONFIG.teacher
_KINDS = {"text": "text", "thinking": "thinking", "context": "context", "call": "tool_call", "result": "tool_result"}


def conversation_of(case: dict[str, Any]) -> Conversation:
    messages = [
        Message(role, tuple(Part(_KINDS[next(iter(part))], next(iter(part.values())), name=part.get("name")) for part in parts))  # type: ignore[arg-type]
        for role, *parts in case["messages"]
    ]  # fmt: skip
    source = Source("own", "conversations.yaml", CASES.index(case), None, None, "0" * 64)
    return Conversation(tuple(messages), case.get("tools", ""), case.get("extra", {}), sources=(source,))


CONVERSATIONS = [conversation_of(case) for case in CASES]
NAMES = [case["name"] for case in CASES]
MILL, TEXT_ONLY, SOURDOUGH, FERRIES, LIGHTHOUSE = (CONVERSATIONS[NAMES.index(name)] for name in (
    "word problem with a thought", "word problem in the text", "a thought and an answer", "a tool result",
    "context and a span",
))  # fmt: skip


class ScriptedEngine:
    """Answers a request with what the case has written for it, told by its first reading and its number."""

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self._written: dict[str, list[dict[str, str]]] = {}
        for case, conversation in zip(CASES, CONVERSATIONS, strict=True):
            self._written[_first_reading(conversation)] = case["written"]

    def answers(self, requests: Sequence[Request]) -> Generator[tuple[int, Completion], None, None]:
        for place, request in reversed(list(enumerate(requests))):
            self.asked.append(request)
            written = self._written[_opening(request)]
            text = json.dumps(written[len(request.messages) // 2 - 1], ensure_ascii=False)
            yield place, Completion(text, "stop", 10, 5)

    def identity(self) -> dict[str, Any]:
        return {"engine": "scripted"}

    def describe(self) -> dict[str, Any]:
        return self.identity()

    def close(self) -> None:
        pass


def _opening(request: Request) -> str:
    return request.messages[1].content.split("Read:\n")[1].split("\n")[0].partition("] ")[2]


def _first_reading(conversation: Conversation) -> str:
    task = tasks_of(conversation, OPTIONS.slice_chars, OPTIONS.min_coverage)[0]
    return next(piece for piece in task.slices[0] if not piece.where[2]).text.strip()


def play(teacher: Teacher, index: int, written: Sequence[str | Completion]) -> tuple[Outcome, list[Request]]:
    """What becomes of a dialogue whose requests are answered in order, and the requests."""
    dialogue = teacher.dialogue(index)
    asked: list[Request] = []
    answers = iter(written)
    try:
        requests = next(dialogue)
        while True:
            asked.extend(requests)
            completion = next(answers)
            if isinstance(completion, str):
                completion = Completion(completion, "stop", 10, 5)
            requests = dialogue.send([completion])
    except StopIteration as stop:
        return stop.value, asked


def played(
    tokenizer: TextTokenizer, conversation: Conversation, *written: dict[str, str] | str | Completion
) -> Outcome:
    texts = [w if isinstance(w, str | Completion) else json.dumps(w, ensure_ascii=False) for w in written]
    return play(Teacher(CONFIG, [conversation], tokenizer), 0, texts)[0]


def record_of(conversation: Conversation, timeline: Timeline, tokenizer: TextTokenizer) -> pa.Table:
    """The record, which breaks no invariant."""
    return table_of(Document(conversation, timeline, Placed("synth/teacher", "{}")), tokenizer)


def table_of(document: Document, tokenizer: TextTokenizer) -> pa.Table:
    encoded, first = encode_spans([document.timeline], tokenizer)
    tables = build_tables([document], Clock(tokenizer), encoded, first)
    assert tables.failed == []
    assert record_violations(tables.records) == []
    assert token_violations(tables.records, tables.tokens, tokenizer) == []
    return tables.records


@pytest.fixture(scope="session")
def smollm2() -> TextTokenizer:
    return load_tokenizer("smollm2")


@pytest.fixture(scope="module")
def run(smollm2: TextTokenizer) -> tuple[list[Written], list[Request]]:
    """All ten conversations, re-written by the scripted engine, four at a time."""
    engine = ScriptedEngine()
    found = list(outcomes(Teacher(CONFIG, CONVERSATIONS, smollm2), engine, 4, Usage()))
    assert [one for one in found if isinstance(one, Rejected)] == []
    return [one for one in found if isinstance(one, Written)], engine.asked


def said_text(conversation: Conversation, message: int) -> str:
    return "\n".join(part.text for part in conversation.messages[message].parts if part.kind == "text")


def test_ten_conversations_save_a_third_of_the_response_latency(run: tuple[list[Written], list[Request]]) -> None:
    written, _ = run
    assert len(written) == len(CASES) == 10
    against_original, against_turns = [], []
    for one in written:
        latency = one.labels["teacher"]["latency"]
        pairs = zip(*(latency[name]["response_latency"] for name in ("original", "turns", "rewritten")), strict=True)
        rewritten = [one.conversation.messages[i] for i in one.labels["teacher"]["messages"]]
        assert len(rewritten) <= len(latency["rewritten"]["response_latency"])
        for original, turns, now in list(pairs)[-len(rewritten) :]:
            against_original.append(1 - now / original)
            against_turns.append(1 - now / turns)
    assert statistics.median(against_original) >= 0.35
    assert statistics.median(against_turns) >= 0.35


def test_what_is_saved_is_counted_over_the_rewritten_answers_alone(run: tuple[list[Written], list[Request]]) -> None:
    for name, turns in (("a tool result", [1]), ("two turns", [0, 1])):
        label = run[0][NAMES.index(name)].labels["teacher"]
        original, own, now = (
            sum(label["latency"][layout]["response_latency"][turn] for turn in turns)
            for layout in ("original", "turns", "rewritten")
        )
        assert label["saved"] == round(1 - now / original, 4) > 0.35
        assert label["saved_against_own_turns"] == round(1 - now / own, 4) > 0.35


def test_the_records_hold_and_nothing_leaks(
    run: tuple[list[Written], list[Request]], smollm2: TextTokenizer
) -> None:  # fmt: skip
    for one in run[0]:
        table = record_of(one.conversation, one.timeline, smollm2)
        assert [finding for finding in lexical(table) if finding.verdict != "clear"] == []
        (record,) = to_json(table)
        assert list(schemas.violations("stream_record", [record])) == []
        assert list(to_json(table_of(rebuild(record).document(), smollm2))) == [record]
        outputs = {i for i, stream in enumerate(record["streams"]) if stream["direction"] == "output"}
        last_read = max(e["end"] for e in record["events"] if e["stream"] not in outputs)
        assert any(e["stream"] in outputs and e["start"] < last_read for e in record["events"])


def test_answers_calls_pointers_and_group_are_the_originals(run: tuple[list[Written], list[Request]]) -> None:
    for one, original in zip(run[0], CONVERSATIONS, strict=True):
        assert [m.role for m in one.conversation.messages] == [m.role for m in original.messages]
        for at in one.labels["teacher"]["messages"]:
            until = replace(original, messages=original.messages[: at + 1])
            assert final_answer(until, said_text(one.conversation, at)) == final_answer(until, said_text(original, at))
        untouched = set(range(len(original.messages))) - set(one.labels["teacher"]["messages"])
        assert all(one.conversation.messages[i] == original.messages[i] for i in untouched)
        assert calls_of(one.conversation) == calls_of(original)
        assert one.conversation.sources == original.sources
        assert group_of(one.conversation) == group_of(original)
        extra = dict(one.conversation.extra)
        assert extra.pop("teacher")["original"] == conversation_id(original) != conversation_id(one.conversation)
        assert extra == original.extra
    finals = [one.conversation.extra["teacher"]["answers"][-1]["answer"] for one in run[0]]
    assert finals == ["1200", "40", "yes", "Ilse Brandt", None, None, None, "no", "B", None]


def test_prompts_only_grow(run: tuple[list[Written], list[Request]]) -> None:
    longest: dict[str, Request] = {}
    for request in run[1]:
        before = longest.get(_opening(request))
        if before is not None:
            assert request.messages[: len(before.messages)] == before.messages
            assert len(request.messages) == len(before.messages) + 2
        assert [m.role for m in request.messages[1:]] == ["user", "assistant"] * (len(request.messages) // 2 - 1) + [
            "user"
        ]
        longest[_opening(request)] = request
    assert len(longest) == 10


def test_no_point_stands_in_a_prompt_before_its_slice(run: tuple[list[Written], list[Request]]) -> None:
    early = 0
    for conversation in CONVERSATIONS:
        opening = _first_reading(conversation)
        requests = {len(r.messages): r for r in run[1] if _opening(r) == opening}
        number = 0
        for task in tasks_of(conversation, OPTIONS.slice_chars, OPTIONS.min_coverage):
            for slice_ in range(len(task.slices)):
                number += 1
                prompt = " ".join(
                    "\n".join(m.content for m in requests[2 * number].messages if m.role == "user").split()
                )
                for point in task.points:
                    text = " ".join(point.text.split())
                    early += point.slice < task.last == slice_
                    # A final answer of a word or two may stand among the options, or in what was read.
                    if len(text) > 12:
                        assert (text in prompt) == (point.slice <= slice_), (point, slice_)
                whole = "The recorded answer:" in requests[2 * number].messages[-1].content
                assert whole == (slice_ == task.last)
    assert early >= 5


def test_what_is_supported_when(run: tuple[list[Written], list[Request]]) -> None:
    def told(conversation: Conversation) -> list[tuple[int, str]]:
        (task,) = tasks_of(conversation, OPTIONS.slice_chars, OPTIONS.min_coverage)
        return [(point.slice, point.text.strip()[:32]) for point in task.points]

    # A thought may come before the question; the step that gives the final answer away may not.
    assert told(MILL) == [
        (1, "On Friday 12-4 = <<12-4=8>>8 ston"[:32]),
        (1, "Each hour they ground 8*30 = <<8"[:32]),
        (2, "In 5 hours the mill ground 240*5"[:32]),
        (2, "1,200"),
    ]
    # What is said waits for the question.
    assert {slice_ for slice_, _ in told(TEXT_ONLY)} == {2}
    # The question was asked before the tool's result is read; what is only so takes all of it.
    assert [slice_ for slice_, _ in told(FERRIES)] == [0, 1, 2, 2]
    # A corpus says where its answer stands, though the words stand behind it too.
    assert told(LIGHTHOUSE) == [(0, "Ilse Brandt")]
    assert told(replace(LIGHTHOUSE, extra={})) == [(2, "Ilse Brandt")]


def test_context_that_a_corpus_concludes_supports_nothing_before_its_end() -> None:
    conversation = CONVERSATIONS[NAMES.index("context and a decision")]
    (open_,) = tasks_of(conversation, OPTIONS.slice_chars, OPTIONS.min_coverage)
    (closed,) = tasks_of(replace(conversation, extra={"MESHES": []}), OPTIONS.slice_chars, OPTIONS.min_coverage)
    assert min(point.slice for point in open_.points) < open_.last
    assert {point.slice for point in closed.points} == {closed.last}


def seen_by(timeline: Timeline, chunk: int) -> set[int]:
    """Every chunk that must have ended before a chunk starts."""
    stream = [timeline.spans[s].stream for s in timeline.chunk_span]
    seen: set[int] = set()
    todo = [chunk]
    while todo:
        at = todo.pop()
        before = [c for c in range(at) if stream[c] == stream[at]]
        for other in (*timeline.after[at], *before[-1:]):
            if other not in seen:
                seen.add(other)
                todo.append(other)
    return seen


def texts_of(timeline: Timeline) -> list[tuple[str, str]]:
    """(stream, text) of every chunk."""
    found, last, low = [], -1, 0
    for span, end in zip(timeline.chunk_span, timeline.chunk_end, strict=True):
        low = low if span == last else 0
        found.append((timeline.streams[timeline.spans[span].stream].name, timeline.spans[span].text[low:end]))
        last, low = span, end
    return found


def test_a_piece_waits_for_exactly_what_its_writer_had_seen(run: tuple[list[Written], list[Request]]) -> None:
    (one,) = [one for one in run[0] if one.index == NAMES.index("a thought and an answer")]
    texts = texts_of(one.timeline)

    def seen(start: str) -> str:
        (chunk,) = [i for i, (_, text) in enumerate(texts) if text.strip().startswith(start)]
        return "|".join(texts[i][1].strip()[:11].strip() for i in sorted(seen_by(one.timeline, chunk)))

    assert seen("What should") == "My sourdoug|The dough r"
    assert seen("The starter is") == "My sourdoug"
    assert seen("A starter fed") == "My sourdoug|The starter"
    assert seen("Two hours at") == "My sourdoug|The dough r|The starter|A starter f"
    assert seen("And two hours") == "My sourdoug|The dough r|The starter|Two hours a|A starter f"
    assert seen("Change that") == (
        "My sourdoug|The dough r|What should|The starter|Two hours a|The baking|A starter f|And two hou"
    )


def test_the_last_word_of_an_answer_that_ended_early_comes_with_the_end_of_the_reading(smollm2: TextTokenizer) -> None:
    words = ["Oh, flat bread.", "That sounds cold.", ""]
    one = played(smollm2, SOURDOUGH, *({"think": "", "say": text} for text in words))
    assert isinstance(one, Written)
    (record,) = to_json(record_of(one.conversation, one.timeline, smollm2))
    user, said = (
        [e for e in record["events"] if record["streams"][e["stream"]]["name"] == name]
        for name in ("user", "assistant")
    )
    assert [e["text"] for e in said] == ["Oh, flat bread.", " That sounds", " cold."]
    assert said[1]["start"] < user[-1]["end"] <= said[2]["start"]
    assert [e["final"] for e in said] == [False, False, True]
    assert said_text(one.conversation, 1) == "".join(e["text"] for e in said) == "Oh, flat bread. That sounds cold."


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Pittsburgh Steelers", ["Pittsburgh", " Steelers"]),
        ("In 1911.", ["In", " 1911."]),
        ("17", []),
        ('They say\n\n(so) "yes".', ["They say\n\n(so)", ' "yes".']),
        ("水果是无花果。", ["水果是无花", "果。"]),
        ("有 17 秒", ["有 17", " 秒"]),
        ("果。", []),
        ("น้ำ", []),
        ("ดื่มน้ำ", ["ดื่ม", "น้ำ"]),
    ],
)
def test_a_last_piece_is_cut_before_its_last_word(text: str, pieces: list[str]) -> None:
    (task,) = tasks_of(SOURDOUGH, OPTIONS.slice_chars, OPTIONS.min_coverage)
    early = [("text", pieces[0], 0), ("text", pieces[1], 2)] if pieces else [("text", text, 2)]
    assert Retold(task, (Said(0, "text", text),)).chunks() == early
    assert Retold(task, (Said(2, "text", text),)).chunks() == [("text", text, 2)]


def test_a_short_answer_that_is_said_once_is_early(smollm2: TextTokenizer) -> None:
    """As by a writer who says the span when it has been read, and nothing more."""
    one = played(smollm2, LIGHTHOUSE, {"say": "Ilse Brandt"}, {"say": ""}, {"say": ""})
    assert isinstance(one, Written)
    assert one.conversation.messages[1] == LIGHTHOUSE.messages[1]
    assert one.labels["teacher"]["saved"] > 0
    finisher = Finisher(CONFIG, Clock(smollm2), Diversity(CONFIG.diversity), None, None)
    assert isinstance(finisher.finish([one]).outcomes[0], Written)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(speaks=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=3, max_size=3))
def test_any_pattern_of_silence_is_laid_out_honestly(smollm2: TextTokenizer, speaks: list[tuple[bool, bool]]) -> None:
    (task,) = tasks_of(SOURDOUGH, OPTIONS.slice_chars, OPTIONS.min_coverage)
    said = [
        Said(number, voice, f"{voice} {word}")  # type: ignore[arg-type]
        for number, (flags, word) in enumerate(zip(speaks, ("one", "two", "three"), strict=True))
        for voice, flag in zip(("thinking", "text"), flags, strict=True)
        if flag
    ]
    if not any(one.voice == "text" for one in said):
        said.append(Said(2, "text", "text four"))
    retold = Retold(task, tuple(said))
    conversation = replace(SOURDOUGH, messages=(SOURDOUGH.messages[0], retold.message(SOURDOUGH.messages[1])))
    timeline = timeline_of(conversation, {1: retold})
    record_of(conversation, timeline, smollm2)
    chunks = texts_of(timeline)
    texts = [text.strip() for _, text in chunks]
    asked = SOURDOUGH.messages[0].parts[0].text
    assert "".join(text for _, text in chunks) == asked + "".join(p.text for p in conversation.messages[1].parts)

    def read_before(text: str) -> str:
        return "".join(chunks[c][1] for c in sorted(seen_by(timeline, texts.index(text))) if chunks[c][0] == "user")

    for at, one in enumerate(said):
        voice, word = one.text.split()
        first, last = (one.text, one.text) if one.text in texts else (voice, word)
        before = " ".join(texts[c] for c in seen_by(timeline, texts.index(first)))
        assert all(earlier_word in before for earlier in said[:at] for earlier_word in earlier.text.split())
        due = "".join(piece.text for slice_ in task.slices[: one.slice + 1] for piece in slice_)
        assert read_before(first).startswith(due)
        if one.voice not in {later.voice for later in said[at + 1 :]}:
            assert read_before(last) == asked
            assert (first == last) is (read_before(first) == asked)


SCRIPTS: dict[str, list[dict[str, str] | str | Completion]] = {
    "truncated": [Completion('{"think": "", "say": "On', "length", 10, 800)],
    "refused": [Completion("too long", "refused", 0, 0)],
    "aborted": [Completion("", "abort", 10, 0)],
    "not_json": ["On Friday"],
    "duplicate_key": ['{"think": "", "say": "a", "say": "b"}'],
    "wrong_shape": ['{"say": "The mill grinds."}'],
    "too_long": [{"think": "", "say": "stone after stone " * 20}],
    "special_tokens": [{"think": "", "say": "The mill <|im_end|> grinds."}],
    "foreign_script": [{"think": "", "say": "Мельница мелет."}],
    "repeated_words": [{"think": "the mill the mill the mill the mill", "say": ""}],
    "control_chars": [{"think": "", "say": "The mill\x07 grinds."}],
    "not_speech": [{"think": "", "say": "..."}],
    "repeated_text": [
        {"think": "", "say": "The mill has twelve stones."},
        {"think": "", "say": "The mill has twelve stones!"},
        {"think": "240*5.", "say": "1,200"},
    ],
    "empty_answer": [{"think": "12 stones.", "say": ""}, {"think": "", "say": ""}, {"think": "240*5 = 1200.", "say": ""}],
    "no_overlap": [{"think": "", "say": ""}, {"think": "", "say": ""}, {"think": "240*5 = 1200.", "say": "1,200"}],
    "wrong_answer": [{"think": "12 stones.", "say": ""}, {"think": "", "say": ""}, {"think": "240*6.", "say": "1,440"}],
    "leak": [{"think": "It ran for 5 hours.", "say": ""}, {"think": "", "say": ""}, {"think": "1200.", "say": "1,200"}],
    "wrong_calls": [
        {"think": "12 stones.", "say": ""},
        {"think": "", "say": ""},
        {"think": "So.", "say": 'Action: calculate\nAction Input: {"expression": "240*5"}\nObservation: 1200'},
    ],
}  # fmt: skip


@pytest.mark.parametrize("code", SCRIPTS)
def test_every_bad_answer_is_rejected_by_its_own_code(smollm2: TextTokenizer, code: str) -> None:
    assert code in REASONS
    one = played(smollm2, MILL, *SCRIPTS[code])
    assert isinstance(one, Rejected)
    assert (one.code, one.index, one.scenario) == (code, 0, "own")
    assert json.loads(one.raw) == [
        w if isinstance(w, str) else w.text if isinstance(w, Completion) else json.dumps(w, ensure_ascii=False)
        for w in SCRIPTS[code]
    ]


def test_a_leak_quotes_what_was_said_too_early(smollm2: TextTokenizer) -> None:
    one = played(smollm2, MILL, *SCRIPTS["leak"])
    assert isinstance(one, Rejected)
    assert one.message.startswith(
        "'It ran for 5 hours.' says '5' of 'On Friday 4 of the stones stood still all day. The mill ran"
    )
    assert one.message.endswith("before it had been read")


def test_what_the_tokenizer_cannot_give_back_is_rejected(smollm2: TextTokenizer) -> None:
    asked = Message("user", (Part("text", "\x04" + MILL.messages[0].parts[0].text),))
    one = played(smollm2, replace(MILL, messages=(asked, MILL.messages[1])), *CASES[0]["written"])
    assert isinstance(one, Rejected)
    assert one.code == "unencodable"


@pytest.mark.parametrize(
    "messages",
    [
        [Message("user", (Part("text", "How are you?"),)), Message("assistant", (Part("text", "Well. And you?"),))],
        [Message("assistant", (Part("text", "Welcome. What can I do for you?"),))],
        [Message("system", (Part("text", "Be short. Be kind."),)), Message("assistant", (Part("text", "Hello."),))],
        [
            Message("user", (Part("text", "I need the weather. It is for Oslo."),)),
            Message("assistant", (Part("text", "I look."), Part("tool_call", "{}", name="weather"))),
        ],
        [
            Message("user", (Part("text", "Go on. Tell me more."),)),
            Message("assistant", (Part("text", "Once there was a", interrupted=True),)),
        ],
        [
            Message("user", (Part("text", "Go on. Tell me more."),)),
            Message("assistant", (Part("text", "Not for the loss."),), weight=0.0),
        ],
    ],
    ids=["one sentence", "no reading", "only a system message", "with a call", "cut off", "untrained"],
)
def test_what_cannot_be_rewritten_is_asked_about_by_nobody(smollm2: TextTokenizer, messages: list[Message]) -> None:
    outcome, asked = play(Teacher(CONFIG, [Conversation(tuple(messages))], smollm2), 0, [])
    assert isinstance(outcome, Rejected)
    assert outcome.code == "nothing_to_rewrite"
    assert asked == []


def test_requests_are_a_function_of_seed_index_and_slice(smollm2: TextTokenizer) -> None:
    written = [json.dumps(w) for w in CASES[0]["written"]]
    first, asked = play(Teacher(CONFIG, [MILL], smollm2), 0, written)
    again, asked_again = play(Teacher(CONFIG, [MILL], smollm2), 0, written)
    assert (first, asked) == (again, asked_again)
    _, elsewhere = play(Teacher(CONFIG, [SOURDOUGH, MILL], smollm2), 1, written)
    _, reseeded = play(Teacher(CONFIG.model_copy(update={"seed": 1}), [MILL], smollm2), 0, written)
    seeds = [request.seed for requests in (asked, elsewhere, reseeded) for request in requests]
    assert len(set(seeds)) == 9
    assert [replace(r, seed=0) for r in elsewhere] == [replace(r, seed=0) for r in asked]


def test_a_request_asks_for_what_is_then_taken(run: tuple[list[Written], list[Request]]) -> None:
    for request in run[1]:
        assert request.schema is not None
        validator = Draft202012Validator(dict(request.schema))
        last = "Everything has been read." in request.messages[-1].content
        limits = dict(request.schema["properties"])
        assert list(limits) in (["say"], ["think", "say"])
        assert all(value.get("maxLength") == (None if last else OPTIONS.max_slice_chars) for value in limits.values())
        written = [json.loads(m.content) for m in request.messages if m.role == "assistant"]
        task_started = max(i for i, m in enumerate(request.messages) if m.role == "user" and _starts(request, i))
        written = written[task_started // 2 :]
        spoken = all(any(w.get(key) for w in written) for key in limits)
        assert validator.is_valid(dict.fromkeys(limits, "")) is (not last or spoken)
        assert validator.is_valid(dict.fromkeys(limits, "A word."))


def _starts(request: Request, at: int) -> bool:
    """Whether the reading of an answer begins with a message: the first, or the one after everything had been read."""
    return at == 1 or "Everything has been read." in request.messages[at - 2].content


def test_both_stay_on_one_side_of_a_split_where_nobody_asks(smollm2: TextTokenizer) -> None:
    original = replace(FERRIES, messages=FERRIES.messages[2:])
    one = played(smollm2, original, *CASES[NAMES.index("a tool result")]["written"])
    assert isinstance(one, Written)
    assert group_of(one.conversation) == group_of(original)


def test_only_the_first_samples_are_rewritten(smollm2: TextTokenizer) -> None:
    assert Teacher(CONFIG, CONVERSATIONS, smollm2).count == 10
    assert Teacher(CONFIG.model_copy(update={"samples": 3}), CONVERSATIONS, smollm2).count == 3
    assert Teacher(CONFIG.model_copy(update={"samples": 30}), CONVERSATIONS, smollm2).count == 10


def test_pieces_are_joined_as_the_original_is_written() -> None:
    (task,) = tasks_of(TEXT_ONLY, OPTIONS.slice_chars, OPTIONS.min_coverage)
    lines = Retold(task, (Said(0, "text", "One."), Said(2, "text", "Two.")))
    assert [part.text for part in lines.message(TEXT_ONLY.messages[1]).parts] == ["One.\nTwo."]
    (task,) = tasks_of(FERRIES, OPTIONS.slice_chars, OPTIONS.min_coverage)
    assert Retold(task, (Said(0, "text", "One."), Said(2, "text", "Two."))).pieces("text") == ["One.", " Two."]
    assert Retold(task, (Said(0, "text", "一。"), Said(2, "text", "二。"))).pieces("text") == ["一。", "二。"]


def test_a_later_answer_is_written_behind_the_rewritten_earlier_one(run: tuple[list[Written], list[Request]]) -> None:
    case = CASES[NAMES.index("two turns")]
    opening = _first_reading(CONVERSATIONS[NAMES.index("two turns")])
    last = max((r for r in run[1] if _opening(r) == opening), key=lambda r: len(r.messages))
    said = [json.loads(m.content)["say"] for m in last.messages if m.role == "assistant"]
    assert said == [w["say"] for w in case["written"][:-1]]
    assert "[assistant]" not in "".join(m.content for m in last.messages)


def test_what_came_before_the_reading_is_shown_once(run: tuple[list[Written], list[Request]]) -> None:
    requests = [r for r in run[1] if _opening(r) == _first_reading(FERRIES)]
    first = requests[0].messages[1].content
    assert first.startswith(
        "Before:\n[system] You help travellers at the harbour.\n[user] When do ferries to Skarv leave?\n"
        '[call] get_timetable\n{"to": "Skarv"}\n\nRead:\n[result get_timetable#0] The ferry Alba'
    )
    assert all("Before:" not in m.content for m in max(requests, key=lambda r: len(r.messages)).messages[2:])


def answered(question: str, *parts: Part | str, context: str = "", extra: dict[str, Any] | None = None) -> Conversation:
    asked = (Part("text", question), *((Part("context", context),) if context else ()))
    said = tuple(Part("text", part) if isinstance(part, str) else part for part in parts)
    return Conversation((Message("user", asked), Message("assistant", said)), extra=extra or {})


OPTIONS_ASKED = "Which one floats?\nA) iron\nB) cork\nC) stone"
GOLD = {"answers": [{"text": "in 1911", "answer_start": 0}, {"text": "autumn of 1911", "answer_start": 3}]}


@pytest.mark.parametrize(
    ("original", "text", "answer"),
    [
        (answered("How many?", "1,200"), "That makes 1200.0 sacks.", "1200"),
        (answered("How many?", "So many.\n#### 0.5"), "#### 0.50\nThat is 3 times as much.", "1/2"),
        (answered("How many?", "Six.\nThe answer is: -6"), "It falls from 4 to −6.", "-6"),
        (answered("How many?", "Thus $\\boxed{12}$."), "The final answer is 12 of the 40.", "12"),
        (answered("How many?", "72 km"), "About seventy.", None),
        (answered("How many?", Part("thinking", "x"), "\\frac{3}{4}"), "It is \\frac{3}{4}.", "3/4"),
        (answered("Is it so?", "yes", context="It is."), "It is so, and the answer is yes.", "yes"),
        (answered("Is it so?", "Yes, it is so."), "No, it is not.", "no"),
        (answered("Is it so?", "maybe", context="It is."), "No effect was seen. Maybe.", "maybe"),
        (answered("Is it so?", "no", context="It is."), "It had no effect at all.", None),
        (answered(OPTIONS_ASKED, "B"), "A stone sinks, so it is B.", "B"),
        (answered(OPTIONS_ASKED, "(B)"), "The answer is C) stone.", "C"),
        (answered(OPTIONS_ASKED, "B"), "Cork floats.", None),
        (answered("When?", "in 1911", context="It was.", extra=GOLD), "It was in the autumn of 1911.", "in 1911"),
        (answered("When?", "in 1911", context="It was.", extra=GOLD), "It was in 1912.", None),
        (answered("谁?", "伊尔莎", context="灯塔。"), "灯塔由伊尔莎设计。", "伊尔莎"),
        (answered("How are you?", "Well, thank you."), "Well, thank you.", None),
    ],
)
def test_final_answers(original: Conversation, text: str, answer: str | None) -> None:
    assert final_answer(original, text) == answer


def test_a_final_answer_is_given_by_its_own_text() -> None:
    for conversation in CONVERSATIONS:
        if (final := final_of(conversation)) is not None:
            assert final.given_by(said_text(conversation, len(conversation.messages) - 1)) == final.value


def test_calls_are_compared_by_their_values_and_found_in_text() -> None:
    def calls(*parts: Part) -> list[tuple[str, Any]]:
        return calls_of(Conversation((Message("assistant", parts),)))

    spaced, dense = Part("tool_call", '{"a": 1,  "b": 2.0}', name="f"), Part("tool_call", '{"b":2.0,"a":1}', name="f")
    assert calls(spaced) == calls(dense) == [("f", {"a": 1, "b": 2.0})]
    assert calls(spaced) != calls(replace(dense, name="g"))
    assert calls(Part("tool_call", "a=1", name="f")) == [("f", "a=1")]
    assert calls(Part("text", '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>')) == [("f", {"a": 1})]
    assert calls(Part("text", "Nothing is called.")) == []


def points_of(*messages: Message) -> list[tuple[int, str]]:
    (task,) = tasks_of(Conversation(messages), OPTIONS.slice_chars, OPTIONS.min_coverage)
    return [(point.slice, point.text.strip()) for point in task.points]


def user(*parts: str, context: str = "") -> Message:
    return Message("user", (*(Part("text", part) for part in parts), *((Part("context", context),) if context else ())))


def assistant(text: str, thought: str = "") -> Message:
    return Message("assistant", (*((Part("thinking", thought),) if thought else ()), Part("text", text)))


INSURED = Message(
    "system", (Part("text", "You may cancel a flight where the guest has travel insurance and feels unwell. Assist."),)
)


def test_what_was_known_before_is_supported_once_the_user_has_said_it() -> None:
    asked = user(
        "I lost my number. Would cancelling be possible since I'm feeling a bit unwell? I do have travel insurance."
    )
    told = "I can assist with cancelling since you have travel insurance and are feeling unwell."
    assert points_of(INSURED, asked, assistant(told)) == [(2, told)]
    thought = "The guest feels unwell and has travel insurance."
    assert points_of(INSURED, asked, assistant("Which flight is it?", thought))[0] == (2, thought)


def test_what_is_said_waits_for_the_last_sentence_of_the_user_not_for_his_last_question() -> None:
    asked = user("The blue vase stands on the shelf. Where does the blue vase stand? I have poor eyes, you know.")
    assert points_of(asked, assistant("The blue vase stands on the shelf.")) == [
        (2, "The blue vase stands on the shelf.")
    ]


HOTELS = (
    "Hotel Alba costs 50 euros a night. Hotel Berna costs 70 euros a night. Hotel Corso costs 80 euros a night. "
    "Hotel Dora costs 90 euros a night."
)


@pytest.mark.parametrize(
    ("question", "point", "early"),
    [
        ("Tell me about the hotels.", "Hotel Alba costs 50 euros a night.", True),
        ("Tell me about the hotels.", "The cheapest is Hotel Alba at 50 euros a night.", False),
        ("Tell me about the hotels.", "Only Hotel Alba costs 50 euros a night.", False),
        ("Tell me about the hotels.", "First comes Hotel Alba, which costs 50 euros a night.", False),
        ("Tell me about the hotels.", "1. Hotel Alba costs 50 euros a night.", False),
        ("Tell me about the hotels.", "Hotel Alba does not cost 60 euros but 50 euros a night.", False),
        ("Which hotel is cheapest?", "Hotel Alba costs 50 euros a night.", False),
        ("Which hotel is cheaper?", "Hotel Alba costs 50 euros a night.", False),
        ("How many hotels cost 50 euros?", "Hotel Alba costs 50 euros a night.", False),
    ],
)
def test_what_takes_all_of_the_reading_is_told_at_its_end(question: str, point: str, early: bool) -> None:
    asked = user(question, context=HOTELS)
    (slice_, text), *_ = points_of(asked, assistant(point + " Good night."))
    last = tasks_of(Conversation((asked, assistant("x"))), OPTIONS.slice_chars, OPTIONS.min_coverage)[0].last
    assert (slice_ < last, text) == (early, point)


def test_a_question_of_an_earlier_turn_is_that_of_a_result() -> None:
    def slices(question: str) -> list[int]:
        result = Message("tool", (Part("tool_result", HOTELS, name="list"),))
        call = Message("assistant", (Part("tool_call", "{}", name="list"),))
        return [
            at for at, _ in points_of(user(question), call, result, assistant("Hotel Alba costs 50 euros a night."))
        ]

    assert slices("What do the hotels in the old town cost?") == [0]
    assert slices("Which hotel in the old town is the cheapest?") > [0]


def test_blank_text_is_no_slice() -> None:
    sandby = user("I live in Sandby. ")
    assert tasks_of(Conversation((sandby, assistant("It is far."))), 160, 0.6) == []
    assert tasks_of(Conversation((user(" "), assistant("It is far."))), 160, 0.6) == []
    (task,) = tasks_of(Conversation((user(" ", "I live in Sandby. Is it far? ", " "), assistant("No."))), 160, 0.6)
    assert ["".join(piece.text for piece in slice_) for slice_ in task.slices] == [
        " I live in Sandby.",
        " Is it far?  ",
    ]


CUPS = Conversation(
    (user("A tray holds 4 cups. There are 6 such trays in the room. How many cups are in the room?"), assistant("24"))
)


def last_request(tokenizer: TextTokenizer, conversation: Conversation, *written: dict[str, str]) -> Request:
    """The request of the last slice, the earlier ones being answered."""
    dialogue = Teacher(CONFIG, [conversation], tokenizer).dialogue(0)
    (request,) = next(dialogue)
    for one in written:
        (request,) = dialogue.send([Completion(json.dumps(one), "stop", 10, 5)])
    assert "Everything has been read." in request.messages[-1].content
    return request


def test_who_has_given_the_final_answer_is_not_made_to_say_it_again(smollm2: TextTokenizer) -> None:
    silent = last_request(smollm2, CUPS, {"say": "4 cups a tray."}, {"say": ""})
    assert silent.schema is not None
    assert "End with its final answer: 24." in silent.messages[-1].content
    assert silent.schema["properties"] == {"say": {"type": "string"}}
    given = last_request(smollm2, CUPS, {"say": "4 cups a tray."}, {"say": "6 trays: 24."})
    assert "You have given its final answer, 24" in given.messages[-1].content
    assert "End with" not in given.messages[-1].content
    nothing = last_request(smollm2, CUPS, {"say": ""}, {"say": ""})
    assert nothing.schema is not None
    assert nothing.schema["properties"] == {"say": {"type": "string", "minLength": 1}}
    thought = last_request(smollm2, MILL, {"think": "12 stones.", "say": ""}, {"think": "", "say": ""})
    assert thought.schema is not None
    assert thought.schema["properties"] == {"think": {"type": "string"}, "say": {"type": "string", "minLength": 1}}


def test_short_pieces_that_are_equal_are_repeated_text(smollm2: TextTokenizer) -> None:
    one = played(smollm2, CUPS, {"say": ""}, {"say": "24"}, {"say": "24."})
    assert isinstance(one, Rejected)
    assert one.code == "repeated_text"


def test_a_record_that_saves_nothing_is_no_overlap(smollm2: TextTokenizer) -> None:
    long = "So there are 6 such trays in the room with 4 cups on each of them, which makes 24 cups in the room: 24"
    one = played(smollm2, CUPS, {"say": "A tray holds 4 cups."}, {"say": ""}, {"say": long})
    assert isinstance(one, Rejected)
    assert one.code == "no_overlap"
    assert one.message.startswith("-")
    assert "% of the response latency is saved" in one.message


def test_a_final_answer_is_asked_for_as_it_is_written(smollm2: TextTokenizer) -> None:
    def asked(answer: str) -> str:
        conversation = replace(CUPS, messages=(CUPS.messages[0], assistant(answer, "So it is.")))
        request = last_request(smollm2, conversation, *([{"think": "", "say": ""}] * 2))
        return request.messages[-1].content.split("said.")[1].split("Write")[0].strip()

    assert asked("3.5") == "End with its final answer: 3.5."
    assert asked("1,200") == "End with its final answer: 1,200."
    assert asked("It is seven dollars.") == "End with its final answer: It is seven dollars."
    half = replace(CUPS, messages=(CUPS.messages[0], assistant("3.5")))
    one = played(smollm2, half, {"say": ""}, {"say": "6 trays."}, {"say": "3 cups."})
    assert isinstance(one, Rejected)
    assert "the original '3.5'" in one.message


def test_a_thought_after_what_was_said_is_no_source_of_it(smollm2: TextTokenizer) -> None:
    asked = user(
        "Ann has 12 blue stamps and gets 8 more blue ones. She also has 11 red ones. How many are there in all?"
    )
    thought = "Ann has 12 + 8 = 20 blue stamps, which she keeps in her old album. The 20 blue and the 11 red make 31."
    conversation = Conversation((asked, assistant("31", thought)))
    written = (
        {"think": "", "say": "So there are 20 blue ones."},
        {"think": "The 20 blue and the 11 red make 31.", "say": "With the red ones"},
        {"think": "", "say": "31"},
    )
    assert isinstance(played(smollm2, conversation, *written), Written)
    one = played(smollm2, conversation, {"think": "", "say": "So there are 11 red ones."}, *written[1:])
    assert isinstance(one, Rejected)
    assert one.code == "leak"


@pytest.mark.parametrize("early", [True, False])
def test_what_a_thought_says_again_later_is_no_leak_to_the_generator_and_to_the_finisher(
    smollm2: TextTokenizer, early: bool
) -> None:
    said = "give it 25 grams." if early else "wait for 17 degrees."
    one = played(
        smollm2,
        SOURDOUGH,
        {"think": "", "say": f"A starter fed once a week is weak, {said}"},
        {
            "think": "25 grams of flour, then two hours at 17 degrees is too short.",
            "say": "And two hours are too short.",
        },
        {"think": "fine", "say": "Change that first."},
    )
    if not early:
        assert isinstance(one, Rejected)
        assert one.code == "leak"
        assert "'17' of 'The dough rises" in one.message
        return
    assert isinstance(one, Written)
    done = Finisher(CONFIG, Clock(smollm2), Diversity(CONFIG.diversity), None, None).finish([one])
    assert done.outcomes == [one]
    assert [finding for finding in lexical(done.records) if finding.verdict != "clear"] == []


LISTED = "Hotel Alba costs 50 euros a night. It has 20 rooms in the old town. Hotel Berna costs 70 euros. It is by the lake. "


@pytest.mark.parametrize(
    ("answer", "early"),
    [
        ("These hotels are there:\n- Hotel Alba costs 50 euros a night\n- Hotel Berna costs 70 euros", [True, True]),
        ("The cheapest hotels:\n- Hotel Alba costs 50 euros a night\n\n- Hotel Berna costs 70 euros", [False, False]),
        (
            "**All the hotels:**\n- Hotel Alba costs 50 euros a night\nThat was one.\n- Hotel Berna costs 70 euros",
            [False, True],
        ),
        (
            "The best one: have a look\n- Hotel Alba costs 50 euros a night\n- Hotel Berna costs 70 euros",
            [False, False],
        ),
        (
            "Here is a list\n1. **Option:**\n   - Hotel Alba costs 50 euros a night\n   - Hotel Berna costs 70 euros",
            [False, False],
        ),
        ("I like the best.\n- Hotel Alba costs 50 euros a night\n- Hotel Berna costs 70 euros", [True, True]),
    ],
)
def test_items_of_a_list_that_is_chosen_from_everything_wait_for_the_end(answer: str, early: list[bool]) -> None:
    conversation = Conversation((user("Tell me about the hotels.", context=LISTED * 2), assistant(answer)))
    (task,) = tasks_of(conversation, OPTIONS.slice_chars, OPTIONS.min_coverage)
    items = [point for point in task.points if "Hotel" in point.text]
    assert [point.slice < task.last for point in items] == early


def test_pieces_in_scripts_without_spaces_are_joined_without_one() -> None:
    (task,) = tasks_of(FERRIES, OPTIONS.slice_chars, OPTIONS.min_coverage)

    def joined(*texts: str) -> str:
        return "".join(Retold(task, tuple(Said(0, "text", text) for text in texts)).pieces("text"))

    assert joined("水果是无花果，", "蔬菜是甜菜根。") == "水果是无花果，蔬菜是甜菜根。"
    assert joined("水果是无花果", "和甜菜根") == "水果是无花果和甜菜根"
    assert joined("水果是", "Feige") == "水果是 Feige"
    assert joined("과일은", "무화과") == "과일은 무화과"


@pytest.mark.parametrize(
    ("answer", "text", "same"),
    [
        ("#### 1/2", "The answer is 1/3.", False),
        ("#### 1/2", "The answer is 0.5.", True),
        ("#### 5e3", "#### 5", False),
        ("#### 5e3", "#### 5000", True),
        (r"So \boxed{-\frac{1}{2}}.", r"So \boxed{\frac{1}{2}}.", False),
        (r"So \boxed{-\frac{1}{2}}.", r"So \boxed{-0.5}.", True),
        (r"So \boxed{p - q}.", r"So \boxed{p + q}.", False),
        (r"So \boxed{p - q}.", r"It is \boxed{p-q}.", True),
        (r"So \boxed{p - q}.", "It is p - q.", True),
        (r"So \boxed{p - q}.", "It is p - q + r.", False),
        (r"So \boxed{\text{Evelyn}}.", "It is Evelyn.", True),
        ("#### 9", "The answer is 12 - 3 = 9.", True),
        ("#### 1200", "#### 1 200", True),
        ("#### 0.5", "#### 50%", True),
        ("#### 50%", "#### 0.5", True),
        ("#### 50", "The answer is 50%.", True),
        ("#### 50%", "The answer is 5.", False),
        ("#### 32", "The answer is not 32.", False),
        ("#### 32", "The answer is not 34 but 32.", True),
        ("#### 32", "So it is 32, not 40.", True),
        ("#### 32", "That makes 32k.", False),
        ("#### 32000", "That makes 32k.", True),
        ("#### 32", "The answer is 32 - wait, 34.", False),
        ("#### 34", "The answer is 32 - wait, 34.", True),
        ("#### 32", "The answer is 32. Wait, I have counted twice.", True),
        ("#### 32", "The answer is 32 or 34.", False),
        ("#### 34", "It is 32 apples or 34 apples.", False),
        ("#### 34", "It is between 32 and 34.", False),
        ("#### 34", "It is 32-34.", False),
        ("$1.5 million", "That is 1.5.", False),
        ("$1.5 million", "That is 1,500,000 dollars.", True),
        ("$1.5 million", "That is 1.5 million dollars.", True),
        ("#### 3", "That is 3½.", False),
        ("#### 3.5", "That is 3½.", True),
        ("#### 0.5", "That is ½.", True),
        ("#### 3", "That is minus 3.", False),
        ("#### -3", "That is minus 3.", True),
        ("#### -3", "It is negative 3.", True),
        ("#### 3", "The answer is - 3.", False),
        ("#### -3", "- 3", True),
        ("#### 2", "5 - 3 = 2", True),
        ("#### 3", "What is left:\n- 8 pears\n- 3 apples", True),
    ],
)
def test_equal_and_different_values(answer: str, text: str, same: bool) -> None:
    final = final_of(answered("How much?", answer))
    assert final is not None
    assert (final.given_by(text) == final.value) is same


def test_a_heading_is_no_final_answer() -> None:
    assert final_of(answered("Write.", "# Report\n#### 1. Start\nText.\n#### 2. End\nBye.")) is None
    assert final_of(answered("Write.", "Step 1: the answer is in the box below. We take 3 of them.")) is None


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("It is Paris and not Rome.", True),
        ("It is not Paris but Rome.", False),
        ("Paris was not the place.", False),
        ("Paris didn't see it.", False),
        ("Rome rather than Paris.", False),
        ("Instead of Paris it is Rome.", False),
        ("Paris or Rome.", False),
        ("Either Rome or Paris.", False),
        ("Paris or Rome? It was Paris.", True),
        ("It was Paris, which is not far.", True),
    ],
)
def test_a_span_that_is_denied_or_one_of_several_is_not_given(text: str, given: bool) -> None:
    final = final_of(answered("Where?", "Paris", context="It was Paris."))
    assert final is not None
    assert final.given_by(text) == ("Paris" if given else None)
    # Whether it may be told to a writer is another question.
    assert final.is_told_by(text)


@pytest.mark.parametrize(
    ("text", "given"),
    [("那是河口市。", True), ("不是河口市，是山城。", False), ("河口市或山城。", False), ("山城还是河口市", False)],
)
def test_a_span_in_a_script_without_spaces_is_denied_too(text: str, given: bool) -> None:
    final = final_of(answered("哪里?", "河口市", context="那是河口市。"))
    assert final is not None
    assert (final.given_by(text) is not None) is given


@pytest.mark.parametrize(
    ("gold", "text", "given"),
    [
        ("17", "17 seconds before the end of game 50.", True),
        ("17", "还剩17秒，比分 20–18", True),
        ("17", "It was game 50, with 18 seconds left.", False),
        ("17", "It was not 17 seconds but 18.", False),
        ("17", "It was 17 or 18 seconds.", False),
        ("1,851", "In 1851 of the 1862 cases.", True),
        ("63%", "About 63 percent, compared with 42%.", True),
    ],
)
def test_a_number_that_a_corpus_gives_as_its_span_may_stand_anywhere(gold: str, text: str, given: bool) -> None:
    extra = {"answers": [{"text": gold, "answer_start": 0}]}
    final = final_of(answered("How many?", gold, context=f"There were {gold}.", extra=extra))
    assert final is not None
    assert (final.given_by(text) == final.value) is given
    # Where no corpus says so it is the last one.
    alone = final_of(answered("How many?", gold, context=f"There were {gold}."))
    assert alone is not None
    assert alone.kind == "number"


@pytest.mark.parametrize(
    ("question", "answer", "context", "value"),
    [
        ("Is it far?", "Yes, it is. Take the bus.", "", "yes"),
        ("Is it far?", "Yes, here is a plan. Take the bus. Then walk.", "", None),
        ("Is it far?", "Yes, it is. It took years. Many went.", "They went.", "yes"),
        ("Can you help me?", "Yes, I can.", "", None),
        ("I am lost. Could you tell me the way?", "Yes, of course.", "", None),
        ("Can I use two of them?", "Yes, you can.", "", "yes"),
        ("Would you help? Is it far?", "No, it is near.", "", "no"),
    ],
)
def test_a_polite_yes_is_no_decision(question: str, answer: str, context: str, value: str | None) -> None:
    final = final_of(answered(question, answer, context=context))
    assert (final.value if final and final.kind == "decision" else None) == value


@pytest.mark.parametrize(
    ("text", "decision"),
    [
        ("So yes, they do.", "yes"),
        ("The evidence says yes: it helps.", "yes"),
        ("The answer is no, since rates differed.", "no"),
        ("Yes. The figures are in Table No.", "yes"),
        ("There is no difference.", None),
        ("As to the whole frame: no.", "no"),
        ("No-one knows.", None),
        ("It is not a yes.", None),
    ],
)
def test_decisions_inside_a_sentence(text: str, decision: str | None) -> None:
    assert final_answer(answered("Is it so?", "yes", context="It is."), text) == decision


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("So B is right.", "B"),
        ("It is B) y, and I am sure.", "B"),
        ("It must be y (B). A train would be too slow.", "B"),
        ("It is B. A is too small, though.", "B"),
        ("A train needs longer. The rest is open.", None),
        ("The answer is A because it is light.", "A"),
        ("It is D.", None),
        ("Option B, not A.", "B"),
        ("It is not B.", None),
        ("B is wrong.", None),
        ("It is B or C.", None),
        ("Is it B? No.", None),
        ("B or C? I say option C.", "C"),
    ],
)
def test_options_are_named_by_their_labels_alone(text: str, label: str | None) -> None:
    assert final_answer(answered(OPTIONS_ASKED, "B"), text) == label


@pytest.mark.parametrize("text", ["B is wrong.", "It is B or C.", "Is it B?"])
def test_an_option_that_is_left_open_is_not_told_to_a_writer_either(text: str) -> None:
    final = final_of(answered(OPTIONS_ASKED, "B"))
    assert final is not None
    assert final.is_told_by(text)


@pytest.mark.slow
@pytest.mark.parametrize(("ceiling", "refuses"), [(100.0, False), (0.01, True)])
def test_the_ceiling_of_the_gain_is_held_by_the_informational_look(
    smollm2: TextTokenizer, run: tuple[list[Written], list[Request]], ceiling: float, refuses: bool
) -> None:
    config = SynthConfig.model_validate(
        {"generator": "teacher", "conversations": ["x"], "teacher": {"max_gain": ceiling}}
    )
    finisher = Finisher(config, Clock(smollm2), Diversity(config.diversity), None, Scorer("smollm2"))
    done = finisher.finish(run[0])
    codes = [one.code for one in done.outcomes if isinstance(one, Rejected)]
    assert set(codes) == ({"high_gain"} if refuses else set())
    assert done.records.num_rows + len(codes) == len(run[0])
    gains = [e["gain"] for events in done.records.column("events").to_pylist() for e in events]
    assert any(gain for gain in gains if gain is not None)
    assert all(gain <= ceiling for gain in gains if gain is not None)
