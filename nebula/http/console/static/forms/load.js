// The form of a load request: for a new model, and with what is in effect for one that is loaded.
import { html } from "../store.js";
import { href } from "../moment.js";
import {
  check, choice, Fault, lines, linesOf, made, number, numberOf, pairsOf, text, textOf, value, valueOf, wordsOf,
} from "./fields.js";

const TASKS = ["chat", "embedding", "classify", "score", "pooling", "transcription"].map((each) => [each, each]);
const NAMES = [
  "source", "id", "name", "task", "replicas", "memory", "options", "env", "secrets", "adapters", "lora", "node",
  "devices", "labels", "apart", "policy", "autoscale", "max_in_flight", "max_waiting", "idle_after", "fallback",
];

/** Return the action that loads a model. */
export function loading() {
  const identity = value("id").trim() || idOf(value("name").trim() || value("source").trim());
  return {
    key: "load", words: "Load a model", verb: identity ? `Load ${identity}` : "Load", names: NAMES,
    ...made(() => (value("source").trim() ? [intent(identity, request({}))] : [])),
    warning: (plan) => plan.changes.some((each) => each.aggregate === "model" && each.id === identity && each.sign !== "+")
      && `There is a model ${identity} already: this replaces its whole load request.`,
    lacking: "Say first where the model's files are.",
    fields: () => fields({}, identity),
    then: html`<a href=${href(`/models/${encodeURIComponent(identity)}`)}>How ${identity} comes to serve</a>`,
    get http() {
      return { method: "POST", path: "/admin/models", body: { id: identity, ...this.intents[0]?.event } };
    },
  };
}

/** Return the action that changes a loaded model; `was`: its load request as it is in effect. */
export function changing(model, was) {
  return {
    key: "change", words: "Change", verb: `Change ${model.id}`, names: NAMES,
    ...made(() => [intent(model.id, request(was))]),
    fields: () => fields(was, ""),
    get http() {
      return { method: "POST", path: "/admin/models", body: { id: model.id, ...this.intents[0]?.event } };
    },
  };
}

function intent(id, event) {
  return { type: "ModelLoadRequested", id, event };
}

/** Return an id for a name or a source: its last part, with hyphens for what ids can't hold. */
export function idOf(text) {
  return text.replace(/\/+$/, "").split("/").pop().replace(/[^A-Za-z0-9_-]+/g, "-").slice(0, 128);
}

const USUAL = {
  source: "", name: "", task: "chat", replicas: 1, memory: null, options: {}, env: {}, adapters: [], lora: null, node: "",
  devices: [], labels: {}, apart: [], policy: "spread", autoscale: null, max_in_flight: 256, max_waiting: 1024,
  on_request: false, idle_after: null, evictable: false, fallback: [],
};

/** Return what stands in the fields at first, as texts. */
function usual(was) {
  const spec = { ...USUAL, ...was };
  const entries = Object.entries(spec.env);
  const joined = (pairs, between = "=") => pairs.map((pair) => pair.join(between)).join("\n");
  return {
    ...spec,
    memory: spec.memory ?? "",
    options: joined(Object.entries(spec.options).map(([name, each]) => [name, textOf(each)])),
    env: joined(entries.filter(([, each]) => typeof each === "string")),
    secrets: joined(entries.filter(([, each]) => typeof each !== "string").map(([name, each]) => [each.secret, name]), ":"),
    adapters: joined(spec.adapters.map((each) => [each.name, each.source])),
    labels: joined(Object.entries(spec.labels)),
    lora: spec.lora === null ? "" : String(spec.lora),
    devices: spec.devices.join(", "), apart: spec.apart.join(", "), fallback: spec.fallback.join("\n"),
    autoscale: spec.autoscale ? scaleText(spec.autoscale) : "",
    idle_after: spec.idle_after ?? "",
  };
}

function scaleText(found) {
  return `${found.least}:${found.most},in-flight=${found.in_flight},wait=${found.wait},calm=${found.calm}`;
}

