// The viewer: a list of rollouts, and the group of the chosen one. Every text of a run enters through textContent.
"use strict";

const ROW = 28, OVERSCAN = 12, POLL_MS = 2000, TOKENS_SHOWN = 1500;
const NUMBERS = ["step", "group", "index", "level", "completion_tokens", "reward", "score", "quality", "survival"];
const WORDS = ["prompt_key", "finish_reason", "reason", "dropped"];
const FILTERS = {
  stopped: "stopped", survived: "survived", right: "right", wrong: "wrong", dead: "dead group", floor: "floor",
  deadline: "deadline", missed: "stopped, would be right",
};
const HEADS = ["step", "no.", "ended", "tokens", "quality", "survival", "outcome"];
const LEVELS = [[0.1, ""], [0.7, "p1"], [1.6, "p2"], [3, "p3"], [Infinity, "p4"]];
const CONTROL = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/;

const $ = (id) => document.getElementById(id);
const state = { run: 0, step: null, follow: false, group: null, filters: new Set(), text: "", sort: "", descending: false };
let runs = [], rows = [], about = {}, epoch = -1, lines = [], at = 0, hits = null, loading = 0, dead = new Set(), shown = null;

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);  // strings become text nodes, never markup
  return made;
}

function drawn(name, attributes = {}, text = null) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return made;
}

async function ask(path) {
  const answer = await fetch(path);
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error || answer.statusText);
  return body;
}

const number = (value, digits = 2) => value === null || value === undefined ? "–" : Number(value).toFixed(digits);
const isStopped = (row) => row.finish_reason === "pruned";
const groupKey = (row) => `${row.step}/${row.group}`;
const rowKey = (row) => `${row.step}/${row.group}/${row.index}`;

function ending(row) {
  if (isStopped(row)) return "stopped";
  return { stop: "finished", length: "length limit", error: "failed" }[row.finish_reason] || row.finish_reason;
}

function outcome(row) {
  if (row.right === 1) return "right";
  if (row.right === 0) return "wrong";
  return isStopped(row) ? "stopped" : "unknown";
}

const wouldBe = (row, words) => row.would === null ? "" : ` ${words} ${row.would ? "right" : "wrong"}`;

// ---- loading -------------------------------------------------------------------------------------------------------

async function load() {
  const turn = ++loading;
  for (;;) {
    const page = await ask(`/api/runs/${state.run}?epoch=${Math.max(epoch, 0)}&start=${rows.length}`);
    if (turn !== loading) return;
    if (page.epoch !== epoch) { rows = []; epoch = page.epoch; dead = new Set(); shown = null; if (page.start) continue; }
    about = page.run;
    const before = rows.length, columns = page.columns, count = columns.step.length;
    for (let k = 0; k < count; k++) {
      const row = { keep: columns.keep[k], right: columns.right[k], would: columns.would[k] };
      for (const name of NUMBERS) row[name] = columns[name][k];
      for (const name of WORDS) row[name] = columns[name].of[columns[name].at[k]];
      rows.push(row);
    }
    if (count || !before) findDead();
    if (state.follow) state.step = rows.reduce((last, row) => Math.max(last, row.step), 0) || null;
    if (count || !before) list();
    if (!before) performance.mark("first-rows");
    status();
    if (!page.more) return;
  }
}

function findDead() {
  const seen = new Map();
  for (const row of rows) {
    if (row.right === null || isStopped(row)) continue;
    const key = groupKey(row), known = seen.get(key);
    seen.set(key, known === undefined || known === row.right ? row.right : 2);
  }
  dead = new Set([...seen].filter(([, value]) => value !== 2).map(([key]) => key));
}

function status() {
  const ended = about.outcome ? about.outcome : "running";
  const rule = about.rule ? `, rule ${about.rule}` : "";
  $("status").textContent = `step ${about.step} of ${about.steps}, ${ended}${rule}, ${rows.length.toLocaleString("en")} rollouts`;
}

async function poll() {
  try {
    if (!about.outcome || epoch < 0) await load();
    document.body.classList.remove("lost");
  } catch (error) {
    $("status").textContent = `no answer from the viewer: ${error.message}`;
  }
  setTimeout(poll, POLL_MS);
}

