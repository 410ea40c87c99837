// One request: where it is now, its way step by step, and an end to it.
import { html, setForm, store, update } from "../store.js";
import { send } from "../api.js";
import { badge, clock, command, facts, link, ofNanoseconds, prose, table } from "../parts.js";
import { card, failure, opener, tell, tellFailure, told } from "../opening.js";
import { curl, line, sameAs } from "../shell.js";
import { href } from "../moment.js";

export const title = ([id]) => `Request ${id}`;

export let every; // milliseconds after which it is asked again, while it is in flight

export const needs = (route, [id]) => (store.live
  ? { request: [`/admin/requests/${encodeURIComponent(id)}`, { at: "" }], moment: ["/admin/outline/nodes", { limit: 1 }] } : {});

export function view({ request: found }, [id]) {
  every = found?.in_flight ? 3000 : undefined;
  if (!store.live) return html`<h1>${id}</h1><p class="soft">A log does not hold requests.</p>`;
  if (!found) return html`<h1>${id}</h1>${sendingAgain(id)}`;
  const now = found.in_flight;
  return html`<h1>${id} ${now ? badge(now.state) : badge("ended")}</h1>
    ${store.route.query.get("at") && html`<p class="soft">It is shown as it is now, whatever moment the bar shows.</p>`}
    <p class="headline">${found.headline}</p>
    ${found.others.length > 0 && html`<p>Earlier requests with this id: ${found.others.map((other) => html`<a
      href=${href(`/requests/${encodeURIComponent(other)}`)}>${other}</a> `)}</p>`}
    <div class="commands">${command(line("nebula", "why", "request", id))}
      ${command(curl("GET", `/admin/requests/${encodeURIComponent(id)}`))}</div>
    ${now ? cancelling(now.id) : sendingAgain(id)}
    ${told()}${failure()}
    ${now && html`<h2>Where it is</h2>${facts(place(now))}`}
    ${found.key && !now && facts([["Key", link("key", found.key)]])}
    <h2>Its way</h2>
    ${found.steps.length ? html`<ol class="tree why steps">${found.steps.map(step)}</ol>`
      : html`<p class="soft">Nothing is kept of it yet.</p>`}`;
}

function place(now) {
  const times = now.continued === 1 ? "once" : `${now.continued} times`;
  return [
    ["Model", link("model", now.model)], ["Adapter", now.adapter], ["Path", now.path],
    ["Replica", now.replica && link("replica", now.replica)],
    ["Queue", now.router && `${now.router}${now.position ? `, place ${now.position}` : ""}`],
    ["Gateway", now.gateway], ["Began", clock(ofNanoseconds(now.started * 1e9))],
    ["Tokens so far", now.stream ? String(now.tokens) : ""], ["Attempt", String(now.attempt)],
    ["Went on elsewhere", now.continued ? times : ""],
    ["Key", now.key && link("key", now.key)], ["Tenant", now.tenant], ["Ids of its caller's", now.caller_ids.join(", ")],
    ["Its client", now.attached ? "" : "has left: it runs to its end"], ["Capacity", now.slack ? "only what is spare" : ""],
  ];
}

function step(each) {
  return html`<li><span class="soft nowrap" title=${each.time}>${clock(each.time)}.${each.time.slice(20, 23)}</span>
    <div class="what">${prose(each.text)}
      ${each.reasons.length > 0 && html`<ul class="reasons">${each.reasons.map((text) => html`<li>${prose(text)}</li>`)}</ul>`}</div></li>`;
}

function cancelling(id) {
  const path = `/admin/requests/${encodeURIComponent(id)}`;
  const open = store.form.action === "cancel";
  const end = async () => {
    try {
      await send("DELETE", path);
      tell({ done: "It was cancelled." });
    } catch (error) {
      tellFailure(error.message);
    }
  };
  return html`<section class="change" aria-label="Change"><div class="commands">${opener("cancel", "Cancel")}</div>
    ${open && card("Cancel this request", html`<p>Its client gets an error; what it has by then of a stream stays.</p>
      <button type="button" class="danger" onClick=${end}>Cancel this request</button>
      ${sameAs([line("nebula", "requests", "cancel", id), curl("DELETE", path)])}`)}</section>`;
}

/** A request that was captured is kept for a day, longer than its way: it can be sent to another model. */
function sendingAgain(id) {
  const path = `/admin/captured/${encodeURIComponent(id)}/replay`;
  const { action, to = "", both, refused } = store.form;
  const show = (found) => update({ form: { ...store.form, both: undefined, refused: "", ...found } });
  const ask = async (event) => {
    event.preventDefault();
    show({});
    try {
      show({ both: await send("POST", path, { to }) });
    } catch (error) {
      show({ refused: error.message });
    }
  };
  const open = action === "again";
  return html`<section class="change" aria-label="Send again"><div class="commands">${opener("again", "Send again")}</div>
    ${open && card("Send this request again", html`<form onSubmit=${ask}><p>A request that was captured is sent to another model, without a stream.
        What was masked is sent masked.</p>
      <label>To model, adapter or alias <input required value=${to} onInput=${(event) => setForm("to", event.target.value)} /></label>
      <button type="submit" class="primary">Send it</button>
      ${refused && html`<p class="failure" role="alert">${refused}</p>`}
      ${both && answers(both)}
      ${sameAs([line("nebula", "replay", "request", id, "--to", to || "MODEL"), curl("POST", path, { to: to || "MODEL" })])}</form>`)}
  </section>`;
}

function answers({ captured, replayed }) {
  const kept = captured.answer || `not kept (${captured.contents}), ${captured.answer_size ?? 0} bytes`;
  return table("Both answers", [["", (row) => row[0]], [`Captured: ${captured.model}`, (row) => row[1]], [`Now: ${replayed.model}`, (row) => row[2]]], [
    ["Status", String(captured.status ?? 0), String(replayed.status)],
    ["Milliseconds", String(captured.milliseconds ?? 0), String(replayed.milliseconds)],
    ["Prompt tokens", String(captured.prompt_tokens ?? 0), String(replayed.prompt_tokens)],
    ["Answer tokens", String(captured.completion_tokens ?? 0), String(replayed.completion_tokens)],
    ["Answer", kept, replayed.answer],
  ]);
}
