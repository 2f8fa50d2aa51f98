// The conversation on the page: each turn is a question, its answer as it is told, and what it took.

import { chart } from "./chart.js";
import { find, icon, make } from "./dom.js";

/** One question and its answer on the page. */
export class Turn {
  #pending = "";
  #thought = "";
  #frame = 0;

  constructor(question) {
    this.told = make("p", { className: "told", dir: "auto" });
    this.progress = make("p", { className: "progress" });
    this.thoughts = make("p", { dir: "auto" });
    this.thinking = make("details", { className: "thoughts", hidden: true }, make("summary", {}, "Thoughts"), this.thoughts);
    this.element = make(
      "article",
      { className: "turn" },
      make("h3", { className: "question", dir: "auto" }, question),
      make("div", { className: "answer" }, this.thinking, this.told, this.progress),
    );
    find("#turns").append(this.element);
    toEnd();
  }

  /** Say what is being waited for. */
  wait(words) {
    const stay = atEnd();
    this.progress.replaceChildren(make("span", { className: "pulse", "aria-hidden": "true" }), words);
    if (stay) toEnd();
  }

  /** More text; drawn once a frame however fast the tokens come. */
  tell(text) {
    this.#pending += text;
    this.#frame ||= requestAnimationFrame(() => this.#show());
  }

  /** More of what the model thinks before it answers: folded away above the answer, and no part of it. */
  think(text) {
    this.#thought += text;
    this.#frame ||= requestAnimationFrame(() => this.#show());
  }

  #show() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const stay = atEnd();
    if (this.#pending) this.progress.replaceChildren();
    add(this.told, this.#pending);
    add(this.thoughts, this.#thought);
    this.thinking.hidden = !this.thoughts.textContent.trim();
    this.#pending = this.#thought = "";
    if (stay) toEnd();
  }

  get text() {
    return this.told.textContent + this.#pending;
  }

  /** The answer is over: its figures, and why it ended where that is not of itself. */
  finish(figures, pictures) {
    this.#show();
    const stay = atEnd();
    const why = { stopped: "Stopped.", length: "Ended at the longest answer allowed." }[figures.finish_reason];
    this.progress.replaceChildren();
    if (why) this.progress.append(why);
    this.thinking.open ||= !this.text; // where there is nothing else to read
    if (this.text) this.element.append(make("div", { className: "after" }, chart(figures, pictures), copyButton(this)));
    if (stay) toEnd();
  }

  /** It was not answered: the reason and what to do; with `retry`, a button that tries again. */
  fail(words, retry) {
    this.#show();
    this.progress.replaceChildren();
    const problem = make("div", { className: "problem", role: "alert" }, icon("warning"), make("p", {}, words));
    if (retry) problem.append(make("button", { type: "button", className: "quiet", onclick: retry }, "Try again"));
    this.element.append(problem);
    toEnd();
  }

  remove() {
    this.element.remove();
  }
}

/** Add to an element's text, and keep it one node. */
function add(element, text) {
  element.append(text);
  element.normalize();
}

/** Whether something was asked, answered or not. */
export const any = () => find(".turn") !== null;

/** Take every turn off the page. */
export const clear = () => find("#turns").replaceChildren();

function copyButton(turn) {
  const label = make("span", { ariaLive: "polite" }, "Copy");
  const onclick = async () => {
    label.textContent = (await copy(turn.told)) ? "Copied" : "Select and copy it by hand";
    setTimeout(() => (label.textContent = "Copy"), 2000);
  };
  return make("button", { type: "button", className: "quiet copy", onclick }, icon("copy"), label);
}

/** Over plain HTTP from another machine there is no navigator.clipboard; the old command works there. */
async function copy(element) {
  if (navigator.clipboard) return navigator.clipboard.writeText(element.textContent).then(() => true, () => false);
  const selection = getSelection();
  selection.selectAllChildren(element);
  const done = document.execCommand("copy");
  selection.removeAllRanges();
  return done;
}

// New text keeps the end in view while the reader is at the end; one who has scrolled up is left alone.

const NEAR_PX = 120;

const atEnd = () => find("#end").getBoundingClientRect().top < find("#composer").getBoundingClientRect().top + NEAR_PX;

function toEnd() {
  find("#end").scrollIntoView({ block: "end" });
}

// On a narrow screen the field of the question lies over the end of the conversation, and it grows.
new ResizeObserver(() => {
  const stay = atEnd();
  find("#end").style.scrollMarginBottom = `${find("#composer").offsetHeight + 16}px`;
  if (stay && find(".turn")) toEnd();
}).observe(find("#composer"));
