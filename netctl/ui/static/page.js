// What the page does beyond reading: live rows, plots, copying, finding as you type. Without it the page still reads.
"use strict";

// The path below which a reverse proxy shows the page.
const ROOT_PATH = document.documentElement.dataset.rootPath;
const WINDOW_S = 180;
const HIDDEN_MS = 10000;
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
  const found = rowsOf(name);
  for (const element of found) {
    if ("edge" in element.dataset) element.dataset.edge = edge;
    if ("tile" in element.dataset) element.dataset.tile = edge;
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
  return found.length > 0;
}

function remember(names) {
  const now = Date.now() / 1000;
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

async function again() {
  const live = document.getElementById("live");
  if (!live) return;
  const answer = await fetch(location.href, { credentials: "same-origin" });
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("live");
  if (fresh) live.replaceWith(fresh);
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
    put(end, "Nothing waits to be kept any more: it was kept, or this host went back. Load the page again to see what is in force.");
  }
}

function follow() {
  const rows = document.querySelector("[data-peer], #live");
  if (!rows && !document.getElementById("armed")) return;
  const waits = document.querySelector("#armed[data-left]");
  if (waits) armed(Number(waits.dataset.left));
  setInterval(countDown, 1000);
  const take = (told) => {
    let strangers = false;
    for (const [name, row] of Object.entries(told.rows)) strangers = !show(name, row) || strangers;
    if (told.banner) banner(told.banner);
    if (told.armed !== undefined) armed(told.armed);
    const live = document.getElementById("live");
    if (strangers && live && live.dataset.filtered === "0") again();
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
  const open = () => {
    stream = new EventSource(`${ROOT_PATH}/live${rows ? "" : "?rows=0"}`);
    stream.addEventListener("all", all);
    stream.addEventListener("changes", changes);
  };
  const close = () => {
    stream?.close();
    stream = null;
  };
  // Nobody looks at a tab in the background, and the host asks no peers for it.
  document.addEventListener("visibilitychange", () => {
    clearTimeout(leaving);
    if (document.hidden) leaving = setTimeout(close, HIDDEN_MS);
    else if (!stream) open();
  });
  window.addEventListener("pagehide", close);
  open();
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

document.addEventListener("input", (event) => {
  if (event.target.id !== "q") return;
  const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of document.querySelectorAll("tr[data-peer]")) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
  }
});

for (const one of document.querySelectorAll("time[datetime]")) one.title = new Date(one.dateTime).toLocaleString();
document.documentElement.classList.add("script");
follow();
