// What may be changed of a model that is there.
import { html } from "../store.js";
import { changing } from "./load.js";
import { rollingBack } from "./roll_back.js";
import { choice, made, number, numberOf, text, value } from "./fields.js";

/** Return the actions for a model, as its page shows it. */
export function modelActions({ model, request }) {
  const path = `/admin/models/${encodeURIComponent(model.id)}`;
  return [scaling(model, path), changing(model, request), addingAdapter(model, path),
    ...(model.adapters.length ? [removingAdapter(model, path)] : []), rollingBack("model", model.id), unloading(model, path)];
}

function scaling(model, path) {
  const replicas = value("replicas", model.spec.replicas);
  const found = made(() => {
    const number = numberOf("replicas", model.spec.replicas);
    return number === undefined ? [] : [{ type: "ModelScaleRequested", id: model.id, event: { replicas: number } }];
  });
  return {
    key: "scale", words: "Scale", verb: `Scale to ${replicas}`, names: ["replicas"], ...found,
    fields: () => number("replicas", "Replicas", { usual: model.spec.replicas, max: 1024 }),
    http: { method: "PATCH", path, body: found.intents[0]?.event },
  };
}

function unloading(model, path) {
  return {
    key: "unload", words: "Unload", verb: `Unload ${model.id}`, danger: true,
    intents: [{ type: "ModelUnloadRequested", id: model.id, event: {} }],
    http: { method: "DELETE", path },
  };
}

function addingAdapter(model, path) {
  const event = { name: value("name").trim(), source: value("source").trim() };
  const whole = event.name && event.source;
  return {
    key: "adapter", words: "Load an adapter", verb: event.name ? `Load ${event.name}` : "Load it", names: ["name", "source"],
    intents: whole ? [{ type: "AdapterLoadRequested", id: model.id, event }] : [],
    lacking: "Give the adapter a name, and say where its files are.",
    fields: () => html`<div class="fields">
      ${text("name", "Name for clients", { required: true })}
      ${text("source", "Source", { required: true, wide: true, hint: "A folder on the nodes, or a hub id. Files of an adapter that is loaded already are read again." })}</div>`,
    http: { method: "POST", path: `${path}/adapters`, body: event },
  };
}

function removingAdapter(model, path) {
  const name = value("adapter", model.adapters[0].name);
  return {
    key: "no-adapter", words: "Unload an adapter", verb: `Unload ${name}`, danger: true, names: ["adapter"],
    intents: [{ type: "AdapterUnloadRequested", id: model.id, event: { name } }],
    fields: () => choice("adapter", "Adapter", model.adapters.map((each) => [each.name, each.name]), { usual: name }),
    http: { method: "DELETE", path: `${path}/adapters/${encodeURIComponent(name)}` },
  };
}
