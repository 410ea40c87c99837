// Nodes: each with its devices as bars.
import { html, store } from "../store.js";
import { href } from "../moment.js";
import { count, badge, clock, deviceBar, link, ofNanoseconds, pager } from "../parts.js";
import { finder } from "./models.js";

export const title = () => "Nodes";

function queryOf(route) {
  const query = {};
  for (const name of ["find", "after"])
    if (route.query.get(name)) query[name] = route.query.get(name);
  return query;
}

export const needs = (route) => ({ nodes: ["/admin/outline/nodes", queryOf(route)] });

export function legend() {
  return html`<p class="legend"><span><i class="w"></i>weights</span><span><i class="h"></i>promised to a replica</span>
    <span><i class="f"></i>free</span><span><i class="r"></i>kept for the driver and other programs</span></p>`;
}

export function view({ nodes }) {
  if (!nodes) return html`<h1>Nodes</h1>`;
  return html`<h1>Nodes</h1>
    <div class="filters">${finder("/nodes", "Find by name or host")}
      <a class="button" href=${href("/resilience")}>If one is lost</a></div>
    ${legend()}
    <div class="cards">${nodes.rows.map(card)}</div>
    ${!nodes.rows.length && html`<p class="soft">There is no node here.</p>`}
    ${pager(nodes, queryOf(store.route), "/nodes")}`;
}

function card(row) {
  const labels = Object.entries(row.labels).map((pair) => pair.join("=")).join(", ");
  return html`<article class="card" key=${row.id}>
    <header><b>${link("node", row.id)}</b> ${badge(row.state)}
      <span class="soft">${row.serving} of ${count(row.replicas, "replica")} serve</span>
      ${labels && html`<span class="soft">${labels}</span>`}
      ${row.fetching.length > 0 && html`<span class="soft">fetches ${row.fetching.join(", ")}</span>`}
      <span class="soft">since ${clock(ofNanoseconds(row.since))}</span></header>
    ${row.devices.map(deviceBar)}
  </article>`;
}
