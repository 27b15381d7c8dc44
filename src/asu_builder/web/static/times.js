// Times in the reader's own zone; the server writes UTC, which stays in the tooltip.

const format = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

/** Rewrites the `<time>` elements below a node. */
export function localise(root) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const at = new Date(element.dateTime);
    if (element.title || Number.isNaN(at.getTime())) continue;
    element.title = element.textContent;
    element.textContent = format.format(at);
  }
}

localise(document);
