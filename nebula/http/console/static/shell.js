// Command lines as a shell needs them, for those who would rather type what a form does.
import { html, root } from "./store.js";
import { command } from "./parts.js";

export function quoted(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

export function line(...words) {
  return words.map((word) => quoted(String(word))).join(" ");
}

export function curl(method, path, body) {
  const words = ["curl", "-X", method, `${location.origin}${root}${path}`];
  const sent = body === undefined ? "" : ` -H 'content-type: application/json' -d ${quoted(JSON.stringify(body))}`;
  return `${line(...words)} -H "Authorization: Bearer $KEY"${sent}`;
}

/** The same as a form, as command lines. */
export function sameAs(lines) {
  return html`<details><summary>The same as a command and with curl</summary><div class="ways">
    ${lines.map((text) => html`<div>${command(text)}</div>`)}</div></details>`;
}
