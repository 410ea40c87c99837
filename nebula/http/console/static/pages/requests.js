// Requests in flight in the whole cluster, and an end to one. They are not in the log: only now.
import { html, store, update } from "../store.js";
import { focusNext } from "../focus.js";
import { send } from "../api.js";
import { go, href } from "../moment.js";
import { count, link, table } from "../parts.js";

export const title = () => "Requests";

export const every = 2000; // milliseconds after which they are asked for again

export const needs = () => (store.live ? { requests: ["/admin/requests", { limit: 200, at: "" }], moment: ["/admin/outline/nodes", { limit: 1 }] } : {});

async function cancel(id) {
  try {
    await send("DELETE", `/admin/requests/${encodeURIComponent(id)}`);
    update({ form: { told: `${id} was cancelled.` } });
  } catch (error) {
    update({ form: { told: error.message } });
  }
  focusNext("main [role=status]");
}

function find(event) {
  event.preventDefault();
  go(href(`/requests/${encodeURIComponent(event.target.elements.id.value.trim())}`));
}

export function view({ requests }) {
  if (!store.live) return html`<h1>Requests</h1><p class="soft">A log does not hold requests in flight.</p>`;
  const found = requests?.requests ?? [];
  return html`<h1>Requests in flight now</h1>
    <form class="filters" onSubmit=${find}><input name="id" required size="36" aria-label="Id of a request"
      placeholder="x-request-id of any answer" /><button type="submit">Show its way</button></form>
    ${store.form.told && html`<p role="status" tabindex="-1">${store.form.told}</p>`}
    ${found.length
      ? table("Requests in flight", COLUMNS, found, (row) => row.id)
      : requests && html`<p class="well">No request is in flight.</p>`}
    ${requests?.more > 0 && html`<p class="soft">${count(requests.more, "further request")} not shown.</p>`}`;
}

const COLUMNS = [
  ["Request", (row) => html`<code>${link("request", row.id)}</code>`],
  ["Model", (row) => html`${link("model", row.model)}${row.adapter ? ` with ${row.adapter}` : ""}`],
  ["State", (row) => `${row.state}${row.position ? `, ${row.position}. in its queue` : ""}`],
  ["At", (row) => row.replica || row.router],
  ["For", (row) => `${Math.max(0, Date.now() / 1000 - row.started).toFixed(1)} s`],
  ["Tokens", (row) => (row.stream ? String(row.tokens) : "")],
  ["Path", (row) => row.path],
  ["Tenant", (row) => row.tenant],
  ["Key", (row) => row.key],
  [html`<span class="unseen">Cancel</span>`, (row) => html`<button type="button" class="danger" onClick=${() => cancel(row.id)}
    aria-label=${`Cancel ${row.id}`}>Cancel</button>`],
];
