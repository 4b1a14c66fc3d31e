"""``multistream chat``: typed while the model speaks, in a terminal and through pipes."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from textual import events
from textual.containers import VerticalScroll
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from pipeline.cli import main
from pipeline.cli.chat import _print
from pipeline.cli.chat_app import KEPT_LINES, ChatApp, Line, Say
from pipeline.decoding.session import Cell, Event, Session
from pipeline.tokenization import TextTokenizer, load_tokenizer
from pipeline.training.grid import Stream, TrainingError
from pipeline.training.masks import MaskKind
from pipeline.training.model import Checkpoint, save_checkpoint
from tests.decoding.echo_task import LAG, ROLES, echo_model
from tests.training.synthetic_grids import ASSISTANT, BOS, EOM, METADATA, SILENCE, USER

ROOT = Path(__file__).resolve().parents[2]
MASK: MaskKind = "same_row"

Run = Callable[..., tuple[int, list[str], list[str]]]


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of 32 ids: a letter, a space or the bytes of é and ☺ a token."""
    alphabet = [*"abcdefghijklmnop", "Ġ", "Ã", "©", "â", "ĺ", "º", "Ċ"]
    vocab = {token: i for i, token in enumerate(alphabet)}
    vocab |= {f"unused{i}": i for i in range(len(alphabet), BOS)}
    special = {"<|im_start|>": BOS, "<|im_end|>": EOM, "<|endoftext|>": SILENCE}
    tokenizer = Tokenizer(models.BPE(vocab={**vocab, **special}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    folder = tmp_path_factory.mktemp("letters")
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def codec(letters: Path) -> TextTokenizer:
    return load_tokenizer(str(letters))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, codec: TextTokenizer) -> Path:
    """The model that echoes, a checkpoint; its tokenizer is not beside it."""
    assert (codec.bos_id, codec.eom_id, codec.silence_id) == (BOS, EOM, SILENCE)
    folder = tmp_path_factory.mktemp("checkpoint")
    metadata = replace(METADATA, tokenizer=codec.name, tokenizer_sha256=codec.sha256)
    save_checkpoint(folder, echo_model(), Checkpoint(ROLES, metadata, MASK, "none", {}, ("user",)))
    return folder


def session(codec: TextTokenizer, max_rows: int | None = None) -> Session:
    return Session(echo_model(), METADATA, MASK, (USER, ASSISTANT), codec, max_rows=max_rows)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    def go(*arguments: object, typed: str = "") -> tuple[int, list[str], list[str]]:
        monkeypatch.setattr(sys, "argv", ["multistream", "chat", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capfd.readouterr()
        return int(left.value.code or 0), out.splitlines(), err.splitlines()

    return go


def test_lines_are_echoed_through_a_pipe_and_saved(tmp_path: Path, checkpoint: Path, letters: Path) -> None:
    options = [
        "--plain",
        "--tokenizer",
        letters,
        "--patience",
        "4",
        "--device",
        "cpu",
        "--save",
        tmp_path / "said.jsonl",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "chat", str(checkpoint), *map(str, options)],
        input="abc\nhgf\n",
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert lines[0] == ["row", "stream", "text"]
    assert [line[1:] for line in lines[1:]] == [
        ["user", "abc"],
        ["assistant", "abc"],
        ["user", "hgf"],
        ["assistant", "hgf"],
    ]
    assert [int(line[0]) for line in lines[1:]] == [0, LAG, 13, 13 + LAG]
    saved = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    assert saved[1] == {
        "stream": "assistant",
        "direction": "output",
        "start": LAG,
        "end": LAG + 4,
        "final": True,
        "text": "abc",
        "token_ids": [0, 1, 2, EOM],
    }
    assert [event["start"] for event in saved] == [0, LAG, 13, 13 + LAG]


def test_the_tokenizer_beside_the_checkpoint_is_taken_where_it_is_the_same(
    run: Run, checkpoint: Path, letters: Path
) -> None:
    beside = checkpoint / "tokenizer.json"
    beside.write_bytes((letters / "tokenizer.json").read_bytes())
    try:
        code, out, err = run(checkpoint, "--plain", "--patience", 4, typed="bad")
    finally:
        beside.unlink()
    assert (code, out, err) == (0, ["row\tstream\ttext", "0\tuser\tbad", f"{LAG}\tassistant\tbad"], [])


def test_a_dialogue_without_rows_left_says_so(run: Run, checkpoint: Path, letters: Path) -> None:
    code, out, err = run(checkpoint, "--plain", "--tokenizer", letters, "--max-rows", 7, typed="abc\nbcd\n")
    assert (code, out) == (0, ["row\tstream\ttext", "0\tuser\tabc", f"{LAG}\tassistant\tab"])
    assert err == ["the dialogue has had its 7 rows"]


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--plain"], 1, "say where it is with --tokenizer"),
        (["--plain", "--tokenizer", "smollm2"], 1, "is not the"),
        (["--tokenizer", "LETTERS"], 2, "--plain"),
        (["--plain", "--tokenizer", "LETTERS", "--streams", "user,critic"], 2, "the roles assistant, user"),
        (["--plain", "--tokenizer", "LETTERS", "--streams", "user,user"], 2, "twice"),
        (["--plain", "--tokenizer", "LETTERS", "--streams", "user,user/0"], 2, "twice"),
        (["--plain", "--tokenizer", "LETTERS", "--streams", "user,assistant/x"], 2, "ROLE/SLOT"),
        (["--plain", "--tokenizer", "LETTERS", "--streams", "user,assistant/²"], 2, "ROLE/SLOT"),
        (["--plain", "--tokenizer", "LETTERS", "--streams", "assistant"], 1, "an input stream to type on"),
        (["--plain", "--tokenizer", "LETTERS", "--max-rows", "9999"], 1, "max_rows is 9999"),
        (["--plain", "--tokenizer", "LETTERS", "--top-p", "0"], 1, "top_p"),
        (["--plain", "--tokenizer", "LETTERS", "--save", "no/where/x.jsonl"], 1, "there is no folder"),
        (["--plain", "--tokenizer", "LETTERS", "--save", "."], 1, "is a folder"),
    ],
)
def test_errors_are_one_line(
    run: Run, checkpoint: Path, letters: Path, options: list[str], code: int, says: str
) -> None:
    got, out, err = run(checkpoint, *(str(letters) if option == "LETTERS" else option for option in options))
    assert (got, out, len(err)) == (code, [], 1)
    assert err[0].startswith("error: ")
    assert says in err[0]


@pytest.mark.parametrize("locale", ["C.UTF-8", "C"])
def test_input_that_is_not_utf8_is_one_line_after_what_was_said_before(
    tmp_path: Path, checkpoint: Path, letters: Path, locale: str
) -> None:
    place = tmp_path / "said.jsonl"
    options = ["--plain", "--tokenizer", letters, "--patience", "4", "--device", "cpu", "--save", place]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "chat", str(checkpoint), *map(str, options)],
        input="aé☺\n".encode() + b"b\xffc\n",
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, "LC_ALL": locale},
        check=False,
    )
    assert (done.returncode, done.stderr.decode().splitlines()) == (1, ["error: line 2 of standard input is not UTF-8"])
    assert "0\tuser\taé☺" in done.stdout.decode().splitlines()
    assert json.loads(place.read_text(encoding="utf-8").splitlines()[0])["text"] == "aé☺"


