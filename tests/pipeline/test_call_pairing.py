"""Which call a result answers, and on which slot it arrives: the rules, said plainly, against the code."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.conversation import Conversation, Message, Part
from pipeline.timeline import spans_of

ids = st.none() | st.sampled_from(["a", "b"])
parts = st.builds(Part, st.just("tool_call"), st.just("{}"), name=st.sampled_from("fg"), call_id=ids) | st.builds(
    Part, st.just("tool_result"), st.just("r"), call_id=ids
)


def expected_pairs(conversation: Conversation) -> list[int | None]:
    """Of each result in order, the ordinal of its call: the nearest open one with its id, else the first open one (without
    an id, if the result has one) of the latest message that has one."""
    opened: list[tuple[int, str | None, int]] = []
    pairs: list[int | None] = []
    count = 0
    for m, message in enumerate(conversation.messages):
        for part in message.parts:
            if part.kind == "tool_call":
                opened.append((count, part.call_id, m))
                count += 1
                continue
            same = [o for o in opened if part.call_id is not None and o[1] == part.call_id][-1:]
            rest = [o for o in opened if part.call_id is None or o[1] is None]
            chosen = same or [o for o in rest if o[2] == rest[-1][2]][:1]
            pairs.append(chosen[0][0] if chosen else None)
            opened = [o for o in opened if o not in chosen]
    return pairs


@settings(max_examples=300)
@given(st.lists(st.lists(parts, min_size=1, max_size=4), max_size=8))
def test_results_pair_with_calls_by_the_rule_and_slots_are_free_when_they_are_taken(groups: list[list[Part]]) -> None:
    conversation = Conversation(tuple(Message("assistant", tuple(group)) for group in groups))
    streams, spans, _ = spans_of(conversation)
    results = [s for s in spans if s.kind == "tool_result"]
    pairs = expected_pairs(conversation)
    assert [s.call for s in results] == pairs
    slot_of = {s.call: streams[s.stream].slot for s in results if s.call is not None}
    flying: dict[int, int] = {}
    for span in spans:
        if span.kind == "tool_call" and span.call in slot_of:
            assert slot_of[span.call] not in flying.values()
            assert slot_of[span.call] == min(set(range(len(flying) + 1)) - set(flying.values()))
            flying[span.call] = slot_of[span.call]
        elif span.kind == "tool_result" and span.call is not None:
            del flying[span.call]
    assert not flying
