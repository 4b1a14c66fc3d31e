"""chat: a dialogue with a checkpoint, typed while it speaks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pipeline.decoding.session import Event, Session
    from pipeline.tokenization import TextTokenizer
    from pipeline.training.grid import GridMetadata, Stream
    from pipeline.training.model import Checkpoint, MultistreamModel

#: C0 and C1 controls, line and paragraph separators, marks that turn the direction of writing.
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(rich_help_panel="Train")(chat)


def chat(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint of `multistream train`.", show_default=False)],
    streams: Annotated[
        str | None,
        typer.Option(
            help="Streams, by role, with a slot where there are several: user,thought,assistant,tool/1. "
            "A role that the pipeline does not know is an output unless it says :input.",
            show_default="all roles of the checkpoint",
        ),
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="For pipes: a line in, a message; lines of events out.")
    ] = False,
    rows_per_second: Annotated[
        float, typer.Option(help="Rows per second; 0: as fast as it goes, and none while all are silent.", min=0)
    ] = 0.0,
    patience: Annotated[int, typer.Option(help="Silent rows after which it is your turn.", min=1)] = 32,
    max_rows: Annotated[
        int | None,
        typer.Option(help="Rows after which the dialogue ends.", min=1, show_default="the model's positions"),
    ] = None,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.", min=0)] = 0.0,
    top_p: Annotated[float, typer.Option(help="Probability of the nucleus to sample from.", max=1)] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.", min=0)] = 0,
    silence_bias: Annotated[float, typer.Option(help="Added to the logit of silence.")] = 0.0,
    tokenizer: Annotated[
        str | None, typer.Option(help="Where the tokenizer is.", show_default="by the name in the checkpoint")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    save: Annotated[
        Path | None, typer.Option(help="Write the dialogue as JSON lines of events.", show_default="none")
    ] = None,
) -> None:
    """A dialogue: type while the model speaks, streams side by side. Ctrl-C leaves.

    Example: `multistream chat build/demo/checkpoint --streams user,assistant`
    """
    from pipeline.decoding.sampling import Sampling
    from pipeline.decoding.session import Session
    from pipeline.errors import InputError, PipelineError
    from pipeline.models import quiet_transformers
    from pipeline.training.grid import TrainingError
    from pipeline.training.model import choose_device, load_checkpoint, read_checkpoint

    quiet_transformers()
    try:
        described = read_checkpoint(checkpoint)
        codec = _tokenizer(tokenizer, checkpoint, described.token_grid)
        chosen = _streams(streams, described)
        if save is not None and not save.parent.is_dir():
            raise InputError(f"--save {save}: there is no folder {save.parent}")
        if save is not None and save.is_dir():
            raise InputError(f"--save {save} is a folder; name a file in it")
        model = load_checkpoint(checkpoint, choose_device(device)).eval()
        if model.device.type == "cuda":
            _halve(model)
        session = Session(
            model,
            described.token_grid,
            described.mask,
            chosen,
            codec,
            sampling=Sampling(temperature, top_p, seed, silence_bias),
            max_rows=max_rows,
        )
        try:
            if plain:
                _plain(session, patience)
            else:
                _terminal(session, rows_per_second, patience)
        finally:
            session.finish()
            if save is not None:
                _save(session.events, save)
    except TrainingError as error:
        raise PipelineError(str(error)) from error


def _halve(model: MultistreamModel) -> None:
    """bfloat16 weights; buffers (the frequencies of rotary positions) stay as they are."""
    import torch

    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)


def _tokenizer(spec: str | None, checkpoint: Path, metadata: GridMetadata) -> TextTokenizer:
    """The tokenizer that the checkpoint was trained with: the one named, else one beside it, else by its name.

    Raises TokenizerError where it is not there, InputError where it is another one.
    """
    from pipeline.errors import InputError
    from pipeline.tokenization import TokenizerError, load_tokenizer

    beside = checkpoint / "tokenizer.json"
    name = spec or metadata.tokenizer
    if spec is None and metadata.tokenizer != "smollm2" and beside.is_file():
        name = str(checkpoint)
    try:
        found = load_tokenizer(name)
    except TokenizerError as error:
        raise error if spec else TokenizerError(f"{error}; say where it is with --tokenizer") from error
    structural = (found.bos_id, found.eom_id, found.silence_id)
    if found.sha256 != metadata.tokenizer_sha256 or structural != (
        metadata.bos_id,
        metadata.eom_id,
        metadata.silence_id,
    ):
        raise InputError(
            f"tokenizer {name} is not the {metadata.tokenizer} that the checkpoint was trained with "
            f"(sha256 {metadata.tokenizer_sha256[:12]}); say where that is with --tokenizer"
        )
    return found


def _streams(wanted: str | None, described: Checkpoint) -> tuple[Stream, ...]:
    """The streams of ``--streams``, or one of every role of the checkpoint in the pipeline's order. Raises ConfigError."""
    from pipeline.errors import ConfigError
    from pipeline.timeline import STREAM_ORDER
    from pipeline.training.grid import Stream

    order = [role for role, _ in STREAM_ORDER]
    known = {role: "input" if role in described.input_roles else "output" for role in described.roles}
    if wanted is None:
        roles = sorted(described.roles, key=lambda role: (order.index(role) if role in order else len(order), role))
        return tuple(Stream(role, role, 0, known[role]) for role in roles)
    streams: list[Stream] = []
    for item in wanted.split(","):
        name, _, direction = item.strip().partition(":")
        role, slash, slot = name.partition("/")
        numbered = slot.isascii() and slot.isdigit() and int(slot) <= 255
        if direction not in ("", "input", "output") or (slash and not numbered):
            raise ConfigError(f"--streams {item!r}: expected ROLE, ROLE/SLOT or ROLE:input")
        if role not in described.roles:
            raise ConfigError(f"--streams {item!r}: the checkpoint has the roles {', '.join(described.roles)}")
        if (role, int(slot or 0)) in ((stream.role, stream.slot) for stream in streams):
            raise ConfigError(f"--streams names {name!r} twice")
        streams.append(Stream(name, role, int(slot or 0), direction or known[role]))
    return tuple(streams)


