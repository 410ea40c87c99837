// Starts the console: routes, loads what a page needs, draws it, and follows the log.
import { render } from "./vendor/preact.mjs";
import { follow, get, keep, takeFragment } from "./api.js";
import { go, href, onArrival, readRoute, timeBar } from "./moment.js";
import { html, onDraw, root, store, update } from "./store.js";
import { focusNext, settleFocus } from "./focus.js";
import * as batch from "./pages/batch.js";
import * as batches from "./pages/batches.js";
import * as alias from "./pages/alias.js";
import * as aliases from "./pages/aliases.js";
import * as compare from "./pages/compare.js";
import * as eventList from "./pages/events.js";
import * as home from "./pages/home.js";
import * as key from "./pages/key.js";
import * as keys from "./pages/keys.js";
import * as model from "./pages/model.js";
import * as models from "./pages/models.js";
import * as node from "./pages/node.js";
import * as nodes from "./pages/nodes.js";
import * as playground from "./pages/playground.js";
import * as resilience from "./pages/resilience.js";
import * as request from "./pages/request.js";
import * as requests from "./pages/requests.js";
import * as why from "./pages/why.js";
import * as usage from "./pages/usage.js";

const PAGES = [
  [/^\/$/, home],
  [/^\/models$/, models],
  [/^\/models\/([^/]+)$/, model],
  [/^\/aliases$/, aliases],
  [/^\/aliases\/([^/]+)$/, alias],
  [/^\/nodes$/, nodes],
  [/^\/nodes\/([^/]+)$/, node],
  [/^\/resilience$/, resilience],
  [/^\/events$/, eventList],
  [/^\/compare$/, compare],
  [/^\/requests$/, requests],
  [/^\/requests\/([^/]+)$/, request],
  [/^\/playground$/, playground],
  [/^\/usage$/, usage],
  [/^\/why$/, why],
  [/^\/batches$/, batches],
  [/^\/batches\/([^/]+)$/, batch],
  [/^\/keys$/, keys],
  [/^\/keys\/([^/]+)$/, key],
];
const NAVIGATION = [["/", "Home"], ["/models", "Models"], ["/aliases", "Aliases"], ["/nodes", "Nodes"], ["/events", "Events"], ["/usage", "Usage"], ["/keys", "Keys"], ["/batches", "Batches"]];
const OF_LIVE = [["/requests", "Requests"], ["/playground", "Playground"]]; // a log alone has none
const CALM = 700; // milliseconds between two refreshes, at least

let page = home;
let found = [];
let running = null;

function route() {
  const path = store.route.path;
  for (const [pattern, module] of PAGES) {
    const match = pattern.exec(path);
    if (match) return [module, match.slice(1).map(decodeURIComponent)];
  }
  return [null, []];
}

async function load() {
  running?.abort();
  const control = (running = new AbortController());
  const at = store.route.query.get("at");
  const wanted = page?.needs(store.route, found) ?? {};
  update({ loading: store.loading + 1 });
  const began = performance.now();
  await Promise.all(Object.entries(wanted).map(([name, need]) => fill(name, need, at, control)));
  update({ loading: store.loading - 1 });
  return performance.now() - began;
}

async function fill(name, [path, query], at, control) {
  const search = new URLSearchParams(query);
  if (search.has("at")) search.delete("at"); // what is asked for holds its moment in another way
  else if (at) search.set("at", at);
  const address = `${path}${search.size ? `?${search}` : ""}`;
  const fixed = Boolean(at) && /^\d+$/.test(at);
  try {
    const value = await get(address, { signal: control.signal, fixed });
    if (control.signal.aborted) return;
    noteMoment(value, at);
    const errors = { ...store.errors };
    delete errors[name];
    update({ data: { ...store.data, [name]: value }, errors, locked: "" });
  } catch (error) {
    if (control.signal.aborted) return;
    if (fixed && store.seq !== Number(at)) update({ seq: Number(at), time: "" }); // what is asked for was not there then
    update({ errors: { ...store.errors, [name]: error.message } });
  }
}

