// Usage: how many tokens were used by what in a time before the moment, and what is left of which limit.
import { html, store } from "../store.js";
import { go, href } from "../moment.js";
import { brief, clock, command, count, link, pager, table } from "../parts.js";
import { save } from "../saving.js";
import { curl } from "../shell.js";

const WINDOWS = [["24h", "a day"], ["7d", "a week"], ["30d", "30 days"], ["36500d", "all"]];
const USUAL = { by: "key,model", since: "7d" };

export const title = () => "Usage";

export const every = 5000; // milliseconds after which it is asked again: no event tells of a request

function queryOf(route) {
  return { by: route.query.get("by") ?? USUAL.by, since: route.query.get("since") ?? USUAL.since };
}

export function needs(route) {
  const limits = { find: route.query.get("find") ?? "", after: route.query.get("after") ?? "0" };
  return { usage: ["/admin/usage", queryOf(route)], limits: ["/admin/outline/limits", limits] };
}

const FORMAT = new Intl.NumberFormat("en"); // made once: for each figure anew it took a browser a third of a millisecond

export const number = (value) => FORMAT.format(Number(value));

export function view({ usage, limits }) {
  return html`<h1>Usage</h1>${usage && used(usage)}<h2>Limits and budgets</h2>${limits && limited(limits)}`;
}

/** A choice by the address, which is ahead of what is shown: two quick clicks choose both. */
function choice(group) {
  const asked = queryOf(store.route);
  const there = asked.by.split(",").filter(Boolean);
  const by = there.includes(group) ? there.filter((each) => each !== group) : [...there, group];
  const query = { ...asked, by: by.join(",") || "," };
  return html`<a class="button" key=${group} aria-current=${there.includes(group) ? "true" : undefined}
    href=${href("/usage", query)}>${group}</a>`;
}

function used(usage) {
  const query = queryOf(store.route);
  const at = store.route.query.get("at");
  const whole = usage.together;
  return html`<div class="filters" role="group" aria-label="Time">
      <span class="soft">in</span>${WINDOWS.map(([since, words]) => html`<a class="button" key=${since}
        aria-current=${query.since === since ? "true" : undefined} href=${href("/usage", { ...query, since })}>${words}</a>`)}
      <span class="soft">before ${at ? clock(store.time) : "now"}, in whole hours</span></div>
    <div class="filters" role="group" aria-label="Told apart by">
      <span class="soft">by</span>${usage.groups.map(choice)}</div>
    <ul class="figures">
      ${figure(whole.requests, "requests")}${figure(whole.prompt_tokens, "tokens of prompts")}
      ${figure(whole.cached_tokens, "of them from caches")}${figure(whole.completion_tokens, "tokens of answers")}</ul>
    ${bars(usage.over_time)}
    ${usage.lines.length ? table("Usage", columns(usage.by), usage.lines, (row) => usage.by.map((each) => row[each]).join("\n"))
      : html`<p class="soft">Nothing was used in this time.</p>`}
    ${usage.more > 0 && html`<p class="soft">${count(usage.more, "further line")}: the file has them all.</p>`}
    ${whole.estimated_tokens > 0 && html`<p class="soft">${number(whole.estimated_tokens)} of the tokens are of streams that
      were cut before their engine had told how many they were: at least so many.</p>`}
    ${usage.lost > 0 && html`<p class="failure">${count(usage.lost, "message")} with records left their stream before
      they were summed: what they had is missing here.</p>`}
    ${usage.dropped > 0 && html`<p class="failure">${count(usage.dropped, "request")} missing here: NATS took no
      records for too long.</p>`}
    <div class="commands">${command(`nebula usage --by ${usage.by.join() || "''"} --since ${usage.since.slice(0, 13)}:00Z${at ? ` --until ${usage.until.slice(0, 13)}:00Z` : ""}`)}
      <button type="button" onClick=${() => save(path(), "usage.csv")}>Save as CSV</button>
      ${command(curl("GET", path()))}</div>
    ${store.form.failed && html`<p class="failure" role="alert">${store.form.failed}</p>`}`;
}

