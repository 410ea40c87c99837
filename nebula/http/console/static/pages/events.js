// Events: those up to the moment, as a tree in which each stands below its cause.
import { html, store } from "../store.js";
import { go, href } from "../moment.js";
import { clock, link } from "../parts.js";

const WINDOW = 200;
const FILTERED = 5000; // events that are looked through, if only some are shown

export const title = () => "Events";

function filtersOf(route) {
  const filters = {};
  for (const name of ["about", "node", "cause", "type", "rejected"])
    if (route.query.get(name)) filters[name] = route.query.get(name);
  return filters;
}

export function needs(route) {
  const { about, ...filters } = filtersOf(route);
  if (about) filters.aggregate = about;
  const end = Number(route.query.get("at")) || store.last;
  const wide = Object.keys(filters).length > 0;
  const after = filters.cause ? Number(filters.cause) - 1 : Math.max(0, end - (wide ? FILTERED : WINDOW));
  const page = { ...filters, limit: wide ? 1000 : WINDOW, after, at: "" };
  return { moment: ["/admin/attention", {}], events: ["/admin/events", page] };
}

function choose(event) {
  event.preventDefault();
  const fields = Object.fromEntries(new FormData(event.target));
  go(href("/events", fields));
}

export function view({ events, moment }) {
  const filters = filtersOf(store.route);
  const end = moment?.seq ?? store.last;
  const shown = (events?.events ?? []).filter((each) => filters.cause || each.seq <= end);
  const oldest = shown[0]?.seq;
  return html`<h1>Events up to ${end}</h1>
    <form class="filters" onSubmit=${choose}>
      <input name="about" aria-label="About" placeholder="about: model, chat, node/n1" value=${filters.about ?? ""} />
      <input name="node" aria-label="On node" placeholder="on node" value=${filters.node ?? ""} />
      <input name="type" aria-label="Type of event" placeholder="type" value=${filters.type ?? ""} />
      <button type="submit">Show</button>
      ${Object.keys(filters).length > 0 && html`<a class="button" href=${href("/events")}>All events</a>`}
    </form>
    ${filters.cause && html`<p>Only what event ${filters.cause} led to, directly and indirectly.</p>`}
    ${events && !shown.length && html`<p class="soft">None of the last ${FILTERED} events is of this kind.</p>`}
    <ol class="tree">${nested(shown).map(([event, depth]) => line(event, depth))}</ol>
    ${oldest > 1 && !filters.cause && html`<p class="pager"><a class="button"
      href=${href("/events", { ...filters, at: Math.max(1, oldest - 1) })}>Earlier events</a></p>`}`;
}

/** Return events with their depth: the newest trees first, and in a tree each below its cause. */
export function nested(events) {
  const below = new Map();
  const known = new Set(events.map((each) => each.seq));
  const roots = [];
  for (const each of events) {
    if (known.has(each.cause) && each.cause !== each.seq) {
      if (!below.has(each.cause)) below.set(each.cause, []);
      below.get(each.cause).push(each);
    } else roots.push(each);
  }
  const found = [];
  const left = roots.map((each) => [each, 0]);
  while (left.length) {
    const [event, depth] = left.pop();
    found.push([event, depth]);
    for (const each of (below.get(event.seq) ?? []).reverse()) left.push([each, depth + 1]);
  }
  return found;
}

/** The day of an event, unless it is that of the moment which is shown. */
function dayOf(event) {
  const day = clock(event.time).slice(0, 10);
  return day === clock(store.time).slice(0, 10) ? "" : html`<span class="nowrap">${day}</span> `;
}

function line(event, depth) {
  const rejected = event.type === "EventRejected" || event.malformed;
  const by = event.by || event.actor;
  const cause = event.cause && !depth
    ? html` <a class="soft" href=${href("/events", { cause: event.cause })}>after ${event.cause}</a>` : null;
  return html`<li key=${event.seq}>
    <a class="seq" href=${href("/", { at: event.seq })} title="The cluster as it was then">${event.seq}</a>
    <span class="soft" title=${event.time}>${dayOf(event)}${clock(event.time).slice(11)}</span>
    <span class="what ${depth ? "deep" : ""} ${rejected ? "rejected" : ""}" style=${{ marginLeft: `${Math.min(depth, 8) * 18}px` }}>
      <b>${link(event.aggregate, event.id) || event.aggregate}</b> ${event.text}${" "}
      <a class="type" href=${href("/events", { cause: event.seq })} title="What it led to">${event.type}</a>
      ${by && html` <span class="type">by ${by}</span>`}${cause}</span>
  </li>`;
}
