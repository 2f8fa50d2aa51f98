// Where an answer's time went, as one bar and in words.

import { draw, make } from "./dom.js";

const LEAST = 1.2; // of 100: a part too short to see is still drawn

/**
 * A figure of the parts of an answer's time. figures: those of the `done` event, and told_ms, measured here, from
 * the first token to the last. What the server does not know is left out, never guessed.
 */
export function chart(figures, pictures) {
  const parts = partsOf(figures);
  const figure = make("figure", { className: "chart" });
  if (parts.length) figure.append(bar(parts));
  const list = make("ul", { className: "legend" });
  for (const { name, label, ms } of parts) {
    list.append(make("li", { className: `key ${name}` }, `${label} `, make("b", {}, duration(ms))));
  }
  for (const words of remarks(figures, pictures)) list.append(make("li", {}, words));
  figure.append(make("figcaption", {}, list));
  return figure;
}

function partsOf({ queue_ms: queue, encode_ms: encode, ttft_ms: first, told_ms: told }) {
  return [
    { name: "queue", label: "In line", ms: queue >= 1 ? queue : null },
    { name: "encode", label: "Encode", ms: encode },
    { name: "first", label: "First token", ms: first === null ? null : Math.max(0, first - (encode ?? 0)) },
    { name: "telling", label: "Telling", ms: told },
  ].filter(({ ms }) => ms !== null && ms !== undefined);
}

function remarks({ encode_ms: encode, tokens, tokens_per_second: rate }, pictures) {
  const words = [];
  if (pictures && encode === null) words.push(pictures > 1 ? "Pictures encoded before" : "Picture encoded before");
  const speed = rate ? `, ${rate < 10 ? rate.toFixed(1) : Math.round(rate)} a second` : "";
  if (tokens) words.push(`${tokens} tokens${speed}`);
  return words;
}

function bar(parts) {
  const total = parts.reduce((sum, { ms }) => sum + ms, 0) || 1;
  const shares = parts.map(({ ms }) => Math.max(LEAST, (ms / total) * 100));
  const scale = 100 / shares.reduce((sum, share) => sum + share, 0);
  const drawing = draw("svg", { viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" });
  let x = 0;
  parts.forEach(({ name }, at) => {
    const width = shares[at] * scale;
    drawing.append(draw("rect", { class: name, x, y: 0, width: Math.max(0.4, width - 0.4), height: 4 }));
    x += width;
  });
  return drawing;
}

/** 7.4 ms, 640 ms, 3.2 s, 2 min 5 s */
export function duration(ms) {
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}
