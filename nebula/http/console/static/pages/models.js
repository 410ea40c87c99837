// Models: a table that is searched and turned over on the server, so that ten thousand are as quick as ten.
import { html, store } from "../store.js";
import { go, href } from "../moment.js";
import { badge, detail, link, pager, table } from "../parts.js";
import { changes } from "../changes.js";
import { loading } from "../forms/load.js";

const PHASES = ["failed", "unschedulable", "loading", "unloading", "ready", "asleep", "idle"];
const REST = 250; // milliseconds after the last key before it is searched

export const title = () => "Models";

export const every = 5000; // milliseconds after which it is asked again: no event tells of lines

function queryOf(route) {
  const query = {};
  for (const name of ["find", "phase", "after"])
    if (route.query.get(name)) query[name] = route.query.get(name);
  return query;
}

export const needs = (route) => ({ models: ["/admin/outline/models", queryOf(route)] });

let resting;

function search(path) {
  return (event) => {
    const find = event.target.value;
    clearTimeout(resting);
    resting = setTimeout(() => {
      const phase = store.route.query.get("phase") ?? "";
      go(href(path, { phase, find }), { replace: true });
    }, REST);
  };
}

export function finder(path, label) {
  return html`<input type="search" aria-label=${label} placeholder=${label} size="30"
    value=${store.route.query.get("find") ?? ""} onInput=${search(path)} />`;
}

export function view({ models }) {
  if (!models) return html`<h1>Models</h1>`;
  const query = queryOf(store.route);
  const chip = (phase, number) => html`<a class="button" key=${phase}
    aria-current=${(query.phase ?? "") === phase ? "true" : undefined}
    href=${href("/models", { ...query, phase, after: "" })}>${phase || "all"} ${number}</a>`;
  const all = Object.values(models.phases).reduce((sum, each) => sum + each, 0);
  return html`<h1>Models</h1>
    ${changes(() => [loading()])}
    <div class="filters">${finder("/models", "Find by id or name")}
      ${chip("", all)}
      ${PHASES.filter((each) => models.phases[each]).map((each) => chip(each, models.phases[each]))}</div>
    ${models.rows.length
      ? table("Models", COLUMNS, models.rows, (row) => row.id)
      : html`<p class="soft">${all ? "No model is in this phase." : "There is no model here."}</p>`}
    ${pager(models, query, "/models")}`;
}

/** Links to aliases, which are told as a name with its share: `best 90/100`. */
export function aliasLinks(aliases) {
  return aliases.length ? aliases.map((each, at) => html`${at > 0 && ", "}<a href=${href("/aliases", { find: each.split(" ")[0] })}>${each}</a>`) : "";
}

const COLUMNS = [
  ["Model", (row) => link("model", row.id)],
  ["Phase", (row) => badge(row.phase)],
  ["Replicas", (row) => html`<span class="nowrap">${row.ready} of ${row.wanted}</span>`],
  ["In line", (row) => (row.waiting ? String(row.waiting) : "")],
  ["Task", (row) => row.task],
  ["Nodes", (row) => html`${row.nodes.map((each, at) => html`${at ? ", " : ""}${link("node", each)}`)}
    ${row.more_nodes > 0 ? ` and ${row.more_nodes} more` : ""}`],
  ["Aliases", (row) => aliasLinks(row.aliases)],
  ["Adapters", (row) => row.adapters.join(", ")],
  ["Detail", (row) => detail(row.detail)],
];
