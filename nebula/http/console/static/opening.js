// Buttons that open a form below them, and the card around it, for readers with and without a mouse.
import { html, store, update } from "./store.js";
import { focusNext } from "./focus.js";

const FIELD = ".change .card :is(input, select, textarea):not([type=checkbox])";
const CARD = ".change .card";

/** Return a button that opens and closes the form `key`. `opened`: what the form has at first. */
export function opener(key, words, opened = () => ({ action: key })) {
  const there = store.form.action === key;
  return html`<button type="button" key=${key} data-form=${key} aria-expanded=${String(there)}
    onClick=${() => (there ? close() : show(opened()))}>${words}</button>`;
}

/** Show a form with what it has at first, and begin at its first field. */
export function show(form) {
  update({ form });
  focusNext(FIELD, CARD);
}

/** Close the form that is open, and return to its button. */
function close() {
  const { action } = store.form;
  update({ form: { action: "" } });
  focusNext(`.change button[data-form="${action}"]`);
}

function escaped(event) {
  if (event.key !== "Escape") return;
  event.preventDefault();
  close();
}

/** Return a card for a form; Escape closes it. */
export function card(label, body) {
  return html`<div class="card" tabindex="-1" role="group" aria-label=${label} onKeyDown=${escaped}>${body}</div>`;
}

/** Say what a form has done, in its place: the keyboard goes there. */
export function tell(form) {
  update({ form });
  focusNext(".change [role=status]", "main [role=status]", "main");
}

/** Return what `tell` has said. */
export function told() {
  return store.form.done && html`<p class="well" role="status" tabindex="-1">${store.form.done}</p>`;
}

/** Say why something failed. */
export function tellFailure(text) {
  update({ form: { ...store.form, failed: text } });
  focusNext("main .failure[tabindex]", "main");
}

/** Return what `tellFailure` has said. */
export function failure() {
  return store.form.failed && html`<p class="failure" role="alert" tabindex="-1">${store.form.failed}</p>`;
}
