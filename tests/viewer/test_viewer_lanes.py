"""What is drawn of a record: harmless text, leaks with evidence, lines on which stands what was said at the same time."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from pipeline.convert import ConvertConfig
from pipeline.errors import InputError
from pipeline.viewer.bands import GOES_ON, evidence_lines, fit, folded, text_lines, wrap
from pipeline.viewer.lanes import one_line, shown, view_of
from pipeline.viewer.plain import render
from pipeline.viewer.samples import open_samples
from pipeline.viewer.tokens import record_tokens
from pipeline.viewer.turns import in_turns
from tests.viewer.viewer_records import converted, event, hostile_records, record

TEXT = st.text(st.characters(codec="utf-8"), max_size=60)
#: What a terminal obeys, or what changes the order of what it shows.
OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


@given(TEXT)
def test_shown_text_has_nothing_in_it_that_is_obeyed_and_loses_nothing_else(text: str) -> None:
    made = shown(text)
    assert not OBEYED.search(made)
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Co", "Cn") and c != "\n" for c in made)
    kept = [c for c in text if c.isprintable() or c == "\n"]
    left = iter(made)
    assert all(c in left for c in kept)


def test_scripts_that_need_joiners_keep_them_and_control_characters_have_pictures() -> None:
    assert shown("می‌خواهم क्‍ष") == "می‌خواهم क्‍ष"
    assert shown("\x1b[31m\t\x00\x7f\x9b\u202e") == "␛[31m⇥␀␡⟨009B⟩⟨202E⟩"
    assert shown("\u0301a") == "\u25cc\u0301a"
    assert one_line("a\nb" * 200, 5) == "a⏎ba⏎…"


@settings(max_examples=300)
@given(TEXT, st.integers(2, 20))
def test_wrapped_lines_fit_and_leave_out_line_breaks_and_spaces_only(text: str, width: int) -> None:
    made = shown(text)
    spans = wrap(made, width)
    left_out = ""
    at = 0
    for start, end in spans:
        left_out += made[at:start]
        assert cell_len(made[start:end]) <= width
        at = end
    assert not (left_out + made[at:]).strip("\n ")


@given(TEXT, st.integers(1, 20))
def test_what_is_fitted_has_the_width_that_was_asked_for(text: str, width: int) -> None:
    assert cell_len(fit(one_line(text), width)) == width


def drawn_text(lines: list, lane: int) -> str:  # type: ignore[type-arg]
    return "".join(line.cells[lane].text for line in lines if line.cells[lane] is not None).replace(GOES_ON, "")


def test_no_word_is_left_out_and_what_stands_on_a_line_was_said_at_the_same_time() -> None:
    words = " ".join(f"word{i}" for i in range(60))
    made = record(
        ["user", "assistant"], [event(0, 0, 121, words), event(1, 40, 61, "in the middle", message=1, after=[])]
    )
    lines = text_lines(view_of(made), 20)
    assert re.sub(r"\s", "", drawn_text(lines, 0)) == re.sub(r"\s", "", words) + "■"
    beside = next(line for line in lines if line.cells[1] is not None)
    assert beside.begins == 40
    cell = beside.cells[0]
    assert cell is not None
    assert cell.text.startswith("word20")
    assert 40 <= cell.since < cell.until <= 121


def test_rows_in_which_nobody_speaks_are_counted() -> None:
    made = record(["user", "assistant"], [event(0, 0, 3, "a b"), event(1, 10, 12, "c", message=1)])
    assert [(line.begins, line.gap) for line in text_lines(view_of(made), 20) if line.gap] == [(3, 7)]
    assert any("⋯ 7 silent rows" in line for line in render(made, 80))


def test_long_bands_are_folded_and_the_number_of_lines_left_out_is_told() -> None:
    lines = text_lines(view_of(record(["user"], [event(0, 0, 100, "\n".join(map(str, range(100))))])), 20)
    made = folded(lines, 10)
    assert len(made) == 10
    (left_out,) = [x for x in made if isinstance(x, int)]
    assert left_out + len(made) - 1 == len(lines)


def test_an_output_that_shares_a_row_with_another_stream_overlaps_and_others_do_not() -> None:
    made = record(
        ["user", "assistant"],
        [
            event(0, 0, 5, "a"),
            event(1, 4, 6, "b", message=1),
            event(1, 6, 8, "c", message=2),
            event(0, 8, 9, "d", message=3),
        ],
    )
    assert [entry.overlaps for entry in view_of(made).entries] == [False, True, False, False]


LEAKING = [
    {"role": "user", "content": "What does the report on the harbour of Trieste say about the year 1887?"},
    {"role": "assistant", "content": "In 1887 Trieste built a pier."},
]


def leaking() -> dict:  # type: ignore[type-arg]
    """An answer that names the year before it has been read."""
    made = converted(LEAKING)
    question, answer = made["events"]
    answer.update(start=2, end=2 + answer["end"] - answer["start"], after=[], lexical="leak")
    made["events"] = sorted([question, answer], key=lambda e: e["start"])
    made["rows"] = max(e["end"] for e in made["events"])
    return made


def test_a_leak_is_marked_and_its_evidence_is_told() -> None:
    view = view_of(leaking())
    (entry,) = view.leaks
    assert entry.marks.startswith("‼ > ")
    assert entry.leak is not None
    assert entry.leak.evidence == (("1887", 0), ("trieste", 0))  # as it is said
    assert any('says "1887", which stands in event 0' in line for line in evidence_lines(view))
    assert any("‼ > In" in line for line in render(leaking(), 80))


def test_a_stored_leak_without_evidence_is_shown_all_the_same() -> None:
    made = record(
        ["user", "assistant"], [event(0, 0, 3, "a"), event(1, 3, 5, "b", message=1, lexical="weak", after=[0])]
    )
    (entry,) = view_of(made).leaks
    assert entry.marks == "⁇ "
    assert "nothing is found to show for it" in evidence_lines(view_of(made))[0]


def test_edges_are_told_in_both_directions() -> None:
    made = record(["user", "assistant"], [event(0, 0, 3, "a"), event(1, 3, 5, "b", message=1, after=[0])])
    first, second = view_of(made).entries
    assert (first.awaited_by, second.after) == ((1,), (0,))


def test_a_record_that_points_to_nothing_is_refused_in_one_line() -> None:
    made = record(["user"], [event(0, 0, 3, "a")])
    made["events"][0]["stream"] = 4
    with pytest.raises(InputError, match="event 0 points to nothing"):
        view_of(made)


@pytest.mark.parametrize("name", sorted(hostile_records()))
def test_every_hostile_record_is_printed_harmlessly(name: str) -> None:
    made = hostile_records()[name]
    for width in (40, 80, 200):
        lines = list(render(made, width))
        assert not OBEYED.search("".join(lines).replace("\n", ""))
        assert all("\n" not in line for line in lines)
    if name == "markup":
        assert any("[bold]no[/bold]" in line for line in render(made, 200))


def test_a_record_without_any_event_is_drawn() -> None:
    made = record(["user"], [event(0, 0, 3, "a")])
    made.update(events=[], parts=[], rows=0)
    assert any("0   rows; 0 spoken cells" in line for line in render(made, 80))


EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "conversations"


@pytest.mark.parametrize(
    ("name", "number", "align"),
    [
        ("openai_messages", 4, "tools_async"),
        ("openai_messages", 9, "thinking+evidence+tools_async"),
        ("sharegpt", 4, "evidence"),
        ("think_tagged", 4, "thinking"),
        ("alpaca", 1, "wait_k"),
    ],
)
def test_a_record_in_turns_is_what_the_policy_turns_makes_of_its_source(name: str, number: int, align: str) -> None:
    raw = (EXAMPLES / f"{name}.jsonl").read_bytes().splitlines()[number]
    overlapped = converted([], align, format=name, raw=raw)
    expected = converted([], "turns", format=name, raw=raw)
    told = ("stream", "message", "part", "start", "end", "kind", "final", "text")
    made = in_turns(overlapped)
    assert overlapped["rows"] < expected["rows"]
    assert made["rows"] == expected["rows"]
    assert [[made["streams"][e["stream"]]["name"], *(e[t] for t in told[1:])] for e in made["events"]] == [
        [expected["streams"][e["stream"]]["name"], *(e[t] for t in told[1:])] for e in expected["events"]
    ]
    assert not view_of(made).leaks


def test_a_broken_record_cannot_be_laid_out_again() -> None:
    made = converted(LEAKING)
    made["events"][0]["end"] += 1
    with pytest.raises(InputError, match="cannot be laid out again"):
        in_turns(made)


@pytest.fixture(scope="module")
def converted_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What becomes of a few of our examples, tokens included."""
    from pipeline.stages.convert import convert_stage
    from pipeline.stages.ingest import IngestConfig, InputSource, ingest_stage

    out = tmp_path_factory.mktemp("tokens")
    source = InputSource(str(EXAMPLES / "sharegpt.jsonl"))
    ingest = ingest_stage([source], Path(), out / "ingest", IngestConfig())
    return convert_stage(ingest, out / "convert", ConvertConfig(), workers=1).directory


