// Home: what needs attention, and how much there is.
import { html, store } from "../store.js";
import { href } from "../moment.js";
import { atEvent, badge, clock, command, count, link, ofNanoseconds, prose, why } from "../parts.js";

export const title = () => "Home";

export const every = 5000; // milliseconds after which it is asked again: no event tells of lines

export const needs = () => ({ home: ["/admin/attention", {}] });

export function view({ home }) {
  if (!home) return html`<h1>Nebula</h1>`;
  const when = store.route.query.get("at") ? "at this moment" : "now";
  return html`
    <h1>${home.cluster.name || "Nebula"}</h1>
    ${home.lines.length
      ? html`<ol class="concerns">${home.lines.map(concern)}</ol>`
      : html`<p class="well">All is well: nothing needs attention ${when}.</p>`}
    ${home.more > 0 && html`<p>${count(home.more, "further line")} not shown:
      <a href=${href("/models")}>the models</a> have them all.</p>`}
    ${home.risk && html`<p class="soft">Since ${clock(ofNanoseconds(home.risk_since))} (event ${atEvent(home.risk_seq)})
      ${home.risk}: <a href=${href("/resilience")}>what would be lost with each node</a>.</p>`}
    <h2>What there is</h2>
    <ul class="figures">
      ${figure("/models", sum(home.models), "model", spread(home.models))}
      ${figure("/nodes", sum(home.nodes), "node", spread(home.nodes))}
      ${figure("/models", home.replicas, "replica", home.replicas ? `${home.serving} serve` : "")}
      ${figure("/models", home.adapters, "adapter")}
      ${figure("/models", home.aliases, "alias", "", "aliases")}
      ${figure("/events", home.seq, "event")}
    </ul>`;
}

function concern(line) {
  const since = line.since ? clock(ofNanoseconds(line.since)) : "";
  return html`<li key=${line.kind + line.id} class=${line.severity}>
    <header>${badge(line.severity)} <b>${link(line.kind, line.id)}</b>
      <span class="since">since ${since} ${line.seq > 0 && html`event ${atEvent(line.seq)}`}</span></header>
    <p>${line.text}</p>
    ${line.todo && html`<p class="todo">${prose(line.todo)}</p>`}
    <div class="commands">
      ${line.command && command(line.command)}
      ${line.why && command(line.why)}
      ${line.why && why(line.kind === "node" ? "node" : "model", line.id)}
    </div>
  </li>`;
}

function sum(counts) {
  return Object.values(counts).reduce((all, each) => all + each, 0);
}

function spread(counts) {
  const found = Object.entries(counts);
  if (found.length === 1) return `all ${found[0][0]}`;
  return found.map(([phase, number]) => `${number} ${phase}`).join(", ");
}

function figure(path, number, one, detail = "", many = `${one}s`) {
  return html`<li><a href=${href(path)}><b>${number}</b> ${number === 1 ? one : many}</a>
    <span>${detail}</span></li>`;
}
