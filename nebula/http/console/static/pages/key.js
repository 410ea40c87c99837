// One key: what it may do, what is left of its limits, its last events, and forms that change it.
import { html, store } from "../store.js";
import { href } from "../moment.js";
import { atEvent, badge, clock, command, count, facts, prose, table } from "../parts.js";
import { begun, changeForm, open, outcome, revokeForm, rotateForm } from "../key_forms.js";
import { opener } from "../opening.js";
import { line } from "../shell.js";
import { LIMITS } from "./usage.js";

export const title = ([id]) => `Key ${id}`;

export const needs = (route, [id]) => ({ key: [`/admin/outline/keys/${encodeURIComponent(id)}`, {}] });

const FORMS = [["change", "Change", changeForm], ["rotate", "Rotate", rotateForm], ["revoke", "Revoke", revokeForm]];

export function view({ key: found }, [id]) {
  if (!found) return html`<h1>Key ${id}</h1>`;
  const { key } = found;
  return html`<h1>Key ${id} ${badge(key.state)}</h1>
    <p class="headline">${found.headline}</p>
    ${found.todo && html`<p class="todo">${prose(found.todo)}</p>`}
    <div class="commands">${command(line("nebula", "why", "key", id))}
      <a class="button" href=${href("/events", { about: `key/${id}` })}>Its events</a>
      <a class="button" href=${href("/usage", { by: "key,model" })}>Usage</a></div>
    ${outcome()}
    ${open() && key.state !== "revoked" && forms(key)}
    <h2>What it is</h2>
    ${facts([
      ["Holder", key.name], ["Begins with", html`<code>${key.begins}…</code>`], ["Scopes", key.scopes.join(", ")],
      ["Models", key.models.join(", ") || "none"], ["Tenant", key.tenant], ["Issued", clock(key.issued)],
      ["Expires", key.expires ? clock(key.expires) : "never"], ["Revoked", clock(key.revoked)], ["Reason", key.reason],
    ])}
    ${found.limits.length > 0 && html`<h2>Its limits</h2>${table("Its limits", LIMITS.slice(1), found.limits, (row) => row.name)}`}
    <h2>Last events</h2>
    ${table("Last events", EVENTS, found.events, (row) => row.seq)}
    ${found.earlier > 0 && html`<p class="soft">${count(found.earlier, "earlier event")} not shown.</p>`}`;
}

function forms(key) {
  const shown = FORMS.find(([action]) => action === store.form.action);
  const opened = { change: () => begun("change", key) };
  return html`<section class="change" aria-label="Change"><div class="commands">${FORMS.map(([action, words]) =>
    opener(action, words, opened[action]))}</div>
    ${shown && shown[2](key)}</section>`;
}

export const EVENTS = [
  ["Event", (row) => atEvent(row.seq)],
  ["Time", (row) => html`<span class="nowrap">${clock(row.time)}</span>`],
  ["What", (row) => row.text],
  ["By", (row) => row.by || row.actor],
];
