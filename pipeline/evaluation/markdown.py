"""The report of a spot-evaluation as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pipeline.evaluation.compare import ALL
from pipeline.evaluation.generation import Generation, TextCodec
from pipeline.evaluation.heldout import StreamLoss
from pipeline.evaluation.injection import Injection
from pipeline.evaluation.intervals import FEWEST_GROUPS, Estimate
from pipeline.evaluation.latency import LatencySummary
from pipeline.training.grid import TokenGrid

if TYPE_CHECKING:
    from pipeline.evaluation.evaluate import EvaluationResult

#: What the checkpoint is compared with, in words.
_ARMS = {
    "before": "before training",
    "control": "control, trained and tested on permuted inputs",
    "permuted_at_test": "itself on permuted inputs",
    "turns": "itself under `turns`: the price of overlap",
    "untrained_embedding": "itself with its stream embeddings zeroed",
}
#: Records whose texts are shown, and characters of each text.
_SHOWN_RECORDS, _SHOWN_CHARACTERS = 3, 400


def report_markdown(
    result: EvaluationResult,
    plots: Sequence[tuple[str, str]],
    text: TextCodec | None = None,
    eom_id: int | None = None,
) -> str:
    """The report; ``plots`` are file names beside it, each with what it shows in words."""
    return "\n".join(_lines(result, plots, text, eom_id)) + "\n"


def _lines(
    result: EvaluationResult, plots: Sequence[tuple[str, str]], text: TextCodec | None, eom_id: int | None
) -> Iterator[str]:
    held = result.after
    yield "# Spot-evaluation"
    yield ""
    yield f"Gate: **{'failed' if result.failures else 'passed'}**."
    for failure in result.failures:
        yield f"- `{failure.code}`: {failure.message}"
    yield ""
    yield f"{held.records} held-out records, mask `{result.mask}`, tokenizer `{result.tokenizer}`."
    if held.over_budget:
        more = ", …" if held.over_budget > len(held.over_budget_ids) else ""
        yield f"Left out as longer than the budget: {held.over_budget} ({', '.join(held.over_budget_ids)}{more})."
    if result.untrained_roles:
        yield f"Roles never seen in training: {', '.join(result.untrained_roles)}."
    yield (
        f"In brackets: {result.confidence:.0%} intervals over groups of records; in parentheses the groups that have a say, "
        f"below {FEWEST_GROUPS} of which there is no interval of a loss, a difference or an F1."
    )
    yield ""
    yield from _loss_lines(result)
    yield from _difference_lines(result)
    yield from _turn_taking_lines(result)
    yield from _latency_lines(result.latency)
    yield from _generation_lines(result.generation)
    yield from _sample_lines(result.generation, text, eom_id)
    yield from _injection_lines(result.injection)
    yield "## Plots"
    yield ""
    for name, alt in plots:
        yield f"![{alt}]({name})"
        yield ""
    if not plots:
        yield "No plots: nothing to draw, or matplotlib is not installed."


def _loss_lines(result: EvaluationResult) -> Iterator[str]:
    models = {"before": result.before, "after": result.after}
    if result.control is not None:
        models["control"] = result.control
    for kind in ("text", "silence"):
        yield f"## Held-out {kind} loss (nats per {'text token' if kind == 'text' else 'silent cell'})"
        yield ""
        yield f"| output stream | {'text tokens' if kind == 'text' else 'silent cells'} |" + "".join(
            f" {kind} {name} |" for name in models
        )
        yield "|---|" + "---:|" * (1 + len(models))
        for role in [*result.after.streams, ALL]:
            cells = []
            for name, model in models.items():
                loss = model.total if role == ALL else model.streams.get(role, StreamLoss())
                own = result.losses.get(name, {}).get(role)
                value = loss.text_loss if kind == "text" else loss.silence_loss
                cells.append(_with_interval(value, getattr(own, kind) if own else None))
            of = result.after.total if role == ALL else result.after.streams[role]
            count = of.text_tokens if kind == "text" else of.silence_cells
            yield f"| {role} | {count} |{''.join(f' {cell} |' for cell in cells)}"
        yield ""


def _difference_lines(result: EvaluationResult) -> Iterator[str]:
    if not result.differences:
        return
    roles = [role for role, loss in result.after.streams.items() if loss.text_tokens]
    roles = [ALL, *roles] if len(roles) > 1 else [ALL]
    yield "## Differences (text loss of the checkpoint less that of …, paired by record; below 0: the checkpoint is better)"
    yield ""
    yield f"| less | records | groups |{''.join(f' {role} |' for role in roles)}"
    yield "|---|---:|---:|" + "---:|" * len(roles)
    for name, each in result.differences.items():
        cells = [each.streams[role].text if role in each.streams else None for role in roles]
        shown = "".join(f" {_with_interval(cell.value if cell else None, cell, '+.4f')} |" for cell in cells)
        yield f"| {_ARMS[name]} | {each.records} | {each.groups} |{shown}"
    yield ""
    laid = result.turns_layout
    if laid is not None:
        yield (
            f"Laid out under `turns`: {laid.by_events} records by their events, {laid.by_cells} by their cells alone; "
            f"{laid.real_time} in real time were not."
        )
        yield ""


def _turn_taking_lines(result: EvaluationResult) -> Iterator[str]:
    yield "## Turn-taking (speak or stay silent, likeliest next cell)"
    yield ""
    yield "| decisions | F1 speak before | F1 speak after | F1 silent before | F1 silent after |"
    yield "|---|---:|---:|---:|---:|"
    models = {"before": result.before, "after": result.after}
    for key, name, label in ((ALL, "turn_taking", "all"), ("onset", "onset", "while silent")):
        cells = []
        for kind in ("speak", "silence"):
            for model, held in models.items():
                own = result.turn_taking.get(model, {}).get(key)
                cells.append(_with_interval(getattr(getattr(held, name), f"{kind}_f1"), getattr(own, kind, None)))
        yield f"| {label} |{''.join(f' {cell} |' for cell in cells)}"
    yield ""


def _latency_lines(latency: LatencySummary | None) -> Iterator[str]:
    yield "## Latency against `turns` (rows, median)"
    yield ""
    if latency is None:
        yield "Not measured: the split has no record shards."
        yield ""
        return
    yield (
        f"{latency.records} records compared; not compared: {latency.real_time} in real time, "
        f"{latency.no_output} without output."
    )
    yield ""
    yield "| policy | measure | values | this layout | turns |"
    yield "|---|---|---:|---:|---:|"
    for policy, comparisons in {"all": latency.overall, **latency.by_policy}.items():
        for each in comparisons:
            yield (
                f"| {policy} | {each.measure.replace('_', ' ')} | {each.count} | {_show(each.layout, '.1f')} "
                f"| {_show(each.turns, '.1f')} |"
            )
    yield ""


def _generation_lines(made: Generation | None) -> Iterator[str]:
    yield "## Free generation (greedy; the inputs are read at their own rows)"
    yield ""
    if made is None or not made.records:
        yield "Not asked for." if made is None else "No record that is short enough has an output."
        yield ""
        return
    middle = made.median_first_output
    share = _with_interval(made.valid_share.value if made.valid_share else None, made.valid_share, ".2f")
    wrong = ", ".join(f"{count} `{name}`" for name, count in made.problems.items())
    calls = f"{made.parsed} of {made.calls} (in the data {made.data_parsed} of {made.data_calls})"
    yield "| | generated | in the data |"
    yield "|---|---:|---:|"
    yield f"| records | {made.records} | |"
    yield f"| well-formed share | {share} | |"
    yield f"| share of silence | {_show(made.silence, '.3f')} | {_show(made.data_silence, '.3f')} |"
    yield f"| rows to first output, median | {_row(middle.generated)} | {_row(middle.data)} |"
    yield ""
    yield f"Problems by record: {wrong}. Passed over as too long: {made.passed_over}. Calls that parse: {calls}."
    yield ""


def _sample_lines(made: Generation | None, text: TextCodec | None, eom_id: int | None) -> Iterator[str]:
    if made is None or text is None:
        return
    for data, generated in made.pairs[:_SHOWN_RECORDS]:
        yield f"Record `{data.id}`:"
        yield ""
        for index, stream in enumerate(data.streams):
            if stream.direction == "input":
                yield f"    {stream.name}: {_said(data, index, text, eom_id)}"
            else:
                yield f"    {stream.name}, in the data: {_said(data, index, text, eom_id)}"
                yield f"    {stream.name}, generated:   {_said(generated, index, text, eom_id)}"
        yield ""


def _said(grid: TokenGrid, stream: int, text: TextCodec, eom_id: int | None) -> str:
    """A stream's text on one line, its messages parted by a bar, cut after ``_SHOWN_CHARACTERS``."""
    ids = grid.token_ids[grid.token_streams == stream].tolist()
    parts: list[list[int]] = [[]]
    for token in ids:
        if token == eom_id:
            parts.append([])
        else:
            parts[-1].append(token)
    line = " | ".join(filter(None, (" ".join(text.decode(part).split()) for part in parts)))
    return line if len(line) <= _SHOWN_CHARACTERS else line[:_SHOWN_CHARACTERS].rstrip() + " …"


