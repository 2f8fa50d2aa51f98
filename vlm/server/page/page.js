// The page: one conversation at a time, about the pictures on the stage. The other files are its parts.

import { Announcer } from "./announce.js";
import { find, make } from "./dom.js";
import { History } from "./history.js";
import { askForKey, key } from "./key.js";
import * as pictures from "./pictures.js";
import * as service from "./service.js";
import { Stage } from "./stage.js";
import * as store from "./store.js";
import * as talk from "./talk.js";

const OPENING = "The model is being opened.";
const AGAIN_MS = 1500;

let server = null; // what /v1/info says
let conversation = blank();
let waiting = 0; // the timer of the next look at a model that is being opened
let running = null; // the AbortController of the question being answered
let adding = Promise.resolve(); // pictures on their way to the stage
const announcer = new Announcer(find("#spoken"));
const stage = new Stage({ add, remove });
new History(reopen);

/** turns: [{question, answer, figures}], answered ones; the pictures belong to the first. */
function blank() {
  return { id: Date.now(), pictures: [], turns: [] };
}

// The server

async function meet() {
  clearTimeout(waiting);
  try {
    server = await service.info(key());
  } catch (problem) {
    if (problem.kind === "key" && (await askForKey())) return meet();
    return notice(`${problem.message} ${problem.advice}`, meetAgain);
  }
  if (!server.model) {
    notice(OPENING);
    waiting = setTimeout(meet, AGAIN_MS);
    return;
  }
  if (find("#notice").textContent === OPENING) notice("");
  find("#model").textContent = server.model.name;
  find("#description").textContent = server.model.description;
  document.body.classList.toggle("textual", !server.model.pictures);
  find("#prompt").placeholder = server.model.pictures ? "Ask about the picture" : "Ask";
  stage.offer(server.samples, addSample);
  refresh();
}

function meetAgain() {
  notice("");
  return meet();
}

// Pictures

function add(files) {
  if (running) return notice("Wait for the answer, or stop it, before another picture.");
  adding = adding.then(() => addNow(files));
  return adding;
}

async function addNow(files) {
  if (server?.model?.pictures === false) return notice("This model takes no pictures.");
  if (conversation.turns.length) renew(); // a new picture is a new conversation
  notice("");
  for (const { blob, name } of files) {
    if (!room()) {
      notice(`A question may have ${server.limits.images} pictures here; ${name} was left out.`);
      break;
    }
    try {
      conversation.pictures.push(await pictures.open(blob, name));
    } catch (problem) {
      notice(problem.message);
    }
  }
  refresh();
  toPrompt();
}

async function addSample(sample) {
  try {
    const response = await fetch(sample.url);
    if (!response.ok) throw new Error(response.statusText);
    const blob = await response.blob();
    await add([{ blob, name: sample.name }]);
  } catch {
    notice("The sample cannot be fetched; does the server still run?");
  }
}

function remove(picture) {
  conversation.pictures = conversation.pictures.filter((other) => other !== picture);
  pictures.close(picture);
  refresh();
  toPrompt();
}

const room = () => !server || conversation.pictures.length < server.limits.images;

// Questions

/** What is asked where nothing is asked. */
const description = () => ["", "Describe the picture."][conversation.pictures.length] ?? "Describe the pictures.";

async function ask(question) {
  if (!server?.model) await meetAgain();
  if (running) return notice("An answer is being told. Stop it with Esc, or wait.");
  if (!server?.model) return; // the notice says why
  running = new AbortController();
  if (find("#prompt").value === question) write("");
  await adding;
  const words = question.trim() || description();
  notice(words ? "" : "Add a picture or write a question.");
  const turn = words && new talk.Turn(words);
  refresh();
  const problem = turn && (await answer(turn, words).catch((error) => error));
  running = null;
  refresh();
  if (problem) unanswered(turn, words, problem);
}

async function answer(turn, question) {
  const asked = conversation;
  announcer.begin();
  turn.wait("Sending");
  let first = null;
  try {
    asked.pictures = await pictures.fitted(asked.pictures, server.limits);
    refresh();
    const request = { pictures: asked.pictures, question, history: history(asked), key: key(), signal: running.signal };
    for await (const { event, data } of service.ask(request)) {
      if (event === "queued") turn.wait(data.position ? `In line, place ${data.position}` : "Looking");
      if (event === "thought") {
        if (first === null) {
          turn.wait("Thinking");
          announcer.say("Thinking.");
        }
        turn.think(data.text);
      }
      if (event === "thought" || event === "token") first ??= performance.now();
      if (event === "token") {
        turn.tell(data.text);
        announcer.tell(data.text);
      }
      if (event === "done") over(asked, turn, question, { ...data, told_ms: first && performance.now() - first });
    }
  } catch (problem) {
    if (!running.signal.aborted) throw problem;
    const told = first && performance.now() - first;
    over(asked, turn, question, { finish_reason: "stopped", encode_ms: undefined, ttft_ms: null, told_ms: told });
  }
}

