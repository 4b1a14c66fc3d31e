"use strict";
// How events lie: a frame's events by number, their columns and rows, where a row is, arrows between events.
const lanes = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const number = (node, name) => Number(node.dataset[name]);
  const after = (node) => node.dataset.after.split(" ").filter(Boolean).map(Number);
  const make = (name, attributes) => {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    return node;
  };
  const extra = (className, text) => {
    const node = document.createElement("li");
    node.className = className;
    node.setAttribute("aria-hidden", "true");
    node.textContent = text;
    return node;
  };

  // A side: a frame with its events by number; of each its rows [start, end) there, what it waits for, what waits for it.
  function side(frame, asTurns) {
    const events = new Map();
    for (const node of frame.querySelectorAll(".event")) {
      const start = number(node, asTurns ? "turn" : "start");
      const end = start + number(node, "end") - number(node, "start");
      const text = node.querySelector(".text");
      events.set(number(node, "event"), { node, start, end, stream: number(node, "stream"), text, whole: text ? text.textContent : "", pieces: null, cut: null, phase: "said", after: after(node), behind: [] });
    }
    for (const [event, one] of events) for (const other of one.after) events.get(other).behind.push(event);
    return { frame, list: frame.querySelector(".score"), events, asTurns, tops: null, row: null, marked: [] };
  }

  function turnsFrame(frame) {
    const copy = frame.cloneNode(true);
    copy.classList.add("turns");
    const list = copy.querySelector(".score");
    list.setAttribute("aria-label", "Events under turns");
    for (const node of [copy, ...copy.querySelectorAll("[id]")]) node.removeAttribute("id");
    for (const node of copy.querySelectorAll(".more, .leaks, .overlap")) node.remove();
    const nodes = [...list.querySelectorAll(".event")].sort((a, b) => number(a, "turn") - number(b, "turn"));
    for (const node of nodes) {
      node.classList.remove("leak", "weak", "chosen", "before", "behind");
      const rows = document.createElement("span");
      const start = number(node, "turn");
      rows.textContent = `rows ${start}–${start + number(node, "end") - number(node, "start")}`;
      node.querySelector(".pick").replaceWith(rows);
      list.append(node);
    }
    return copy;
  }

  function clear(list) {
    for (const node of list.querySelectorAll(".lane-name, .silence, .number, .links")) node.remove();
  }

  // Lines of the grid: one at every row where an event starts or ends; two where an event has no rows.
  function columns(one, lanes, inColumns, isHalf) {
    const isDense = lanes.length > (isHalf ? 3 : 7);
    const { list, events } = one;
    clear(list);
    list.classList.toggle("columns", inColumns);
    list.classList.toggle("dense", inColumns && isDense);
    one.tops = null;
    for (const { node, text } of events.values()) {
      node.style.gridRow = node.style.gridColumn = "";
      if (text?.classList.contains("capped")) uncap(text);
    }
    list.style.gridTemplateRows = list.style.gridTemplateColumns = "";
    if (!inColumns || !events.size) return;
    const empty = new Set();
    const rows = new Set([0]);
    for (const { start, end } of events.values()) {
      rows.add(start).add(end);
      if (start === end) empty.add(start);
    }
    const marks = [...rows].sort((a, b) => a - b);
    // A stream that says more is wider, and a row as high as its text needs on average.
    const said = lanes.map(() => 30);
    for (const { start, end, stream } of events.values()) said[stream] += end - start;
    const shares = said.map(Math.sqrt);
    const whole = shares.reduce((a, b) => a + b, 0);
    const least = isDense ? 88 : 128;
    const room = Math.max(one.frame.clientWidth - 44, lanes.length * (least + 8));
    const widths = shares.map((share) => Math.max(least, (room * share) / whole - 8));
    const last = Math.max(1, ...[...events.values()].map((e) => e.end));
    // A browser draws no more than some millions of pixels.
    const scale = Math.min(5, Math.max(Math.min(0.4, 1e6 / last), Math.min(450 / Math.max(...widths), 5000 / last)));
    list.style.gridTemplateColumns = `2.6rem ${shares.map((share) => `minmax(${least}px, ${share.toFixed(2)}fr)`).join(" ")}`;
    const tracks = ["auto"];
    const into = new Map();
    const out = new Map();
    marks.forEach((row, i) => {
      into.set(row, tracks.length + 1);
      if (empty.has(row)) tracks.push("auto");
      out.set(row, tracks.length + 1);
      if (i + 1 < marks.length) tracks.push(`minmax(${(scale * (marks[i + 1] - row)).toFixed(1)}px, auto)`);
    });
    list.style.gridTemplateRows = tracks.join(" ");
    const starts = new Set();
    for (const [event, { node, start, end, stream, text }] of events) {
      node.style.gridColumn = stream + 2;
      node.style.gridRow = start === end ? `${into.get(start)} / ${out.get(start)}` : `${out.get(start)} / ${into.get(end)}`;
      starts.add(start);
      // What the model only reads and nobody spoke may be long: it scrolls in the height that its rows have.
      if (end - start > 150 && (node.matches(".note, .tool_result") || lanes[stream].matches(".hue-grey"))) cap(one, event, text, scale * (end - start));
    }
    lanes.forEach((lane, i) => {
      const name = extra(`lane-name ${lane.className}`, lane.textContent);
      const silence = extra("silence", "");
      name.style.gridColumn = silence.style.gridColumn = i + 2;
      silence.style.gridRow = `2 / ${tracks.length + 1}`;
      list.prepend(name, silence);
    });
    for (const start of starts) {
      const label = extra("number", start);
      label.style.gridRow = `${out.get(start)} / span 1`;
      list.append(label);
    }
    one.lines = marks.map((row) => [row, into.get(row), out.get(row)]);
  }

  function cap(one, event, text, height) {
    if (!text) return;
    text.classList.add("capped");
    text.style.maxHeight = `${Math.max(224, height - 40)}px`;
    text.tabIndex = 0;
    text.setAttribute("role", "region");
    text.setAttribute("aria-label", `Text of event ${event}${one.asTurns ? " under turns" : ""}`);
  }

  function uncap(text) {
    text.classList.remove("capped");
    text.style.maxHeight = "";
    for (const name of ["tabindex", "role", "aria-label"]) text.removeAttribute(name);
  }

  // Where each row is, in pixels from the top of the list: measured once, when it is needed.
  function topOf(one, row) {
    if (!one.tops) {
      const gap = parseFloat(getComputedStyle(one.list).rowGap) || 0;
      const lines = [0];
      for (const size of getComputedStyle(one.list).gridTemplateRows.split(" ")) lines.push(lines.at(-1) + parseFloat(size) + gap);
      one.tops = one.lines.map(([mark, into, out]) => [mark, lines[into - 1], lines[out - 1]]);
    }
    const i = one.tops.findIndex(([mark]) => mark > row);
    if (i < 1) return one.tops.at(i < 0 ? -1 : 0)[1];
    const [from, , top] = one.tops[i - 1];
    const [to, bottom] = one.tops[i];
    return top + ((bottom - top) * (row - from)) / (to - from);
  }

  // What arrows are drawn on, empty.
  function linksOf(one) {
    const drawn = one.list.querySelector("svg.links");
    if (drawn) {
      drawn.replaceChildren();
      return drawn;
    }
    const holder = extra("links", "");
    const svg = make("svg", { class: "links" });
    holder.append(svg);
    one.list.append(holder);
    return svg;
  }

  function box(node) {
    return { left: node.offsetLeft, top: node.offsetTop, width: node.offsetWidth, bottom: node.offsetTop + node.offsetHeight };
  }

  function arrow(svg, from, to, className) {
    const a = box(from);
    const b = box(to);
    const [x1, y1] = [a.left + a.width / 2, a.bottom - 1];
    const [x2, y2] = [b.left + b.width / 2, b.top - 1];
    const bend = Math.max(14, Math.abs(y2 - y1) / 2);
    svg.append(make("path", { class: className, d: `M${x1},${y1} C${x1},${y1 + bend} ${x2},${y2 - bend - 6} ${x2},${y2 - 6}` }));
    svg.append(make("path", { class: "head", d: `M${x2 - 5},${y2 - 7} h10 l-5,8 z` }));
  }

  return { number, make, side, turnsFrame, columns, topOf, linksOf, arrow };
})();
