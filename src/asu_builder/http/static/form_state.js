// Keeps what is chosen: what may be shared in the address, what may not in this tab alone.

import { gettext } from "./texts.js";

const form = document.getElementById("build-form");
const text = form.elements.packages;
const tools = document.getElementById("form-tools");
const PRIVATE = {
  defaults: gettext("the first-boot script"),
  repositories: gettext("the custom repositories"),
  repository_keys: gettext("the repository keys"),
};
const OPTIONS = ["rootfs_size_mb", "filesystem", "on_missing", "repositories_mode"];
const KEY = "asu-form";

const words = (value) => [...new Set(value.split(/[\s,]+/).filter(Boolean))];
const begin = words(tools.dataset.begin);
const isAll = (list, other) => list.length === other.length && list.every((name) => other.includes(name));

function value(name) {
  const field = form.elements[name];
  if (!field) return "";
  return field.type === "checkbox" && !field.checked ? "" : field.value;
}

/** What is chosen, without what is private: a query of the form. */
export function choice() {
  const query = new URLSearchParams();
  for (const name of ["version", "target", "profile"]) query.set(name, value(name));
  if (!isAll(words(text.value), begin) || !form.elements.diff_packages.checked) {
    query.set("packages", words(text.value).join(" "));
    query.set("diff_packages", form.elements.diff_packages.checked ? "1" : "0");
  }
  for (const name of OPTIONS) {
    if (value(name) && value(name) !== "append") query.set(name, value(name));
  }
  return query;
}

/** Packages beside those that the form begins with, and those of these that are left out. */
export function difference() {
  const all = words(text.value);
  return {
    added: all.filter((name) => !begin.includes(name)),
    removed: form.elements.diff_packages.checked ? begin.filter((name) => !all.includes(name)) : [],
  };
}

function stored() {
  try {
    return JSON.parse(sessionStorage.getItem(KEY)) ?? {};
  } catch {
    return {};
  }
}

function store(changes) {
  try {
    sessionStorage.setItem(KEY, JSON.stringify({ ...stored(), ...changes }));
  } catch { /* the browser keeps nothing */ }
}

const place = () => ["version", "target", "profile"].map(value).join(" ");

/** Puts the choice into the address, and into what leads to other versions and devices. */
export function keep() {
  const query = choice();
  const isLong = new TextEncoder().encode(`GET /build?${query} HTTP/1.1`).length > Number(tools.dataset.most) - 64;
  store(isLong ? { packages: text.value, place: place() } : { packages: undefined });
  if (isLong) query.delete("packages");
  history.replaceState(history.state, "", `/build?${query}`);
  const carried = new URLSearchParams(query);
  for (const name of ["version", "target", "profile"]) carried.delete(name);
  if (carried.has("packages")) carried.set("was", place());
  const link = document.getElementById("other-device");
  link.href = `/build?${new URLSearchParams([["version", value("version")], ...carried])}`;
  document.getElementById("carried").replaceChildren(...[...carried].map(([name, chosen]) => {
    const field = document.createElement("input");
    Object.assign(field, { type: "hidden", name, value: chosen });
    return field;
  }));
  return isLong;
}

// What this tab has of before. An emptied field stays empty.
const before = stored();
for (const name of Object.keys(PRIVATE)) {
  const field = form.elements[name];
  if (!field) continue;
  if (name in before && field.value !== before[name]) {
    field.value = before[name];
    document.getElementById("options").open = true;
  }
  field.addEventListener("input", () => store({ [name]: field.value }));
}
if (before.packages && before.place === place()) text.value = before.packages;

form.addEventListener("input", keep);
form.addEventListener("change", keep);

const said = document.getElementById("form-said");
document.getElementById("share").addEventListener("click", async () => {
  const left = Object.keys(PRIVATE).filter((name) => value(name).trim()).map((name) => PRIVATE[name]);
  if (keep()) left.push(gettext("the packages, which are too many for an address"));
  let sentence = gettext("The link is copied.");
  try {
    await navigator.clipboard.writeText(location.href);
  } catch {
    sentence = gettext("Copy the address of this page.");
  }
  if (left.length) sentence += ` ${gettext("Not in it: %(parts)s.", { parts: left.join(", ") })}`;
  said.textContent = sentence;
});
tools.hidden = false;
keep();
