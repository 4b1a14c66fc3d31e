"""Streams one after the other: an order in which everything comes after what it waited for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from heapq import heappop, heappush
from typing import Any

from pipeline.conversation import RecordError

#: Message and part of an event; an event that is in no message (tool definitions) has its index behind −1.
Part = tuple[int, int]
#: A part and −1 for the whole of it, or a part and the index of one of its events.
_Node = tuple[int, int, int]


def in_order(events: Sequence[Mapping[str, Any]], outputs: Sequence[bool]) -> list[int]:
    """The indices of a record's events, so that each comes after those it waited for and those before it on its stream.

    As far as that allows parts stay whole, and stand in the order of the conversation. Where parts wait for each other,
    they are cut at events: those on output streams first, calls never. ``outputs``: for each stream, whether the model
    writes it. Raises RecordError ``entangled`` where there is no such order: a call waits for what waits for its beginning;
    ``bad_after`` where an event waits for one that is not there.
    """
    parts = [_part(index, event) for index, event in enumerate(events)]
    kinds: dict[Part, list[bool]] = {}
    sizes: dict[Part, int] = {}
    for part, event in zip(parts, events, strict=True):
        sizes[part] = sizes.get(part, 0) + 1
        kinds[part] = [event["kind"] != "tool_call", outputs[event["stream"]]]
    cut: set[Part] = set()
    while True:
        nodes: list[_Node] = [(*part, index if part in cut else -1) for index, part in enumerate(parts)]
        sorter = _sorter(events, nodes)
        try:
            sorter.prepare()
        except CycleError as error:
            found = {node[:2] for node in error.args[1] if node[2] < 0}
            able = [part for part in found if sizes[part] > 1 and kinds[part][0]]
            if not able:
                raise RecordError("entangled", "a call waits for what waits for its beginning") from None
            written = [part for part in able if kinds[part][1]]
            cut.update(written or able)
            continue
        return _sorted(sorter, nodes)


def _part(index: int, event: Mapping[str, Any]) -> Part:
    return (-1, index) if event["message"] is None else (event["message"], event["part"] or 0)


def _sorter(events: Sequence[Mapping[str, Any]], nodes: Sequence[_Node]) -> TopologicalSorter[_Node]:
    sorter: TopologicalSorter[_Node] = TopologicalSorter()
    last: dict[int, _Node] = {}
    for node, event in zip(nodes, events, strict=True):
        if any(not 0 <= other < len(nodes) for other in event["after"]):
            raise RecordError("bad_after", "an event waits for one that is not there")
        before = {nodes[other] for other in event["after"]}
        if event["stream"] in last:
            before.add(last[event["stream"]])
        sorter.add(node, *sorted(before - {node}))
        last[event["stream"]] = node
    return sorter


def _sorted(sorter: TopologicalSorter[_Node], nodes: Sequence[_Node]) -> list[int]:
    members: dict[_Node, list[int]] = {}
    for index, node in enumerate(nodes):
        members.setdefault(node, []).append(index)
    ready: list[_Node] = []
    order: list[int] = []
    while sorter.is_active():
        for node in sorter.get_ready():
            heappush(ready, node)
        node = heappop(ready)
        order.extend(members[node])
        sorter.done(node)
    return order
