// Aliases: the models that a name stands for, each with its share. Two targets have a slider.
import { html, store } from "../store.js";
import { href } from "../moment.js";
import { edit } from "../changes.js";
import { focusNext } from "../focus.js";
import { idOf } from "./load.js";
import { rollingBack } from "./roll_back.js";
import { Fault, made, text, value } from "./fields.js";

/** Return the action that makes an alias. */
export function naming() {
  const name = value("name").trim();
  const id = idOf(name);
  return {
    ...setting("alias", "Make an alias", id, name, [{ name: value("first"), weight: 1 }], ""),
    verb: name ? `Make ${name}` : "Make it",
    warning: (plan) => plan.changes.some((each) => each.aggregate === "alias" && each.id === id && each.sign !== "+")
      && `There is an alias ${id} already: this replaces it.`,
    then: html`<a href=${href(`/aliases/${encodeURIComponent(id)}`)}>What ${name} stands for</a>`,
  };
}

/** Return the actions for an alias. */
export function aliasActions(row) {
  const path = `/admin/aliases/${encodeURIComponent(row.id)}`;
  return [
    { ...setting("targets", "Change its models", row.id, row.name, row.targets, row.mirror), verb: `Change ${row.name}` },
    rollingBack("alias", row.id),
    {
      key: "remove", words: "Remove", verb: `Remove ${row.name}`, danger: true,
      intents: [{ type: "AliasRemoveRequested", id: row.id, event: {} }],
      http: { method: "DELETE", path },
    },
  ];
}

function setting(key, words, id, name, targets, mirror) {
  const typed = value("targets", targets.map((each) => ({ model: each.name, weight: each.weight })));
  const fresh = key === "alias";
  const found = made(() => {
    const named = typed.map((each) => ({ model: each.model.trim(), weight: Number(each.weight) })).filter((each) => each.model);
    if (named.some((each) => !Number.isInteger(each.weight) || each.weight < 0))
      throw new Fault("targets", "a weight is a whole number from 0 on");
    if (!name || !named.length) return [];
    return [{ type: "AliasRequested", id, event: { targets: named, name, mirror: value("mirror", mirror).trim() } }];
  });
  return {
    key, words, names: ["name", "targets", "mirror"], ...found,
    lacking: fresh ? "Give it a name, and say which model it stands for." : "It needs a model to stand for.",
    fields: () => html`<div class="fields">
      ${fresh && text("name", "Name for clients", { required: true })}
      ${rows(typed)}
      ${text("mirror", "Mirror", { usual: mirror, hint: "A model that gets a copy of each request; its answers are discarded." })}</div>`,
    http: { method: "PUT", path: `/admin/aliases/${encodeURIComponent(id)}`, body: found.intents[0]?.event },
  };
}

function rows(typed) {
  const set = (at, change) => edit("targets", typed.map((each, place) => (place === at ? { ...each, ...change } : each)));
  const add = () => {
    edit("targets", [...typed, { model: "", weight: typed.length === 1 ? 0 : 1 }]);
    focusNext(`.targets .target:nth-of-type(${typed.length + 1}) input`);
  };
  const leaveOut = (at) => {
    edit("targets", typed.filter((_, place) => place !== at));
    focusNext(".targets .target input");
  };
  const whole = typed.reduce((sum, each) => sum + Number(each.weight || 0), 0);
  const fault = store.form.fault?.field === "targets" && store.form.fault.text;
  return html`<fieldset class="field wide targets"><legend>Models and their shares</legend>
    ${typed.map((each, at) => html`<div class="target" key=${at}>
      <input type="text" autocomplete="off" spellcheck=${false} aria-label=${`Model ${at + 1}`} placeholder="Name of a model"
        value=${each.model} onInput=${(event) => set(at, { model: event.target.value })} />
      <input type="number" min="0" max="1000000" aria-label=${`Weight ${at + 1}`} value=${each.weight}
        onInput=${(event) => set(at, { weight: event.target.value })} />
      <span class="share">${whole ? `${Math.round((1000 * Number(each.weight || 0)) / whole) / 10} %` : ""}</span>
      ${typed.length > 1 && html`<button type="button" aria-label=${`Leave out model ${at + 1}`}
        onClick=${() => leaveOut(at)}>×</button>`}</div>`)}
    ${typed.length === 2 && slider(typed, whole)}
    ${fault && html`<p class="fault" role="alert">${fault}</p>`}
    <div class="commands"><button type="button" onClick=${add}>
      Add a model</button></div></fieldset>`;
}

/** A canary: how many of a hundred requests go to the second of two models. */
function slider([first, second], whole) {
  const share = whole ? Math.round((100 * Number(second.weight || 0)) / whole) : 0;
  const slid = (event) => {
    const weight = Number(event.target.value);
    edit("targets", [{ ...first, weight: 100 - weight }, { ...second, weight }]);
  };
  return html`<label class="canary">Of 100 requests to ${second.model || "the second model"}: <b>${share}</b>
    <input type="range" min="0" max="100" value=${share} onInput=${slid} aria-valuetext=${`${share} percent`} /></label>`;
}
