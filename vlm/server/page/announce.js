// What a screen reader hears of an answer: whole sentences as they are complete, not every token.

const SENTENCE_END = /[.!?。！？\n]["')\]]?(?=\s|$|\P{ASCII})/gu;

/** Feeds a `role="log"` region, out of sight, from the pieces of an answer. */
export class Announcer {
  constructor(region) {
    this.region = region;
    this.waiting = "";
  }

  /** Say something short at once. */
  say(words) {
    const line = document.createElement("p");
    line.textContent = words;
    this.region.append(line);
  }

  begin() {
    this.region.replaceChildren();
    this.waiting = "";
  }

  /** More of the answer. The last sentence is kept back: it may go on. */
  tell(text) {
    this.waiting += text;
    const ends = [...this.waiting.matchAll(SENTENCE_END)].filter(({ index }) => index < this.waiting.length - 2);
    if (!ends.length) return;
    const end = ends.at(-1).index + ends.at(-1)[0].length;
    this.say(this.waiting.slice(0, end).trim());
    this.waiting = this.waiting.slice(end);
  }

  end() {
    if (this.waiting.trim()) this.say(this.waiting.trim());
    this.waiting = "";
  }
}
