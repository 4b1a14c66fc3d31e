"""Tool calls written as JSON text: ``{"name", "arguments"}``, or a list of them; the arguments are a slice of the text."""

from __future__ import annotations

import msgspec

from pipeline.conversation import Part


class _Call(msgspec.Struct):
    name: str
    arguments: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    parameters: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Action(msgspec.Struct):
    action: str
    action_input: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def json_calls(text: str) -> tuple[Part, ...]:
    """The calls in JSON text: an object, or a list of objects; each part keeps its stretch of the text as ``source``.

    Arguments (``parameters`` where there are no ``arguments``) are as the text writes them; a JSON string is its content,
    null and absent ones are "". An empty list holds no call. Raises ValueError where the text is no such JSON.
    """
    try:
        if not text.lstrip().startswith("["):
            return (_call(text, text),)
        spans = json_elements(text)
        cuts = [0, *(end for _, end in spans[:-1]), len(text)]
        return tuple(_call(text[a:b], text[cuts[i] : cuts[i + 1]]) for i, (a, b) in enumerate(spans))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def json_action(text: str) -> Part:
    """The call in ``{"action", "action_input"}``, as LangChain writes it. Raises ValueError for other text."""
    try:
        call = msgspec.json.decode(text, type=_Action)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return Part("tool_call", _arguments(call.action_input), name=call.action, source=text)


def json_elements(text: str) -> list[tuple[int, int]]:
    """Where the elements of a JSON list stand in its text: offsets (start, end) in characters.

    Raises msgspec.DecodeError where the text is no JSON list, RecursionError where it is nested too deeply.
    """
    elements = msgspec.json.decode(text, type=list[msgspec.Raw])
    spans = []
    position = text.index("[") + 1
    for element in elements:
        raw = bytes(element).decode()
        start = text.index(raw, position)
        position = start + len(raw)
        spans.append((start, position))
    return spans


def _call(text: str, source: str) -> Part:
    call = msgspec.json.decode(text, type=_Call)
    arguments = call.parameters if call.arguments is msgspec.UNSET else call.arguments
    return Part("tool_call", _arguments(arguments), name=call.name, source=source)


def _arguments(raw: msgspec.Raw | msgspec.UnsetType) -> str:
    if raw is msgspec.UNSET:
        return ""
    text = bytes(raw).decode()
    if text.startswith('"'):
        return msgspec.json.decode(text, type=str)
    if text == "null":
        return ""
    if not text.startswith("{"):
        raise ValueError(f"the arguments are {text:.40}, expected an object or a string")
    return text
