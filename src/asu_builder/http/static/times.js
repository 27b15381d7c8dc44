// Times are in UTC, as in the log and on the command line; the tooltip shows local time.

const format = new Intl.DateTimeFormat(document.documentElement.lang || undefined, { dateStyle: "medium", timeStyle: "long" });

/** Adds the tooltip to the `<time>` elements below a node. */
export function localise(root) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const at = new Date(element.dateTime);
    if (!Number.isNaN(at.getTime())) element.title = format.format(at);
  }
}

localise(document);

// Whoever chooses a language stays where they are, also where the address has changed since.
document.querySelector(".languages")?.addEventListener("submit", ({ target }) => {
  target.elements.next.value = location.pathname + location.search;
});
