// What is asked for a key: its rights as fields, and the same rights as a body and as options.
import { html, setForm, store, update } from "./store.js";
import { focusNext } from "./focus.js";
import { card, failure, tell, tellFailure } from "./opening.js";
import { send } from "./api.js";
import { curl, line, sameAs } from "./shell.js";

const SCOPES = [["infer", "sends requests to models"], ["view", "sees the cluster"], ["operate", "changes the cluster"], ["admin", "does all, issues keys too"]];
const LIMITS = ["requests_per_minute", "tokens_per_minute", "in_flight", "waiting", "tokens_per_day", "tokens_per_month", "max_tokens"];
const WORDS = { in_flight: "requests in flight", waiting: "requests that wait", max_tokens: "tokens of one answer" };
const EMPTY = { scopes: ["infer"], name: "", models: ["*"], tenant: "", expires: "", limits: {} };

/** Return whether keys can be changed: not in the past, nor in a log. */
export function open() {
  return store.live && !store.route.query.get("at");
}

/** Return what a form has at first: the rights of a key if it has some. */
export function begun(action, key = EMPTY) {
  const rights = { ...key, limits: present(key.limits), models: key.models.join(", "), expires: local(key.expires) };
  return { action, rights, filledFrom: key };
}

function local(iso) {
  if (!iso) return "";
  const time = new Date(iso);
  return new Date(time - time.getTimezoneOffset() * 60000).toISOString().slice(0, 16);
}

/** Return what was filled in as the rights that the server takes. */
function rightsOf(filled) {
  const limits = { ...filled.limits };
  for (const name of LIMITS) if (limits[name] === "" || limits[name] === undefined) delete limits[name];
  return {
    scopes: filled.scopes, name: filled.name, tenant: filled.tenant, limits,
    models: filled.models.split(/[\s,]+/).filter(Boolean),
    expires: filled.expires ? new Date(filled.expires).toISOString() : null,
  };
}

const set = (change) => setForm("rights", { ...store.form.rights, ...change });
const typed = (name) => (event) => set({ [name]: event.target.value });

function scope(name, filled) {
  return (event) => set({ scopes: SCOPES.map(([each]) => each).filter((each) =>
    each === name ? event.target.checked : filled.scopes.includes(each)) });
}

function limit(name, filled) {
  return (event) => set({ limits: { ...filled.limits, [name]: event.target.value === "" ? "" : Number(event.target.value) } });
}

function fields(filled) {
  return html`<label>Its holder, in your words <input name="name" maxlength="256" value=${filled.name} onInput=${typed("name")} /></label>
    <label>Tenant <input name="tenant" maxlength="128" value=${filled.tenant} onInput=${typed("tenant")} /></label>
    <label>Valid until (your clock; empty: for ever) <input name="expires" type="datetime-local" value=${filled.expires} onInput=${typed("expires")} /></label>
    <label class="wide">Models that it may ask for (* stands for any text) <input name="models" value=${filled.models} onInput=${typed("models")} /></label>
    <fieldset><legend>Scopes</legend>${SCOPES.map(([name, words]) => html`<label key=${name}><input type="checkbox"
      checked=${filled.scopes.includes(name)} onChange=${scope(name, filled)} /> ${name} <span class="soft">${words}</span></label>`)}</fieldset>
    <fieldset><legend>Limits (empty: none)</legend>${LIMITS.map((name) => html`<label key=${name}>${WORDS[name] ?? name.replaceAll("_", " ")}
      <input type="number" min=${name === "waiting" ? 0 : 1} value=${filled.limits[name] ?? ""} onInput=${limit(name, filled)} /></label>`)}</fieldset>`;
}

const dashed = (name) => name.replaceAll("_", "-");

/** The options of `nebula key` for rights; where a key had `before`, those that change. */
function options(rights, before) {
  const same = (name) => before && JSON.stringify(before[name]) === JSON.stringify(rights[name]);
  const found = [];
  if (!same("name") && (rights.name || before)) found.push("--name", rights.name);
  if (!same("scopes")) found.push(...rights.scopes.flatMap((each) => ["--scope", each]));
  if (!same("models") && (before || rights.models.join() !== "*")) found.push(...rights.models.flatMap((each) => ["--model", each]));
  if (!same("tenant") && (rights.tenant || before)) found.push("--tenant", rights.tenant);
  if (!same("expires") && (rights.expires || before)) found.push("--expires", rights.expires ?? "never");
  const had = before?.limits ?? {};
  for (const [name, value] of Object.entries(rights.limits))
    if (JSON.stringify(had[name]) !== JSON.stringify(value))
      found.push("--limit", `${dashed(name)}=${Array.isArray(value) ? value.join("..") : value}`);
  for (const name of Object.keys(had)) if (rights.limits[name] === undefined) found.push("--limit", `${dashed(name)}=`);
  return found;
}