// ---- the list ------------------------------------------------------------------------------------------------------

function passes(row) {
  if (state.step !== null && row.step !== state.step) return false;
  if (hits && !hits.has(rowKey(row))) return false;
  const on = state.filters;
  if (on.has("stopped") && !isStopped(row)) return false;
  if (on.has("survived") && isStopped(row)) return false;
  if (on.has("right") && row.right !== 1) return false;
  if (on.has("wrong") && row.right !== 0) return false;
  if (on.has("dead") && !dead.has(groupKey(row))) return false;
  if (on.has("missed") && row.would !== 1) return false;
  if (on.has("floor") && row.reason !== "floor") return false;
  return !(on.has("deadline") && row.reason !== "deadline");
}

function list() {
  const found = rows.filter(passes);
  if (state.sort) {
    const sign = state.descending ? -1 : 1, key = state.sort;
    const value = (row) => row[key] === null ? sign * Infinity : row[key];  // unknown ones last
    found.sort((a, b) => sign * (value(a) - value(b)) || a.step - b.step || a.group - b.group || a.index - b.index);
    lines = found;
  } else {
    lines = [];
    let last = null, head = null;
    for (const row of found) {
      const key = groupKey(row);
      if (key !== last) { head = { head: row, count: 0, stopped: 0, right: 0 }; lines.push(head); last = key; }
      head.count++; head.stopped += isStopped(row); head.right += row.right === 1;
      lines.push(row);
    }
  }
  at = Math.min(at, Math.max(lines.length - 1, 0));
  $("space").style.height = `${lines.length * ROW}px`;
  $("list").setAttribute("aria-rowcount", lines.length + 1);
  const prompts = new Set(found.map(groupKey)).size;
  $("count").textContent = found.length === 0 ? "No rollout matches." :
    `${found.length.toLocaleString("en")} rollouts of ${prompts.toLocaleString("en")} groups${state.note || ""}`;
  paint();
}

function paint() {
  const view = $("list"), top = Math.max(0, Math.floor(view.scrollTop / ROW) - OVERSCAN);
  const end = Math.min(lines.length, top + Math.ceil(view.clientHeight / ROW) + 2 * OVERSCAN);
  const made = [];
  for (let k = top; k < end; k++) made.push(lines[k].head ? headLine(lines[k], k) : rowLine(lines[k], k));
  $("space").replaceChildren(...made);
  if (made.length) view.setAttribute("aria-activedescendant", `line-${at}`);
  else view.removeAttribute("aria-activedescendant");
}

function line(k, name) {
  const made = element("div", { role: "row", id: `line-${k}`, "aria-rowindex": k + 2, class: name + (k === at ? " at" : "") });
  made.style.top = `${k * ROW}px`;
  made.addEventListener("click", () => { at = k; open(k); paint(); });
  return made;
}

function headLine(each, k) {
  const made = line(k, "prompt"), row = each.head;
  const what = element("span", { role: "gridcell" });
  what.textContent = `step ${row.step}, prompt ${row.group}: ${each.count} shown, ${each.stopped} stopped, ` +
    `${each.right} right${dead.has(groupKey(row)) ? ", dead group" : ""}`;
  made.append(what);
  return made;
}

function rowLine(row, k) {
  const made = line(k, ""), chosen = state.group && rowKey(row) === state.group;
  made.setAttribute("aria-selected", chosen ? "true" : "false");
  const what = outcome(row);
  const cells = [row.step, row.index, ending(row), row.completion_tokens, number(row.quality), number(row.survival), what];
  cells.forEach((value, place) => {
    const cell = element("div", { role: "gridcell" });
    if ([0, 1, 3, 4, 5].includes(place)) cell.className = "number";
    if (place === 6 || (place === 2 && isStopped(row))) cell.className = place === 6 ? what : "stopped";
    cell.textContent = place === 6 && row.would !== null ? wouldBe(row, "→").trim() : value;
    if (place === 6 && row.would !== null) cell.setAttribute("aria-label", `stopped${wouldBe(row, "would be")}`);
    made.append(cell);
  });
  return made;
}

