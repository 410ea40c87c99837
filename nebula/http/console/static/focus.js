// Where the keyboard goes next: to what has just been opened, said or refused, and back when it closes.

let wanted = [];

/** Focus the first of these that is there, once the page has been drawn again. */
export function focusNext(...selectors) {
  wanted = selectors;
}

/** Carry out what was wished for. Called after each drawing. */
export function settleFocus() {
  const found = wanted.map((selector) => document.querySelector(selector)).find(Boolean);
  wanted = [];
  found?.focus();
}
