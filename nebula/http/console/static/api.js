// Questions to the server: with the reader's key, once more where it says so, and its event stream.
import { root, store, update } from "./store.js";

const KEY = "nebula.key";
const PATIENCE = 20; // how often a long log is read on
const known = new Map(); // answers about past moments, which stay as they are
const MOST_KNOWN = 60;

export function key() {
  return sessionStorage.getItem(KEY) || "";
}

export function keep(secret) {
  if (secret) sessionStorage.setItem(KEY, secret);
  else sessionStorage.removeItem(KEY);
  known.clear();
}

/** Take a key from the address's fragment, as `nebula console` opens it, and remove it there. */
export function takeFragment() {
  const found = /^#key=(.+)$/.exec(location.hash);
  if (!found) return;
  keep(decodeURIComponent(found[1]));
  history.replaceState(null, "", location.pathname + location.search);
}

export function headers(more = {}) {
  const secret = key();
  return secret ? { ...more, authorization: `Bearer ${secret}` } : more;
}

export class Failed extends Error {
  constructor(message, status, { param, code } = {}) {
    super(message);
    this.status = status;
    this.param = param; // the field at fault
    this.code = code;
  }
}

export async function ask(path, options = {}) {
  const answer = await fetch(root + path, { ...options, headers: headers(options.headers) });
  if (answer.ok) return answer;
  let text = `${answer.status} ${answer.statusText}`;
  let found = {};
  try {
    found = (await answer.json()).error;
    text = found.message;
  } catch {
    // not JSON: a proxy's page
  }
  if (answer.status === 401) update({ locked: text });
  throw new Failed(text, answer.status, found);
}

/** Return the JSON at a path; what was `fixed`, because it is of the past, is asked for once. */
export async function get(path, { signal, fixed = false } = {}) {
  if (fixed && known.has(path)) return known.get(path);
  for (let tries = 0; ; tries++) {
    try {
      const found = await (await ask(path, { signal })).json();
      if (fixed) {
        known.set(path, found);
        if (known.size > MOST_KNOWN) known.delete(known.keys().next().value);
      }
      return found;
    } catch (error) {
      const again = error.status === 503 && /ask again|requests as allowed/.test(error.message);
      if (!again || tries >= PATIENCE) throw error;
      await new Promise((resolve) => setTimeout(resolve, /ask again/.test(error.message) ? 0 : 1000));
    }
  }
}

export async function send(method, path, body) {
  const options = { method };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers = { "content-type": "application/json" };
  }
  return (await ask(path, options)).json();
}

/** Yield the data of each event of a stream of server-sent events. */
export async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split(/\r?\n\r?\n/);
    text = parts.pop();
    for (const part of parts) {
      const lines = part.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      if (lines.length) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
    }
  }
}

let stream = null; // what ends the stream of events
const leave = () => stream?.abort();
addEventListener("pagehide", leave);
document.addEventListener("visibilitychange", () => document.hidden && leave());

/** Wait until the tab is seen. */
function seen() {
  if (!document.hidden) return null;
  return new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
}

/** Follow the log for ever, and call back with each event.
 *
 * Only a tab that is seen keeps a connection for that: a browser has six for a server, and with six
 * tabs no page would be answered any more. */
export async function follow(callback) {
  if (stream) return;
  for (let pause = 500; ; pause = Math.min(pause * 2, 10000)) {
    await seen();
    stream = new AbortController();
    try {
      const options = { headers: { accept: "text/event-stream" }, signal: stream.signal };
      const path = store.last ? `/admin/events?after=${store.last}` : "/admin/events";
      const answer = await ask(path, options);
      update({ connected: true });
      pause = 500;
      for await (const data of events(answer)) callback(JSON.parse(data));
    } catch (error) {
      if (error.status === 401) return void (stream = null);
      if (error.name === "AbortError") pause = 250;
      else if (!(error instanceof TypeError) && !error.status) reportError(error); // a fault of the console's own
    } finally {
      stream?.abort(); // whatever has ended the loop: a stream that nobody reads keeps its connection
    }
    update({ connected: false });
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}