function move(to) {
  at = Math.max(0, Math.min(lines.length - 1, to));
  const view = $("list"), head = $("heads").offsetHeight;
  if (at * ROW < view.scrollTop) view.scrollTop = at * ROW;
  if ((at + 1) * ROW + head > view.scrollTop + view.clientHeight) view.scrollTop = (at + 1) * ROW + head - view.clientHeight;
  paint();
}

function keys(event) {
  const page = Math.floor($("list").clientHeight / ROW) - 2;
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + page, PageUp: at - page, Home: 0, End: lines.length - 1 }[event.key];
  if (to !== undefined) { event.preventDefault(); move(to); }
  if (event.key === "Enter" && lines.length) { event.preventDefault(); open(at); $("group").focus(); }
}

// ---- a group -------------------------------------------------------------------------------------------------------

function open(k) {
  const row = lines[k].head || lines[k];
  state.group = rowKey(row);
  remember();
  group();
}

async function group() {
  if (!state.group) return;
  const [step, name, index] = state.group.split("/").map(Number);
  const members = rows.filter((row) => row.step === step && row.group === name);
  if (!members.length) return;
  const key = `${state.run}/${step}/${epoch}`;
  let note = "";
  if (!shown || shown.key !== key) {
    shown = { key, texts: null };
    const kept = about.texts.some(([from, to]) => from <= step && step <= to);
    try {
      if (kept) shown.texts = await ask(`/api/runs/${state.run}/texts?step=${step}`);
    } catch (error) { note = error.message; }
  }
  if (state.group !== `${step}/${name}/${index}`) return;  // another one was chosen meanwhile
  const texts = shown.texts ? shown.texts.groups.find((each) => each.group === name) : null;
  $("group-title").textContent = `Step ${step}, prompt ${name}`;
  const parts = [];
  if (note) parts.push(element("p", { class: "warn" }, note));
  parts.push(...promptParts(members[0], texts));
  parts.push(lanes(members, texts, index), table(members, texts, index));
  if (texts) parts.push(legend(), cards(members, texts, index));
  else if (!note) {
    parts.push(element("p", { class: "note" }, "The texts of this step were not kept: records.keep_texts_mib bounds " +
      "them, the newest steps stay."));
  }
  $("detail").replaceChildren(...parts);
}

function promptParts(row, texts) {
  const facts = element("p", { class: "note" }, `Key ${row.prompt_key}${row.level ? `, level ${row.level}` : ""}` +
    (dead.has(groupKey(row)) ? "; dead group: every verified rollout has the same outcome, so it teaches nothing" : ""));
  if (!texts) return [facts];
  const prompt = element("pre", { class: "text", tabindex: "0", "aria-label": "Prompt" });
  prompt.append(...visible(texts.prompt));
  const parts = [facts, prompt];
  if (texts.gold) { const gold = element("p", { class: "text" }, "Gold answer: "); gold.append(...visible(texts.gold)); parts.push(gold); }
  return parts;
}

const textsOf = (texts, row) => texts ? texts.rollouts.find((each) => each.index === row.index) : null;

function probesOf(row, texts) {
  const known = textsOf(texts, row);
  if (known) return known.probes;
  if (!row.reason || !about.probes || !about.probes.length) return [];
  const place = isStopped(row) ? about.probes.filter((probe) => probe <= row.completion_tokens).pop() : about.probes[0];
  return [{ at: place, quality: row.quality, score: row.score, survival: row.survival, keep: !isStopped(row), reason: row.reason }];
}

