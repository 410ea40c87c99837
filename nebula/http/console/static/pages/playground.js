// Playground: the same prompt to two models side by side, and how alike texts are to an embedding model.
import { html, root, setForm, store, update } from "../store.js";
import { ask, events, send } from "../api.js";
import { command, table } from "../parts.js";
import { curl } from "../shell.js";

export const title = () => "Playground";

export const needs = () => ({
  models: ["/admin/outline/models", { phase: "ready", limit: 500, at: "" }],
  rehearsal: ["/admin/rehearsal", { at: "" }],
});

const field = (name, usual = "") => store.form[name] ?? usual;
const typed = (name) => (event) => setForm(name, event.target.value);
const LEFT = "Explain in one sentence what a vector is.";
const TEXTS = "A cat sleeps.\nA kitten naps.\nThe invoice is due.";

function names(models, task) {
  return models.rows.filter((row) => row.task === task)
    .flatMap((row) => [row.name, ...row.adapters, ...row.aliases.map((each) => each.split(" ")[0])])
    .filter((name, at, all) => all.indexOf(name) === at);
}

export function view({ models, rehearsal }) {
  if (!models) return html`<h1>Playground</h1>`;
  const chats = names(models, "chat");
  const embeddings = names(models, "embedding");
  return html`<h1>Playground</h1>
    <p class="soft">It asks the models that serve now, whatever moment the bar shows.</p>
    <h2>Chat</h2>
    ${chats.length ? chat(chats, rehearsal?.rehearsal) : html`<p class="soft">No chat model serves.</p>`}
    <h2>Embeddings</h2>
    ${embeddings.length ? likeness(embeddings) : html`<p class="soft">No embedding model serves.</p>`}`;
}

function select(name, options, none) {
  return html`<select aria-label=${`Model ${name}`} onChange=${typed(name)}>
    ${none && html`<option value="">no second model</option>`}
    ${options.map((each) => html`<option selected=${field(name, none ? "" : options[0]) === each}>${each}</option>`)}</select>`;
}

function bodyFor(model) {
  const messages = [{ role: "user", content: field("prompt", LEFT) }];
  return { model, messages, max_tokens: Number(field("tokens", 200)), stream: true };
}

function chat(models, rehearsal) {
  const chosen = [field("first", models[0]), field("second")].filter(Boolean);
  const run = (event) => {
    event.preventDefault();
    chosen.forEach((model, side) => stream(model, side));
  };
  return html`<form class="change" onSubmit=${run}>
      <textarea aria-label="Prompt" onInput=${typed("prompt")}>${field("prompt", LEFT)}</textarea>
      <div class="filters">${select("first", models)} ${select("second", models, true)}
        <label>Tokens at most <input type="number" min="1" max="8192" value=${field("tokens", 200)} onInput=${typed("tokens")} /></label>
        <button type="submit" class="primary">Ask</button></div>
    </form>
    <div class="sides">${chosen.map((model, side) => html`<div key=${side}><b>${model}</b>
      <span class="soft">${field(`took${side}`)}</span>
      ${rehearsal && field(`request${side}`) && killing(side)}
      ${field(`killed${side}`) && html`<p class="caution" role="status">${field(`killed${side}`)}</p>`}
      <div class="answer" aria-live="polite" aria-busy=${String(Boolean(field(`asks${side}`)))}>${field(`answer${side}`)}</div></div>`)}</div>
    <details><summary>The same as code</summary><div class="ways">
      ${command(curl("POST", "/v1/chat/completions", bodyFor(chosen[0])))}
      <pre tabindex="0" role="region" aria-label="The same in Python">${`from openai import OpenAI
client = OpenAI(base_url="${location.origin}${root}/v1", api_key="KEY")
for piece in client.chat.completions.create(**${JSON.stringify(bodyFor(chosen[0])).replaceAll(":true", ":True")}):
    print(piece.choices[0].delta.content or "", end="")`}</pre></div></details>`;
}

async function stream(model, side) {
  const began = performance.now();
  const show = (answer, took) => update({ form: { ...store.form, [`answer${side}`]: answer, [`took${side}`]: took } });
  const note = (request, killed) => update({ form: { ...store.form, [`request${side}`]: request, [`killed${side}`]: killed } });
  show("", "waits …");
  setForm(`asks${side}`, true); // what is said of the answer is said once, as a whole
  note("", "");
  let answer = "";
  let first = 0;
  try {
    const options = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(bodyFor(model)) };
    const answered = await ask("/v1/chat/completions", options);
    note(answered.headers.get("x-request-id"), "");
    for await (const data of events(answered)) {
      if (data === "[DONE]") break;
      const found = JSON.parse(data);
      if (found.error) throw new Error(found.error.message);
      const piece = found.choices?.[0]?.delta?.content ?? "";
      if (piece && !first) first = performance.now() - began;
      answer += piece;
      show(answer, `first token after ${Math.round(first)} ms`);
    }
    show(answer, `first token after ${Math.round(first)} ms, all after ${Math.round(performance.now() - began)} ms`);
  } catch (error) {
    show(answer, `failed: ${error.message}`);
  }
  setForm(`request${side}`, "");
  setForm(`asks${side}`, false);
}

/** On a rehearsal cluster: a button that kills the engine which answers, to see the answer go on. */
function killing(side) {
  return html`<button type="button" class="danger" onClick=${() => killEngine(side)}>Kill its engine</button>`;
}

async function killEngine(side) {
  const id = field(`request${side}`);
  const told = (text) => setForm(`killed${side}`, text);
  try {
    const found = await (await ask("/admin/requests?limit=1000")).json();
    const replica = found.requests.find((each) => each.id === id)?.replica;
    if (!replica) return told("No engine has this request just now.");
    const { seq } = await send("POST", `/admin/replicas/${encodeURIComponent(replica)}/kill`);
    told(`Asked to kill the engine of ${replica} after ${field(`answer${side}`).length} characters: event ${seq}. As a command: nebula kill ${replica}`);
  } catch (error) {
    told(error.message);
  }
}

function likeness(models) {
  const run = async (event) => {
    event.preventDefault();
    const input = field("texts", TEXTS).split("\n").filter((each) => each.trim()).slice(0, 12);
    try {
      const options = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ model: field("embedder", models[0]), input }) };
      const found = await (await ask("/v1/embeddings", options)).json();
      update({ form: { ...store.form, alike: { input, vectors: found.data.map((each) => each.embedding) }, bad: "" } });
    } catch (error) {
      setForm("bad", error.message);
    }
  };
  const { input, vectors } = field("alike", {});
  return html`<form class="change" onSubmit=${run}>
      <textarea aria-label="Texts, one a line" onInput=${typed("texts")}>${field("texts", TEXTS)}</textarea>
      <div class="filters">${select("embedder", models)} <button type="submit" class="primary">Compare</button></div>
    </form>
    ${field("bad") && html`<p class="failure" role="alert">${field("bad")}</p>`}
    ${input && table("Cosines", [["Cosine", (row) => row.text],
      ...input.map((text, at) => [String(at + 1), (row) => cosine(row.vector, vectors[at]).toFixed(3)])],
      input.map((text, at) => ({ text: `${at + 1}. ${text}`, vector: vectors[at] })))}`;
}

export function cosine(one, other) {
  let product = 0, first = 0, second = 0;
  for (let at = 0; at < one.length; at++) {
    product += one[at] * other[at];
    first += one[at] ** 2;
    second += other[at] ** 2;
  }
  return product / Math.sqrt(first * second || 1);
}
