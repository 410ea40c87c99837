// Changes: each shows what would follow before it is sent, and the same as a command, curl and NATS.
import { html, root, setForm, store, update } from "./store.js";
import { focusNext } from "./focus.js";
import { card, opener, show as present, tell, told } from "./opening.js";
import { send } from "./api.js";
import { href } from "./moment.js";
import { command, count, gib, prose } from "./parts.js";

const REST = 200; // milliseconds after the last key before a plan is asked for

let current = () => []; // the actions of the page, made from what is typed now

/**
 * Return the forms by which something is changed. `build` returns the actions from what is typed;
 * each has `key`, `words` (its button), `verb` (what it does), `intents`, `fields` (a function that
 * returns its inputs), `fault` (what is wrong before a server is asked), and how else to ask for it.
 * `prepare` returns a promise of what the intents are made of, which is then in `form.prepared`.
 */
export function changes(build, { past = null } = {}) {
  const at = store.route.query.get("at");
  if (!store.live) return html`<p class="soft">This is a log without its cluster: nothing can be changed here.</p>`;
  if (at) return html`<div class="commands"><span class="soft">This is a past moment, and changes are made now.</span>
    <a class="button" href=${href(store.route.path, { at: "" })}>Show it now</a>${past}</div>`;
  current = build;
  const actions = build();
  const linked = store.route.query.get("form"); // an address may open a form
  if (linked && store.form.action === undefined && actions.some((each) => each.key === linked)) open(linked);
  const chosen = actions.find((each) => each.key === store.form.action);
  return html`<section class="change" aria-label="Change">
    <div class="commands">${actions.map((each) => opener(each.key, each.words, () => begun(each.key)))}</div>
    ${chosen && form(chosen)}
    ${told()}
  </section>`;
}

/** Note what was typed, and plan anew. */
export function edit(name, value) {
  update({ form: { ...store.form, [name]: value, stale: true } });
  planSoon();
}

/** Open a form, as its button does. */
export function open(key, typed = {}) {
  present(begun(key, typed));
}

/** Return what a form has at first; its plan is asked for. */
function begun(key, typed = {}) {
  planSoon(0);
  return { ...typed, action: key, plan: null, fault: null, moved: "", done: "", stale: true };
}

let resting;
let asked = 0;

function planSoon(rest = REST) {
  clearTimeout(resting);
  const mine = ++asked;
  resting = setTimeout(() => plan(mine), rest);
}

async function plan(mine) {
  let action = current().find((each) => each.key === store.form.action);
  if (!action) return;
  const show = (change) => mine === asked && update({ form: { ...store.form, stale: false, ...change } });
  if (action.fault) {
    show({ plan: null, fault: action.fault });
    return;
  }
  try {
    if (action.prepare) {
      const prepared = await action.prepare();
      if (mine !== asked) return;
      update({ form: { ...store.form, prepared } });
      action = current().find((each) => each.key === action.key);
    }
    if (!action.intents.length) {
      show({ plan: null, fault: null });
      return;
    }
    const found = await send("POST", "/admin/plan", { intents: action.intents });
    const [refused] = found.refused;
    show({ plan: found, fault: refused ? { field: refused.reason.split(":")[0], text: refused.reason } : null });
  } catch (error) {
    show({ plan: null, fault: faultOf(error) });
  }
}

function faultOf(error) {
  return { field: error.param ?? "", text: error.message.replace(/^intents\[\d+\]: /, "") };
}

async function carryOut(event, action) {
  event.preventDefault();
  const planned = store.form.plan?.at;
  if (!planned || store.form.stale) return;
  setForm("stale", true);
  try {
    const found = await send("POST", "/admin/changes", { intents: action.intents, planned });
    tell({ action: "", done: html`Asked for: event ${found.seqs.at(-1)}. ${action.then ?? "This page shows what comes of it."}` });
  } catch (error) {
    update({ form: { ...store.form, stale: false, ...(error.code === "plan_moved"
      ? { moved: error.message, stale: true } : { fault: faultOf(error) }) } });
    focusNext(".change [aria-invalid=true]", ".change h2");
    if (error.code === "plan_moved") planSoon(0);
  }
}

