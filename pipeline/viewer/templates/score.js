"use strict";
// One record at a time: its events in columns, the edges of one event, its details, and time going by.
const score = (() => {
  const { make, side, turnsFrame, columns, topOf, linksOf, arrow } = lanes;
  const LANE = 22;
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const segmenter = "Segmenter" in Intl ? new Intl.Segmenter(undefined, { granularity: "grapheme" }) : null;
  const details = document.querySelector(".details");
  const slider = document.getElementById("row");
  const at = document.getElementById("at");
  const speed = document.getElementById("speed");
  const player = document.querySelector(".player");
  const playButton = document.getElementById("play");
  let article = null;
  let sides = [];
  let strips = [];
  let chosen = null;
  let picked = null;
  let inColumns = true;
  let beside = false;
  let timer = 0;
  let last = 0;
  let lines = [];
  let revealed = () => {};

  function unmark() {
    for (const one of sides) {
      for (const node of one.marked) node.classList.remove("chosen", "before", "behind");
      one.marked = [];
    }
    for (const strip of strips) {
      for (const node of strip.links) node.remove();
      strip.lit?.classList.remove("lit");
      strip.lit = null;
      strip.links = [];
    }
  }

  // Marks an event, what it waits for and what waits for it; null: none.
  function mark(event) {
    unmark();
    for (const one of sides) {
      const svg = inColumns ? linksOf(one) : null;
      const own = one.events.get(event);
      if (!own) continue;
      const sign = (node, className) => {
        node.classList.add(className);
        one.marked.push(node);
      };
      sign(own.node, "chosen");
      const before = own.after.map((i) => one.events.get(i).node);
      const behind = own.behind.map((i) => one.events.get(i).node);
      for (const node of before) sign(node, "before");
      for (const node of behind) sign(node, "behind");
      if (!svg) continue;
      for (const node of before) arrow(svg, node, own.node, "");
      for (const node of behind) arrow(svg, own.node, node, "behind");
    }
    for (const strip of strips) {
      strip.lit = strip.rects.get(event);
      if (!strip.lit) continue;
      strip.lit.classList.add("lit");
      for (const i of sides[0].events.get(event).after) {
        const [a, b] = [strip.rects.get(i), strip.lit];
        const x1 = parseFloat(a.getAttribute("x")) + parseFloat(a.getAttribute("width"));
        strip.links.push(make("line", { class: "link", x1: `${x1}%`, y1: Number(a.getAttribute("y")) + LANE / 3, x2: b.getAttribute("x"), y2: Number(b.getAttribute("y")) + LANE / 3 }));
      }
      strip.svg.append(...strip.links);
    }
    tell(event);
    follow();
  }

  function tell(event) {
    const body = document.getElementById("details-body");
    body.replaceChildren();
    details.classList.toggle("empty", event === null);
    document.getElementById("details-name").textContent = event === null ? "No event is selected" : `Event ${event}`;
    if (event === null) {
      body.textContent = "Point at an event, or select one: its edges, rows, verdicts and evidence show here.";
      return;
    }
    const node = sides[0].events.get(event).node;
    const facts = node.querySelector(".more dl").cloneNode(true);
    body.append(facts);
    const leaks = node.querySelector(".leaks");
    if (leaks) body.append(leaks.cloneNode(true));
  }

  // What bars hide of the window, above and below, in pixels.
  function hidden(one) {
    const { position, bottom } = getComputedStyle(details);
    const name = inColumns && !one.frame.classList.contains("scrolls") ? one.list.querySelector(".lane-name") : null;
    return {
      above: (getComputedStyle(player).position === "sticky" ? player.offsetHeight : 0) + (name?.offsetHeight ?? 0) + 8,
      below: (position === "fixed" || (position === "sticky" && bottom !== "auto") ? details.offsetHeight : 0) + 8,
    };
  }

  // Brings an event into sight: whole where there is room for it, else its head.
  function show(node) {
    const { above, below } = hidden(sides[0]);
    const isWhole = node.offsetHeight <= innerHeight - above - below;
    const target = isWhole ? node : node.querySelector(".meta");
    // Of this element only: what all inherit would have the browser look at every event again.
    target.style.scrollMarginBlock = `${above}px ${below}px`;
    target.scrollIntoView({ block: isWhole ? "nearest" : "start", inline: "nearest" });
  }

  function choose(event, { focus = false, scroll = false } = {}) {
    if (!article) return;
    chosen = event;
    picked?.removeAttribute("aria-current");
    if (picked) picked.tabIndex = -1;
    const { events } = sides[0];
    picked = (events.get(event) ?? events.values().next().value)?.node.querySelector(".pick") ?? null;
    if (picked) picked.tabIndex = 0;
    mark(event);
    if (event === null) return;
    picked.setAttribute("aria-current", "true");
    if (focus) picked.focus({ preventScroll: true });
    if (scroll) show(events.get(event).node);
  }

  function step(by) {
    const order = [...sides[0].events.keys()];
    if (!order.length) return;
    const i = chosen === null ? (by > 0 ? -1 : order.length) : order.indexOf(chosen);
    choose(order[Math.min(order.length - 1, Math.max(0, i + by))], { focus: true, scroll: true });
  }

  // The event that speaks at a row (the last to begin, if several), or the next one that does.
  function goToRow(row) {
    const events = [...sides[0].events].filter(([, e]) => e.end > row).sort(([, a], [, b]) => a.start - b.start);
    if (!events.length) return false;
    const [event, { start }] = events.findLast(([, e]) => e.start <= row) ?? events[0];
    choose(event, { focus: true, scroll: !inColumns || start >= row });
    if (inColumns && start < row) showRow(sides[0], row);
    return true;
  }

  // Draws a line at a row inside an event, and brings it into sight.
  function showRow(one, row) {
    const y = topOf(one, row);
    one.list.querySelector("svg.links").append(make("line", { class: "sought", x1: 0, x2: "100%", y1: y, y2: y }));
    const { above, below } = hidden(one);
    const seen = one.list.getBoundingClientRect().top + y;
    if (seen < above + 8 || seen > innerHeight - below - 8) scrollBy({ top: seen - above - (innerHeight - above - below) / 3 });
  }

  const total = () => last;

  // Shows what had been said when ``row`` rows were over; at the last row, everything.
  function setRow(row) {
    if (!article) return;
    const isAll = row >= last;
    for (const one of sides) {
      one.frame.classList.toggle("playing", !isAll);
      one.row = isAll ? null : row;
      reveal([...one.events.values()], isAll ? Infinity : row);
    }
    // What the events need is laid out by itself, before what moves outside of them.
    void playButton.offsetTop;
    slider.value = Math.floor(row);
    at.textContent = `${Math.floor(row)} of ${last}`;
    follow();
    revealed();
  }

  function reveal(events, row) {
    const phase = ({ start, end }) => (start < row && row < end ? "part" : start >= row && end > row ? "later" : "said");
    const changed = events.filter((event) => phase(event) !== event.phase);
    // While a text is said its size is fixed: the page need not be laid out anew at every word.
    const heights = changed.map((event) => (event.text && phase(event) === "part" ? event.text.offsetHeight : null));
    changed.forEach((event, i) => {
      const { node, text } = event;
      event.phase = phase(event);
      node.classList.toggle("later", event.phase === "later");
      node.classList.toggle("part", event.phase === "part");
      node.classList.toggle("now", event.phase === "part");
      if (!text) return;
      text.style.height = heights[i] === null ? "" : `${heights[i]}px`;
      text.style.contain = heights[i] === null ? "" : "size layout";
      if (event.cut !== null) text.textContent = event.whole;
      event.cut = null;
    });
    for (const event of events) if (event.text && event.phase === "part") cutAt(event, row);
  }

  function cutAt(event, row) {
    const { node, start, end, text } = event;
    event.pieces ??= segmenter ? Array.from(segmenter.segment(event.whole), (s) => s.segment) : Array.from(event.whole);
    const tokens = end - start - ("final" in node.dataset ? 1 : 0);
    const cut = Math.min(event.pieces.length, Math.round((event.pieces.length * (row - start)) / Math.max(1, tokens)));
    if (cut === event.cut) return;
    event.cut = cut;
    const unsaid = document.createElement("span");
    unsaid.className = "unsaid";
    unsaid.textContent = event.pieces.slice(cut).join("");
    text.replaceChildren(event.pieces.slice(0, cut).join(""), unsaid);
  }

  // The line that says where in time we are.
  function follow() {
    for (const node of lines) node.remove();
    lines = [];
    const draw = (svg, attributes) => {
      lines.push(make("line", { class: "now", ...attributes }));
      svg.append(lines.at(-1));
    };
    for (const one of sides) {
      if (one.row === null) continue;
      const strip = strips.find(({ svg }) => svg.closest(one.asTurns ? ".as-turns" : ".own")).svg;
      const x = `${(100 * one.row) / Number(strip.dataset.rows)}%`;
      draw(strip, { x1: x, x2: x, y1: 0, y2: strip.getAttribute("height") - 14 });
      const svg = one.list.querySelector("svg.links");
      if (!inColumns || !svg) continue;
      const y = topOf(one, one.row);
      draw(svg, { x1: 0, x2: "100%", y1: y, y2: y });
      if (!timer || one.asTurns) continue;
      const seen = one.list.getBoundingClientRect().top + y;
      if (seen > innerHeight * 0.75 || seen < 60) scrollBy({ top: seen - innerHeight * 0.35, behavior: calm.matches ? "instant" : "smooth" });
    }
  }

  function rate() {
    const ms = Number(article.dataset.ms);
    return speed.value === "real" && ms ? 1000 / ms : Number(speed.value) || 20;
  }

  function pause() {
    cancelAnimationFrame(timer);
    timer = 0;
    playButton.firstChild.textContent = "Play ";
  }

  function play() {
    if (timer) return pause();
    if (!last) return;
    let row = sides[0].row ?? 0;
    let before = null;
    const marks = [...new Set(sides.flatMap((one) => [...one.events.values()].flatMap((e) => [e.start + 1, e.end])))].sort((a, b) => a - b);
    const tick = (now) => {
      row += before === null ? 0 : (rate() * (now - before)) / 1000;
      before = now;
      // Reduced motion: from one start or end to the next, not row by row.
      setRow(calm.matches ? (marks.filter((m) => m <= row).at(-1) ?? 0) : row);
      if (row >= last) pause();
      else timer = requestAnimationFrame(tick);
    };
    playButton.firstChild.textContent = "Pause ";
    setRow(row);
    timer = requestAnimationFrame(tick);
  }

  function arrange() {
    if (!article) return;
    unmark();
    const scores = article.querySelector(".scores");
    const frame = scores.querySelector(".frame:not(.turns)");
    for (const node of scores.querySelectorAll(".turns, h3")) node.remove();
    const strip = article.querySelector(".as-turns");
    if (strip) strip.hidden = !beside;
    const both = beside && strip !== null;
    const streams = [...article.querySelectorAll(".own .strip li")];
    scores.classList.toggle("both", both);
    scores.classList.toggle("stacked", inColumns && scores.clientWidth / 2 < 60 + 94 * streams.length);
    article.querySelector(".own").classList.toggle("beside", both);
    sides = [side(frame, false)];
    for (const node of frame.querySelectorAll(".pick")) node.tabIndex = -1;
    if (both) {
      const copy = turnsFrame(frame);
      scores.append(copy);
      sides.push(side(copy, true));
      for (const [one, name] of [[frame, "As recorded"], [copy, "Under turns"]]) {
        const heading = document.createElement("h3");
        heading.textContent = name;
        one.prepend(heading);
      }
    }
    for (const one of sides) {
      columns(one, streams, inColumns, both && !scores.classList.contains("stacked"));
      one.frame.classList.remove("scrolls");
      one.frame.style.setProperty("--under", `${inColumns && innerWidth > 640 ? player.offsetHeight : 0}px`);
      if (one.list.scrollWidth > one.frame.clientWidth + 1) {
        one.frame.classList.add("scrolls");
        one.frame.tabIndex = 0;
        one.frame.setAttribute("role", "region");
        one.frame.setAttribute("aria-label", one.asTurns ? "Events under turns, in columns" : "Events in columns");
      }
    }
    strips = [...article.querySelectorAll(".strip svg")].map((svg) => ({
      svg, lit: null, links: [], rects: new Map([...svg.querySelectorAll("rect")].map((rect) => [Number(rect.dataset.event), rect])),
    }));
    last = Math.max(0, ...sides.flatMap((one) => [...one.events.values()].map((e) => e.end)));
    slider.max = last;
    choose(chosen);
    setRow(total());
  }

  function restore() {
    pause();
    if (article && sides.length) setRow(total());
  }

  return {
    open(node) {
      restore();
      article = node;
      chosen = null;
      const real = speed.querySelector("[value=real]");
      real.hidden = real.disabled = !node.dataset.ms;
      if (real.hidden && speed.value === "real") speed.value = "20";
      arrange();
    },
    // No record is shown.
    close() {
      restore();
      unmark();
      follow();
      article = chosen = picked = null;
      sides = [];
      strips = [];
      slider.value = slider.max = last = 0;
      at.textContent = "";
      tell(null);
    },
    layout(value) { restore(); inColumns = value; arrange(); },
    turns(value) { restore(); beside = value; arrange(); },
    resize() { if (inColumns && !timer) { restore(); arrange(); } },
    noTurns: () => article?.dataset.noTurns ?? "",
    texts: () => (sides.length ? [...sides[0].events.values()].map((e) => e.text).filter(Boolean) : []),
    whenRevealed(call) { revealed = call; },
    choose, mark, step, goToRow, setRow, play, pause, total,
    chosen: () => chosen,
  };
})();
