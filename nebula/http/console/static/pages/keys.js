// Keys: what each is for, and a form that issues one.
import { html, store } from "../store.js";
import { href } from "../moment.js";
import { atEvent, badge, brief, clock, count, link, pager, table } from "../parts.js";
import { begun, issueForm, open, outcome } from "../key_forms.js";
import { opener } from "../opening.js";
import { finder } from "./models.js";
import { number } from "./usage.js";

export const title = () => "Keys";

function queryOf(route) {
  const query = {};
  for (const name of ["find", "state", "after"])
    if (route.query.get(name)) query[name] = route.query.get(name);
  return query;
}

export const needs = (route) => ({ keys: ["/admin/outline/keys", queryOf(route)] });

export function view({ keys }) {
  if (!keys) return html`<h1>Keys</h1>`;
  const query = queryOf(store.route);
  const all = Object.values(keys.states).reduce((sum, each) => sum + each, 0);
  const chip = (state, number) => html`<a class="button" key=${state}
    aria-current=${(query.state ?? "") === state ? "true" : undefined}
    href=${href("/keys", { ...query, state, after: "" })}>${state || "all"} ${number}</a>`;
  return html`<h1>Keys</h1>
    ${outcome()}
    ${open() && html`<section class="change" aria-label="Issue a key"><div class="commands">${opener("issue", "Issue a key", () => begun("issue"))}</div>
      ${store.form.action === "issue" && issueForm()}</section>`}
    <div class="filters" style=${{ marginTop: "12px" }}>${finder("/keys", "Find by id, name or tenant")}${chip("", all)}
      ${["valid", "expired", "revoked"].filter((each) => keys.states[each]).map((each) => chip(each, keys.states[each]))}</div>
    ${keys.rows.length ? table("Keys", COLUMNS, keys.rows, (row) => row.id) : html`<p class="soft">There is no key here.</p>`}
    ${pager(keys, query, "/keys")}`;
}

export function limitsOf(limits) {
  return Object.entries(limits).filter(([, value]) => value !== null)
    .map(([name, value]) => `${name.replaceAll("_", " ")} ${Array.isArray(value) ? value.join(" to ") : number(value)}`);
}

const COLUMNS = [
  ["Key", (row) => link("key", row.id)],
  ["State", (row) => badge(row.state)],
  ["Begins", (row) => html`<code>${brief(`${row.begins}…`)}</code>`],
  ["Holder", (row) => row.name],
  ["Scopes", (row) => row.scopes.join(", ")],
  ["Models", (row) => row.models.join(", ")],
  ["Tenant", (row) => row.tenant],
  ["Expires", (row) => (row.expires ? html`<span class="nowrap">${clock(row.expires)}</span>` : "")],
  ["Limits", (row) => (limitsOf(row.limits).length ? count(limitsOf(row.limits).length, "limit") : "")],
  ["Last event", (row) => atEvent(row.changed)],
];