/** Keep which moment an answer is of, and write a time of the address as the event it means. */
function noteMoment(value, at) {
  if (value.live !== undefined) {
    update({ seq: value.seq, time: value.time, live: value.live, log: value.log ?? "" });
  }
  if (value.last >= store.last) update({ last: value.last, lastTime: value.last_time ?? store.lastTime });
  if (at && value.seq !== undefined && !/^\d+$/.test(at)) {
    store.route.query.set("at", value.seq);
    const address = href(store.route.path, Object.fromEntries(store.route.query));
    setTimeout(() => go(address, { replace: true }));
  }
}

async function arrive(replaced = false) {
  const before = page;
  const path = store.route.path;
  store.route = readRoute();
  [page, found] = route();
  const moved = before !== page || path !== store.route.path;
  if (moved) update({ data: {}, errors: {}, form: {} });
  else update();
  if (moved && !replaced) focusNext(".lock input", "main");
  await load();
  const current = document.querySelector("header.top nav a[aria-current]");
  current?.scrollIntoView({ block: "nearest", inline: "nearest" }); // narrow screens have a row that scrolls
}

let refreshing = false;
let stale = false;

/** Load again because the log has grown: not more often than the page can bear. */
async function refresh() {
  stale = true;
  if (refreshing) return;
  refreshing = true;
  while (stale) {
    stale = false;
    const took = store.route.query.get("at") ? 0 : await load();
    await new Promise((resolve) => setTimeout(resolve, Math.max(CALM, 3 * took)));
  }
  refreshing = false;
}

function happened(event) {
  update({ last: event.seq, lastTime: event.time });
  if (!store.route.query.get("at")) refresh();
}

function unlock(event) {
  event.preventDefault();
  keep(event.target.elements.key.value.trim());
  update({ locked: "" });
  focusNext("main");
  start();
}

function lock() {
  const here = encodeURIComponent(location.pathname + location.search);
  return html`<section class="lock"><h1>This cluster wants a key</h1>
    <p role="alert">${store.locked}</p>
    <form onSubmit=${unlock}><label>API key with the scope <code>view</code> or more
      <input name="key" type="password" autocomplete="off" required autofocus /></label>
      <button type="submit">Use it in this tab</button></form>
    <p>It stays in this tab until you close it. Where single sign-on is set up:
      <a href=${`${root}/login?next=${here}`} target="_self">sign in</a>.</p></section>`;
}

function missing() {
  return html`<h1>There is no such page</h1><p><a href=${href("/")}>Home</a></p>`;
}

function shell() {
  const top = `/${store.route.path.split("/")[1]}`;
  const failures = Object.values(store.errors);
  document.title = `${page?.title(found) ?? "Not found"} · Nebula`;
  return html`<a class="skip" href="#main" target="_self">Skip to the page</a>
    <header class="top"><a class="brand" href=${href("/")}>Nebula</a>
      <nav aria-label="Pages of the console">${[...NAVIGATION, ...(store.live ? OF_LIVE : [])].map(([path, name]) => html`<a href=${href(path)}
        aria-current=${path === top ? "page" : undefined}>${name}</a>`)}</nav></header>
    ${timeBar()}
    <main id="main" tabindex="-1" aria-busy=${String(store.loading > 0)}>
      ${store.locked ? lock() : html`
        ${failures.map((text) => html`<p class="failure" role="alert">${text}</p>`)}
        ${page ? page.view(store.data, found) : missing()}
        ${store.loading > 0 && !Object.keys(store.data).length && html`<p class="soft late" role="status">The gateway has not answered yet.</p>`}`}
    </main>`;
}

/** Ask again for what no event tells of, while the tab is visible. */
async function poll() {
  if (page?.every && store.live && !document.hidden && !store.locked) await load();
  setTimeout(poll, page?.every ?? CALM);
}

async function start() {
  update({ errors: {} });
  try {
    noteMoment(await get("/admin/outline/nodes?limit=1"), "");
  } catch (error) {
    update({ errors: { start: error.message } });
  }
  await arrive();
  if (store.live && !store.locked) follow(happened);
}

takeFragment();
onDraw(() => {
  render(shell(), document.body);
  settleFocus();
});
onArrival(arrive);
start();
poll();
export { go };
