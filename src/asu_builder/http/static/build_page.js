// Shows a live build: state and log lines come by WebSocket, by server-sent events where a proxy blocks WebSockets,
// and by polling where no connection stays open. At the end the result is loaded from the server; the log stays.

import { gettext, ngettext } from "./texts.js";
import { localise } from "./times.js";

const page = document.getElementById("build-page");
const hash = page.dataset.hash;
const MOST_LINES = 3000;
const { states: STATES, waiting_for: WAITING_FOR } = JSON.parse(page.dataset.words);
const live = () => page.dataset.state === "pending" || page.dataset.state === "building";

// The log

const log = document.getElementById("log");
const logState = document.getElementById("log-state");
let last = Number(log?.querySelector(".line:last-of-type")?.dataset.seq ?? 0);
let stage = [...(log?.querySelectorAll(".stage") ?? [])].pop()?.dataset.stage ?? "";
let follows = true;

const say = (sentence) => { if (logState) logState.textContent = sentence; };
const isAtEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < 40;
const toEnd = () => { log.scrollTop = log.scrollHeight; };

function span(name, text) {
  const element = document.createElement("span");
  element.className = name;
  element.textContent = text;
  return element;
}

function words(step) {
  return document.querySelector(`[data-step="${step}"] .words`)?.textContent ?? step;
}

function print(lines) {
  const added = document.createDocumentFragment();
  for (const line of lines) {
    if (line.seq <= last) continue;
    last = line.seq;
    if (line.stage !== stage) {
      stage = line.stage;
      const mark = span("stage", `${words(stage)}\n`);
      mark.dataset.stage = stage;
      added.append(mark);
    }
    const element = span("line", "");
    element.dataset.seq = line.seq;
    element.append(span("at", line.at.slice(11, 19)), ` ${line.text}\n`);
    added.append(element);
  }
  if (!added.hasChildNodes()) return;
  say("");
  log.append(added);
  while (log.childElementCount > MOST_LINES) log.firstElementChild.remove();
  if (follows) toEnd();
}

/** Adds the lines that are missing here from a page of the server. */
function catchUp(elements) {
  let mark = null;
  for (const element of [...elements]) {
    if (element.className === "stage") mark = element;
    else if (Number(element.dataset.seq) > last) {
      if (mark && mark.dataset.stage !== stage) {
        stage = mark.dataset.stage;
        log.append(mark);
      }
      mark = null;
      last = Number(element.dataset.seq);
      log.append(element);
    }
  }
  if (follows) toEnd();
}

function startAgain() {
  log.replaceChildren();
  [last, stage] = [0, ""];
}

// State

function about(seconds) {
  return seconds < 60 ? `${Math.max(10, Math.round(seconds / 10) * 10)} s` : `${Math.round(seconds / 60)} min`;
}

function sentence({ state, stage: step, position, eta_seconds: eta, waiting_for: hindrance, late }) {
  const left = eta == null ? "" : about(eta);
  if (state === "pending") {
    if (WAITING_FOR[hindrance]) return `${WAITING_FOR[hindrance]}.`;
    const place = position ? ngettext("%(ahead)s build ahead", "%(ahead)s builds ahead", position, { ahead: position })
      : gettext("Next in the queue");
    return left ? gettext("%(place)s, about %(span)s.", { place, span: left }) : `${place}.`;
  }
  const doing = words(step ?? "init");
  if (late && left) return gettext("%(stage)s, longer than usual, about %(span)s left.", { stage: doing, span: left });
  return left ? gettext("%(stage)s, about %(span)s left.", { stage: doing, span: left }) : `${doing}.`;
}

function write(id, text) {
  const element = document.getElementById(id);
  // Screen readers announce only changes.
  if (element && element.textContent.trim() !== text) element.textContent = text;
}

function showState(message) {
  const { state } = message;
  if (state !== "pending" && state !== "building") return;
  page.dataset.state = state;
  const badge = document.getElementById("state");
  badge.className = `badge ${state}`;
  write("state", STATES[state]);
  write("sentence", sentence(message));
  const steps = [...document.querySelectorAll("#stages [data-step]")];
  const current = state === "pending" ? "pending" : message.stage ?? "init";
  const at = steps.findIndex((step) => step.dataset.step === current);
  steps.forEach((step, number) => {
    step.className = number < at ? "done" : number === at ? "current" : "ahead";
    step.querySelector(".hidden-label").textContent =
      { done: gettext("done"), current: gettext("current"), ahead: gettext("ahead") }[step.className];
    step.toggleAttribute("aria-current", number === at);
    if (number === at) step.setAttribute("aria-current", "step");
  });
  document.getElementById("progress").value = at;
  const far = state === "building" ? ` ${at}/${steps.length}` : message.position ? ` (${message.position})` : "";
  document.title = document.title.replace(/^[^:]*/, STATES[state] + far);
}

/** Loads the current state or the result from the server's page. */
async function refresh() {
  const response = await fetch(location.pathname, { headers: { accept: "text/html" } });
  if (response.status >= 500) throw new Error(String(response.status));
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  const found = fresh.getElementById("build-page");
  if (!found) return location.reload();
  const hadFocus = document.getElementById("build").contains(document.activeElement);
  for (const part of ["build", "next"]) document.getElementById(part).replaceWith(fresh.getElementById(part));
  page.dataset.state = found.dataset.state;
  document.getElementById("state").className = fresh.getElementById("state").className;
  write("state", fresh.getElementById("state").textContent.trim());
  write("sentence", fresh.getElementById("sentence").textContent.trim());
  document.title = fresh.title;
  if (log) catchUp(fresh.getElementById("log")?.children ?? []);
  if (log && !log.childElementCount) {
    const output = fresh.getElementById("output");
    document.getElementById("log-section").replaceWith(...(output ? [output] : []));
  }
  addButtons();
  if (hadFocus) {
    const heading = page.querySelector("h1");
    heading.tabIndex = -1;
    heading.focus();
  }
}

