// The pictures asked about, and every way a picture gets there: drop, paste, choose, photograph, sample.

import { crossButton, find, icon, make } from "./dom.js";

export class Stage {
  #shown = [];

  /** add(files: [{blob, name}]): pictures came. remove(picture): one is taken off again. */
  constructor({ add, remove }) {
    Object.assign(this, { add, remove });
    for (const input of [find("#choose"), find("#photograph")]) {
      input.onchange = () => {
        this.add(files(input.files));
        input.value = ""; // the same file may be chosen again
      };
    }
    document.addEventListener("paste", (event) => {
      if (event.clipboardData.files.length) this.add(files(event.clipboardData.files));
    });
    this.#takeDrops();
  }

  #takeDrops() {
    let depth = 0; // dragenter and dragleave come for every element passed
    const mark = (change) => {
      depth = Math.max(0, depth + change);
      document.body.classList.toggle("dropping", depth > 0);
    };
    const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
    document.addEventListener("dragenter", (event) => carriesFiles(event) && mark(1));
    document.addEventListener("dragleave", (event) => carriesFiles(event) && mark(-1));
    document.addEventListener("dragover", (event) => carriesFiles(event) && event.preventDefault());
    document.addEventListener("drop", (event) => {
      if (!carriesFiles(event)) return;
      event.preventDefault();
      mark(-depth);
      this.add(files(event.dataTransfer.files));
    });
  }

  /** Show `pictures`; open: others may be added. Those that were on show already are not drawn anew. */
  show(pictures, open) {
    if (pictures.length !== this.#shown.length || pictures.some((picture, at) => picture !== this.#shown[at])) {
      this.#shown = [...pictures];
      find("#pictures").replaceChildren(...pictures.map((picture, at) => this.#tile(picture, at, pictures.length)));
      find("#pictures").dataset.count = pictures.length;
    }
    document.body.classList.toggle("pictured", pictures.length > 0);
    find("#sources").hidden = !open;
    find("#choose-words").textContent = pictures.length ? "Add another" : "Choose a picture";
  }

  #tile(picture, at, count) {
    const { name, url, width, height, note } = picture;
    const kind = name.split(".").pop().toUpperCase();
    const unshown = `This browser cannot show this ${kind} file. It is sent as it is; save it as JPEG if that fails.`;
    const face = width
      ? make("img", { src: url, alt: count > 1 ? `Picture ${at + 1}: ${name}` : name })
      : make("p", { className: "unshown" }, icon("picture"), unshown);
    const size = width ? `${name}, ${width} × ${height}` : name;
    const caption = make("figcaption", {}, size, note ? ` — ${note}` : "");
    const frame = make("div", { className: "frame" }, face);
    if (count > 1) frame.append(make("span", { className: "number", "aria-hidden": "true" }, at + 1));
    frame.append(crossButton("remove", `Take off ${name}`, () => this.remove(picture)));
    return make("li", {}, make("figure", { className: "tile" }, frame, caption));
  }

  /** Offer the server's samples; chosen(sample): one was clicked. */
  offer(samples, chosen) {
    find("#samples").replaceChildren(
      ...samples.map((sample) => {
        const button = make(
          "button",
          { type: "button", className: "sample", title: sample.name },
          make("img", { src: sample.url, alt: `Sample: ${sample.name}` }),
        );
        button.onclick = () => chosen(sample);
        return make("li", {}, button);
      }),
    );
  }
}

const files = (list) => [...list].map((file) => ({ blob: file, name: file.name || "picture" }));
