"use strict";
// The records: which one is shown, which ones fit the filter, search, jump, copy, keys.
(() => {
  const by = (id) => document.getElementById(id);
  const articles = [...document.querySelectorAll(".record")];
  const items = [...document.querySelectorAll(".list li")];
  const numbers = articles.map((article) => Number(article.dataset.record));
  const ids = articles.map((article) => article.querySelector("h2 code").textContent);
  const texts = [];
  let current = -1;
  // Where the reader went last by choice, and the event that was selected there: a filter leads away from it and back.
  let home = { index: 0, event: null };
  let fitting = articles.map((_, i) => i);
  let terms = [];

  const wide = () => by("records").clientWidth >= 680;
  let layout = wide();

  const tell = (text) => { by("told").textContent = text; };

  // ---- one record
  // Not by scrollIntoView, which also moves where the next Tab goes.
  function reveal(item) {
    const list = item.parentElement;
    const top = item.offsetTop - list.offsetTop;
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + item.offsetHeight > list.scrollTop + list.clientHeight) list.scrollTop = top + item.offsetHeight - list.clientHeight;
  }

  function show(index) {
    const isOther = index !== current;
    current = index;
    articles.forEach((article, i) => {
      if (i === index) article.removeAttribute("hidden");
      else article.setAttribute("hidden", "until-found");
    });
    items.forEach((item, i) => {
      const link = item.firstElementChild;
      if (i === index) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    });
    if (items[index]) reveal(items[index]);
    const place = fitting.indexOf(index);
    by("previous").disabled = place <= 0;
    by("next").disabled = place >= fitting.length - 1;
    for (const id of ["layout", "copy", "play", "row", "speed"]) by(id).disabled = index < 0;
    document.documentElement.classList.remove("starting");
    if (!isOther) return;
    tell("");
    if (index < 0) {
      by("turns").disabled = true;
      return score.close();
    }
    score.open(articles[index]);
    by("turns").disabled = score.noTurns() !== "";
    by("turns").title = score.noTurns();
    highlight();
  }

  function visit(index) {
    home = { index, event: null };
    show(index);
  }

  function open(index) {
    visit(index);
    history.pushState(null, "", `#r${numbers[index]}`);
    scrollTo({ top: 0, behavior: "instant" });
    articles[index].querySelector("h2").focus({ preventScroll: true });
  }

  function go(by_) {
    const place = fitting.indexOf(current) + by_;
    if (place >= 0 && place < fitting.length) open(fitting[place]);
  }

  function byHash() {
    const found = /^#r(\d+)(?:e(\d+))?$/.exec(location.hash);
    const index = found ? numbers.indexOf(Number(found[1])) : -1;
    if (index < 0) return false;
    visit(index);
    if (found[2] && by(location.hash.slice(1))) score.choose(Number(found[2]), { scroll: true });
    return true;
  }

  // ---- filter and search
  const parse = (line) => [...line.matchAll(/"([^"]*)"|(\S+)/g)].map((m) => (m[1] ?? m[2]).toLowerCase()).filter(Boolean);

  // What every part says, whole: a word may be cut between two events.
  function textOf(index) {
    if (texts[index]) return texts[index];
    const parts = new Map();
    for (const node of articles[index].querySelectorAll(".frame:not(.turns) .event")) {
      const text = node.querySelector(".text");
      if (text) parts.set(node.dataset.part, (parts.get(node.dataset.part) ?? "") + text.textContent);
    }
    texts[index] = [...parts.values()].join("\n").toLowerCase();
    return texts[index];
  }

  function filter() {
    score.pause();
    score.setRow(score.total());
    if (current === home.index) home.event = score.chosen();
    terms = parse(by("search").value);
    const facets = [...document.querySelectorAll("[data-facet]")].filter((s) => s.value !== "");
    const flags = [...document.querySelectorAll("[data-flag]")].filter((box) => box.checked);
    fitting = articles.map((_, i) => i).filter((i) => {
      const { dataset } = items[i];
      return facets.every((s) => dataset[s.dataset.facet].split(" ").includes(s.value)) &&
        flags.every((box) => box.dataset.flag in dataset) && terms.every((term) => textOf(i).includes(term));
    });
    const kept = new Set(fitting);
    items.forEach((item, i) => { item.hidden = !kept.has(i); });
    by("count").textContent = `${fitting.length} of ${articles.length} records`;
    by("nothing").hidden = fitting.length > 0;
    const before = current;
    show(kept.has(home.index) ? home.index : (fitting[0] ?? -1));
    if (current === home.index && current !== before && home.event !== null) score.choose(home.event, { scroll: true });
    highlight();
  }

  function highlight() {
    if (!("highlights" in CSS)) return;
    const ranges = [];
    for (const node of score.texts()) {
      const walker = document.createTreeWalker(node, NodeFilter.SHOW_TEXT);
      while (walker.nextNode()) {
        const text = walker.currentNode.data.toLowerCase();
        if (text.length !== walker.currentNode.data.length) continue;
        for (const term of terms) {
          for (let i = text.indexOf(term); i >= 0; i = text.indexOf(term, i + term.length)) {
            const range = new Range();
            range.setStart(walker.currentNode, i);
            range.setEnd(walker.currentNode, i + term.length);
            ranges.push(range);
          }
        }
      }
    }
    CSS.highlights.set("found", new Highlight(...ranges));
  }

  function fail(why) {
    tell(why);
    return false;
  }

  // Whether there is what was asked for; else it says that there is not.
  function jump(to) {
    tell("");
    const row = /^row\s*(\d+)$/i.exec(to);
    if (row && current < 0) return fail("No record is shown.");
    if (row) return score.goToRow(Number(row[1])) || fail("The record ends before that row.");
    // As the command line reads it: few digits are a number, more are the start of an id.
    const at = /^\d{1,7}$/.test(to) ? numbers.indexOf(Number(to)) : ids.findIndex((id) => id.startsWith(to));
    if (at < 0) return fail(`No record of this page is ${to}.`);
    if (!fitting.includes(at)) {
      for (const node of document.querySelectorAll("[data-facet], #search")) node.value = "";
      for (const box of document.querySelectorAll("[data-flag]")) box.checked = false;
      filter();
    }
    open(at);
    return true;
  }

  // ---- copy
  async function copy() {
    if (current < 0) return;
    let json = by(`json${numbers[current]}`).textContent;
    try {
      JSON.parse(json);
    } catch {
      return tell("The page is damaged: the record in it is no JSON.");
    }
    // The text itself, for numbers that a browser would round; what the page had to escape is as it was.
    json = json.replace(/\\(?:u(003c|003e|0026|007f|2028|2029)|.)/g, (all, code) => (code ? String.fromCharCode(parseInt(code, 16)) : all));
    try {
      await navigator.clipboard.writeText(json);
      tell("Copied.");
    } catch {
      by("raw").querySelector("textarea").value = json;
      by("raw").showModal();
      by("raw").querySelector("textarea").select();
    }
  }

  function toggle(id, call) {
    if (by(id).disabled) return;
    const value = by(id).getAttribute("aria-pressed") !== "true";
    by(id).setAttribute("aria-pressed", value);
    call(value);
    highlight();
  }
  const setLayout = (value) => { layout = value; score.layout(value); };

  // ---- what is pressed, pointed at, typed
  const eventOf = (target) => {
    const node = target.closest?.("[data-event]");
    return node ? Number(node.dataset.event) : null;
  };
  const main = by("records");
  main.addEventListener("pointerover", (e) => { if (e.pointerType === "mouse" && eventOf(e.target) !== null) score.mark(eventOf(e.target)); });
  main.addEventListener("pointerout", (e) => {
    if (e.pointerType === "mouse" && eventOf(e.target) !== null && eventOf(e.relatedTarget ?? main) === null) score.mark(score.chosen());
  });
  main.addEventListener("click", (e) => {
    const link = e.target.closest("a");
    if (link && !link.classList.contains("pick")) return;
    const event = eventOf(e.target);
    if (event === null || String(getSelection())) return;
    if (link) e.preventDefault();
    score.choose(event, { focus: !e.target.closest(".turns, svg"), scroll: e.target.closest("svg") !== null });
  });
  main.addEventListener("focusin", (e) => { if (e.target.classList.contains("pick") && eventOf(e.target) !== score.chosen()) score.choose(eventOf(e.target)); });
  for (const article of articles) article.addEventListener("beforematch", () => visit(articles.indexOf(article)));
  addEventListener("hashchange", byHash);
  // A link to where the address points already is no change of it.
  document.addEventListener("click", (e) => {
    if (!e.defaultPrevented && e.target.closest("a")?.getAttribute("href") === location.hash) byHash();
  });
  let waiting = 0;
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(score.resize, 150);
  });

  by("previous").addEventListener("click", () => go(-1));
  by("next").addEventListener("click", () => go(1));
  by("layout").addEventListener("click", () => toggle("layout", setLayout));
  by("turns").addEventListener("click", () => toggle("turns", score.turns));
  by("copy").addEventListener("click", copy);
  by("play").addEventListener("click", score.play);
  by("row").addEventListener("input", () => { score.pause(); score.setRow(Number(by("row").value)); });
  by("unselect").addEventListener("click", () => score.choose(null));
  by("help-open").addEventListener("click", () => by("help").showModal());
  by("theme").addEventListener("change", () => { document.documentElement.dataset.theme = by("theme").value; });
  by("search").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filter, 120); });
  for (const node of document.querySelectorAll("[data-facet], [data-flag]")) node.addEventListener("change", filter);
  by("search").form.addEventListener("submit", (e) => e.preventDefault());
  by("jumping").addEventListener("submit", (e) => {
    e.preventDefault();
    const to = by("jump").value.trim();
    if (!to) return;
    if (jump(to)) by("jump").value = "";
    else by("jump").select();
  });
  score.whenRevealed(() => { if (terms.length) highlight(); });

  const find = (id) => {
    by("filters").open = true;
    by(id).focus();
  };
  const keys = {
    n: () => go(1), p: () => go(-1), j: () => score.step(1), k: () => score.step(-1),
    " ": score.play, t: () => toggle("turns", score.turns), l: () => toggle("layout", setLayout), c: copy,
    "/": () => find("search"), g: () => find("jump"), "?": () => by("help").showModal(),
  };
  addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey || document.querySelector("dialog[open]")) return;
    const typing = e.target.closest("input:not([type=checkbox], [type=range]), select, textarea");
    if (e.key === "Escape") {
      if (!typing) return score.choose(null);
      // Some browsers would empty a search field, and not say so to one that has lost the focus.
      e.preventDefault();
      return typing.blur();
    }
    const isPick = e.target.classList.contains("pick");
    let call = null;
    if (isPick && (e.key === "ArrowDown" || e.key === "ArrowRight")) call = () => score.step(1);
    else if (isPick && (e.key === "ArrowUp" || e.key === "ArrowLeft")) call = () => score.step(-1);
    else if (isPick && e.key === "Home") call = () => score.step(-Infinity);
    else if (isPick && e.key === "End") call = () => score.step(Infinity);
    else if (!typing && by("keys").checked && !(e.key === " " && e.target.closest("button, input, summary"))) call = keys[e.key];
    if (!call || (current < 0 && !["/", "g", "?"].includes(e.key))) return;
    e.preventDefault();
    call();
  });

  by("filters").open = innerWidth >= 960;
  by("layout").setAttribute("aria-pressed", layout);
  score.layout(layout);
  if (!articles.length) by("nothing").hidden = false;
  by("count").textContent = `${articles.length} of ${articles.length} records`;
  if (!byHash()) show(articles.length ? 0 : -1);
})();
