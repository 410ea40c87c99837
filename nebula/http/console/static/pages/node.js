// One node: its devices, what it runs, its files, and what its loss would mean.
import { html } from "../store.js";
import { href } from "../moment.js";
import { badge, detail, command, count, deviceBar, facts, gib, link, prose, table, why } from "../parts.js";
import { changes } from "../changes.js";
import { nodeActions } from "../forms/node.js";
import { REPLICAS } from "./model.js";
import { legend } from "./nodes.js";

export const title = ([id]) => id;

export const needs = (route, [id]) => ({
  node: [`/admin/outline/nodes/${encodeURIComponent(id)}`, {}],
  loss: ["/admin/resilience", { node: id }],
});

export function view({ node: found, loss }, [id]) {
  if (!found) return html`<h1>${id}</h1>`;
  const { row, node, replicas } = found;
  const files = Object.entries(node.weights).map(([source, held]) => ({ source, ...held }));
  const models = [["Model", (each) => link("model", each.model)], ...REPLICAS];
  return html`<h1>${id} ${badge(row.state)}</h1>
    <p class="headline">${found.headline}</p>
    ${found.todo && html`<p class="todo">${prose(found.todo)}</p>`}
    <div class="commands">${why("node", id)}${command(`nebula why node ${id}`)}
      <a class="button" href=${href("/events", { node: id })}>Its events</a></div>
    ${changes(() => nodeActions(node))}
    <h2>Devices</h2>${legend()}
    ${row.devices.map(deviceBar)}
    ${lost(id, loss)}
    <h2>${count(replicas.length, "replica")}</h2>
    ${replicas.length > 0 && table("Replicas", models, replicas, (each) => each.id)}
    ${files.length > 0 && html`<h2>Files of models</h2>
      ${table("Files of models", FILES, files, (each) => each.source)}`}
    <h2>What it is</h2>
    ${facts([
      ["Host", row.host], ["Nebula", row.nebula_version], ["Engine", row.engine_version],
      ["Labels", Object.entries(row.labels).map((pair) => pair.join("=")).join(", ")],
      ["Devices", row.devices.map((each) => `${each.kind}${each.index} ${each.name}, ${gib(each.memory)}`).join("; ")],
    ])}`;
}

/** What would have no place if the node were lost. */
function lost(id, loss) {
  const found = loss?.nodes?.find((each) => each.node === id);
  if (!found) return null;
  const none = html`<p>It runs nothing that would miss it.</p>`;
  return html`<h2>If this node were lost</h2>
    <p>${found.missing
      ? `${count(found.missing, "replica")} would have no place; ${gib(found.memory)} of devices more would do.`
      : found.models.length ? "Everything that it runs would have a place elsewhere." : none}</p>
    ${found.models.length > 0 && table("If this node were lost", LOST, found.models, (each) => each.model)}`;
}

const LOST = [
  ["Model", (row) => link("model", row.model)],
  ["Replicas here", (row) => row.replicas.join(", ")],
  ["Serve elsewhere", (row) => String(row.serves)],
  ["New places", (row) => row.places.join(", ")],
  ["Without a place", (row) => (row.missing ? String(row.missing) : "")],
  ["Reason", (row) => detail(row.reason)],
];

const FILES = [
  ["Source", (row) => row.source],
  ["Have", (row) => (row.whole ? "all" : `${gib(row.done)} of ${gib(row.total)}`)],
  ["Pinned", (row) => (row.pinned ? "yes" : "")],
  ["Waits for", (row) => row.waits],
  ["Reason", (row) => detail(row.reason)],
];