// Connections

const pause = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));
let ended = false;

async function end() {
  if (ended) return;
  for (let tries = 0; tries < 20 && !ended; tries++) {
    try {
      await refresh();
      ended = !live();
    } catch { /* the server does not answer; try again */ }
    if (!ended) await pause(1 + tries);
  }
  say("");
}

/** A function that handles one message after the other; the last one loads the result. */
function makeReceiver() {
  let jobBegins = true;
  return async (message) => {
    if (message.type === "state") showState(message);
    else if (message.type === "lines") {
      // The same request was submitted again: a new job starts at line 1.
      if (jobBegins && message.lines[0]?.seq === 1 && last > 0) startAgain();
      jobBegins = false;
      print(message.lines);
    } else if (message.type === "final") await end();
  };
}

const address = () => new URL(`/api/v1/build/${hash}/events?after=${last}`, location.href);

/** Receives until the build or the connection ends; promises whether anything was received. */
function listen(open) {
  return new Promise((done) => {
    let received = false;
    let connection = null;
    const receive = makeReceiver();
    const over = () => {
      clearTimeout(silence);
      connection.close();
      done(received);
    };
    const silence = setTimeout(over, 10000);
    connection = open(async ({ data }) => {
      clearTimeout(silence);
      received = true;
      await receive(JSON.parse(data));
      if (ended) over();
    }, over);
  });
}

function openSocket(take, over) {
  const there = address();
  there.protocol = there.protocol.replace("http", "ws");
  const socket = new WebSocket(there);
  socket.addEventListener("message", take);
  socket.addEventListener("close", over);
  return socket;
}

function openEvents(take, over) {
  const events = new EventSource(address());
  for (const kind of ["state", "lines", "final"]) events.addEventListener(kind, take);
  // No automatic reconnect: the loop below chooses the next connection.
  events.addEventListener("error", over);
  return events;
}

async function watch() {
  const transports = [openSocket, openEvents];
  let losses = 0;
  while (!ended && live()) {
    const received = await listen(transports[0]);
    if (ended || !live()) return;
    losses = received ? 0 : losses + 1;
    if (!received) transports.reverse();
    if (losses === 1) continue;
    say(gettext("Connection lost; reconnecting."));
    if (losses >= transports.length) {
      try {
        await refresh();
        ended = !live();
      } catch { /* next time */ }
    }
    await pause(Math.min(15, 2 ** losses) * (0.75 + Math.random() / 2));
    if (!ended) say("");
  }
}

// Buttons

function button(text, call) {
  const element = document.createElement("button");
  element.type = "button";
  element.className = "quiet small";
  element.textContent = text;
  element.addEventListener("click", call);
  return element;
}

async function copy(event, text) {
  const element = event.currentTarget;
  const was = element.textContent;
  try {
    await navigator.clipboard.writeText(text);
    element.textContent = gettext("Copied");
  } catch {
    element.textContent = gettext("Copy failed; select the text");
  }
  setTimeout(() => { element.textContent = was; }, 2000);
}

/** Adds buttons to the content from the server. */
function addButtons() {
  localise(page);
  for (const code of page.querySelectorAll("[data-copy]")) {
    const what = code.closest("pre") ? gettext("Copy the command") : gettext("Copy the digest");
    const copier = button(gettext("Copy"), (event) => copy(event, code.textContent));
    copier.setAttribute("aria-label", what);
    (code.parentElement.tagName === "PRE" ? code.parentElement : code).after(" ", copier);
    delete code.dataset.copy;
  }
  const field = document.getElementById("manifest-search");
  if (!field) return;
  const rows = [...document.querySelectorAll("#manifest tbody tr")];
  // With a filter in the address the other rows are missing here; then the server searches.
  if (field.value) return;
  field.form.querySelector("button").hidden = true;
  field.form.addEventListener("submit", (event) => event.preventDefault());
  field.addEventListener("input", () => {
    const wanted = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const name = row.firstElementChild.textContent.toLowerCase();
      row.hidden = !wanted.every((word) => name.includes(word));
      shown += row.hidden ? 0 : 1;
    }
    write("manifest-count", ngettext("%(shown)s of %(count)s package", "%(shown)s of %(count)s packages", rows.length,
      { shown, count: rows.length }));
  });
}

addButtons();
if (log) {
  const follow = button(gettext("Jump to the end"), () => {
    follows = follow.hidden = true;
    toEnd();
  });
  follow.id = "follow";
  const copier = button(gettext("Copy"), (event) => copy(event, log.textContent));
  copier.id = "copy-log";
  copier.setAttribute("aria-label", gettext("Copy the build log"));
  document.getElementById("log-tools").append(follow, copier);
  log.addEventListener("scroll", () => {
    follows = isAtEnd();
    follow.hidden = follows;
  });
  follow.hidden = true;
  // A narrower window wraps lines and moves the end; that does not stop following.
  new ResizeObserver(() => { if (follows) toEnd(); }).observe(log);
  toEnd();
}
if (live()) watch();