function lanes(members, texts, index) {
  const longest = Math.max(1, ...members.map((row) => row.completion_tokens)), left = 44, right = 150;
  const wide = Math.max(140, $("group").clientWidth - 30 - left - right);
  const height = 18, x = (tokens) => left + tokens / longest * wide;
  const count = (test) => members.filter(test).length;
  const picture = drawn("svg", {
    class: "lanes", viewBox: `0 0 ${left + wide + right} ${members.length * height + 24}`, role: "img",
    "aria-label": `${members.length} rollouts along their tokens: ${count(isStopped)} stopped, ` +
      `${count((row) => row.right === 1)} right, ${count((row) => row.right === 0)} wrong; the table below has each`,
  });
  const places = new Set();
  members.forEach((row, k) => {
    const y = k * height, lane = drawn("g", { class: "lane" + (row.index === index ? " chosen" : "") });
    lane.append(drawn("text", { x: left - 6, y: y + 13, "text-anchor": "end" }, String(row.index)));
    lane.append(drawn("rect", { x: left, y: y + 4, width: Math.max(1, x(row.completion_tokens) - left), height: 10, class: `bar ${outcome(row)}` }));
    for (const probe of probesOf(row, texts)) {
      if (probe.at === null || probe.at === undefined) continue;
      places.add(probe.at);
      lane.append(drawn("circle", { cx: x(Math.min(probe.at, longest)), cy: y + 9, r: 4, class: `mark ${probe.keep ? "" : "no"}` }));
    }
    const sign = { right: "\u2713 ", wrong: "\u2717 ", stopped: "\u25a0 ", unknown: "" }[outcome(row)];
    const end = isStopped(row) ? `stopped${wouldBe(row, "→")}` : row.right === null ? ending(row) : `${outcome(row)}${row.finish_reason === "length" ? ", length limit" : ""}`;
    lane.append(drawn("text", { x: x(row.completion_tokens) + 8, y: y + 13 }, `${sign}${end}, ${row.completion_tokens}`));
    lane.addEventListener("click", () => choose(row));
    picture.append(lane);
  });
  for (const place of places) {
    const bottom = members.length * height;
    picture.prepend(drawn("line", { x1: x(place), x2: x(place), y1: 0, y2: bottom + 4, class: "probe" }));
    picture.append(drawn("text", { x: x(place), y: bottom + 18, "text-anchor": "middle" }, String(place)));
  }
  if (places.size) picture.append(drawn("text", { x: left - 6, y: members.length * height + 18, "text-anchor": "end" }, "probe"));
  return picture;
}

function choose(row) {
  state.group = rowKey(row);
  remember();
  paint();
  group().then(() => { const card = document.querySelector("article.chosen"); if (card) card.scrollIntoView({ block: "nearest" }); });
}

function table(members, texts, index) {
  const made = element("table", {}, element("caption", {}, "Rollouts of this group"));
  const names = ["no.", "ended", "tokens", "outcome", "reward", "advantage", "weight", "score", "quality", "survival", "reason", "trains"];
  const head = element("tr");
  for (const name of names) head.append(element("th", { scope: "col" }, name));
  made.append(element("thead", {}, head));
  const body = element("tbody");
  for (const row of members) {
    const known = textsOf(texts, row), chosen = row.index === index;
    const line = element("tr", chosen ? { class: "chosen" } : {});
    const button = element("button", { type: "button", "aria-label": `Show rollout ${row.index}` }, String(row.index));
    if (chosen) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => choose(row));
    line.append(element("th", { scope: "row" }, button));
    const trains = row.keep ? "yes" : row.dropped || (known && known.lesson) || "no";
    const what = outcome(row);
    const cells = [ending(row), row.completion_tokens, what, number(row.reward), known ? number(known.advantage) : "–",
      known ? number(known.weight) : "–", number(row.score), number(row.quality), number(row.survival), row.reason || "no probe", trains];
    cells.forEach((value, place) => {
      const cell = element("td", [0, 2, 9, 10].includes(place) ? { class: "left" } : {});
      if (place === 2) cell.classList.add(what);
      cell.textContent = place === 2 ? value + wouldBe(row, "→ would be") : value;
      line.append(cell);
    });
    body.append(line);
  }
  made.append(body);
  const scroll = element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table of the group" });
  scroll.append(made);
  return scroll;
}

function legend() {
  const made = element("p", { class: "key note" }, "Log-probability of a token: ");
  const words = ["above -0.1", "to -0.7", "to -1.6", "to -3", "below -3"];
  LEVELS.forEach(([, name], k) => made.append(element("i", { class: name }, words[k])));
  return made;
}