function path() {
  const query = new URLSearchParams(queryOf(store.route));
  const at = store.route.query.get("at");
  if (at) query.set("at", at);
  return `/admin/usage.csv?${query}`;
}

function figure(value, words) {
  return html`<li><b>${number(value)}</b><span>${words}</span></li>`;
}

const MOST_BARS = 60;

/** What was used over time, as bars; the newest where there are many. */
function bars(all) {
  const shown = all.slice(-MOST_BARS);
  if (shown.length < 2) return null;
  const highest = Math.max(1, ...shown.map((each) => each.total_tokens));
  return html`<ol class="columns" aria-label="Tokens over time">${shown.map((each) => {
    const when = each.hour ?? each.day;
    const words = `${when}: ${number(each.total_tokens)} tokens, ${count(each.requests, "request")}`;
    return html`<li key=${when} title=${words}><span class="column" style=${{ height: `${(100 * each.total_tokens) / highest}%` }}></span>
      <span class="unseen">${words}</span></li>`;
  })}</ol><p class="soft legend"><span>${shown[0].hour ?? shown[0].day}</span><span>to ${shown.at(-1).hour ?? shown.at(-1).day} (UTC)</span>
    <span>highest: ${number(highest)} tokens</span></p>`;
}

const capital = (word) => word[0].toUpperCase() + word.slice(1);

const figureOf = (name) => (row) => html`<span class="number">${number(row[name])}</span>`;

function columns(by) {
  const kinds = { model: (row) => link("model", row.model), key: (row) => ofKey(row.key) };
  return [
    ...by.map((each) => [capital(each), (row) => (row[each] ? (kinds[each] ?? ((of) => brief(of[each])))(row) : html`<span class="soft">none</span>`)]),
    ["Requests", figureOf("requests")], ["Tokens of prompts", figureOf("prompt_tokens")], ["Of them cached", figureOf("cached_tokens")],
    ["Tokens of answers", figureOf("completion_tokens")], ["Tokens in all", figureOf("total_tokens")],
  ];
}

/** Usage names keys as the log does, `key:ci`. */
function ofKey(text) {
  return text.startsWith("key:") ? link("key", text.slice(4)) : brief(text);
}

function find(event) {
  event.preventDefault();
  go(href("/usage", { ...queryOf(store.route), find: event.target.elements.find.value }));
}

function limited(limits) {
  const past = store.route.query.get("at") || !store.live;
  const query = { ...queryOf(store.route), find: store.route.query.get("find") ?? "", after: store.route.query.get("after") ?? "" };
  return html`<form class="filters" onSubmit=${find}><input type="search" name="find" aria-label="Find limits by id"
      placeholder="Find limits by id" size="30" value=${query.find} /><button type="submit">Find</button></form>
    ${past && limits.rows.length > 0 && html`<p class="soft">What is left of them is known of the present alone.</p>`}
    ${limits.rows.length ? table("Limits", LIMITS, limits.rows, (row) => [row.kind, row.id, row.name].join())
      : html`<p class="soft">No key, tenant or model has a limit here.</p>`}
    ${pager(limits, query, "/usage")}`;
}

export const LIMITS = [
  ["Of", (row) => html`${row.kind} ${link(row.kind, row.id)}`],
  ["Limit", (row) => html`<span class="nowrap">${row.name.replaceAll("_", " ")}</span>`],
  ["At most", (row) => html`<span class="nowrap">${typeof row.limit === "number" ? number(row.limit) : row.limit}</span>`],
  ["Used", (row) => (row.used === null ? "" : html`<span class="nowrap">${number(row.used)}</span>`)],
  ["Left", left],
];

function left(row) {
  if (row.left === null) return "";
  const part = row.limit ? Math.min(1, row.used / row.limit) : 1;
  const words = `${number(row.left)} left`;
  return html`<span class="left"><span class="bar" role="img" aria-label=${`${Math.round(100 * part)} % used`}><span
    class="held ${part >= 1 ? "failed" : ""}" style=${{ width: `${100 * part}%` }}></span></span>
    <span class="nowrap ${part >= 1 ? "minus" : ""}">${words}</span></span>`;
}
