// A text field with a list of what it may become, by the combobox pattern of WAI-ARIA.

let made = 0;

/** The end of a burst of calls, so many milliseconds after the last one. */
export function settled(milliseconds, call) {
  let timer;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => call(...values), milliseconds);
  };
}

/**
 * Makes a combobox of an input.
 * `find(text, signal)` promises choices: [{ label, note, value }]; `choose(choice)` takes one;
 * `submit(text)`, if given, takes what was typed when no choice is selected.
 */
export function makeCombobox(input, { find, choose, submit, smallest = 1 }) {
  const id = `choices-${++made}`;
  const box = document.createElement("div");
  const list = document.createElement("ul");
  const told = document.createElement("p");
  box.className = "combobox";
  list.id = id;
  list.hidden = true;
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-label", input.labels?.[0]?.textContent ?? input.getAttribute("aria-label") ?? "Choices");
  told.className = "hidden-label";
  told.setAttribute("role", "status");
  input.replaceWith(box);
  box.append(input, list, told);
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
      // Before the field loses the focus.
      option.addEventListener("pointerdown", (event) => event.preventDefault());
      option.addEventListener("click", () => take(choice));
      return option;
    }));
    selected = -1;
    input.removeAttribute("aria-activedescendant");
    list.hidden = found.length === 0;
    input.setAttribute("aria-expanded", String(found.length > 0));
    told.textContent = found.length === 0 ? "Nothing found" : `${found.length} found`;
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

  const askSoon = settled(120, ask);
  input.addEventListener("input", askSoon);
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    const open = !list.hidden;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (!open) return ask();
      const step = event.key === "ArrowDown" ? 1 : -1;
      const count = choices.length + 1; // one place is the field itself
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

/** A document of this server's interface; rejects for any other answer than 200. */
export async function ask(address, parameters, signal) {
  const response = await fetch(`${address}?${new URLSearchParams(parameters)}`, { signal });
  if (!response.ok) throw new Error(`${response.status}`);
  return response.json();
}
