// What several pages are made of.
import { html, store } from "./store.js";
import { href } from "./moment.js";
import { quoted } from "./shell.js";

const UNITS = ["B", "KiB", "MiB", "GiB"];

/** Return bytes in the unit that fits, as `memory.text` does. */
export function gib(bytes) {
  let [size, unit] = [bytes, 0];
  while (unit < UNITS.length - 1 && Number(size.toFixed(1)) >= 1024) [size, unit] = [size / 1024, unit + 1];
  return `${unit ? size.toFixed(1) : size} ${UNITS[unit]}`;
}

/** Return an ISO time as this reader's clock shows it. */
export function clock(iso) {
  if (!iso) return "";
  const time = new Date(iso);
  const two = (value) => String(value).padStart(2, "0");
  const day = `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())}`;
  return `${day} ${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}`;
}

export function ofNanoseconds(time) {
  return time ? new Date(time / 1e6).toISOString() : "";
}

export function count(number, one, many = `${one}s`) {
  return `${number} ${number === 1 ? one : many}`;
}

const TONES = {
  running: "good", waiting: "busy",
  ready: "good", serving: "good", valid: "good", completed: "good",
  "no such model": "bad", failed: "bad", revoked: "bad", unschedulable: "bad", lost: "bad", bad: "bad",
  warning: "warn", expired: "warn", cancelled: "warn", stopped: "warn", suspected: "warn", draining: "warn", unloading: "warn",
  working: "busy", loading: "busy", starting: "busy", assigned: "busy", in_progress: "busy", validating: "busy", cancelling: "busy", finalizing: "busy",
};

const WORDS = { bad: "needs you", warning: "look at it", working: "in progress" };

export function badge(phase) {
  return html`<span class="badge ${TONES[phase] ?? "calm"}">${WORDS[phase] ?? phase.replace("_", " ")}</span>`;
}

const SHORT = 40; // characters that a table keeps on one line

/** Text of a cell on one line, unless it is so long that it would push the others out of sight. */
export function brief(text) {
  return html`<span class=${String(text).length > SHORT ? "long" : "brief"}>${text}</span>`;
}

/** A link to what has this id, or the id alone where there is no page for its kind. */
export function link(kind, id, text = id) {
  const shape = text.length > SHORT ? "long" : "brief";
  if (kind === "replica") return html`<a class=${shape} href=${href("/why", { about: id, kind })}>${id}</a>`;
  const path = {
    model: "/models", alias: "/aliases", node: "/nodes", request: "/requests", key: "/keys", batch: "/batches",
  }[kind];
  if (!path) return id;
  return html`<a class=${shape} href=${href(`${path}/${encodeURIComponent(id)}`)}>${text}</a>`;
}

/** A link to the page that says why something is as it is. */
export function why(kind, id) {
  return html`<a class="button" aria-label=${`Why ${id}`} href=${href("/why", { about: id, kind })}>Why</a>`;
}

export function atEvent(seq, text) {
  return html`<a class="seq" href=${href("/events", { at: seq })}
    title="Show the events up to ${seq}">${text ?? seq}</a>`;
}

/** A command line as it runs on what is shown: on an exported log some do, and the others are "". */
function runnable(text) {
  if (!store.log || !text.startsWith("nebula ") || text.includes(" --log ")) return text;
  return /^nebula why (?!request )/.test(text) ? `${text} --log ${quoted(store.log)}` : "";
}

/** A command with a button that copies it. */
export function command(wanted) {
  const text = runnable(wanted);
  if (!text) return "";
  const copy = (event) => {
    const button = event.currentTarget;
    const done = () => {
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 1500);
    };
    const chosen = getSelection();
    chosen.selectAllChildren(button.previousElementSibling);
    navigator.clipboard?.writeText(text).then(done, () => {});
  };
  return html`<span class="command"><code>${text}</code
    ><button type="button" onClick=${copy} aria-label=${`Copy ${text}`}>Copy</button></span>`;
}

/** Text whose `commands` are set as code. */
export function prose(text) {
  return text.split("`").map((part, at) => (at % 2 ? html`<code>${part}</code>` : part));
}

export function detail(text) {
  return text ? html`<span class="detail">${prose(text)}</span>` : "";
}

/** A table. `columns`: pairs of a heading and a function that returns a row's cell; empty ones go. */
export function table(label, all, rows, keyOf) {
  const columns = all.filter(([, cell], at) => !at || rows.some((row) => cell(row) !== ""));
  const numeric = (cell) => (rows.length && cell(rows[0])?.props?.class === "number" ? "number" : undefined);
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${label}><table>
    <thead><tr>${columns.map(([name, cell]) => html`<th scope="col" class=${numeric(cell)}>${name}</th>`)}</tr></thead>
    <tbody>${rows.map((row) => html`<tr key=${keyOf?.(row)}>
      ${columns.map(([, cell], at) => (at ? html`<td>${cell(row)}</td>` : html`<th scope="row">${cell(row)}</th>`))}
    </tr>`)}</tbody></table></div>`;
}

export function pager(page, query, path) {
  const after = Number(query.after || 0);
  if (!after && page.next === null) return null;
  const size = page.rows.length;
  const back = Math.max(0, after - 100);
  return html`<nav class="pager" aria-label="Pages">
    ${after > 0 && html`<a class="button" href=${href(path, { ...query, after: back || "" })}>Earlier rows</a>`}
    <span>${after + 1} to ${after + size} of ${page.total}</span>
    ${page.next !== null && html`<a class="button" href=${href(path, { ...query, after: page.next })}>Further rows</a>`}
  </nav>`;
}

/** A device as a bar: what is promised to replicas, the weights in it, and what is free. */
export function deviceBar(device) {
  const share = (bytes) => `${(100 * bytes) / device.memory}%`;
  const used = device.held.reduce((sum, each) => sum + each.memory, 0);
  const free = Math.max(0, device.usable - used);
  const name = `${device.kind}${device.index}`;
  const words = `${name} ${device.name}: ${gib(used)} of ${gib(device.usable)} promised, ${gib(free)} free`;
  return html`<div class="device">
    <span class="name">${name}</span>
    <div class="bar" role="img" aria-label=${words} title=${words}>
      ${device.held.map((each) => html`<span class="held ${each.phase}" style=${{ width: share(each.memory) }}
        title=${`${each.replica}, ${each.phase}: ${gib(each.memory)}${each.weights ? `, ${gib(each.weights)} of it weights` : ""}`}>
        ${each.weights > 0 && html`<span class="weights" style=${{ width: `${(100 * each.weights) / each.memory}%` }}></span>`}
        <span class="label">${each.replica}</span></span>`)}
      <span class="free" style=${{ width: share(free) }}></span>
    </div>
    <span class="figure">${gib(used)} of ${gib(device.usable)}</span>
  </div>`;
}

export function facts(pairs) {
  return html`<dl class="facts">${pairs
    .filter(([, value]) => value !== undefined && value !== null && value !== "")
    .map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}
