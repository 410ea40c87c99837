// The one state of the console. Pages are functions of it; `update` changes it and draws again.
import { h } from "./vendor/preact.mjs";
import htm from "./vendor/htm.mjs";

export const html = htm.bind(h);

/** The prefix of the server's paths: this file is at PREFIX/console/static/store.js. */
export const root = new URL("../..", import.meta.url).pathname.replace(/\/$/, "");

export const store = {
  route: { path: "/", query: new URLSearchParams() },
  data: {}, // by name: what the page shows, with the address that it came from
  errors: {},
  loading: 0,
  last: 0, // sequence and time of the newest event
  lastTime: "",
  seq: 0, // what is shown
  time: "",
  live: true, // whether the log grows
  log: "", // the file that the log is in; "" for that of a cluster
  connected: false,
  locked: "", // why the server wants a key
  slid: null, // where the slider is while it is moved
  form: {}, // what was typed, by the page's own names
};

let draw = () => {};
let due = false;

export function onDraw(callback) {
  draw = callback;
}

export function update(change = {}) {
  Object.assign(store, change);
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    draw();
  });
}

export function setForm(name, value) {
  update({ form: { ...store.form, [name]: value } });
}
