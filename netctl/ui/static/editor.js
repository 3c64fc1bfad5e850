// The editor of the document: it colours the text, shows errors at their lines, and offers what the schema allows.
// Without scripts there is a plain text field, with the errors below it.
"use strict";

const CHECK_AFTER_MS = 350;
const MAX_OFFERED = 12;
const field = document.getElementById("text");
const under = document.getElementById("under");
const list = document.getElementById("proposals");
const verdict = document.getElementById("verdict");
const PARTS = /([A-Za-z0-9_.-]+(?=:(?:\s|$)))|("(?:[^"\\]|\\.)*"|'(?:[^']|'')*')|((?:^|(?<=\s))#.*)/g;

// -- colours and errors: a layer below the text, line for line ------------------------------------------------

let shown = [];
let found = new Map();

function painted(text) {
  const line = document.createElement("span");
  line.className = "l";
  let end = 0;
  const add = (kind, part) => {
    if (!part) return;
    const piece = document.createElement("span");
    if (kind) piece.className = kind;
    piece.textContent = part;
    line.append(piece);
  };
  for (const hit of text.matchAll(PARTS)) {
    add("", text.slice(end, hit.index));
    add(hit[1] ? "y-key" : hit[2] ? "y-text" : "y-comment", hit[0]);
    end = hit.index + hit[0].length;
  }
  add("", text.slice(end));
  return line;
}

function paint() {
  const lines = field.value.split("\n");
  let first = 0;
  while (first < lines.length && first < shown.length && lines[first] === shown[first]) first += 1;
  let last = 0;
  while (last < lines.length - first && last < shown.length - first
    && lines[lines.length - 1 - last] === shown[shown.length - 1 - last]) last += 1;
  const old = [...under.children].slice(first, shown.length - last);
  const fresh = lines.slice(first, lines.length - last).map(painted);
  const before = under.children[shown.length - last] || null;
  for (const one of old) one.remove();
  for (const one of fresh) under.insertBefore(one, before);
  shown = lines;
  mark();
}

function mark() {
  for (const old of under.querySelectorAll(".l[data-severity]")) {
    old.removeAttribute("data-severity");
    old.querySelector(".lens")?.remove();
  }
  for (const [number, one] of found) {
    const line = under.children[number - 1];
    if (!line) continue;
    line.dataset.severity = one.severity;
    const lens = document.createElement("span");
    lens.className = "lens";
    lens.textContent = `  ${one.code} ${one.text}`;
    line.append(lens);
  }
  follow();
}

function follow() {
  under.scrollTop = field.scrollTop;
  under.scrollLeft = field.scrollLeft;
}

function tell(findings, errors) {
  found = new Map();
  for (const one of findings) if (found.get(one.line)?.severity !== "error") found.set(one.line, one);
  const rows = findings.map((one) => {
    const item = document.createElement("li");
    item.className = "finding";
    item.dataset.severity = one.severity;
    const go = document.createElement("button");
    go.type = "button";
    go.className = "plain";
    go.textContent = `Line ${one.line}`;
    go.addEventListener("click", () => moveTo(one.line, one.column));
    const code = document.createElement("strong");
    code.textContent = `${one.severity} ${one.code}`;
    item.append(go, " ", code, ` ${one.text}`);
    return item;
  });
  document.getElementById("findings").replaceChildren(...rows);
  const warnings = findings.length - errors;
  const words = [];
  if (errors) words.push(`${errors} error${errors === 1 ? "" : "s"}`);
  if (warnings > 0) words.push(`${warnings} warning${warnings === 1 ? "" : "s"}`);
  verdict.textContent = words.length ? `${words.join(", ")}.` : "In order.";
  field.setAttribute("aria-invalid", errors ? "true" : "false");
  mark();
}

function moveTo(line, column) {
  const lines = field.value.split("\n");
  const at = lines.slice(0, line - 1).reduce((sum, one) => sum + one.length + 1, 0) + column - 1;
  field.focus();
  field.setSelectionRange(at, at);
  field.scrollTop = Math.max(0, (line - 5) * rowHeight());
}

