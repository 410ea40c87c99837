// The inputs of forms, each with what the server says against it beside it; and how lines are read.
import { html, store } from "../store.js";
import { edit } from "../changes.js";

/** Return what was typed in a field, or its first value. */
export function value(name, usual = "") {
  return store.form[name] ?? usual;
}

function labelled(name, label, input, hint, wide) {
  const fault = store.form.fault?.field === name ? store.form.fault.text : "";
  return html`<div class=${`field ${wide ? "wide" : ""}`} key=${name}><label for=${`field-${name}`}>${label}</label>${input(fault)}
    ${fault ? html`<p class="fault" role="alert" id=${`fault-${name}`}>${fault}</p>`
      : hint && html`<p class="hint" id=${`fault-${name}`}>${hint}</p>`}</div>`;
}

function common(name, fault, hint) {
  return {
    id: `field-${name}`, name, "aria-invalid": fault ? "true" : undefined,
    "aria-describedby": fault || hint ? `fault-${name}` : undefined,
    onInput: (event) => edit(name, event.target.value),
  };
}

export function text(name, label, { usual = "", hint = "", wide = false, ...more } = {}) {
  return labelled(name, label, (fault) => html`<input type="text" autocomplete="off" spellcheck=${false}
    ...${common(name, fault, hint)} value=${value(name, usual)} ...${more} />`, hint, wide);
}

export function number(name, label, { usual, hint = "", min = 0, max, ...more } = {}) {
  return labelled(name, label, (fault) => html`<input type="number" min=${min} max=${max}
    ...${common(name, fault, hint)} value=${value(name, usual)} ...${more} />`, hint);
}

export function choice(name, label, options, { usual = "", hint = "" } = {}) {
  const chosen = String(value(name, usual));
  return labelled(name, label, (fault) => html`<select ...${common(name, fault, hint)}>
    ${options.map(([key, words]) => html`<option value=${key} selected=${chosen === key}>${words}</option>`)}</select>`, hint);
}

/** A text of lines, each KEY=VALUE or whatever `hint` says. */
export function lines(name, label, { usual = "", hint = "", rows = 2 } = {}) {
  return labelled(name, label, (fault) => html`<textarea rows=${rows} spellcheck=${false} ...${common(name, fault, hint)}
    value=${value(name, usual)}></textarea>`, hint, true);
}

export function check(name, label, { usual = false } = {}) {
  return html`<label class="check" key=${name}><input type="checkbox" name=${name} checked=${value(name, usual)}
    onChange=${(event) => edit(name, event.target.checked)} /> ${label}</label>`;
}

/** What is wrong with a field, found before a server is asked. */
export class Fault extends Error {
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

/** Return the intents that `make` returns, or what is wrong with a field. */
export function made(make) {
  try {
    return { intents: make() };
  } catch (error) {
    if (!(error instanceof Fault)) throw error;
    return { intents: [], fault: { field: error.field, text: error.message } };
  }
}

export function linesOf(name, usual) {
  return value(name, usual).split("\n").map((each) => each.trim()).filter(Boolean);
}

/** Return the pairs of lines that say KEY=VALUE, with another sign in between if it is given. */
export function pairsOf(name, usual, between = "=") {
  return linesOf(name, usual).map((line) => {
    const at = line.indexOf(between);
    if (at < 1) throw new Fault(name, `${line}: write each line as KEY${between}VALUE`);
    return [line.slice(0, at).trim(), line.slice(at + 1).trim()];
  });
}

export function wordsOf(name, usual) {
  return value(name, usual).split(/[\s,]+/).filter(Boolean);
}

/** Return a number, or undefined for an empty field. */
export function numberOf(name, usual) {
  const given = String(value(name, usual ?? "")).trim();
  if (!given) return undefined;
  if (!Number.isFinite(Number(given))) throw new Fault(name, `${given} is not a number`);
  return Number(given);
}

/** Read a value as vLLM's options have it: JSON where it is that, else a text. */
export function valueOf(given) {
  try {
    return JSON.parse(given);
  } catch {
    return given;
  }
}

export function textOf(given) {
  if (typeof given !== "string") return JSON.stringify(given);
  return typeof valueOf(given) === "string" && valueOf(given) === given ? given : JSON.stringify(given);
}
