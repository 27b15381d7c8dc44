// Tells by a notification of the browser when a build is over, if one wants that.

import { gettext } from "./texts.js";

const page = document.getElementById("build-page");
const place = document.getElementById("notify");
const live = () => page.dataset.state === "pending" || page.dataset.state === "building";

if (place && live() && "Notification" in window && Notification.permission !== "denied") {
  const box = document.createElement("input");
  const label = document.createElement("label");
  Object.assign(box, { type: "checkbox", id: "notify-me" });
  label.htmlFor = box.id;
  label.textContent = gettext("Tell me when it is done");
  place.append(box, " ", label);
  box.addEventListener("change", async () => {
    if (box.checked && await Notification.requestPermission() !== "granted") {
      box.checked = false;
      box.disabled = true;
    }
  });
  new MutationObserver((_, observer) => {
    if (live()) return;
    observer.disconnect();
    place.hidden = true;
    if (!box.checked) return;
    try {
      const told = new Notification(document.title, { tag: page.dataset.hash });
      told.addEventListener("click", () => window.focus());
    } catch { /* phones allow it to service workers only */ }
  }).observe(page, { attributeFilter: ["data-state"] });
}
