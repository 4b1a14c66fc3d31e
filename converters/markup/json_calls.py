"""Tool calls written as JSON text: ``{"name", "arguments"}``, or a list of them; the arguments are a slice of the text."""

from __future__ import annotations

import ast
import warnings
from dataclasses import replace

import msgspec

from converters.markup.delimiters import surround
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


def python_call(text: str) -> Part:
    """The call in the text of a Python dict, ``{'name': …, 'arguments': {…}}``; its ``source`` is the text.

    The arguments are as the text writes them. Raises ValueError where the text is no such dict.
    """
    body = text.strip()
    if not body.startswith("{"):
        raise ValueError("it is no dict")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(body, mode="eval").body
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError("it is no Python literal") from error
    if not isinstance(tree, ast.Dict):
        raise ValueError("it is no dict")
    values = {
        key.value: value for key, value in zip(tree.keys, tree.values, strict=True) if isinstance(key, ast.Constant)
    }
    name, arguments = values.get("name"), values.get("arguments", values.get("parameters"))
    if not (isinstance(name, ast.Constant) and isinstance(name.value, str) and isinstance(arguments, ast.Dict)):
        raise ValueError("it has no name, or its arguments are no dict")
    try:
        ast.literal_eval(arguments)
    except (RecursionError, MemoryError, TypeError) as error:
        raise ValueError("its arguments are no Python literal") from error
    return Part("tool_call", ast.get_source_segment(body, arguments) or "", name=name.value, source=text)


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


def results_in_list(parts: tuple[Part, ...], n: int) -> tuple[Part, ...]:
    """The one result of ``n`` calls as a part each, where it is the JSON text of a list of ``n``; else the parts as they are.

    Elements are as the text writes them, the punctuation between them delimiters. A result that names its call is one.
    """
    if len(parts) != 1 or parts[0].call_id is not None:
        return parts
    whole = parts[0]
    try:
        spans = json_elements(whole.text)
    except (msgspec.DecodeError, RecursionError):
        return parts
    if len(spans) != n:
        return parts
    results = []
    for i, (start, end) in enumerate(spans):
        before = whole.text[spans[i - 1][1] if i else 0 : start]
        after = whole.text[end:] if i == n - 1 else ""
        results.append(replace(whole, text=whole.text[start:end], before=before, after=after))
    return surround(tuple(results), whole.before, whole.after)
