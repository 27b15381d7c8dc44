// A text field with a list of suggestions, by the combobox pattern of WAI-ARIA.

import { gettext, ngettext } from "./texts.js";

let made = 0;

/** Calls once, so many milliseconds after the last of several calls. */
export function debounced(milliseconds, call) {
  let timer;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => call(...values), milliseconds);
  };
}

/**
 * Turns an input into a combobox.
 * `find(text, signal)` promises choices: [{ label, note, value }]; `choose(choice)` receives the chosen one;
 * `submit(text)`, if given, receives the text when no choice is selected.
 */
export function makeCombobox(input, { find, choose, submit, smallest = 1 }) {
  const id = `choices-${++made}`;
  const box = document.createElement("div");
  const list = document.createElement("ul");
  const status = document.createElement("p");
  box.className = "combobox";
  list.id = id;
  list.hidden = true;
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-label", input.labels?.[0]?.textContent ?? input.getAttribute("aria-label") ?? gettext("Choices"));
  status.className = "hidden-label";
  status.setAttribute("role", "status");
  input.replaceWith(box);
  box.append(input, list, status);
  for (const [name, value] of Object.entries({
    role: "combobox", "aria-autocomplete": "list", "aria-expanded": "false", "aria-controls": id, autocomplete: "off",
  })) input.setAttribute(name, value);

  let choices = [];
  let selected = -1;
  let asking = null;

  const close = () => {
    asking?.abort();
    list.hidden = true;
    selected = -1;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  };

  const select = (number) => {
    selected = number;
    [...list.children].forEach((option, at) => option.setAttribute("aria-selected", String(at === number)));
    const option = list.children[number];
    if (!option) return input.removeAttribute("aria-activedescendant");
    input.setAttribute("aria-activedescendant", option.id);
    option.scrollIntoView({ block: "nearest" });
  };

  const take = (choice) => {
    close();
    choose(choice);
  };

  const show = (found) => {
    choices = found;
    list.replaceChildren(...found.map((choice, number) => {
      const option = document.createElement("li");
      const label = document.createElement("span");
      const note = document.createElement("small");
      option.id = `${id}-${number}`;
      option.dataset.value = choice.value ?? choice.label;
      option.setAttribute("role", "option");
      option.setAttribute("aria-selected", "false");
      label.textContent = choice.label;
      note.textContent = choice.note ?? "";
      option.append(label, " ", note);
      // Keeps the focus in the field.
      option.addEventListener("pointerdown", (event) => event.preventDefault());
      option.addEventListener("click", () => take(choice));
      return option;
    }));
    selected = -1;
    input.removeAttribute("aria-activedescendant");
    list.hidden = found.length === 0;
    input.setAttribute("aria-expanded", String(found.length > 0));
    status.textContent = found.length === 0 ? gettext("Nothing found")
      : ngettext("%(count)s found", "%(count)s found", found.length, { count: found.length });
  };

  const ask = async () => {
    asking?.abort();
    const text = input.value.trim();
    if (text.length < smallest) return close();
    asking = new AbortController();
    try {
      const found = await find(text, asking.signal);
      if (document.activeElement === input) show(found);
    } catch (error) {
      if (error.name !== "AbortError") close();
    }
  };

  const askSoon = debounced(120, ask);
  input.addEventListener("input", askSoon);
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    const open = !list.hidden;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (!open) return ask();
      const step = event.key === "ArrowDown" ? 1 : -1;
      const count = choices.length + 1; // the field itself is one position
      select(((selected + 1 + step + count) % count) - 1);
    } else if (event.key === "Escape" && open) {
      event.preventDefault();
      close();
    } else if (event.key === "Enter" && open && selected >= 0) {
      event.preventDefault();
      take(choices[selected]);
    } else if (event.key === "Enter" && submit) {
      event.preventDefault();
      close();
      submit(input.value.trim());
    } else if (event.key === "Tab" && open) {
      close();
    }
  });
}

/** A JSON document of this server's API; rejects any status but 2xx. */
export async function ask(address, parameters, signal) {
  const response = await fetch(`${address}?${new URLSearchParams(parameters)}`, { signal });
  if (!response.ok) throw new Error(`${response.status}`);
  return response.json();
}
