// The API key: asked for when the server wants one, kept for this tab or, if wished, in this browser.

import { find } from "./dom.js";

const NAME = "rkvlm.key";

export const key = () => sessionStorage.getItem(NAME) ?? localStorage.getItem(NAME);

/** Ask for a key; whether one was given. `words` say why. */
export function askForKey(words) {
  const dialog = find("#key");
  find("#key-words").textContent = words;
  find("#key-value").value = "";
  dialog.returnValue = "";
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