function form(action) {
  const { plan: found, fault, moved, stale } = store.form;
  const beside = fault && action.names?.includes(fault.field);
  const possible = found && !fault && !stale;
  return card(action.words, html`
    <form onSubmit=${(event) => carryOut(event, action)}>
      ${fault && !beside && html`<p class="failure" role="alert">${fault.text}</p>`}
      ${moved && html`<p class="failure" role="alert">${moved}. It is planned again below.</p>`}
      ${action.fields?.()}
      <h2 tabindex="-1">What would follow</h2>
      ${found && action.warning?.(found) && html`<p class="caution">${action.warning(found)}</p>`}
      <div aria-live="polite" aria-busy=${String(Boolean(stale))}>${found ? follows(found)
        : html`<p class="soft">${stale ? "It is worked out …" : action.lacking ?? "It can't be planned as it stands."}</p>`}</div>
      <div class="commands"><button type="submit" class=${action.danger ? "danger" : "primary"}
        disabled=${!possible}>${action.verb}</button></div>
    </form>
    ${found && html`<details><summary>The same as a command, with curl and on NATS</summary>${ways(action, found)}</details>`}`);
}

const KINDS = {
  place: "would be placed", end: "would end", restart: "would be started again", "roll back": "would be rolled back",
};

/** What a plan of the server says, in sentences; what is due without the change stands apart. */
function follows(found) {
  const told = (anyway) => [
    ...found.effects.filter((each) => each.anyway === anyway).map(effect),
    ...found.lacks.filter((each) => each.anyway === anyway)
      .map((each) => `${each.model} would have ${count(each.missing, "replica")} without a place: ${each.reason}`),
  ];
  const lines = [
    ...found.refused.map((each) => `refused: ${each.reason}`),
    ...found.changes.map(changed),
    ...told(false),
    ...found.displaced.map((each) => `${each.asleep.join(", ")} would be put to sleep once ${each.model} is asked for`),
    ...found.unknown,
  ];
  const due = told(true);
  const list = (all) => html`<ul>${all.map((each) => html`<li>${prose(each)}</li>`)}</ul>`;
  return html`${!found.possible && html`<p class="failure">This would be refused, or leave a model without room.</p>`}
    ${lines.length ? list(lines) : html`<p>Nothing would change.</p>`}
    ${due.length > 0 && html`<details><summary>Due already, without this: ${due.length}</summary>${list(due)}</details>`}
    <p class="soft">Decided on the cluster after event ${found.at}.</p>`;
}

function changed(each) {
  if (each.sign === "-") return `${each.aggregate} ${each.id} would be removed`;
  const what = `${each.id}: ${each.field || each.aggregate}`;
  return each.sign === "+" ? `${what}: ${each.after}` : `${what}: ${each.before} → ${each.after}`;
}

function effect(each) {
  return `${each.replica || each.model} ${KINDS[each.kind] ?? each.kind}${each.node ? ` on ${each.node}` : ""}` +
    `${each.memory ? `, ${gib(each.memory)}` : ""}${each.reason ? `: ${each.reason}` : ""}`;
}

/** Return a text as a shell takes it in single quotes. */
export function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function ways(action, found) {
  const { method, path, body } = action.http ?? {
    method: "POST", path: "/admin/changes", body: { intents: action.intents, planned: found.at },
  };
  const sent = body ? ` -H 'content-type: application/json' -d ${quoted(JSON.stringify(body))}` : "";
  const lines = [
    ...(action.line ? [action.line] : found.commands),
    `curl -X ${method} ${quoted(location.origin + root + path)}${sent}`,
    ...action.intents.map((each) => `nats pub nebula.events.${aggregateOf(each.type)}.${each.id}.${each.type} ${quoted(JSON.stringify(each.event ?? {}))}`),
  ];
  return html`<div class="ways">${lines.filter(Boolean).map((text) => html`<div key=${text}>${command(text)}</div>`)}</div>`;
}

function aggregateOf(type) {
  if (type.startsWith("Node")) return "node";
  return type.startsWith("Alias") ? "alias" : "model";
}
