// A badge that shows how many messages a user has not read, as that changes.
//
// Who asks stands behind the # of the page's address (service, tenant, user,
// token), which a browser sends to nobody, or is entered into the form.
//
// ask and watch know nothing of the page: an application would take these.

const FIRST_PAUSE = 200; // milliseconds between tries
const LONGEST_PAUSE = 5_000;
// The service says something every 15 s: after so long a silence nobody is there.
const SILENCE = 45_000;

// The same request would be answered the same again: trying on helps nobody.
const FINAL = new Set([
  "UNAUTHENTICATED", "PERMISSION_DENIED", "INVALID_ARGUMENT", "FAILED_PRECONDITION", "UNIMPLEMENTED",
]);

/** A refusal, as RFC 9457 has it. */
export class Problem extends Error {
  constructor({ code, reason, detail, retry }) {
    super(detail);
    Object.assign(this, { code, reason, retry });
  }
}

/** The answer to a question; with a body it is posted. */
export async function ask({ service, token }, path, body) {
  const response = await request({ service, token }, path, {
    ...(body && { method: "POST", body: JSON.stringify(body) }),
    headers: body ? { "content-type": "application/json" } : {},
    signal: AbortSignal.timeout(5_000),
  });
  return response.json();
}

async function request({ service, token }, path, { headers, ...options }) {
  if (token) headers = { ...headers, authorization: `Bearer ${token}` };
  const response = await fetch(`${service}/v1/${path}`, { ...options, headers });
  if (response.ok) return response;
  const isProblem = response.headers.get("content-type") === "application/problem+json";
  if (!isProblem) throw new Error(`HTTP status ${response.status}`);
  const seconds = Number(response.headers.get("retry-after") ?? 0);
  throw new Problem({ ...(await response.json()), retry: 1_000 * seconds });
}

/**
 * Tells of each message of a watch, and of each connection that is lost, until
 * the signal comes or a Problem says that there is no use in trying on.
 *
 * fetch, because EventSource cannot say who asks.
 */
export async function watch(who, path, { told, lost, signal }) {
  let last = ""; // the id of the latest event that had one
  for (let tries = 0; ; tries++) {
    let retry = 0;
    try {
      for await (const event of events(who, path, last, signal)) {
        retry = event.retry ?? 0;
        if (event.name === "problem") throw new Problem(JSON.parse(event.data));
        if (event.name === "update") {
          tries = 0;
          told(JSON.parse(event.data));
        }
        // After its data was taken: what was not is told again.
        last = event.id || last;
      }
    } catch (error) {
      signal?.throwIfAborted();
      if (error instanceof Problem && FINAL.has(error.code)) throw error;
      retry = error.retry ?? retry;
    }
    lost();
    await new Promise((resolve) => setTimeout(resolve, Math.max(retry, pause(tries))));
    signal?.throwIfAborted();
  }
}

/** Longer each time, and of random length, so that not all pages come back at once. */
function pause(tries) {
  const longest = Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** tries);
  return longest * (0.5 + Math.random() / 2);
}

/** The events of one connection. */
async function* events(who, path, last, stopped) {
  const connection = new AbortController();
  const end = () => connection.abort();
  let silence = setTimeout(end, SILENCE);
  stopped?.addEventListener("abort", end);
  try {
    const headers = { accept: "text/event-stream", ...(last && { "last-event-id": last }) };
    const response = await request(who, path, { headers, cache: "no-store", signal: connection.signal });
    const text = response.body.pipeThrough(new TextDecoderStream());
    let rest = "";
    for await (const part of pieces(text)) {
      clearTimeout(silence);
      silence = setTimeout(end, SILENCE);
      const blocks = (rest + part).split("\n\n");
      rest = blocks.pop();
      yield* blocks.map(parsed);
    }
  } finally {
    clearTimeout(silence);
    stopped?.removeEventListener("abort", end);
    end();
  }
}

/** Not every browser can iterate over a stream itself. */
async function* pieces(stream) {
  const reader = stream.getReader();
  for (let read = await reader.read(); !read.done; read = await reader.read()) yield read.value;
}

function parsed(block) {
  const event = { name: "message", data: "", id: "" };
  for (const line of block.split("\n")) {
    const [, field, value] = /^(\w+): ?(.*)$/.exec(line) ?? [];
    if (field === "event") event.name = value;
    if (field === "data") event.data += value;
    if (field === "id") event.id = value;
    if (field === "retry") event.retry = Number(value);
  }
  return event;
}

/** From here on: the page. */

const element = (id) => document.getElementById(id);

function state(name) {
  document.body.dataset.state = name;
  element("state").textContent = name;
}

let watching = new AbortController();

async function show(who) {
  watching.abort();
  watching = new AbortController();
  const { signal } = watching;
  state("connecting");
  element("badge").textContent = element("problem").textContent = "";
  const path = `tenants/${encodeURIComponent(who.tenant)}/users/${encodeURIComponent(who.user)}/events`;
  const told = (message) => {
    for (const { user_stats } of message.updates) element("badge").textContent = user_stats.total_unread_count;
    if (message.all_told) state("live");
  };
  try {
    await watch(who, path, { told, lost: () => state("reconnecting"), signal });
  } catch (error) {
    if (signal.aborted) return; // somebody else is shown by now
    state("refused");
    element("problem").textContent = `${error.code}: ${error.message}`;
  }
}

function start() {
  const form = element("who");
  const named = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  // It is not to be left in the history, nor on the screen.
  history.replaceState(null, "", location.pathname);
  for (const [name, value] of Object.entries(named)) {
    if (form.elements[name]) form.elements[name].value = value;
  }
  const entered = () => show(Object.fromEntries(new FormData(form)));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    entered();
  });
  if (form.checkValidity()) entered();
}

start();
