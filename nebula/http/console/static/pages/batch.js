// One batch: how far it is, its files, its last events, and an early end.
import { html, store } from "../store.js";
import { send } from "../api.js";
import { href } from "../moment.js";
import { atEvent, badge, clock, command, count, facts, link, prose, table } from "../parts.js";
import { save } from "../saving.js";
import { card, failure, opener, tell, tellFailure, told } from "../opening.js";
import { curl, line, sameAs } from "../shell.js";
import { EVENTS } from "./key.js";
import { progress } from "./batches.js";

export const title = ([id]) => id;

export const needs = (route, [id]) => ({ batch: [`/admin/outline/batches/${encodeURIComponent(id)}`, {}] });

export function view({ batch: found }, [id]) {
  if (!found) return html`<h1>${id}</h1>`;
  const { row } = found;
  const present = store.live && !store.route.query.get("at");
  return html`<h1>${id} ${badge(row.state)}</h1>
    <p class="headline">${found.headline}</p>
    ${progress(row)}
    ${found.lines.length > 0 && html`<ul>${found.lines.map((each) => html`<li>${each}</li>`)}</ul>`}
    ${found.todo && html`<p class="todo">${prose(found.todo)}</p>`}
    <div class="commands">${command(line("nebula", "why", "batch", id))}
      <a class="button" href=${href("/events", { about: `batch/${id}` })}>Its events</a></div>
    ${present && !row.over && row.state !== "cancelling" && cancelling(id)}
    ${told()}${failure()}
    <h2>What it is</h2>
    ${facts([
      ["Endpoint", row.endpoint], ["Key", row.key && link("key", row.key)], ["Created", clock(row.created)],
      ["Ended", clock(row.finished)], ["Ends by", row.over ? "" : clock(row.expires)],
      ["Models that sleep", found.wakes ? "are started for it" : "are waited for"],
      ...Object.entries(found.metadata).map(([name, value]) => [`Metadata: ${name}`, value]),
    ])}
    <h2>Its files</h2>
    ${table("Its files", files(found, present), Object.entries(found.files), ([name]) => name)}
    ${!found.mine && store.live && html`<p class="soft">They are their owner's: <code>nebula batch results</code> writes them with the rights of an operator.</p>`}
    <h2>Last events</h2>
    ${table("Last events", EVENTS, found.events, (each) => each.seq)}
    ${found.earlier > 0 && html`<p class="soft">${count(found.earlier, "earlier event")} not shown.</p>`}`;
}

function cancelling(id) {
  const path = `/admin/batches/${encodeURIComponent(id)}/cancel`;
  const open = store.form.action === "cancel";
  const end = async () => {
    try {
      const found = await send("POST", path);
      tell({ done: `It is asked to end: event ${found.seq}.` });
    } catch (error) {
      tellFailure(error.message);
    }
  };
  return html`<section class="change" aria-label="Change"><div class="commands">${opener("cancel", "Cancel")}</div>
    ${open && card("Cancel this batch", html`<p>Its lines that are not answered yet are given up; the answers that are there are kept.</p>
      <button type="button" class="danger" onClick=${end}>Cancel this batch</button>
      ${sameAs([line("nebula", "batch", "cancel", id), curl("POST", path)])}`)}</section>`;
}

function files(found, present) {
  return [
    ["What", ([name]) => name],
    ["File", ([, file]) => html`<code>${file}</code>`],
    [html`<span class="unseen">Save</span>`, ([name, file]) => (found.mine && present
      ? html`<button type="button" aria-label=${`Save ${name}`} onClick=${() => save(`/v1/files/${encodeURIComponent(file)}/content`, `${found.row.id}-${name}.jsonl`)}>Save</button>`
      : "")],
  ];
}
