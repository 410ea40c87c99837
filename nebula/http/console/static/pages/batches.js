// Batches: how far each is.
import { html, store } from "../store.js";
import { href } from "../moment.js";
import { badge, clock, link, pager, table } from "../parts.js";
import { finder } from "./models.js";

export const title = () => "Batches";

function queryOf(route) {
  const query = {};
  for (const name of ["find", "state", "after"])
    if (route.query.get(name)) query[name] = route.query.get(name);
  return query;
}

export const needs = (route) => ({ batches: ["/admin/outline/batches", queryOf(route)] });

export function view({ batches }) {
  if (!batches) return html`<h1>Batches</h1>`;
  const query = queryOf(store.route);
  const all = Object.values(batches.states).reduce((sum, each) => sum + each, 0);
  const chip = (state, number) => html`<a class="button" key=${state}
    aria-current=${(query.state ?? "") === state ? "true" : undefined}
    href=${href("/batches", { ...query, state, after: "" })}>${(state || "all").replace("_", " ")} ${number}</a>`;
  return html`<h1>Batches</h1>
    <div class="filters">${finder("/batches", "Find by id, key or endpoint")}${chip("", all)}
      ${Object.entries(batches.states).map(([state, number]) => chip(state, number))}</div>
    ${batches.rows.length ? table("Batches", COLUMNS, batches.rows, (row) => row.id) : html`<p class="soft">There is no batch here.</p>`}
    ${pager(batches, query, "/batches")}`;
}

/** How far a batch is, as a bar with words. */
export function progress(row) {
  if (!row.lines) return "";
  const share = (part) => `${(100 * part) / row.lines}%`;
  const words = `${row.completed} of ${row.lines} lines${row.failed ? `, ${row.failed} failed` : ""}`;
  return html`<span class="left"><span class="bar" role="img" aria-label=${words}><span class="held" style=${{ width: share(row.completed) }}></span>
    ${row.failed > 0 && html`<span class="held failed" style=${{ width: share(row.failed) }}></span>`}</span>
    <span class="nowrap">${words}</span></span>`;
}

const COLUMNS = [
  ["Batch", (row) => link("batch", row.id)],
  ["State", (row) => badge(row.state)],
  ["Progress", progress],
  ["Endpoint", (row) => html`<span class="nowrap">${row.endpoint}</span>`],
  ["Key", (row) => (row.key ? link("key", row.key) : "")],
  ["Created", (row) => html`<span class="nowrap">${clock(row.created)}</span>`],
  ["Ended", (row) => html`<span class="nowrap">${row.over ? clock(row.finished) : html`<span class="soft">by</span> ${clock(row.expires)}`}</span>`],
];
