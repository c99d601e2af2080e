// A routing policy in JavaScript: of the nodes that are readiest for the model, the one with the fewest
// requests. docs/writing-a-policy.md says how it becomes a component.

const UNKNOWN = 0xffffffff;
const FACTS = ["state", "running", "queued"];

function choose(rows) {
  const known = (fact) => (fact === UNKNOWN ? 0 : fact);
  const nodes = [];
  for (let i = 0; i * FACTS.length < rows.length; i++) {
    const [state, running, queued] = rows.slice(i * FACTS.length, (i + 1) * FACTS.length);
    if (known(state) > 0) nodes.push({ i, state, load: known(running) + known(queued) });
  }
  nodes.sort((a, b) => b.state - a.state || a.load - b.load || a.i - b.i);
  return Uint16Array.from(nodes, (node) => node.i);
}

// What a function throws as { payload } is its `err`; anything else is a trap.
function refuse(tag, val) {
  throw { payload: { tag, val } };
}

export const lifecycle = {
  describe: () => ({ name: "js-routing", version: "0.1.0", configSchema: "" }),
  configure(json) {
    if (json.trim() !== "{}") refuse("invalid-request", "js-routing takes no settings");
  },
  selfTest() {
    const picks = choose([5, 9, 0, 0, 0, 0, 5, 1, UNKNOWN]);
    if (picks.join() !== "2,0") refuse("internal", "of two nodes, the busier came first");
  },
};

export const router = {
  facts: () => ({ node: FACTS, request: [] }),
  onTopology() {},
  route(_epoch, request, rows) {
    const picks = choose(rows);
    if (picks.length > 0) return { tag: "pick", val: picks };
    return { tag: "reject", val: [503, `no node can serve ${request.model} now`] };
  },
};
