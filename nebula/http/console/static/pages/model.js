// One model: how it stands, its replicas, adapters and aliases, and the table of places.
import { html } from "../store.js";
import { href } from "../moment.js";
import { badge, brief, detail, clock, command, count, facts, gib, link, ofNanoseconds, prose, table, why } from "../parts.js";
import { changes } from "../changes.js";
import { modelActions } from "../forms/model.js";
import { aliasLinks } from "./models.js";
import { backLink } from "../forms/roll_back.js";

export const title = ([id]) => id;

export const every = 5000; // milliseconds after which it is asked again: no event tells of lines

export const needs = (route, [id]) => ({
  model: [`/admin/outline/models/${encodeURIComponent(id)}`, {}],
});

export function view({ model: found }, [id]) {
  if (!found) return html`<h1>${id}</h1>`;
  const { model, replicas, places } = found;
  const spec = model.spec;
  const told = Object.entries(spec.options).map(([name, value]) => `${name}=${value}`).join(", ");
  return html`<h1>${model.id} ${badge(model.status.phase)}</h1>
    <p class="headline">${found.headline}</p>
    ${found.todo && html`<p class="todo">${prose(found.todo)}</p>`}
    <div class="commands">${why("model", id)}${command(`nebula why ${id}`)}
      <a class="button" href=${href("/events", { about: `model/${id}` })}>Its events</a></div>
    ${!model.status.phase.startsWith("unloading") && changes(() => modelActions(found), { past: backLink(`/models/${encodeURIComponent(id)}`) })}
    <h2>${count(replicas.length, "replica")}</h2>
    ${replicas.length > 0 && table("Replicas", REPLICAS, replicas, (row) => row.id)}
    <h2>What it is</h2>
    ${facts([
      ["Name for clients", model.name], ["Source", model.source], ["Task", model.task],
      ["Memory of each replica", spec.memory], ["Replicas", spec.autoscale
        ? `${spec.autoscale.least} to ${spec.autoscale.most}` : String(spec.replicas)],
      ["Aliases", aliasLinks(found.aliases)], ["Policy", spec.policy], ["Only on the node", spec.node],
      ["Labels", Object.entries(spec.labels).map((pair) => pair.join("=")).join(", ")],
      ["Fallback", spec.fallback.join(", ")], ["Options of its engines", told],
      ["Starts", spec.on_request ? "with the first request" : ""],
      ["Requests at a time, each replica", String(spec.max_in_flight)],
      ["In line now", model.queue?.waiting ? `${model.queue.waiting}, the first for ${model.queue.oldest.toFixed(0)} s` : ""],
    ])}
    ${model.adapters.length > 0 && html`<h2>Adapters</h2>
      ${table("Adapters", ADAPTERS, model.adapters, (row) => row.name)}`}
    <h2>Places for one more replica</h2>
    <p class="soft">In the order in which a router would take them.</p>
    ${places.length
      ? table("Places", PLACES, places, (row) => row.name)
      : html`<p>There is no node to weigh.</p>`}
    ${found.more_places > 0 && html`<p class="soft">${count(found.more_places, "further place")} not shown.</p>`}`;
}

export const REPLICAS = [
  ["Replica", (row) => link("replica", row.id)],
  ["Phase", (row) => badge(row.retired ? "retired" : row.phase)],
  ["Node", (row) => html`<span class="brief">${link("node", row.node)}/${row.devices.join("+")}</span>`],
  ["Memory", (row) => html`<span class="nowrap">${gib(row.memory)}</span>`],
  ["Since", (row) => html`<span class="nowrap">${clock(ofNanoseconds(row.since))}</span>`],
  ["Engine", (row) => (row.engine ? brief(`pid ${row.engine.pid}, attempt ${row.attempt || 1}`) : "")],
  ["Reason", (row) => detail(row.reason)],
];

const ADAPTERS = [
  ["Adapter", (row) => row.name],
  ["Loaded on", (row) => count(row.loaded, "replica")],
  ["Source", (row) => row.source],
  ["Version", (row) => row.version.slice(0, 12)],
  ["Reason", (row) => detail(row.reason)],
];

const PLACES = [
  ["Place", (row) => html`${row.name}`],
  ["Node", (row) => link("node", row.node)],
  ["Needs", (row) => html`<span class="nowrap">${gib(row.need)}</span>`],
  ["Has left", (row) => html`<span class="nowrap">${gib(Math.max(0, row.room))}</span>`],
  ["Weights there", (row) => (row.holds ? "yes" : "")],
  ["Why not", (row) => (row.unfit ? detail(row.unfit) : badge("would fit"))],
];
