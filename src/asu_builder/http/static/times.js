// Times are in UTC, as in the log and on the command line; the tooltip shows local time.

// In the language of the page, as the reader's own region writes it.
const language = document.documentElement.lang;
const region = navigator.languages.find((name) => name.split("-")[0] === language.split("-")[0]);
const format = new Intl.DateTimeFormat(region || language || undefined, { dateStyle: "medium", timeStyle: "long" });

/** Adds the tooltip to the `<time>` elements below a node. */
export function localise(root) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const at = new Date(element.dateTime);
    if (!Number.isNaN(at.getTime())) element.title = format.format(at);
  }
}

localise(document);

// A reader who chooses a language stays on the page, also where the address has changed since.
document.querySelector(".languages")?.addEventListener("submit", ({ target }) => {
  target.elements.next.value = location.pathname + location.search;
});
