// Devices and packages that this browser keeps, and no one else.

import { gettext } from "./texts.js";

const KEY = "asu-favourites";
const KNOWN = [
  "version", "target", "profile", "packages", "diff_packages", "rootfs_size_mb", "filesystem", "on_missing",
  "repositories_mode",
];
const MOST = 200;

const texts = (list) => (Array.isArray(list) ? list.filter((name) => typeof name === "string").slice(0, 3000) : []);

/** A favourite from a file or the browser's store; null for anything else. It holds nothing private. */
function clean(one) {
  if (typeof one?.name !== "string" || typeof one.query !== "string") return null;
  const query = new URLSearchParams([...new URLSearchParams(one.query)].filter(([name]) => KNOWN.includes(name)));
  if (!query.get("profile")) return null;
  return { name: one.name.slice(0, 200), query: String(query), added: texts(one.added), removed: texts(one.removed) };
}

function read(content) {
  try {
    const found = JSON.parse(content);
    return Array.isArray(found) ? found.map(clean).filter(Boolean).slice(0, MOST) : [];
  } catch {
    return [];
  }
}

/** The favourites, the newest first. */
export function favourites() {
  try {
    return read(localStorage.getItem(KEY));
  } catch {
    return [];
  }
}

/** Keeps these; false where the browser keeps nothing. */
function write(list) {
  try {
    localStorage.setItem(KEY, JSON.stringify(list.slice(0, MOST)));
    return true;
  } catch {
    return false;
  }
}

/** Adds one, in place of an equal one. */
export function remember(one) {
  return write([clean(one), ...favourites().filter(({ query }) => query !== one.query)]);
}

function button(label, call) {
  const element = document.createElement("button");
  Object.assign(element, { type: "button", className: "quiet small", textContent: label });
  element.addEventListener("click", call);
  return element;
}

/** A list of what is kept; `act` makes what stands beside each link. */
export function listing(act) {
  return favourites().map((one) => {
    const item = document.createElement("li");
    const link = document.createElement("a");
    link.href = `/build?${one.query}`;
    link.textContent = one.name;
    item.append(link, " ", act(one));
    return item;
  });
}

// The page where a device is chosen.

const section = document.getElementById("favourites");

function show() {
  const all = favourites();
  section.hidden = false;
  document.getElementById("favourite-list").replaceChildren(...listing((one) => {
    const remover = button(gettext("Remove"), () => {
      write(favourites().filter(({ query }) => query !== one.query));
      show();
    });
    remover.setAttribute("aria-label", gettext("Remove %(name)s", { name: one.name }));
    return remover;
  }));
  document.getElementById("export").hidden = all.length === 0;
}

if (section) {
  document.getElementById("export").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(favourites(), null, 1)], { type: "application/json" }));
    link.download = "favourites.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  document.getElementById("import").addEventListener("change", async ({ target }) => {
    const found = read(await target.files[0].text());
    for (const one of found.reverse()) remember(one);
    target.value = "";
    show();
  });
  show();
}
