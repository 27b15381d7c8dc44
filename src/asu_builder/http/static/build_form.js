// Packages as chips with completion, and a live preview. The text field stays the form's value; without this script
// it is edited directly.

import { ask, makeCombobox, debounced } from "./combobox.js";
import { choice, difference } from "./form_state.js";
import { listing, remember } from "./favourites.js";
import { gettext, ngettext } from "./texts.js";

const form = document.getElementById("build-form");
const text = document.getElementById("packages");
const place = document.getElementById("chips");
const complete = document.getElementById("diff_packages");
const preview = document.getElementById("preview");
const present = new Set(place.dataset.present.split(" ").filter(Boolean));

const names = () => [...new Set(text.value.split(/[\s,]+/).filter(Boolean))];

// The list, a field to add packages, and a button to edit as text.

const chips = document.createElement("ul");
chips.className = "chips";
chips.id = "chip-list";
chips.setAttribute("aria-label", gettext("Packages"));
chips.tabIndex = -1;

const adder = document.createElement("input");
adder.id = "add-package";
adder.type = "text";
adder.placeholder = gettext("Add a package");
adder.spellcheck = false;
adder.autocapitalize = "off";
adder.setAttribute("aria-label", gettext("Add a package"));

const status = document.createElement("p");
status.className = "hidden-label";
status.setAttribute("role", "status");

const tools = document.createElement("p");
tools.className = "chip-tools hint";
const count = document.createElement("span");
const asText = document.createElement("button");
asText.type = "button";
asText.className = "plain";
asText.id = "as-text";
asText.textContent = gettext("Edit as text");
asText.setAttribute("aria-expanded", "false");
asText.setAttribute("aria-controls", "packages");
tools.append(count, asText);

place.append(chips, adder, tools, status);
text.hidden = true;
const hint = document.getElementById("packages-hint");
hint.hidden = true;
document.querySelector("#packages-title label").htmlFor = adder.id;

let wrong = new Map(); // names that the preview has found fault with, and what it is

function chip(name) {
  const item = document.createElement("li");
  const label = document.createElement("span");
  const remove = document.createElement("button");
  item.className = `chip${present.has(name) ? "" : " added"}${wrong.has(name) ? " wrong" : ""}`;
  item.dataset.package = name;
  label.textContent = name;
  if (wrong.has(name)) {
    const why = document.createElement("span");
    why.className = "hidden-label";
    why.textContent = ` ${wrong.get(name)}`;
    label.append(why);
    item.title = `${name} ${wrong.get(name)}`;
  }
  remove.type = "button";
  remove.textContent = "×";
  remove.setAttribute("aria-label", gettext("Remove %(name)s", { name }));
  remove.addEventListener("click", () => {
    const next = item.nextElementSibling ?? item.previousElementSibling;
    const follower = next?.dataset.package;
    write(names().filter((other) => other !== name), gettext("%(names)s removed", { names: name }));
    const button = follower && chips.querySelector(`[data-package="${CSS.escape(follower)}"] button`);
    (button || adder).focus();
  });
  item.append(label, remove);
  return item;
}

// On a phone only what was added last, and what is wrong, until one asks for all.

const narrow = matchMedia("(max-width: 40rem)");
const FEW = 8;
let folded = narrow.matches;
const more = document.createElement("button");
Object.assign(more, { type: "button", className: "plain", id: "all-packages" });
more.setAttribute("aria-controls", chips.id);
more.addEventListener("click", () => {
  folded = !folded;
  draw();
});
tools.before(more);

function fold(all) {
  const shown = new Set(all.filter((name) => !present.has(name)).slice(-FEW));
  let hidden = 0;
  for (const item of chips.children) {
    item.hidden = folded && !shown.has(item.dataset.package) && !wrong.has(item.dataset.package);
    hidden += Number(item.hidden);
  }
  more.hidden = !folded && !narrow.matches;
  more.setAttribute("aria-expanded", String(!folded));
  more.textContent = folded
    ? ngettext("Show %(count)s more package", "Show %(count)s more packages", hidden, { count: hidden })
    : gettext("Show fewer packages");
  if (folded && hidden === 0) more.hidden = true;
}

function draw() {
  const all = names();
  chips.replaceChildren(...all.map(chip));
  fold(all);
  const added = all.filter((name) => !present.has(name)).length;
  for (const button of document.querySelectorAll("#suggestions button")) {
    button.setAttribute("aria-pressed", String(button.value.split(" ").every((name) => all.includes(name))));
  }
  count.textContent = ngettext("%(count)s package, %(added)s in addition to the default ones",
    "%(count)s packages, %(added)s in addition to the default ones", all.length, { count: all.length, added });
}

function write(list, sentence) {
  text.value = list.join(" ");
  status.textContent = sentence;
  text.dispatchEvent(new Event("input", { bubbles: true }));
}

function add(entry) {
  const more = entry.split(/[\s,]+/).filter(Boolean);
  if (more.length === 0) return;
  write([...new Set([...names(), ...more])], gettext("%(names)s added", { names: more.join(", ") }));
  adder.value = "";
}