/** Carry a form out, and show what the server says: a secret once, in this page alone. */
function carryOut(method, path, body, words) {
  return async (event) => {
    event.preventDefault();
    try {
      const found = await send(method, path, body);
      const done = `${words(found)} Event ${found.seq}.`;
      tell({ done, secret: found.secret ?? "", secretOf: found.id });
    } catch (error) {
      tellFailure(error.message);
    }
  };
}

function box(label, submit, body, button, lines) {
  return card(label, html`<form class="rights" onSubmit=${submit}>${body}<div class="commands wide">${button}</div></form>
    ${failure()}${sameAs(lines)}`);
}

export function issueForm() {
  const filled = store.form.rights;
  const id = store.form.id ?? "";
  const rights = rightsOf(filled);
  const body = id ? { id, ...rights } : rights;
  return box("Issue a key",
    carryOut("POST", "/admin/keys", body, (found) => `Key ${found.id} was issued.`),
    html`<label>Id (empty: one is made up) <input name="id" maxlength="128" value=${id} onInput=${(event) => setForm("id", event.target.value)} /></label>
      ${fields(filled)}`,
    html`<button type="submit" class="primary" disabled=${!rights.scopes.length}>Issue the key</button>`,
    [line("nebula", "key", "issue", id || "ID", ...options(rights)), curl("POST", "/admin/keys", body)],
  );
}

export function changeForm(key) {
  const rights = rightsOf(store.form.rights);
  const from = store.form.filledFrom; // what others change meanwhile stays as they made it
  const before = rightsOf({ ...from, models: from.models.join(" "), limits: present(from.limits), expires: local(from.expires) });
  const told = options(rights, before);
  const same = (name) => JSON.stringify(rights[name]) === JSON.stringify(before[name]);
  const changed = Object.fromEntries(Object.entries(rights).filter(([name]) => !same(name)));
  const path = pathOf(key);
  return box("Change the key",
    carryOut("PATCH", path, changed, () => "Its rights were changed."),
    fields(store.form.rights),
    html`<button type="submit" class="primary" disabled=${!rights.scopes.length || !told.length}>Change ${key.id}</button>`,
    [line("nebula", "key", "change", key.id, ...told), curl("PATCH", path, changed)],
  );
}

export function rotateForm(key) {
  const hours = Number(store.form.overlap ?? 1);
  const path = `${pathOf(key)}/rotate`;
  const body = { overlap: hours * 3600 };
  return box("Make a new secret",
    carryOut("POST", path, body, () => "It has a new secret."),
    html`<label>Hours for which the previous secret stays valid <input name="overlap" type="number" min="0" step="any" required
      value=${hours} onInput=${(event) => setForm("overlap", event.target.value)} /></label>`,
    html`<button type="submit" class="primary">Make a new secret</button>`,
    [line("nebula", "key", "rotate", key.id, "--overlap", `${Math.round(hours * 3600)}s`), curl("POST", path, body)],
  );
}

export function revokeForm(key) {
  const path = pathOf(key);
  return box("Revoke the key",
    carryOut("DELETE", path, undefined, () => "It is revoked."),
    html`<p class="wide">Every gateway refuses it from then on, for good. Its requests in flight are finished.</p>`,
    html`<button type="submit" class="danger">Revoke ${key.id}</button>`,
    [line("nebula", "key", "revoke", key.id), curl("DELETE", path)],
  );
}

const pathOf = (key) => `/admin/keys/${encodeURIComponent(key.id)}`;

function present(limits) {
  return Object.fromEntries(Object.entries(limits).filter(([, value]) => value !== null));
}

function forget() {
  update({ form: {} });
  focusNext("main");
}

/** What a form has done, with a new secret, which is shown until this page is left. */
export function outcome() {
  const { done, secret, secretOf } = store.form;
  if (!done) return null;
  const copy = (event) => {
    const button = event.currentTarget;
    getSelection().selectAllChildren(button.previousElementSibling);
    navigator.clipboard?.writeText(secret).then(() => (button.textContent = "Copied"), () => {});
  };
  return html`<div class="well" role="status" tabindex="-1"><p>${done}</p>
    ${secret && html`<p>Keep the secret of ${secretOf}: it is shown this once, and stored nowhere.</p>
      <span class="command"><code class="secret">${secret}</code><button type="button" onClick=${copy} aria-label="Copy the secret">Copy</button></span>
      <div><button type="button" onClick=${forget}>I have kept it</button></div>`}</div>`;
}