def test_an_empty_line_says_nothing(run: Run, checkpoint: Path, letters: Path) -> None:
    code, out, _ = run(checkpoint, "--plain", "--tokenizer", letters, "--patience", 4, typed="\nabc\n\n")
    assert (code, out) == (0, ["row\tstream\ttext", "4\tuser\tabc", f"{4 + LAG}\tassistant\tabc"])


def test_what_a_terminal_would_obey_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    said = "\x1b]0;title\x07\x1b[41mred \x9b1m a\\b\n\t\r\u2028\u202e水é"
    _print([Event("assistant", "output", 3, 4, True, said, (1,))])
    escaped = "\\x1b]0;title\\x07\\x1b[41mred \\x9b1m a\\\\b\\n\\t\\r\\u2028\\u202e水é"
    assert capsys.readouterr().out == f"3\tassistant\t{escaped}\n"
    line = Line(0, 1, speaks=True)
    line.add(0, [Cell(0, 1, said, final=False)], ["green"])
    segments = list(Console(width=400, file=io.StringIO()).render(line.content))  # type: ignore[arg-type]
    shown = "".join(segment.text for segment in segments)
    assert "\\x1b[41mred \\x9b1m" in shown
    assert not any(control in shown for control in "\x1b\x07\x9b\u2028\u202e")