makeCombobox(adder, {
  find: async (entry, signal) => {
    const word = entry.replace(/^[-+]/, "");
    if (!word) return [];
    const { version, target } = place.dataset;
    const found = await ask("/api/v1/packages", { version, target, search: word, limit: 12 }, signal);
    const sign = entry.startsWith("-") ? "-" : "";
    return found.packages.map(({ name, version: release }) => ({ label: sign + name, note: release, value: sign + name }));
  },
  choose: ({ value }) => add(value),
  submit: add,
});

asText.addEventListener("click", () => {
  text.hidden = hint.hidden = !text.hidden;
  asText.setAttribute("aria-expanded", String(!text.hidden));
  asText.textContent = text.hidden ? gettext("Edit as text") : gettext("Hide the text");
  if (!text.hidden) text.focus();
});
text.addEventListener("input", () => { draw(); loadPreviewSoon(); });
form.addEventListener("change", ({ target }) => { if (target.name && target !== text) loadPreviewSoon(); });

// Favourites: remembered here, and their packages put into this list.

const sets = document.getElementById("favourite-sets");

function showSets() {
  const list = listing(({ name, added, removed }) => {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", className: "quiet small", textContent: gettext("Use its packages") });
    button.setAttribute("aria-label", gettext("Use the packages of %(name)s", { name }));
    button.addEventListener("click", () => {
      const all = [...new Set([...names(), ...added])].filter((one) => !removed.includes(one));
      write(all, gettext("%(names)s added", { names: added.join(", ") }));
    });
    button.hidden = added.length + removed.length === 0;
    return button;
  });
  document.getElementById("favourite-list").replaceChildren(...list);
  sets.hidden = list.length === 0;
}

document.getElementById("remember").addEventListener("click", () => {
  const { added, removed } = difference();
  const changes = [...added, ...removed.map((name) => `-${name}`)];
  const device = `${document.querySelector("h1").textContent.trim()} ${place.dataset.version}`;
  const name = changes.length ? `${device}: ${changes.slice(0, 4).join(" ")}${changes.length > 4 ? " …" : ""}` : device;
  document.getElementById("form-said").textContent = remember({ name, query: String(choice()), added, removed })
    ? gettext("Remembered in this browser.") : gettext("This browser remembers nothing.");
  showSets();
});
showSets();

// The preview, from the server.

let loading = null;

async function loadPreview() {
  loading?.abort();
  const mine = loading = new AbortController();
  const sent = new URLSearchParams(new FormData(form));
  sent.delete("defaults"); // not needed for the packages, and may be long and private
  sent.set("do", "preview");
  preview.setAttribute("aria-busy", "true");
  try {
    const response = await fetch("/build", { method: "POST", body: sent, signal: mine.signal });
    if (!response.ok) throw new Error(`${response.status}`);
    const found = new DOMParser().parseFromString(await response.text(), "text/html");
    if (mine !== loading) return;
    preview.replaceChildren(...found.body.childNodes);
    wrong = new Map([...preview.querySelectorAll("[data-wrong]")].map(({ dataset }) => [dataset.wrong, dataset.why]));
    draw();
  } catch (error) {
    if (error.name === "AbortError") return;
    preview.textContent = gettext("The preview could not be loaded. The packages are checked when the image is built.");
  }
  preview.removeAttribute("aria-busy");
}

// At most four times a second, whatever is pressed.
const loadPreviewSoon = debounced(250, loadPreview);

preview.addEventListener("click", (event) => {
  const button = event.target.closest('button[name="replace"]');
  if (!button) return;
  event.preventDefault();
  const at = button.value.indexOf("=");
  const [old, other] = [button.value.slice(0, at), button.value.slice(at + 1)];
  const list = names().flatMap((name) => (name === old ? other.split(" ") : name)).filter(Boolean);
  const more = other.split(" ").filter((name) => name !== old).join(" ");
  const sentence = !other ? gettext("%(names)s removed", { names: old })
    : list.includes(old) ? gettext("%(names)s added", { names: more })
    : gettext("%(new)s instead of %(old)s", { new: more, old });
  write([...new Set(list)], sentence);
  adder.focus();
});

// Groups of packages: one click adds all, another removes them.
form.addEventListener("click", (event) => {
  const button = event.target.closest('button[name="add"]');
  if (!button) return;
  event.preventDefault();
  const group = button.value.split(" ");
  const has = group.every((name) => names().includes(name));
  if (has) write(names().filter((name) => !group.includes(name)), gettext("%(names)s removed", { names: group.join(", ") }));
  else add(button.value);
});

// The button, and the Enter key in a field.
form.addEventListener("submit", (event) => {
  if (event.submitter?.value !== "check") return;
  event.preventDefault();
  loadPreviewSoon();
});

draw();
if (text.getAttribute("aria-invalid")) {
  adder.setAttribute("aria-invalid", "true");
  adder.setAttribute("aria-describedby", "wrong");
  adder.focus();
}
if (!preview.querySelector('[data-preview="added"]')) loadPreview();
