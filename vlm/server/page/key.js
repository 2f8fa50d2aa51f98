// The API key: asked for when the server wants one, kept for this tab or, if wished, in this browser.

import { find } from "./dom.js";

const NAME = "rkvlm.key";

export const key = () => sessionStorage.getItem(NAME) ?? localStorage.getItem(NAME);

/** Ask for a key, again if there is one already; whether one was given. */
export function askForKey() {
  const dialog = find("#key");
  find("#key-words").textContent = key()
    ? "The key was not accepted. Check it, or ask whoever runs the server."
    : "Whoever runs the server can give you one.";
  find("#key-value").value = "";
  dialog.returnValue = "";
  find("#key-cancel").onclick = () => dialog.close();
  dialog.showModal();
  return new Promise((done) => {
    dialog.onclose = () => {
      const value = find("#key-value").value.trim();
      const given = dialog.returnValue === "given" && value !== "";
      if (given) keep(value, find("#key-remember").checked);
      done(given);
    };
  });
}

function keep(value, remember) {
  sessionStorage.removeItem(NAME);
  localStorage.removeItem(NAME);
  (remember ? localStorage : sessionStorage).setItem(NAME, value);
}