def test_a_folder_that_is_no_checkpoint_is_one_line(run: Run, tmp_path: Path) -> None:
    code, _, err = run(tmp_path, "--plain")
    assert (code, len(err)) == (1, 1)
    assert "is not a checkpoint" in err[0]


def test_streams_come_with_their_slots_and_directions(codec: TextTokenizer, checkpoint: Path) -> None:
    from pipeline.cli.chat import _streams
    from pipeline.training.model import read_checkpoint

    roles = ("assistant", "critic", "tool", "user")
    described = replace(read_checkpoint(checkpoint), roles=roles, input_roles=("tool", "user"))
    assert [(s.name, s.direction) for s in _streams(None, described)] == [
        ("user", "input"),
        ("assistant", "output"),
        ("tool", "input"),
        ("critic", "output"),
    ]
    assert _streams("tool/3,critic:input,assistant", described) == (
        Stream("tool/3", "tool", 3, "input"),
        Stream("critic", "critic", 0, "input"),
        ASSISTANT,
    )


def test_a_message_with_pauses_is_several_events_and_its_last_is_final(codec: TextTokenizer) -> None:
    chat = session(codec)
    chat.say("ab")
    chat.row()
    chat.row()
    chat.row()
    chat.say("c")
    chat.end_message()
    chat.row()
    chat.row()
    chat.finish()
    events = [(e.start, e.end, e.text, e.final) for e in chat.events if e.stream == "user"]
    assert events == [(0, 2, "ab", False), (3, 5, "c", True)]


def test_characters_of_several_tokens_show_when_they_are_whole(codec: TextTokenizer) -> None:
    chat = session(codec)
    chat.say("aé☺")
    chat.end_message()
    heard: list[Cell] = []
    for _ in range(7):
        heard += [cell for cell in chat.row() if cell.stream == 0]
    assert [cell.text for cell in heard] == ["a", "", "é", "", "", "☺", ""]
    assert [cell.final for cell in heard] == [False] * 6 + [True]


def test_a_session_ends_with_its_rows(codec: TextTokenizer) -> None:
    chat = session(codec, max_rows=3)
    assert [chat.is_over for _ in range(3) if chat.row() or True] == [False, False, True]
    with pytest.raises(TrainingError, match="3 rows are the most"):
        chat.row()


def texts(app: ChatApp) -> list[tuple[str, str]]:
    """What the lanes show, line by line, silent ones left out."""
    return [(line.texts[0], line.texts[1]) for line in app.query(Line) if line.speaks]


