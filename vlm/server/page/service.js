// The server as the page sees it: what it offers, and a question asked of it.

/** A question that was not answered, in words for a person. `kind` is one of the keys of ADVICE. */
export class ServiceError extends Error {
  constructor(kind, message, advice = ADVICE[kind]) {
    super(message);
    Object.assign(this, { kind, advice });
  }
}

const ADVICE = {
  key: "Enter an API key of this server.",
  picture: "Choose another picture.",
  large: "Choose fewer or smaller pictures, or ask a shorter question.",
  question: "Change the question and ask again.",
  busy: "", // the server's own words say when
  offline: "Check the network and that the server runs, then try again.",
  broken: "",
};

/** What `GET /v1/info` says: model, limits, samples, and whether a key is needed. */
export async function info(key) {
  const response = await reach("/v1/info", { headers: headers(key) });
  return response.json();
}

/**
 * Ask about `pictures` (blobs, in order). `history` holds the turns before: {role, content}.
 * Yields the stream's events as {event, data}, up to and with `done`; throws ServiceError, or AbortError by `signal`.
 */
export async function* ask({ pictures, question, history, key, signal }) {
  const form = new FormData();
  for (const { blob, name } of pictures) form.append("image", blob, name);
  form.append("prompt", question);
  if (history.length) form.append("history", JSON.stringify(history));
  form.append("stream", "true");
  const response = await reach("/v1/describe", { method: "POST", body: form, headers: headers(key), signal });
  for await (const { event, data } of events(response.body)) {
    if (event === "error") throw failure(null, data);
    yield { event, data };
    if (event === "done") return;
  }
  throw new ServiceError("offline", "The connection ended before the answer did.");
}

const headers = (key) => (key ? { Authorization: `Bearer ${key}` } : {});

async function reach(path, request) {
  let response;
  try {
    response = await fetch(path, request);
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    throw lost();
  }
  if (response.ok) return response;
  throw failure(response.status, await response.json().catch(() => ({})), response.headers.get("Retry-After"));
}

/** What an error answer means to a person; within a stream there is no status, and the error's type says it. */
function failure(status, body, retryAfter) {
  const { type = "", message = `The server answered with status ${status}, without words.` } = body.error ?? {};
  const kind = KINDS.find(([statuses, types]) => statuses.includes(status) || types.test(type))?.[2] ?? "broken";
  const advice = kind === "busy" && retryAfter > 0 ? `Try again in about ${retryAfter} s.` : ADVICE[kind];
  return new ServiceError(kind, message.replace(UNNAMED, "A picture was refused: "), advice);
}

const UNNAMED = /^the given bytes: /; // what the server calls a picture, which has no name there

const KINDS = [
  [[401], /^Unauthorized/, "key"],
  [[413], /TooLarge/, "large"],
  [[415], /^Image/, "picture"],
  [[429, 503, 504], /^Engine|Busy/, "busy"],
  [[], /^(Prompt|Option|ContextTooLong)/, "question"],
];

const lost = () =>
  new ServiceError("offline", navigator.onLine ? "The server does not answer." : "This device is offline.");

/** The server-sent events of a response's body. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { value, done } = await reader.read().catch((problem) => {
      throw problem.name === "AbortError" ? problem : lost();
    });
    if (done) return;
    const blocks = (waiting + value).split(/\r?\n\r?\n/);
    waiting = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split(/\r?\n/).map((line) => line.split(/: ?(.*)/s, 2)));
      if (fields.data) yield { event: fields.event, data: JSON.parse(fields.data) };
    }
  }
}
