// The API key: asked for when the server wants one, kept for this tab or, if wished, in this browser.

import { find } from "./dom.js";

const NAME = "rkvlm.key";

let given = read("sessionStorage") ?? read("localStorage");

export const key = () => given;

// Where the browser's storage is switched off, even looking at it is an error; the key then holds for this visit.
function read(storage) {
  try {
    return window[storage].getItem(NAME);
  } catch {
    return null;
  }
}

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
      if (dialog.returnValue !== "given" || !value) return done(false);
      keep(value, find("#key-remember").checked);
      done(true);
    };
  });
}

function keep(value, remember) {
  given = value;
  try {
    sessionStorage.removeItem(NAME);
    localStorage.removeItem(NAME);
    (remember ? localStorage : sessionStorage).setItem(NAME, value);
  } catch {
    // as above
  }
}