function cards(members, texts, index) {
  const made = element("div", { class: "cards" });
  for (const row of members) {
    const known = textsOf(texts, row);
    if (known) made.append(card(row, known, texts.tokens, row.index === index));
  }
  return made;
}

function card(row, known, pieces, chosen) {
  const what = outcome(row);
  const made = element("article", { class: chosen ? "chosen" : "", "aria-label": `Rollout ${row.index}` });
  const ended = isStopped(row) ? `stopped at ${row.completion_tokens} tokens` : `${what}, ${row.completion_tokens} tokens`;
  made.append(element("h3", { class: what }, `Rollout ${row.index}: ${ended}`));
  const facts = element("p", { class: "facts" });
  facts.textContent = isStopped(row) ? "no reward: it was not verified" : `reward ${number(row.reward)}, advantage ` +
    `${number(known.advantage)}, weight ${number(known.weight)}${row.dropped ? `, left out: ${row.dropped}` : ""}`;
  if (known.answer !== null) { facts.append(", answer "); facts.append(...visible(known.answer)); }
  made.append(facts);
  const text = element("div", { class: "text" });
  fill(text, known, pieces, 0, TOKENS_SHOWN);
  made.append(text);
  if (known.shadow) {
    const shadow = known.shadow, end = element("div", { class: "text shadow" });
    made.append(element("p", { class: "facts" }, `Finished aside, for the record alone: would be ${row.would ? "right" : "wrong"}, ` +
      `${shadow.tokens.length} more tokens, reward ${number(shadow.reward)}`));
    fill(end, { ...shadow, probes: [] }, pieces, 0, shadow.tokens.length);
    made.append(end);
  }
  if (known.tokens.length > TOKENS_SHOWN) {
    const more = element("button", { type: "button" }, `Show all ${known.tokens.length} tokens`);
    more.addEventListener("click", () => { fill(text, known, pieces, TOKENS_SHOWN, known.tokens.length); more.remove(); });
    made.append(more);
  }
  return made;
}

function fill(text, known, pieces, from, to) {
  const probes = known.probes.filter((probe) => probe.at !== null);
  for (let k = from; k < Math.min(to, known.tokens.length); k++) {
    const logprob = known.logprobs[k], level = logprob === null ? "" : LEVELS.find(([most]) => -logprob <= most)[1];
    const token = element("i", level ? { class: level } : {});
    token.title = logprob === null ? "log-probability unknown" : `log-probability ${logprob.toFixed(2)}, token ${k + 1}`;
    token.append(...visible(pieces[known.tokens[k]]));
    text.append(token);
    for (const probe of probes) if (probe.at === k + 1) text.append(mark(probe));
  }
}

function mark(probe) {
  const why = { draw: "by the draw", floor: "at the floor", warmup: "warm-up", rule_never: "the rule stops none here",
    no_score: "no score", deadline: "drawn at the deadline", rescue: "its wave may not be stopped", outcome: "by outcome" };
  return element("span", { class: `at-probe ${probe.keep ? "kept" : ""}`, role: "note" }, `Probe at ${probe.at}: ` +
    `${probe.keep ? "kept" : "stopped"}, ${why[probe.reason] || probe.reason}; quality ${number(probe.quality)}, ` +
    `score ${number(probe.score)}, survival ${number(probe.survival)}`);
}

function visible(text) {  // characters that hide or reorder text are shown by their code
  const parts = [];
  let plain = "";
  for (const character of String(text)) {
    if (!CONTROL.test(character)) { plain += character; continue; }
    if (plain) parts.push(plain);
    plain = "";
    parts.push(element("b", { class: "control" }, `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`));
  }
  if (plain) parts.push(plain);
  return parts;
}

// ---- controls ------------------------------------------------------------------------------------------------------

function remember() {
  const words = new URLSearchParams();
  for (const key of ["run", "step", "group", "text", "sort"]) if (state[key] || state[key] === 0) words.set(key, state[key]);
  if (state.follow) words.set("step", "newest");
  if (state.filters.size) words.set("show", [...state.filters].join(","));
  if (state.descending) words.set("descending", "1");
  history.replaceState(null, "", `#${words}`);
}