let waiting = 0;
let asking = null;

function later() {
  clearTimeout(waiting);
  waiting = setTimeout(check, CHECK_AFTER_MS);
}

async function check() {
  asking?.abort();
  asking = new AbortController();
  const form = field.form;
  const said = new URLSearchParams({ csrf: form.elements.csrf.value, text: field.value });
  try {
    const answer = await fetch(`${document.documentElement.dataset.rootPath}/document/check`, { method: "POST", body: said, signal: asking.signal });
    if (!answer.ok) throw new Error(String(answer.status));
    const told = await answer.json();
    tell(told.findings, told.errors);
  } catch (error) {
    if (error.name === "AbortError") return;
    verdict.textContent = "It cannot be checked just now: the page does not answer, or you are signed out.";
  }
}

// -- proposals: what the schema allows here, by the lines above -------------------------------------------------

let schema = null;

function meant(node) {
  if (!node || !node.$ref) return node;
  const target = node.$ref.slice(2).split("/").reduce((at, part) => at[part], schema);
  return { ...meant(target), ...node, $ref: undefined, of: node.$ref.split("/").pop() };
}

function step(node, part) {
  const here = meant(node);
  if (!here) return null;
  for (const branch of here.anyOf || []) {
    const below = step(branch, part);
    if (below) return below;
  }
  if (part === "[]") return here.items || null;
  if (here.properties && Object.hasOwn(here.properties, part)) return here.properties[part];
  return typeof here.additionalProperties === "object" ? here.additionalProperties : null;
}

const KEY = /^("[^"]*"|'[^']*'|[^\s:{}[\],"'#][^:{}[\],#]*):(?=\s|$)/;

