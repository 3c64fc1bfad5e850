// What a page does beyond being read: live rows, plots, copying, a search as you type. Without scripts the page reads
// as well, as it was when it was loaded.
//
// How it stays true: `/live` streams events with the rows of the peers, counts and the banner. All else is in parts of
// the page that are marked `data-live`. An event that names another version than the page has (`data-version`), and the
// time (`data-every`, in seconds), make the script ask for the page again and put its parts in. Ages (`data-age`) and
// what is left of a time (`data-left`) are counted on here.
"use strict";

// The path below which a reverse proxy shows the page.
const ROOT_PATH = document.documentElement.dataset.rootPath;
const WINDOW_S = 180;
const HIDDEN_MS = 10000;
// The host sends an event every second, and ends a stream after 15 s without one.
const SILENT_S = 20;
// A browser opens a stream again after some three seconds.
const LOST_MS = 6000;
// Until a stream or a page that was refused is asked for again.
const REFUSED_MS = 5000;
// Asking for a page again takes at most one part in so many of the time.
const AGAIN_SHARE = 20;
const MAIN = document.getElementById("main");
const WORDS = { online: "online", silent: "not answering", offline: "offline", unknown: "not known" };
const past = new Map();

function rowsOf(name) {
  return document.querySelectorAll(`[data-peer="${CSS.escape(name)}"]`);
}

function put(element, text) {
  if (element && element.textContent !== text) element.textContent = text;
}

function line(samples, index) {
  const now = Date.now() / 1000;
  let top = 0;
  for (const one of samples) if (one[index] !== null && one[index] > top) top = one[index];
  let path = "";
  let pen = "M";
  for (const one of samples) {
    if (one[index] === null) { pen = "M"; continue; }
    const x = 120 * (1 - (now - one[0]) / WINDOW_S);
    const y = 23 - 22 * (top > 0 ? one[index] / top : 0);
    path += `${pen}${x.toFixed(1)} ${y.toFixed(1)}`;
    pen = "L";
  }
  return index !== 1 && top === 0 ? "" : path;
}

function draw(row, samples) {
  const rtt = row.querySelector("path.rtt");
  if (rtt && rtt.getClientRects().length) rtt.setAttribute("d", line(samples, 1));
  const rx = row.querySelector("path.rx");
  if (rx && rx.getClientRects().length) {
    rx.setAttribute("d", line(samples, 2));
    row.querySelector("path.tx").setAttribute("d", line(samples, 3));
  }
}

function show(name, row) {
  const [presence, path, pathText, rtt, received, sent, handshake] = row;
  const edge = presence === "offline" ? "none" : path;
  for (const element of rowsOf(name)) {
    if ("edge" in element.dataset) element.dataset.edge = edge;
    if ("tile" in element.dataset) {
      element.dataset.tile = edge;
      element.title = `${name}: ${pathText}`;
      put(element.firstElementChild, element.title);
    }
    if ("on" in element.dataset) element.dataset.on = presence;
    const cell = (kind) => element.querySelector(`[data-cell="${kind}"]`);
    const dot = cell("dot");
    if (!dot) continue;
    dot.dataset.on = presence;
    put(cell("online"), WORDS[presence]);
    cell("path").dataset.path = path;
    put(cell("path"), pathText);
    put(cell("rtt"), rtt);
    put(cell("received"), received);
    put(cell("sent"), sent);
    put(cell("handshake"), handshake);
  }
}

function remember(names) {
  const now = Date.now() / 1000;
  for (const name of Object.keys(names)) if (!past.has(name)) past.set(name, []);
  for (const [name, samples] of past) {
    const numbers = names[name] ? names[name][7] : samples.length ? samples[samples.length - 1].slice(1) : null;
    if (numbers === null) continue;
    samples.push([now, ...numbers]);
    while (samples.length && samples[0][0] < now - WINDOW_S) samples.shift();
    if (!document.hidden) for (const row of rowsOf(name)) draw(row, samples);
  }
}

function banner(lines) {
  const box = document.getElementById("banner");
  const list = box.querySelector("ul");
  if ([...list.children].map((item) => item.textContent.trim()).join("\n") === lines.join("\n")) return;
  list.replaceChildren(...lines.map((text) => {
    const item = document.createElement("li");
    item.textContent = text;
    return item;
  }));
  box.hidden = lines.length === 0;
}

// As netctl/model/forpeople.py says it.
function age(seconds) {
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]])
    if (seconds >= 2 * size) return `${Math.round(seconds / size)} ${unit}`;
  return `${Math.round(seconds)} s`;
}

