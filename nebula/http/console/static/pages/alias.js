// One alias: the models that it stands for, with their shares, and its changes.
import { html } from "../store.js";
import { href } from "../moment.js";
import { atEvent, badge, command, facts, link, prose, table } from "../parts.js";
import { changes } from "../changes.js";
import { aliasActions } from "../forms/alias.js";
import { backLink } from "../forms/roll_back.js";
import { shareOf } from "./aliases.js";

export const title = ([id]) => id;

export const needs = (route, [id]) => ({ alias: [`/admin/outline/aliases/${encodeURIComponent(id)}`, {}] });

export function view({ alias: found }, [id]) {
  if (!found) return html`<h1>${id}</h1>`;
  const { row } = found;
  const columns = [
    ["Model", (each) => (each.id ? link("model", each.id) : each.name)],
    ["Share", (each) => shareOf(each, row.targets)],
    ["Weight", (each) => String(each.weight)],
    ["Phase", (each) => badge(each.phase || "no such model")],
  ];
  return html`<h1>${row.name}</h1>
    <p class="headline">${found.headline}</p>
    ${found.todo && html`<p class="todo">${prose(found.todo)}</p>`}
    <div class="commands">${command(`nebula why ${row.name}`)}
      <a class="button" href=${href("/events", { about: `alias/${id}` })}>Its events</a></div>
    ${changes(() => aliasActions(row), { past: backLink(`/aliases/${encodeURIComponent(id)}`) })}
    <h2>What it stands for</h2>
    ${table("Targets", columns, row.targets, (each) => each.name)}
    <div class="commands"></div>
    ${facts([["Id", row.id], ["Mirror", row.mirror], ["Last changed by event", row.changed ? atEvent(row.changed) : ""]])}`;
}