def _plain(session: Session, patience: int) -> None:
    """Hears every line of standard input as a message and runs until silence; prints events as they end.

    Text is UTF-8 whatever the locale. Raises InputError at a line that is not, when those before it have been heard.
    """
    import io
    import sys

    from pipeline.errors import InputError

    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    print("row\tstream\ttext", flush=True)
    shown = 0
    for number, line in enumerate(sys.stdin, start=1):
        if not _is_utf8(line):
            raise InputError(f"line {number} of standard input is not UTF-8")
        session.say(line.rstrip("\r\n"))
        session.end_message()
        for _ in session.until_silence(patience):
            shown += _print(session.events[shown:])
        if session.is_over:
            from pipeline.cli import console

            session.finish()
            _print(session.events[shown:])
            console.err.print(f"the dialogue has had its {session.rows} rows")
            return
    session.finish()
    _print(session.events[shown:])


def _is_utf8(line: str) -> bool:
    """Whether no byte of a line had to be escaped."""
    try:
        line.encode()
    except UnicodeEncodeError:
        return False
    return True


def harmless(text: str) -> str:
    """The text with what a terminal or a reader of lines would obey as escapes: ``\\n``, ``\\x1b``, ``\\u2028``."""
    return _OBEYED.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def _print(events: Sequence[Event]) -> int:
    for event in events:
        text = harmless(event.text.replace("\\", "\\\\"))
        print(f"{event.start}\t{event.stream}\t{text}", flush=True)
    return len(events)


def _terminal(session: Session, rows_per_second: float, patience: int) -> None:
    import sys

    from pipeline.errors import ConfigError, InputError

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError("chat needs a terminal; use --plain for pipes")
    try:
        from pipeline.cli.chat_app import ChatApp
    except ImportError as error:
        raise InputError("chat needs the package textual: pip install textual, or use --plain") from error
    ChatApp(session, rows_per_second, patience).run()


def _save(events: Iterable[Event], place: Path) -> None:
    import json

    with place.open("w", encoding="utf-8") as file:
        for event in sorted(events, key=lambda event: event.start):
            told: dict[str, Any] = event.to_json()
            file.write(json.dumps(told, ensure_ascii=False) + "\n")
