// Files to save: they are fetched, because a link could not send the key.
import { setForm } from "./store.js";
import { ask } from "./api.js";

export async function save(path, name) {
  try {
    const address = URL.createObjectURL(await (await ask(path)).blob());
    const link = document.createElement("a");
    link.href = address;
    link.download = name;
    link.click();
    URL.revokeObjectURL(address);
  } catch (error) {
    setForm("failed", error.message);
  }
}
