// What may be changed of a node.

/** Return the actions for a node. */
export function nodeActions(node) {
  const path = `/admin/nodes/${encodeURIComponent(node.id)}/drain`;
  if (node.draining)
    return [{
      key: "undrain", words: "Take replicas again", verb: "Take replicas again",
      intents: [{ type: "NodeUndrainRequested", id: node.id, event: {} }],
      http: { method: "DELETE", path },
    }];
  return [{
    key: "drain", words: "Drain", verb: `Drain ${node.id}`, danger: true,
    intents: [{ type: "NodeDrainRequested", id: node.id, event: {} }],
    http: { method: "POST", path },
  }];
}