const came = new WeakMap();

function countAges() {
  const now = Date.now() / 1000;
  for (const one of document.querySelectorAll("span[data-age], span[data-left]")) {
    if (!came.has(one)) came.set(one, now);
    const passed = now - came.get(one);
    const { age: old, left } = one.dataset;
    put(one, age(old === undefined ? Math.max(0, left - passed) : Number(old) + passed));
  }
}

// What of a list can be pressed: a button must not become another one under somebody's finger.
function actions(part) {
  return [...part.querySelectorAll("button[value], input[type=hidden]:not([name=csrf])")]
    .map((one) => `${one.name}=${one.value}`).join("\n");
}

function inUse(part) {
  const selected = getSelection();
  if (!selected.isCollapsed && selected.containsNode(part, true)) return true;
  return part.matches("[data-tell]") && part.matches(":hover, :focus-within");
}

function exchange(part, fresh) {
  if (part.isEqualNode(fresh)) return;
  for (const one of part.querySelectorAll("details[open]")) {
    const same = one.id && fresh.querySelector(`#${CSS.escape(one.id)}`);
    if (same) same.open = true;
  }
  for (const one of part.querySelectorAll("input[id], select[id]")) {
    const same = fresh.querySelector(`#${CSS.escape(one.id)}`);
    if (same) same.value = one.value;
  }
  const focus = part.contains(document.activeElement) ? document.activeElement : null;
  const scrolled = [...part.querySelectorAll(".scroll")].map((one) => [one.scrollLeft, one.scrollTop]);
  part.replaceWith(fresh);
  fresh.querySelectorAll(".scroll").forEach((one, index) => one.scrollTo(...(scrolled[index] || [0, 0])));
  if (!focus) return;
  const href = focus.getAttribute("href");
  const copied = focus.dataset.copy;
  const same = focus.id ? document.getElementById(focus.id)
    : href ? fresh.querySelector(`a[href="${CSS.escape(href)}"]`)
      : copied ? fresh.querySelector(`[data-copy="${CSS.escape(copied)}"]`) : null;
  (same || MAIN).focus({ preventScroll: true });
}

function tell(part) {
  if (part.previousElementSibling?.matches("[data-told]")) return;
  const note = document.createElement("p");
  note.className = "note";
  note.dataset.told = "";
  note.setAttribute("role", "status");
  const link = document.createElement("a");
  link.href = source();
  link.textContent = "load the page again";
  note.append("This list has changed: ", link, ".");
  part.before(note);
}

function source() {
  return MAIN.dataset.from || location.href.replace(/#.*/, "");
}

let due = null;
let took = 0;
let refused = "";

// Ask for this page again and put its live parts in: at once, but never so often that the host is busy with it.
function again() {
  if (due !== null) return;
  due = setTimeout(async () => {
    if (!document.hidden) await refresh().catch(() => {});
    due = setTimeout(() => { due = null; compare(); }, Math.max(1000, AGAIN_SHARE * took));
  });
}

function parts(page) {
  return [...page.querySelectorAll("[data-live], [data-tell]")].map((one) => one.id).join();
}

async function refresh() {
  const began = performance.now();
  const answer = await fetch(source(), { credentials: "same-origin" });
  refused = answer.ok ? "" : answer.status === 404 ? "what it showed is gone" : `the host refuses it (${answer.status})`;
  if (refused) {
    took = REFUSED_MS / AGAIN_SHARE;
    lost(refused);
    return;
  }
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (parts(page) !== parts(document)) {
    refused = "parts of it have come or gone";
    lost(refused);
  }
  let skipped = false;
  for (const part of document.querySelectorAll("[data-live], [data-tell]")) {
    const fresh = page.getElementById(part.id);
    if (!fresh) continue;
    if (inUse(part)) { skipped = true; continue; }
    if (part.matches("[data-tell]") && actions(part) !== actions(fresh)) tell(part);
    else exchange(part, fresh);
  }
  if (!skipped) MAIN.dataset.version = page.getElementById("main").dataset.version;
  dress();
  search();
  took = performance.now() - began;
}

let newest = MAIN.dataset.version;

function compare() {
  if (newest !== MAIN.dataset.version && document.querySelector("[data-live]")) again();
}

function look() {
  const polled = [...document.querySelectorAll("[data-every]")];
  if (polled.length === 0) return;
  const every = Math.min(...polled.map((one) => Number(one.dataset.every)));
  setInterval(() => { if (!document.hidden) again(); }, every * 1000);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) again(); });
}

let heard = Date.now();

