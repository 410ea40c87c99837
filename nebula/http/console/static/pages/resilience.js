// For each node, what would have no place if it were lost.
import { html, store } from "../store.js";
import { href } from "../moment.js";
import { count, detail, gib, link, table } from "../parts.js";

export const title = () => "If a node is lost";

export const needs = (route) => ({
  moment: ["/admin/outline/nodes", { limit: 1 }],
  losses: ["/admin/resilience", { after: route.query.get("after") ?? "" }],
});

export function view({ losses }) {
  const name = html`<h1>If a node is lost</h1>`;
  if (!losses) return name;
  const lacking = losses.nodes.flatMap((loss) => loss.models.filter((each) => each.missing).map((each) => ({ node: loss.node, ...each })));
  const nodes = new Set(lacking.map((each) => each.node));
  const rest = losses.nodes.length - nodes.size;
  const when = store.route.query.get("at") ? "at this moment" : "now";
  return html`${name}
    ${lacking.length
      ? html`<p>The loss of ${count(nodes.size, "node")} of ${losses.nodes.length} would leave replicas without a place ${when}.
          ${rest > 0 && ` Everything on ${rest === 1 ? "the other one" : `the other ${rest}`} would have a place elsewhere.`}</p>
        ${table("What would have no place", LACKING, lacking, (row) => `${row.node} ${row.model}`)}`
      : html`<p class="well">Everything would have a place elsewhere, whichever node is lost ${when}.</p>`}
    ${losses.next && html`<p class="pager"><a class="button" href=${href("/resilience", { after: losses.next })}>Further nodes</a></p>`}`;
}

const LACKING = [
  ["Node", (row) => link("node", row.node)],
  ["Model", (row) => link("model", row.model)],
  ["Replicas there", (row) => row.replicas.join(", ")],
  ["Without a place", (row) => String(row.missing)],
  ["Each needs", (row) => html`<span class="nowrap">${gib(row.need)}</span>`],
  ["Serve elsewhere", (row) => String(row.serves)],
  ["Also asked for as", (row) => [...row.adapters, ...row.aliases].join(", ")],
  ["Reason", (row) => detail(row.reason)],
];
