// The moment that every address holds, and the bar that moves it.
import { html, root, store, update } from "./store.js";
import { focusNext } from "./focus.js";
import { clock } from "./parts.js";

const BASE = `${root}/console`;
const HELD = 150; // milliseconds of rest after which a moved slider shows its moment

export function readRoute() {
  const path = decodeURI(location.pathname).slice(BASE.length).replace(/\/$/, "") || "/";
  return { path, query: new URLSearchParams(location.search) };
}

/** Return the address of a page at the moment that is shown, or at `at` ("" for now). */
export function href(path, query = {}) {
  const at = "at" in query ? query.at : store.route.query.get("at");
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries({ ...query, at: undefined }))
    if (value !== undefined && value !== null && value !== "") search.set(name, value);
  if (at) search.set("at", at);
  const text = search.toString();
  return BASE + (path === "/" ? "" : path) + (text ? `?${text}` : "");
}

let arrived = () => {};

export function onArrival(callback) {
  arrived = callback;
  addEventListener("popstate", () => arrived());
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[href]");
    const elsewhere = event.ctrlKey || event.metaKey || event.shiftKey || event.button;
    if (!link || elsewhere || link.target || !link.getAttribute("href").startsWith(BASE)) return;
    event.preventDefault();
    go(link.getAttribute("href"));
  });
}

export function go(address, { replace = false } = {}) {
  const changed = address !== location.pathname + location.search;
  if (changed) history[replace ? "replaceState" : "pushState"](null, "", address);
  arrived(replace);
}

/** Show another moment on the same page; "" for now. */
export function showAt(at, options) {
  const query = Object.fromEntries(store.route.query);
  go(href(store.route.path, { ...query, at }), options);
}

let resting;

function slide(event) {
  const seq = Number(event.target.value);
  update({ slid: seq });
  clearTimeout(resting);
  resting = setTimeout(() => {
    update({ slid: null });
    showAt(seq >= store.last ? "" : String(seq), { replace: true });
  }, HELD);
}

/** Return the event that the address asks for, which is ahead of what is shown: two quick steps are two. */
function asked() {
  const at = store.route.query.get("at");
  if (!at) return store.last;
  return /^\d+$/.test(at) ? Number(at) : store.seq;
}

function step(by) {
  const seq = Math.min(store.last, Math.max(1, asked() + by));
  if (seq === 1 || seq === store.last) focusNext(".timebar input[type=range]"); // the button has no more to do
  showAt(seq >= store.last ? "" : String(seq), { replace: true });
}

function typed(event) {
  event.preventDefault();
  showAt(event.target.elements.moment.value.trim());
  event.target.reset();
}

export function timeBar() {
  const past = store.route.query.get("at");
  const seq = store.slid ?? store.seq;
  const place = store.slid ?? asked();
  const end = store.live ? "Live" : "End of the log";
  const state = past ? "past" : store.live && !store.connected ? "waiting" : "live";
  return html`<section class="timebar ${state}" aria-label="Moment">
    <button type="button" class="now" aria-pressed=${String(!past)} onClick=${() => showAt("")}
      title="Show the newest state">${end}</button>
    <button type="button" aria-label="One event earlier" disabled=${place <= 1}
      onClick=${() => step(-1)}>‹</button>
    <input type="range" aria-label="Event that is shown" min="1" max=${Math.max(1, store.last)}
      value=${place} onInput=${slide} aria-valuetext=${`event ${place} of ${store.last}`} />
    <button type="button" aria-label="One event later" disabled=${!past}
      onClick=${() => step(1)}>›</button>
    <output><b>${seq}</b> of ${store.last} <span class="clock">${store.slid ? "" : clock(store.time)}</span></output>
    <form onSubmit=${typed}><input name="moment" type="text" autocomplete="off" size="14"
      aria-label="Go to a moment: a sequence, a time or how long ago"
      placeholder="4711, 03:00, 15m" /></form>
    <a class="button" href=${href("/compare", { from: Math.max(1, store.seq - 100) })}>Compare</a>
  </section>`;
}
