// The drawer with the conversations this browser keeps.

import { crossButton, find, icon, make } from "./dom.js";
import * as store from "./store.js";

export class History {
  /** opened(conversation): one was chosen. */
  constructor(opened) {
    this.opened = opened;
    this.dialog = find("#history");
    find("#open-history").onclick = () => this.show();
    find("#clear-history").onclick = async () => {
      if (confirm("Remove every conversation from this browser?")) this.#list(await store.clear().then(store.all));
    };
    this.dialog.onclick = (event) => {
      if (event.target === this.dialog) this.dialog.close(); // the backdrop
    };
  }

  async show() {
    this.dialog.showModal();
    try {
      this.#list(await store.all());
    } catch {
      this.#list([], "This browser lets the page keep nothing (a private window, or storage switched off).");
    }
  }

  #list(conversations, words = "Nothing yet. Conversations appear here after their first answer.") {
    find("#clear-history").hidden = !conversations.length;
    find("#kept").replaceChildren(...conversations.map((conversation) => this.#entry(conversation)));
    find("#nothing-kept").textContent = conversations.length ? "" : words;
  }

  #entry(conversation) {
    const { id, title, thumbnail, turns } = conversation;
    const when = new Date(id).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
    const face = thumbnail ? make("img", { src: thumbnail, alt: "" }) : icon("picture");
    const count = turns.length === 1 ? "1 answer" : `${turns.length} answers`;
    const words = make("span", {}, make("b", {}, title), `${when}, ${count}`);
    const open = make("button", { type: "button", className: "entry" }, face, words);
    open.onclick = () => {
      this.dialog.close();
      this.opened(conversation);
    };
    const remove = async () => this.#list(await store.remove(id).then(store.all));
    return make("li", {}, open, crossButton("bare", `Remove “${title}”`, remove));
  }
}
