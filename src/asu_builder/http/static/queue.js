// Keeps the queue up to date while the page is visible: fetches the page's live part and replaces it.

import { gettext } from "./texts.js";
import { localise } from "./times.js";

const EVERY = 2500;
const SLOWEST = 30000;

const follow = document.getElementById("follow");
const trouble = document.getElementById("follow-trouble");
let live = document.getElementById("live");
let shown = "";
let wait = EVERY;
let timer = 0;

follow.closest("p").hidden = false;
follow.addEventListener("change", refresh);
document.addEventListener("visibilitychange", refresh);
schedule();

/** Whether replacing the part now would lose the reader's selection. */
function inUse() {
  const selection = getSelection();
  return !selection.isCollapsed && live.contains(selection.anchorNode);
}

function schedule() {
  clearTimeout(timer);
  if (follow.checked && !document.hidden) timer = setTimeout(refresh, wait);
}

async function refresh() {
  clearTimeout(timer);
  if (!follow.checked || document.hidden) return;
  try {
    const text = await fetched();
    if (text !== shown && !inUse()) replaceLive(text);
    trouble.textContent = "";
    wait = EVERY;
  } catch {
    if (!trouble.textContent) trouble.textContent = gettext("The server does not answer; this page may be out of date.");
    wait = Math.min(wait * 2, SLOWEST);
  }
  schedule();
}

async function fetched() {
  const address = new URL(location.href);
  address.searchParams.delete("done");
  address.searchParams.set("fragment", "1");
  const answer = await fetch(address, { signal: AbortSignal.timeout(10000) });
  if (!answer.ok) throw new Error(String(answer.status));
  return answer.text();
}

/** Replaces the live part; open details, their forms and the focus stay. */
function replaceLive(text) {
  const fresh = new DOMParser().parseFromString(text, "text/html").getElementById("live");
  if (!fresh) throw new Error("no live part");
  const next = document.adoptNode(fresh);
  localise(next);
  const focused = live.contains(document.activeElement) ? document.activeElement : null;
  for (const details of next.querySelectorAll("details[id]")) {
    const former = live.querySelector(`#${CSS.escape(details.id)}`);
    if (former?.open) details.replaceWith(former);
    else if (former) details.open = false;
  }
  live.replaceWith(next);
  live = next;
  shown = text;
  if (focused) refocus(focused);
}

function refocus(focused) {
  const details = focused.closest("details[id]");
  const target = live.contains(focused) ? focused
    : focused.id ? live.querySelector(`#${CSS.escape(focused.id)}`)
    : focused.matches("summary") ? live.querySelector(`#${CSS.escape(details.id)} > summary`)
    : null;
  target?.focus({ preventScroll: true });
}