async def settled(app: ChatApp, condition: Callable[[], bool]) -> None:
    """Waits until something has happened; a minute at most."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def test_what_is_typed_is_echoed_side_by_side(codec: TextTokenizer) -> None:
    async def talk() -> None:
        app = ChatApp(session(codec), rows_per_second=0, patience=4)
        async with app.run_test(size=(100, 30)) as pilot:
            await pilot.press("ctrl+p")
            await pilot.pause()
            assert app.paused
            before = app.session.rows
            await pilot.press(*"abc", "enter")
            await pilot.pause(0.1)
            assert (app.session.rows, app.session.waiting) == (before, 4)
            await pilot.press("ctrl+p")
            await settled(app, lambda: app._rests)
            events = [(e.stream, e.text, e.final) for e in app.session.events]
            assert events == [("user", "abc", True), ("assistant", "abc", True)]
            shown = texts(app)
            assert "".join(user for user, _ in shown) == "abc■"
            assert "".join(assistant for _, assistant in shown) == "abc■"
            rows = app.session.rows
            await pilot.pause(0.1)
            assert app.session.rows == rows, "rows are spent on nothing"
            covered = [row for line in app.query(Line) for row in range(line.first, line.last + 1)]
            assert covered == list(range(rows))
            await pilot.press("escape", "q")
        assert app.return_code == 0

    asyncio.run(talk())


def test_whole_words_are_heard_before_enter_and_rows_go_on_by_the_clock(codec: TextTokenizer) -> None:
    async def talk() -> None:
        app = ChatApp(session(codec), rows_per_second=25, patience=4)
        async with app.run_test(size=(100, 30)) as pilot:
            await pilot.press(*"ab", "space", "c")
            await settled(app, lambda: app.session.waiting == 0)
            assert app.query_one("#say").value == " c"  # type: ignore[attr-defined]
            await settled(app, lambda: "ab" in "".join(user for user, _ in texts(app)))
            assert app.session.events[0].final is False or not app.session.events
            rows = app.session.rows
            await settled(app, lambda: app.session.rows > rows + 8)
            await pilot.press("enter")
            await settled(app, lambda: any(e.final and e.stream == "user" for e in app.session.events))
            said = "".join(e.text for e in app.session.events if e.stream == "user")
            assert said == "ab c"
            await pilot.press("ctrl+c")
        assert app.return_code == 0

    asyncio.run(talk())


def test_all_lines_of_what_is_pasted_are_said_and_enter_alone_says_nothing(codec: TextTokenizer) -> None:
    async def talk() -> None:
        app = ChatApp(session(codec), rows_per_second=0, patience=4)
        async with app.run_test(size=(100, 30)) as pilot:
            await settled(app, lambda: app._rests)
            rows = app.session.rows
            await pilot.press("enter")
            await pilot.pause(0.1)
            assert (app.session.rows, app.session.events, app.session.waiting) == (rows, [], 0)
            await pilot.press(*"ab")
            say = app.query_one("#say", Say)
            say.cursor_position = 1
            say.post_message(events.Paste("\nc d\r\nhgf\nmno\n"))
            await pilot.pause(0.1)
            assert (say.value, say.cursor_position) == ("mnob", 3)
            await pilot.press("enter")
            await settled(app, lambda: app._rests and not app.session.waiting)
            heard = [e for e in app.session.events if e.stream == "user"]
            assert [e.final for e in heard] == [False] * (len(heard) - 1) + [True]
            assert "".join(e.text for e in heard) == "ac d\nhgf\nmnob"
            await pilot.press("ctrl+c")

    asyncio.run(talk())


def test_old_lines_go_so_that_a_row_costs_no_more_for_all_that_was_said(codec: TextTokenizer) -> None:
    async def talk() -> None:
        app = ChatApp(session(codec), rows_per_second=0, patience=1)
        async with app.run_test(size=(100, 30)) as pilot:
            await settled(app, lambda: app._rests)
            lanes = app.query_one("#lanes", VerticalScroll)
            for row in range(2 * KEPT_LINES):
                app._line = None
                await app._show(lanes, row, [Cell(0, 0, "a", final=False)])
                assert len(lanes.children) <= KEPT_LINES
            assert [line.first for line in app.query(Line)][-1] == 2 * KEPT_LINES - 1
            await pilot.press("ctrl+c")

    asyncio.run(talk())


@pytest.mark.parametrize("size", [(40, 20), (100, 24)])
def test_names_stand_over_what_their_streams_say(codec: TextTokenizer, size: tuple[int, int]) -> None:
    many = tuple(
        Stream(f"{role}/{slot}", role, slot, "input" if role == "user" else "output")
        for role in ("user", "assistant")
        for slot in range(5)
    )

    async def talk() -> None:
        app = ChatApp(Session(echo_model(), METADATA, MASK, many, codec), rows_per_second=0, patience=4)
        async with app.run_test(size=size) as pilot:
            await settled(app, lambda: app._rests)
            lanes = app.query_one("#lanes", VerticalScroll)
            app._line = None
            await app._show(lanes, 0, [Cell(stream, 0, "#", final=False) for stream in range(len(many))])
            await pilot.pause()
            names = str(app.query_one("#names").render_line(0).text)
            said = str(next(line for line in app.query(Line) if line.speaks and "#" in line.texts).render_line(0).text)
            starts = [i for i, char in enumerate(said) if char == "#"]
            assert [names[i - 1 : i + 1] for i in starts] == [" u"] * 5 + [" a"] * 5
            await pilot.press("ctrl+c")

    asyncio.run(talk())


def test_the_application_says_when_no_row_is_left(codec: TextTokenizer) -> None:
    async def talk() -> None:
        app = ChatApp(session(codec, max_rows=6), rows_per_second=0, patience=50)
        async with app.run_test(size=(100, 30)) as pilot:
            await settled(app, lambda: app.session.is_over)
            await pilot.pause(0.1)
            assert "no rows are left" in str(app.query_one("#status").render())

    asyncio.run(talk())