/** Return the load request that the fields say, without what is as usual. */
function request(was) {
  const first = usual(was);
  const lora = value("lora", first.lora);
  const found = {
    source: value("source", first.source).trim(),
    name: value("name", first.name).trim(),
    task: value("task", first.task),
    replicas: numberOf("replicas", first.replicas),
    memory: value("memory", first.memory).toString().trim() || null,
    options: Object.fromEntries(pairsOf("options", first.options).map(([name, each]) => [name, valueOf(each)])),
    env: {
      ...Object.fromEntries(pairsOf("env", first.env)),
      ...Object.fromEntries(pairsOf("secrets", first.secrets, ":").map(([secret, name]) => [name, { secret }])),
    },
    adapters: pairsOf("adapters", first.adapters).map(([name, source]) => ({ name, source })),
    lora: lora === "" ? null : lora === "true",
    node: value("node", first.node).trim(),
    devices: wordsOf("devices", first.devices).map(valueOf),
    labels: Object.fromEntries(pairsOf("labels", first.labels)),
    apart: wordsOf("apart", first.apart),
    policy: value("policy", first.policy),
    autoscale: scaleOf(value("autoscale", first.autoscale).trim()),
    max_in_flight: numberOf("max_in_flight", first.max_in_flight),
    max_waiting: numberOf("max_waiting", first.max_waiting),
    on_request: value("on_request", first.on_request),
    idle_after: numberOf("idle_after", first.idle_after) ?? null,
    evictable: value("evictable", first.evictable),
    fallback: linesOf("fallback", first.fallback),
  };
  const same = (name) => JSON.stringify(found[name]) === JSON.stringify(USUAL[name]);
  return Object.fromEntries(Object.entries(found).filter(([name, each]) => name === "source" || (each !== undefined && !same(name))));
}

function scaleOf(given) {
  if (!given) return null;
  const [bounds, ...rest] = given.split(",");
  const [, least, most] = /^\s*(\d+):(\d+)\s*$/.exec(bounds) ?? [];
  const more = rest.map((each) => each.split("=").map((part) => part.trim()));
  if (least === undefined || more.some(([name, each]) => !["in-flight", "wait", "calm"].includes(name) || !each))
    throw new Fault("autoscale", `${given}: write LEAST:MOST, like 1:4 or 1:4,in-flight=8,calm=60`);
  return {
    least: Number(least), most: Number(most),
    ...Object.fromEntries(more.map(([name, each]) => [name.replace("-", "_"), valueOf(each)])),
  };
}

function fields(was, identity) {
  const first = usual(was);
  const loaded = Boolean(was.source);
  return html`<div class="fields">
    ${text("source", "Source", { usual: first.source, required: true, wide: true, hint: "A folder on the nodes, or a hub id such as Qwen/Qwen3-0.6B." })}
    ${text("name", "Name for clients", { usual: first.name, hint: loaded ? "" : "The id, if it is empty." })}
    ${!loaded && text("id", "Id", { hint: identity ? `${identity}, if it is empty.` : "From the name or the source." })}
    ${choice("task", "Task", TASKS, { usual: first.task })}
    ${number("replicas", "Replicas", { usual: first.replicas, max: 1024 })}
    ${text("memory", "Memory of each replica", { usual: first.memory, hint: "6GiB, say; a node measures it if it is empty." })}
    ${lines("options", "Options of vLLM", { usual: first.options, hint: "One a line: max-model-len=4096." })}
    ${lines("secrets", "Variables from secrets of the nodes", { usual: first.secrets, hint: "One a line, SECRET:VARIABLE: hf:HF_TOKEN. Only the name is recorded." })}
  </div>
  <details><summary>Where it may run, its adapters, and how it follows the load</summary><div class="fields">
    ${text("node", "Only on the node", { usual: first.node })}
    ${text("devices", "Only on its devices", { usual: first.devices, hint: "Their numbers: 0, 1." })}
    ${choice("policy", "Policy", [["spread", "spread"], ["binpack", "binpack"]], { usual: first.policy })}
    ${text("apart", "Not on a node with", { usual: first.apart, hint: "Ids of models; its own keeps its replicas apart." })}
    ${lines("labels", "Labels that a node must have", { usual: first.labels, hint: "One a line: zone=a." })}
    ${lines("adapters", "Adapters", { usual: first.adapters, hint: "One a line, NAME=SOURCE." })}
    ${choice("lora", "Takes adapters", [["", "if it has some"], ["true", "yes"], ["false", "no"]], { usual: first.lora })}
    ${text("autoscale", "Replicas follow the load", { usual: first.autoscale, hint: "LEAST:MOST, like 1:4 or 1:4,in-flight=8." })}
    ${number("idle_after", "Sleeps after so many seconds without a request", { usual: first.idle_after })}
    ${number("max_in_flight", "Requests that a replica answers at a time", { usual: first.max_in_flight, min: 1 })}
    ${number("max_waiting", "Requests that may queue in a router", { usual: first.max_waiting })}
    ${lines("fallback", "Models that answer in its place", { usual: first.fallback, hint: "One name a line, in their order." })}
    ${lines("env", "Variables in clear", { usual: first.env, hint: "One a line, NAME=VALUE. The log keeps them for ever." })}
    <div class="field wide">${check("on_request", "Start with the first request", { usual: first.on_request })}
    ${check("evictable", "May be put to sleep to make room", { usual: first.evictable })}</div>
  </div></details>`;
}