/** An answer is over, told to its end or stopped: show what it took and keep it. */
function over(asked, turn, question, figures) {
  turn.finish(figures, asked.pictures.length);
  announcer.end();
  announcer.say(figures.finish_reason === "stopped" ? "Stopped." : "End of the answer.");
  if (!turn.text) return;
  asked.turns.push({ question, answer: turn.text, figures });
  asked.title ??= question;
  asked.thumbnail ??= asked.pictures[0]?.thumbnail ?? null;
  const files = asked.pictures.map(({ blob, name, note }) => ({ blob, name, note }));
  store.put({ ...asked, pictures: files }).catch(() => {}); // the drawer says that nothing is kept
}

/** A question was refused or lost: say so; it can be asked again as it is, or stands in the field to be changed. */
async function unanswered(turn, question, { kind, message, advice = "" }) {
  const again = () => {
    if (!running) turn.remove();
    ask(question);
  };
  const hopeless = ["picture", "large", "question"].includes(kind);
  turn.fail(`${message} ${advice}`, hopeless ? null : again);
  if (hopeless && !find("#prompt").value) write(question);
  if (kind === "key" && (await askForKey())) again();
}

const history = ({ turns }) =>
  turns.flatMap(({ question, answer: told }) => [
    { role: "user", content: question },
    { role: "assistant", content: told },
  ]);

function stop() {
  running?.abort();
}

// Conversations

function renew() {
  stop();
  conversation.pictures.forEach(pictures.close);
  conversation = blank();
  talk.clear();
  notice("");
  refresh();
  toPrompt();
}

async function reopen(kept) {
  renew();
  const reopened = async ({ blob, name, note }) => ({ ...(await pictures.open(blob, name)), note });
  const opened = await Promise.all(kept.pictures.map(reopened));
  conversation = { ...kept, pictures: opened };
  for (const { question, answer: told, figures } of kept.turns) {
    const turn = new talk.Turn(question);
    turn.think(figures.reasoning ?? "");
    turn.tell(told);
    turn.finish(figures, opened.length);
  }
  refresh();
}

// What is shown when

function refresh() {
  const begun = conversation.turns.length > 0 || running !== null;
  const focused = document.activeElement;
  stage.show(conversation.pictures, !begun && room());
  find("#examples").hidden = begun || !room() || talk.any();
  document.body.classList.toggle("begun", begun);
  find("#stop").hidden = !running;
  find("#ask").hidden = running !== null;
  find("#renew").hidden = !begun && !conversation.pictures.length && !talk.any();
  find("#describe").hidden = begun || !description();
  find("#describe").textContent = description();
  if (focused !== document.body && !focused.checkVisibility()) find(running ? "#stop" : "#ask").focus();
}

/** Say something above the question, until the next; "" takes it away. retry: what a button "Try again" does. */
function notice(words, retry) {
  const button = { type: "button", className: "quiet", onclick: retry };
  find("#notice").replaceChildren(words, ...(retry ? [make("button", button, "Try again")] : []));
}

/** Put words into the field of the question. */
function write(words) {
  find("#prompt").value = words;
  size();
}

function size() {
  const { style } = find("#prompt");
  style.height = "auto";
  style.height = `${find("#prompt").scrollHeight}px`;
}

/** On to the question; but where a finger points, that would bring up the keyboard unasked. */
function toPrompt() {
  if (matchMedia("(pointer: fine)").matches) find("#prompt").focus({ preventScroll: true });
}

find("#composer").onsubmit = (event) => {
  event.preventDefault();
  ask(find("#prompt").value);
};
find("#prompt").oninput = size;
find("#prompt").onkeydown = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  ask(event.target.value);
};
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !document.querySelector("dialog[open]")) stop();
});
find("#stop").onclick = stop;
find("#describe").onclick = () => ask(description());
find("#renew").onclick = renew;
meet();
