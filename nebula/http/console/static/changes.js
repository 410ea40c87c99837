// Changes: each shows what would follow before it is sent, and the same as a command, curl and NATS.
import { html, root, setForm, store, update } from "./store.js";
import { send } from "./api.js";
import { command, count, gib, prose } from "./parts.js";

/** Return the form by which a model or a node is changed; nothing while the past is shown. */
export function changes(kind, subject) {
  if (store.route.query.get("at") || !store.live) return null;
  const actions = kind === "model" ? ofModel(subject) : ofNode(subject);
  const chosen = actions.find((each) => each.key === store.form.action);
  return html`<section class="change" aria-label="Change">
    <div class="commands">${actions.map((each) => html`<button type="button" key=${each.key}
      aria-expanded=${String(chosen === each)} onClick=${() => toggle(each)}>${each.words}</button>`)}</div>
    ${chosen && form(chosen)}
    ${store.form.done && html`<p class="well" role="status">${store.form.done}</p>`}
  </section>`;
}

function ofModel(model) {
  const replicas = Number(store.form.replicas ?? model.spec.replicas);
  const path = `/admin/models/${encodeURIComponent(model.id)}`;
  return [
    {
      key: "scale", words: "Scale", verb: `Scale to ${replicas}`, id: model.id, field: replicas,
      type: "ModelScaleRequested", event: { replicas }, aggregate: "model",
      line: `nebula scale ${model.id} ${replicas}`, method: "PATCH", path, body: { replicas },
    },
    {
      key: "unload", words: "Unload", verb: `Unload ${model.id}`, danger: true, id: model.id,
      type: "ModelUnloadRequested", event: {}, aggregate: "model",
      line: `nebula unload ${model.id}`, method: "DELETE", path,
    },
  ];
}

function ofNode(node) {
  const path = `/admin/nodes/${encodeURIComponent(node.id)}/drain`;
  if (node.draining)
    return [{
      key: "undrain", words: "Take replicas again", verb: "Take replicas again", id: node.id,
      type: "NodeUndrainRequested", event: {}, aggregate: "node",
      line: `nebula drain ${node.id} --undo`, method: "DELETE", path,
    }];
  return [{
    key: "drain", words: "Drain", verb: `Drain ${node.id}`, danger: true, id: node.id,
    type: "NodeDrainRequested", event: {}, aggregate: "node",
    line: `nebula drain ${node.id}`, method: "POST", path,
  }];
}

function toggle(action) {
  const open = store.form.action !== action.key;
  update({ form: { ...store.form, action: open ? action.key : "", plan: null, failed: "", done: "" } });
  if (open) plan(action);
}

let asked = 0;

async function plan(action) {
  const mine = ++asked;
  try {
    const intents = [{ type: action.type, id: action.id, event: action.event }];
    const found = await send("POST", "/admin/plan", { intents });
    if (mine === asked) update({ form: { ...store.form, plan: found, failed: "" } });
  } catch (error) {
    if (mine === asked) update({ form: { ...store.form, plan: null, failed: error.message } });
  }
}

async function carryOut(event, action) {
  event.preventDefault();
  try {
    const found = await send(action.method, action.path, action.body);
    update({ form: { done: `Asked for: event ${found.seq}. This page shows what comes of it.` } });
  } catch (error) {
    setForm("failed", error.message);
  }
}

function form(action) {
  const found = store.form.plan;
  const typed = (event) => {
    setForm("replicas", event.target.value);
    const replicas = Number(event.target.value);
    plan({ ...action, event: { replicas } });
  };
  return html`<div class="card">
    <form onSubmit=${(event) => carryOut(event, action)}>
      ${action.key === "scale" && html`<label>Replicas <input name="replicas" type="number" min="0" max="1024"
        value=${action.field} onInput=${typed} /></label>`}
      <button type="submit" class=${action.danger ? "danger" : "primary"}
        disabled=${!found || Boolean(store.form.failed)}>${action.verb}</button>
    </form>
    ${store.form.failed && html`<p class="failure" role="alert">${store.form.failed}</p>`}
    <h2>What would follow</h2>
    ${found ? follows(found) : !store.form.failed && html`<p class="soft">It is worked out …</p>`}
    <details><summary>The same as a command, with curl and on NATS</summary>${ways(action)}</details>
  </div>`;
}

const KINDS = {
  place: "would be placed", end: "would end", restart: "would be started again", "roll back": "would be rolled back",
};

/** What a plan of the server says, in sentences. */
function follows(found) {
  const due = (each) => (each.anyway ? " (due already, without this)" : "");
  const lines = [
    ...found.refused.map((each) => `refused: ${each.reason}`),
    ...found.changes.map((each) => `${each.id}: ${each.field || each.aggregate} ${each.before ? `${each.before} → ` : ""}${each.after || "removed"}`),
    ...found.effects.map((each) => `${each.replica || each.model} ${KINDS[each.kind] ?? each.kind}` +
      `${each.node ? ` on ${each.node}` : ""}${each.memory ? `, ${gib(each.memory)}` : ""}${each.reason ? `: ${each.reason}` : ""}${due(each)}`),
    ...found.lacks.map((each) => `${each.model} would have ${count(each.missing, "replica")} without a place: ${each.reason}${due(each)}`),
    ...found.displaced.map((each) => `${each.asleep.join(", ")} would be put to sleep once ${each.model} is asked for`),
    ...found.unknown,
  ];
  return html`${!found.possible && html`<p class="failure">This would be refused, or leave a model without room.</p>`}
    ${lines.length ? html`<ul>${lines.map((each) => html`<li>${prose(each)}</li>`)}</ul>`
      : html`<p>Nothing else would change.</p>`}
    <p class="soft">Decided on the cluster after event ${found.at}.</p>`;
}

function ways(action) {
  const body = action.body ? ` -H 'content-type: application/json' -d '${JSON.stringify(action.body)}'` : "";
  const subject = `nebula.events.${action.aggregate}.${action.id}.${action.type}`;
  const lines = [
    ["nebula", action.line],
    ["curl", `curl -X ${action.method} ${location.origin}${root}${action.path}${body}`],
    ["NATS", `nats pub ${subject} '${JSON.stringify(action.event)}'`],
  ];
  return html`<div class="ways">${lines.map(([, text]) => html`<div>${command(text)}</div>`)}</div>`;
}
