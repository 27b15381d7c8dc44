// Suggests devices while typing; without this script the form searches when it is sent.

import { ask, makeCombobox } from "./combobox.js";

const version = document.getElementById("version");
const input = document.getElementById("search");

if (version && input) {
  makeCombobox(input, {
    smallest: 2,
    find: async (text, signal) => {
      const found = await ask("/api/v1/devices", { version: version.value, search: text, limit: 12 }, signal);
      return found.devices.map((device) => ({
        label: device.title, note: `${device.target} · ${device.profile}`, value: device.profile, device,
      }));
    },
    choose: ({ device }) => {
      const { target, profile } = device;
      input.value = device.title;
      // With what is kept from another device.
      const query = new URLSearchParams(new FormData(input.form));
      query.delete("search");
      query.set("target", target);
      query.set("profile", profile);
      location.assign(`/build?${query}`);
    },
  });
  // The first page is more than this search: there the keyboard begins at the top.
  if (!input.value && location.pathname !== "/") input.focus({ preventScroll: true });
}
