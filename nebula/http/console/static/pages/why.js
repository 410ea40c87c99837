// Why: how something stands, what to do, and the chain of events that made it so.
import { html, store } from "../store.js";
import { go, href } from "../moment.js";
import { clock, command, count, link, prose } from "../parts.js";

export const title = () => `Why ${store.route.query.get("about") ?? ""}`;

function queryOf(route) {
  return { about: route.query.get("about") ?? "", kind: route.query.get("kind") ?? "" };
}

export function needs(route) {
  const query = queryOf(route);
  return query.about ? { why: ["/admin/why", query] } : {};
}

function ask(event) {
  event.preventDefault();
  go(href("/why", { about: event.target.elements.about.value.trim() }));
}

export function view({ why }) {
  const { about } = queryOf(store.route);
  return html`<h1>Why ${why ? link(why.kind, why.id) : about}</h1>
    <form class="filters" onSubmit=${ask}><input name="about" type="search" required size="36" aria-label="Model, alias, adapter, replica or node"
      placeholder="model, alias, adapter, replica, node" value=${about} /><button type="submit">Why?</button></form>
    ${!about && html`<p class="soft">Type what you wonder about: it is told how that stands, what to do, and which events made it so.</p>`}
    ${why && told(why)}`;
}

function told(why) {
  const past = store.route.query.get("at");
  return html`<p class="headline">${why.headline}</p>
    ${why.behind.length > 0 && html`<ul>${why.behind.map((text) => html`<li>${prose(text)}</li>`)}</ul>`}
    ${why.todo && html`<p class="todo"><b>What to do:</b> ${prose(why.todo)}</p>`}
    <div class="commands">${command(why.command)}</div>
    <h2>What led to it</h2>
    ${(why.earlier > 0 || !why.complete) && html`<p class="soft">
      ${why.earlier > 0 && `${count(why.earlier, "earlier event")} not shown. `}
      ${!why.complete && `It was last requested before event ${why.since}, with which this begins. `}
      ${past ? "" : html`<code>${`${why.command} --all`}</code> tells all.`}</p>`}
    ${why.lines.length ? html`<ol class="tree why">${why.lines.map(line)}</ol>`
      : html`<p class="soft">No event of this stretch of the log is about it.</p>`}`;
}

function line(each) {
  const after = each.cause && !each.depth
    ? html` <a class="soft nowrap" href=${href("/events", { cause: each.cause })}>after ${each.cause}</a>` : null;
  return html`<li key=${each.seq}>
    <a class="seq" href=${href("/why", { ...queryOf(store.route), at: each.seq })} title="Why, at that moment">${each.seq}</a>
    <span class="soft nowrap">${clock(each.time)}</span>
    <div class="what ${each.depth ? "deep" : ""}" style=${{ marginLeft: `${Math.min(each.depth, 8) * 18}px` }}>
      <b>${link(each.aggregate, each.id) || each.aggregate}</b> ${each.text}
      ${each.by && html` <span class="type">by ${each.by}</span>`}${after}
      ${each.reasons.length > 0 && html`<ul class="reasons">${each.reasons.map((text) => html`<li>${prose(text)}</li>`)}</ul>`}
    </div></li>`;
}
