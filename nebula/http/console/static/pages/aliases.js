// Aliases: names that stand for models, each model with its share of the requests.
import { html, store } from "../store.js";
import { badge, link, pager, table } from "../parts.js";
import { changes } from "../changes.js";
import { naming } from "../forms/alias.js";
import { finder } from "./models.js";

export const title = () => "Aliases";

function queryOf(route) {
  const query = {};
  for (const name of ["find", "after"]) if (route.query.get(name)) query[name] = route.query.get(name);
  return query;
}

export const needs = (route) => ({ aliases: ["/admin/outline/aliases", queryOf(route)] });

export function view({ aliases }) {
  if (!aliases) return html`<h1>Aliases</h1>`;
  return html`<h1>Aliases</h1>
    <p class="soft">A name that stands for one model, or for several with a share each.</p>
    ${changes(() => [naming()])}
    <div class="filters">${finder("/aliases", "Find by id or name")}</div>
    ${aliases.rows.length
      ? table("Aliases", COLUMNS, aliases.rows, (row) => row.id)
      : html`<p class="soft">There is no alias here.</p>`}
    ${pager(aliases, queryOf(store.route), "/aliases")}`;
}

export function shareOf(target, targets) {
  const whole = targets.reduce((sum, each) => sum + each.weight, 0);
  return whole ? `${Math.round((1000 * target.weight) / whole) / 10} %` : "none";
}

const COLUMNS = [
  ["Alias", (row) => link("alias", row.id, row.name)],
  ["Models", (row) => row.targets.map((each, at) => html`${at > 0 && ", "}${each.id ? link("model", each.id) : each.name} ${shareOf(each, row.targets)}
    ${each.phase !== "ready" && html` ${badge(each.phase || "no such model")}`}`)],
  ["Mirror", (row) => row.mirror],
];