def test_tokens_of_an_event_join_to_its_text_row_by_row(converted_folder: Path) -> None:
    samples = open_samples(converted_folder)
    for number in range(len(samples)):
        made = samples.record(number)
        tokens = record_tokens(samples, number)
        for e in made["events"]:
            cells = [tokens[row, e["stream"]] for row in range(e["start"], e["end"])]
            said = "".join(cells[: len(cells) - e["final"]])
            assert said == shown(e["text"]).replace("\n", "⏎") or "⟨" in said
            assert not e["final"] or cells[-1] == "■"


def test_tokens_that_are_not_there_or_of_others_are_refused(converted_folder: Path, tmp_path: Path) -> None:
    samples = open_samples(converted_folder)
    made = samples.record(0)
    from tests.viewer.viewer_records import write

    alone = open_samples(write(tmp_path / "a" / "records-00000.parquet", [made]))
    with pytest.raises(InputError, match="no tokens-"):
        record_tokens(alone, 0)
    (tokens,) = converted_folder.glob("tokens-*.parquet")
    other = open_samples(write(tmp_path / "b" / "records-00000.parquet", [samples.record(1)]))
    (tmp_path / "b" / "tokens-smollm2-00000.parquet").write_bytes(tokens.read_bytes())
    with pytest.raises(InputError, match="tokens of other records"):
        record_tokens(other, 0)
