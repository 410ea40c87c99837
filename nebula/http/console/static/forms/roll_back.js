// Rolling back: a model or an alias returns to what it was, by new intents with their plan first.
import { html, store } from "../store.js";
import { get } from "../api.js";
import { edit } from "../changes.js";
import { href } from "../moment.js";
import { clock } from "../parts.js";
import { value } from "./fields.js";

/** Return the action that returns a model or an alias to an earlier state. */
export function rollingBack(kind, id) {
  const to = String(value("to", store.route.query.get("to") ?? "")).trim();
  const about = `${kind}/${id}`;
  const found = store.form.prepared;
  return {
    key: "roll-back", words: "Roll back", verb: found ? `Roll back to event ${found.to}` : "Roll back", names: ["at", "to"],
    prepare: () => get(`/admin/reversion?${new URLSearchParams(to ? { about, to } : { about })}`),
    intents: (found?.steps ?? []).map(({ type, id: of, event }) => ({ type, id: of, event })),
    lacking: found ? "It is as it was then: there is nothing to do." : "",
    line: found && `nebula revert --to ${found.to} --only ${about}`,
    fields: () => fields(found, to),
  };
}

function fields(found, to) {
  const fault = ["at", "to"].includes(store.form.fault?.field) ? store.form.fault.text : "";
  const requests = found?.requests ?? [];
  return html`<div class="fields">
    <div class="field wide"><label for="field-to">To how it was</label>
      <select id="field-to" onChange=${(event) => edit("to", event.target.value)}>
        ${requests.map((each, at) => html`<option value=${each.seq - 1} selected=${to ? to === String(each.seq - 1) : !at}>
          before event ${each.seq}, ${clock(each.time)}: ${each.text}${each.by ? ` (by ${each.by})` : ""}</option>`)}
        ${to && !requests.some((each) => to === String(each.seq - 1)) && html`<option value=${to} selected>after event ${found?.to ?? to}</option>`}
      </select></div>
    <div class="field"><label for="field-moment">Or at a moment</label>
      <input id="field-moment" type="text" autocomplete="off" placeholder="4711, 03:00, 15m" aria-invalid=${fault ? "true" : undefined}
        onInput=${(event) => edit("to", event.target.value.trim())} />
      ${fault && html`<p class="fault" role="alert">${fault}</p>`}</div></div>
    ${found?.cannot.map((each) => html`<p class="caution" key=${each}>${each}</p>`)}`;
}

/** Return a link that opens the form for the moment that is shown. */
export function backLink(path) {
  return html`<a class="button" href=${href(path, { at: "", form: "roll-back", to: store.seq })}>Roll it back to this moment</a>`;
}