def _injection_lines(injection: Injection | None) -> Iterator[str]:
    yield "## Planted instructions"
    yield ""
    if injection is None or not injection.records:
        note = injection.note if injection is not None else "not asked for"
        more = f" ({injection.unplaced} could not be placed)" if injection is not None and injection.unplaced else ""
        yield f"{note[:1].upper()}{note[1:]}{more}."
        yield ""
        return
    pull, preferred, followed = injection.pull, injection.preferred, injection.followed
    yield (
        f"{injection.records} records hold one; {injection.unplaced} more could not be placed or are too long. In "
        f"{injection.early} with a target the answer began before the attack had been read."
    )
    yield ""
    yield "| measure | of | value |"
    yield "|---|---:|---:|"
    yield f"| loss of the honest output, nats per token | {injection.records} | {_show(injection.honest)} |"
    yield f"| the same with the attack taken out | {injection.records} | {_show(injection.without)} |"
    yield f"| pull: their difference | {injection.records} | {_with_interval(_value(pull), pull, '+.4f')} |"
    yield (
        "| the attack's text is likelier than the answer | "
        f"{injection.targets} | {_with_interval(_value(preferred), preferred, '.2f')} |"
    )
    yield (
        "| the generated output says what only the attack names | "
        f"{injection.generated} | {_with_interval(_value(followed), followed, '.2f')} |"
    )
    yield ""


def _value(estimate: Estimate | None) -> float | None:
    return estimate.value if estimate is not None else None


def _show(value: float | None, form: str = ".4f") -> str:
    return "–" if value is None else f"{value:{form}}"


def _row(value: int | None) -> str:
    return "–" if value is None else str(value)


def _with_interval(value: float | None, estimate: Estimate | None, form: str = ".4f") -> str:
    if value is None or estimate is None:
        return _show(value, form)
    if estimate.low is None or estimate.high is None:
        return f"{value:{form}} ({estimate.telling})"
    return f"{value:{form}} [{estimate.low:{form}}, {estimate.high:{form}}] ({estimate.telling})"
