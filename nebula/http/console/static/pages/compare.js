// Compare: what differs between two moments.
import { html, store } from "../store.js";
import { go, href } from "../moment.js";
import { badge, detail, clock, link, table } from "../parts.js";

export const title = () => "Compare";

export function needs(route) {
  const at = route.query.get("at");
  const query = { from: route.query.get("from") || "1", at: "" };
  if (at) query.to = at;
  return { moment: ["/admin/attention", {}], changed: ["/admin/differences", query] };
}

function choose(event) {
  event.preventDefault();
  const fields = Object.fromEntries(new FormData(event.target));
  go(href("/compare", { from: fields.from }));
}

export function view({ changed }) {
  if (!changed) return html`<h1>Compare</h1>`;
  const swap = href("/compare", { from: changed.end, at: changed.begin });
  return html`<h1>What changed from event ${changed.begin} to ${changed.end}</h1>
    <form class="filters" onSubmit=${choose}>
      <label>From <input name="from" required value=${store.route.query.get("from") ?? ""} /></label>
      <span class="soft">${clock(changed.begin_time)}, to ${clock(changed.end_time)}: the moment of the bar above</span>
      <button type="submit">Compare</button>
      <a class="button" href=${swap}>Swap</a>
    </form>
    ${changed.changes.length
      ? table("Changes", COLUMNS, changed.changes, (row) => [row.aggregate, row.id, row.field].join())
      : html`<p class="well">Nothing changed.</p>`}
    ${changed.more > 0 && html`<p class="soft">${changed.more} further changes are not shown: compare two moments
      that are closer to each other.</p>`}`;
}

const SIGNS = { "+": "added", "-": "removed", "~": "changed" };

const COLUMNS = [
  ["What", (row) => html`${row.aggregate} ${link(row.aggregate, row.id)}`],
  ["How", (row) => badge(SIGNS[row.sign])],
  ["Field", (row) => row.field],
  ["Before", (row) => (row.before ? html`<span class="detail minus">${row.before}</span>` : "")],
  ["After", (row) => (row.after ? html`<span class="detail plus">${row.after}</span>` : "")],
];