function lost(why) {
  const at = new Date(heard).toLocaleTimeString();
  put(document.getElementById("lost"), `This page is as of ${at}: ${why}. Load it again.`);
}

let goesBack = null;

function countDown() {
  const box = document.getElementById("armed");
  if (!box || goesBack === null) return;
  const left = Math.max(0, Math.round(goesBack - Date.now() / 1000));
  put(document.getElementById("armed-left"), `${left} s`);
}

function armed(left) {
  const box = document.getElementById("armed");
  if (!box) return;
  const end = document.getElementById("armed-end");
  if (left !== null) {
    goesBack = Date.now() / 1000 + left;
    box.hidden = false;
    put(end, "");
    countDown();
  } else if (!box.hidden) {
    goesBack = null;
    box.hidden = true;
    put(end, "Nothing waits to be kept any more: it was kept, or this host went back. The page of the document says what is in force.");
  }
}

function follow() {
  if (!document.getElementById("lost")) return;
  const waits = document.querySelector("#armed[data-left]");
  if (waits) armed(Number(waits.dataset.left));
  const take = (told) => {
    heard = Date.now();
    if (!refused) put(document.getElementById("lost"), "");
    for (const [name, row] of Object.entries(told.rows)) show(name, row);
    for (const [name, count] of Object.entries(told.online ?? {}))
      put(document.querySelector(`[data-online="${CSS.escape(name)}"]`), String(count));
    for (const [name, text] of Object.entries(told.totals ?? {}))
      for (const row of rowsOf(name)) put(row.querySelector("[data-cell=totals]"), text);
    if (told.banner) banner(told.banner);
    if (told.armed !== undefined) armed(told.armed);
    if (told.version !== undefined) newest = told.version;
    compare();
  };
  const all = (event) => {
    const told = JSON.parse(event.data);
    const now = Date.now() / 1000;
    past.clear();
    for (const [name, samples] of Object.entries(told.past)) past.set(name, samples.map((one) => [now + one[0], ...one.slice(1)]));
    take(told);
  };
  const changes = (event) => {
    const told = JSON.parse(event.data);
    take(told);
    remember(told.rows);
  };
  let stream = null;
  let leaving = 0;
  let began = 0;
  const open = () => {
    close();
    began = Date.now();
    stream = new EventSource(`${ROOT_PATH}/live?${MAIN.dataset.stream}`);
    stream.addEventListener("all", all);
    stream.addEventListener("changes", changes);
  };
  const close = () => {
    stream?.close();
    stream = null;
  };
  const watch = () => {
    countDown();
    countAges();
    if (!stream) return;
    const silent = Date.now() - Math.max(heard, began);
    const closed = stream.readyState === EventSource.CLOSED;
    if (closed) lost("the host lets this browser in no more");
    else if (silent > LOST_MS) lost("the host is not reached");
    // A browser does not open a refused stream again, and does not notice that a network has died.
    if (silent > (closed ? REFUSED_MS : SILENT_S * 1000)) open();
  };
  // Nobody looks at a tab in the background, and the host asks no peers for it.
  document.addEventListener("visibilitychange", () => {
    clearTimeout(leaving);
    if (document.hidden) leaving = setTimeout(close, HIDDEN_MS);
    else if (!stream) open();
  });
  window.addEventListener("pagehide", close);
  setInterval(watch, 1000);
  open();
  look();
}

async function copy(button) {
  const source = button.dataset.copyOf ? document.getElementById(button.dataset.copyOf) : button.lastChild;
  const text = button.dataset.copy || source.textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const range = document.createRange();
    range.selectNodeContents(source);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    if (!document.execCommand("copy")) return;
  }
  button.classList.add("copied");
  setTimeout(() => button.classList.remove("copied"), 900);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy], [data-copy-of]");
  if (button) copy(button);
});

document.addEventListener("submit", (event) => {
  const words = event.target.dataset.once;
  if (!words || event.submitter?.formAction.endsWith("/document/back")) return;
  put(event.target.querySelector("[data-said]"), words);
  for (const button of event.target.querySelectorAll("button")) setTimeout(() => { button.disabled = true; });
});

function search() {
  const field = document.getElementById("q");
  if (!field) return;
  const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of document.querySelectorAll("tr[data-peer]")) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
  }
}

document.addEventListener("input", (event) => {
  if (event.target.id === "q") search();
});

function dress() {
  for (const one of document.querySelectorAll("time[datetime]")) one.title = new Date(one.dateTime).toLocaleString();
  countAges();
}

dress();
document.documentElement.classList.add("script");
follow();