function recall() {
  const words = new URLSearchParams(location.hash.slice(1)), step = words.get("step");
  state.run = Number(words.get("run")) || 0;
  state.follow = step === "newest";
  state.step = step && !state.follow ? Number(step) || null : null;
  state.group = words.get("group");
  state.filters = new Set((words.get("show") || "").split(",").filter((name) => name in FILTERS));
  state.text = words.get("text") || "";
  state.sort = words.get("sort") || "";
  state.descending = words.get("descending") === "1";
}

function showControls() {
  $("step").value = state.step === null ? "" : state.step;
  $("newest").setAttribute("aria-pressed", state.follow ? "true" : "false");
  $("text").value = state.text;
  $("sort").value = state.sort;
  $("descending").checked = state.descending;
  for (const name of Object.keys(FILTERS)) $(`show-${name}`).checked = state.filters.has(name);
}

function changed() { remember(); showControls(); list(); }

function toStep(step) { state.step = step; state.follow = false; at = 0; $("list").scrollTop = 0; changed(); }

async function search() {
  hits = null;
  state.note = "";
  if (state.text) {
    const found = await ask(`/api/runs/${state.run}/search?text=${encodeURIComponent(state.text)}`);
    hits = new Set(found.hits.map((hit) => hit.join("/")));
    state.note = ` with that text; searched ${found.steps} of ${found.of} steps with texts`;
  }
  changed();
}

async function chooseRun(which) {
  state.run = which;
  rows = []; epoch = -1; about = {}; lines = []; hits = null; shown = null; at = 0;
  $("detail").replaceChildren(element("p", {}, "Choose a rollout in the list."));
  $("group-title").textContent = "No rollout chosen";
  await load();
}

function build() {
  for (const name of HEADS) $("heads").append(element("div", { role: "columnheader" }, name));
  for (const [name, words] of Object.entries(FILTERS)) {
    $("filters").append(element("label", { class: "check" }, element("input", { type: "checkbox", id: `show-${name}` }), ` ${words}`));
    $(`show-${name}`).addEventListener("change", (event) => {
      if (event.target.checked) state.filters.add(name); else state.filters.delete(name);
      changed();
    });
  }
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("step").addEventListener("change", (event) => toStep(Number(event.target.value) || null));
  $("previous").addEventListener("click", () => toStep(Math.max(1, (state.step || about.step + 1) - 1)));
  $("next").addEventListener("click", () => toStep(Math.min(about.step, (state.step || 0) + 1)));
  $("all").addEventListener("click", () => toStep(null));
  $("newest").addEventListener("click", () => { state.follow = !state.follow; state.step = state.follow ? about.step : state.step; changed(); });
  $("sort").addEventListener("change", (event) => { state.sort = event.target.value; changed(); });
  $("descending").addEventListener("change", (event) => { state.descending = event.target.checked; changed(); });
  $("text").addEventListener("change", (event) => { state.text = event.target.value; search().catch(fail); });
  $("run").addEventListener("change", (event) => { state.group = null; chooseRun(Number(event.target.value)).then(changed).catch(fail); });
  $("list").addEventListener("keydown", keys);
  $("list").addEventListener("scroll", () => requestAnimationFrame(paint));
  let width = innerWidth;
  addEventListener("resize", () => { paint(); if (innerWidth !== width) { width = innerWidth; group(); } });
  addEventListener("hashchange", () => {  // a link, or the address as typed
    recall();
    $("run").value = state.run;
    chooseRun(state.run).then(search).then(group).catch(fail);
  });
}

function fail(error) { $("status").textContent = error.message; document.body.dataset.ready = "failed"; }

async function start() {
  build();
  recall();
  runs = await ask("/api/runs");
  runs.forEach((run, k) => $("run").append(element("option", { value: k }, run.name)));
  if (state.run >= runs.length) state.run = 0;
  $("run").value = state.run;
  showControls();
  await load();
  performance.mark("all-rows");
  if (state.text) await search();
  await group();
  document.body.dataset.ready = "yes";
  setTimeout(poll, POLL_MS);
}

start().catch(fail);