function split(line) {
  const [, pad, dashes, rest] = /^( *)((?:- +)*)(.*)$/.exec(line);
  const key = KEY.exec(rest);
  return { base: pad.length, inner: pad.length + dashes.length, dashes, rest, key: key && key[1].replace(/["']/g, "") };
}

function above(lines, row, inner, base, dashes) {
  const path = [];
  const beside = new Set();
  let limit = inner;
  let item = dashes !== "";
  let level = true;
  if (item) { path.unshift("[]"); limit = base + 1; level = false; }
  for (let number = row - 1; number >= 0 && limit > 0; number -= 1) {
    if (/^\s*(#|$)/.test(lines[number])) continue;
    const one = split(lines[number]);
    if (item && one.dashes && one.base === limit - 1) continue;
    if (level && one.key && one.inner === inner) beside.add(one.key);
    if (one.dashes && one.base < limit && one.inner >= limit && !item) {
      path.unshift("[]");
      limit = one.base + 1;
      item = true;
      level = false;
      continue;
    }
    if (one.inner >= limit || !one.key) continue;
    level = false;
    path.unshift(one.key);
    limit = one.inner;
    item = false;
    if (one.dashes) { path.unshift("[]"); limit = one.base + 1; item = true; }
  }
  return { path, beside };
}

function flow(text) {
  const stack = [];
  let word = "";
  let quote = "";
  for (const mark of text) {
    const top = stack[stack.length - 1];
    if (quote) {
      if (mark === quote) quote = "";
      else word += mark;
    } else if (mark === '"' || mark === "'") quote = mark;
    else if (mark === "{" || mark === "[") { stack.push({ map: mark === "{", key: null, seen: new Set() }); word = ""; }
    else if (mark === "}" || mark === "]") { stack.pop(); word = ""; }
    else if (mark === ":" && top && top.map) { top.key = word.trim(); top.seen.add(top.key); word = ""; }
    else if (mark === ",") { if (top) top.key = null; word = ""; }
    else word += mark;
  }
  return { stack, word: word.trimStart(), quote };
}

function place() {
  const at = field.selectionStart;
  const lines = field.value.split("\n");
  const row = field.value.slice(0, at).split("\n").length - 1;
  const column = at - field.value.lastIndexOf("\n", at - 1) - 1;
  const line = lines[row].slice(0, column);
  if (/(^|\s)#/.test(line)) return null;
  const here = split(line);
  const { path, beside } = above(lines, row, here.inner, here.base, here.dashes);
  for (let number = row + 1; number < lines.length; number += 1) {
    if (/^\s*(#|$)/.test(lines[number])) continue;
    const one = split(lines[number]);
    if (one.inner < here.inner || one.dashes) break;
    if (one.key && one.inner === here.inner) beside.add(one.key);
  }
  const key = KEY.exec(here.rest);
  let value = here.rest;
  if (key) {
    path.push(here.key);
    value = here.rest.slice(key[0].length);
  } else if (!/[{[]/.test(here.rest)) {
    return { path, beside, keys: true, also: here.dashes !== "", word: here.rest, quote: "", row, column, block: true };
  }
  const inside = flow(value);
  for (const frame of inside.stack) {
    if (!frame.map) path.push("[]");
    else if (frame.key !== null) path.push(frame.key);
  }
  const top = inside.stack[inside.stack.length - 1];
  const keys = Boolean(top && top.map && top.key === null);
  return { path, beside: keys ? top.seen : new Set(), keys, also: false, word: inside.word, quote: inside.quote, row, column };
}

function names(part) {
  const lines = field.value.split("\n");
  const start = lines.findIndex((line) => line.startsWith(`${part}:`));
  const made = [];
  for (let number = start + 1; start >= 0 && number < lines.length; number += 1) {
    if (/^[^\s#]/.test(lines[number])) break;
    const hit = /^  ([a-z0-9-]+):/.exec(lines[number]);
    if (hit) made.push(hit[1]);
  }
  return made;
}

function selectors() {
  const groups = new Set();
  for (const hit of field.value.matchAll(/groups: *\[([^\]]*)\]/g)) for (const one of hit[1].split(",")) if (one.trim()) groups.add(one.trim());
  return ["*", ...[...groups].map((one) => `group:${one}`), ...names("members")];
}

function values(node) {
  const here = meant(node);
  if (!here) return [];
  const about = here.description || here.title || "";
  if (here.enum) return here.enum.map((one) => [String(one), about]);
  if (here.const !== undefined) return [[String(here.const), about]];
  if (here.type === "boolean") return ["true", "false"].map((one) => [one, about]);
  if (here.of === "selector") return selectors().map((one) => [one, about]);
  if (here.anyOf) return here.anyOf.flatMap(values);
  if (here.type === "array" || here.type === "object") return [];
  return (here.examples || []).filter((one) => typeof one !== "object").map((one) => [String(one), `for example; ${about}`]);
}

function offers(at) {
  const node = at.path.reduce((here, part) => here && step(here, part), schema);
  const here = meant(node);
  const made = [];
  if (at.keys && here) {
    const open = (one) => { const below = meant(one); return below.type === "object" || below.type === "array"; };
    for (const [name, one] of Object.entries(here.properties || {})) {
      const below = meant(one);
      if (!at.beside.has(name)) made.push({ word: name, text: at.block && open(one) ? `${name}:` : `${name}: `, about: below.description || below.title || "" });
    }
    const last = at.path[at.path.length - 1];
    if (last === "addresses") for (const name of names("members")) if (!at.beside.has(name)) made.push({ word: name, text: `${name}: `, about: "its fixed address" });
  }
  if (!at.keys || at.also) {
    for (const [word, about] of values(node)) {
      const plain = /^[A-Za-z0-9./_-]+$/.test(word);
      made.push({ word, text: at.quote || plain ? word : `"${word}"`, about });
    }
  }
  const typed = at.word.toLowerCase();
  const fit = made.filter((one) => one.word.toLowerCase().startsWith(typed) && one.word !== at.word);
  return fit.slice(0, MAX_OFFERED);
}

let offered = [];
let chosen = 0;
let start = 0;

function rowHeight() {
  return parseFloat(getComputedStyle(field).lineHeight);
}

function close() {
  offered = [];
  list.hidden = true;
  field.removeAttribute("aria-activedescendant");
  field.removeAttribute("aria-controls");
}

async function offer(asked) {
  if (schema === null) {
    schema = {};
    schema = await (await fetch(`${document.documentElement.dataset.rootPath}/static/networks.schema.json`)).json();
  }
  if (field.selectionStart !== field.selectionEnd || !schema.properties) return close();
  const at = place();
  if (at === null || (!asked && at.word === "")) return close();
  offered = offers(at);
  if (!offered.length) return close();
  start = field.selectionStart - at.word.length;
  chosen = 0;
  draw(at);
}

function draw(at) {
  const items = offered.map((one, index) => {
    const item = document.createElement("li");
    item.id = `proposal-${index}`;
    item.setAttribute("role", "option");
    item.setAttribute("aria-selected", String(index === chosen));
    const word = document.createElement("strong");
    word.textContent = one.word;
    const about = document.createElement("span");
    about.textContent = one.about;
    item.append(word, " ", about);
    item.addEventListener("mousedown", (event) => { event.preventDefault(); chosen = index; take(); });
    return item;
  });
  list.replaceChildren(...items);
  list.hidden = false;
  if (at) {
    const probe = document.createElement("span");
    probe.textContent = "0".repeat(10);
    under.append(probe);
    const wide = probe.getBoundingClientRect().width / 10;
    probe.remove();
    const style = getComputedStyle(field);
    const left = parseFloat(style.paddingLeft) + (at.column - at.word.length) * wide - field.scrollLeft;
    list.style.left = `${Math.max(0, Math.min(left, field.clientWidth - 240))}px`;
    list.style.top = `${parseFloat(style.paddingTop) + (at.row + 1) * rowHeight() - field.scrollTop + 2}px`;
  }
  field.setAttribute("aria-controls", "proposals");
  field.setAttribute("aria-activedescendant", `proposal-${chosen}`);
}

function take() {
  const one = offered[chosen];
  field.setSelectionRange(start, field.selectionStart);
  // Inserted as if somebody had typed it, so that the browser's undo works.
  if (!document.execCommand("insertText", false, one.text)) field.setRangeText(one.text, start, field.selectionEnd, "end");
  close();
  paint();
  later();
}

field.addEventListener("keydown", (event) => {
  if (event.ctrlKey && event.key === " ") {
    event.preventDefault();
    offer(true);
  } else if (offered.length && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
    event.preventDefault();
    chosen = (chosen + (event.key === "ArrowDown" ? 1 : offered.length - 1)) % offered.length;
    draw(null);
  } else if (offered.length && event.key === "Enter") {
    event.preventDefault();
    take();
  } else if (offered.length && event.key === "Escape") {
    event.preventDefault();
    close();
  } else if (event.key === "Enter" && !event.ctrlKey && !event.altKey) {
    event.preventDefault();
    const line = field.value.slice(field.value.lastIndexOf("\n", field.selectionStart - 1) + 1, field.selectionStart);
    const pad = /^ */.exec(line)[0] + (/:\s*$/.test(line) ? "  " : "");
    document.execCommand("insertText", false, `\n${pad}`);
  }
});
field.addEventListener("input", () => { paint(); later(); offer(false); });
field.addEventListener("scroll", () => { follow(); close(); });
field.addEventListener("blur", close);
field.setAttribute("aria-autocomplete", "list");
document.getElementById("editor").classList.add("live");
paint();
check();
window.addEventListener("beforeunload", (event) => {
  if (field.value !== field.defaultValue && !field.form.dataset.sent) event.preventDefault();
});
field.form.addEventListener("submit", () => { field.form.dataset.sent = "1"; });
