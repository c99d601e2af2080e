// Nodes, their devices with what fills them, and loads under way.

import { h, fill, delegate, ask, notice, mb, secs, Cards } from "./dom.js";
import { all, one, call, state } from "./feed.js";

export const title = "Fleet";

/** One of twelve colours, always the same for a name. */
export function colour(name) {
  let sum = 0;
  for (const char of name) sum = (sum * 31 + char.codePointAt(0)) >>> 0;
  return `c${sum % 12}`;
}

const may = (role) => state.me?.roles.includes(role);

export function mount(main) {
  const filter = h("input", { type: "search", placeholder: "Filter by name, model or state", "aria-label": "Filter nodes", oninput: update });
  const summary = h("p.summary");
  const loads = h("section.loads", { "aria-label": "Loads under way" });
  const grid = h("div.cards");
  const empty = h("p.empty", { hidden: true });
  const cards = new Cards(grid);
  main.append(h("h1", null, title), h("div.bar", null, filter, summary), loads, empty, grid);
  delegate(main, actions);

  function update() {
    const nodes = all("node").sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
    const wanted = filter.value.trim().toLowerCase();
    const speeds = byNode();
    const shown = wanted ? nodes.filter((node) => text(node).includes(wanted)) : nodes;
    const up = nodes.filter((node) => node.state === "up").length;
    const doubts = one("gateway")?.doubts ?? [];
    fill(summary, `${up} of ${nodes.length} nodes up, ${one("gateway")?.under_way ?? 0} requests under way`,
      doubts.map((doubt) => h("span.doubt", null, doubt)));
    fill(loads, all("load").map(load), all("queue").map(queue));
    cards.show(shown, (node) => node.name, (node) => card(node, speeds.get(node.name)), (node) => speeds.get(node.name));
    empty.hidden = shown.length > 0 || !one("gateway");
    empty.textContent = nodes.length ? "No node is like that." : "No nodes: add [[neurons]] to cortex.toml, or make it anew with cortex init.";
  }
  return { update };
}

const text = (node) =>
  [node.name, node.hostname, node.endpoint, condition(node), ...node.models.map((model) => model.model)].join(" ").toLowerCase();

const condition = (node) =>
  node.draining ? "draining" : node.left_alone_secs !== null ? "failing" : node.state;

// Median tokens a second of the last streams of each node.
function byNode() {
  const rates = new Map();
  for (const request of all("request")) {
    if (!request.node || !request.tokens_per_second) continue;
    if (!rates.has(request.node)) rates.set(request.node, []);
    rates.get(request.node).push(request.tokens_per_second);
  }
  return new Map([...rates].map(([node, list]) => [node, list.sort((a, b) => a - b)[list.length >> 1]]));
}

function card(node, speed) {
  const now = condition(node);
  const facts = [
    node.upstream ? "upstream" : node.hostname, `${node.in_flight} in flight`,
    speed && `${speed.toFixed(1)} tok/s a stream`, node.driver_version && `driver ${node.driver_version}`,
    node.cuda_version && `CUDA ${node.cuda_version}`,
  ].filter(Boolean);
  return h("article.card", { "data-key": node.name, "data-node": node.name },
    h("header", null, h("h2", null, node.name), h(`span.pill.${now}`, null, now),
      may("operator") && h("span.actions", null,
        h("button", { "data-do": "drain", "data-node": node.name, "data-on": node.draining ? "" : "yes" }, node.draining ? "Undrain" : "Drain"),
        !node.upstream && h("button", { "data-do": "load", "data-node": node.name }, "Load…"))),
    h("p.facts", null, facts.join(" · ")),
    node.error && h("p.error", null, node.error),
    node.left_alone_secs !== null && h("p.error", null, `kept failing; tried again in ${node.left_alone_secs} s`),
    node.cuda_unavailable_reason && h("p.facts", null, node.cuda_unavailable_reason),
    node.devices.map((device) => bar(device, node)),
    node.models.length > 0 && h("ul.models", null, node.models.map((model) => resident(model, node))));
}

function bar(device, node) {
  const total = device.vram_total_mb || 1;
  const here = node.models.filter((model) => model.devices?.includes(device.index) && model.vram_used_mb);
  const parts = here.map((model) => ({ id: model.model, mb: model.vram_used_mb / model.devices.length }));
  const known = parts.reduce((sum, part) => sum + part.mb, 0);
  const used = device.vram_used_mb ?? known;
  const other = Math.max(0, used - known);
  const label = `${mb(used)} of ${mb(total)} used`;
  // A node that measures neither says 0 of both.
  const measured = device.utilization_pct || device.temp_c;
  const hot = measured ? [`${device.utilization_pct ?? 0} % busy`, device.temp_c ? `${device.temp_c} °C` : ""].filter(Boolean) : [];
  return h("div.device", { "data-key": device.index },
    h("div.line", null, h("span", null, `${device.index}: ${device.name}`), h("span", null, [label, ...hot].join(" · "))),
    h("div.meter", { role: "img", "aria-label": `Device ${device.index}: ${label}` },
      parts.map((part) => h(`i.${colour(part.id)}`, { title: `${part.id}: ${mb(Math.round(part.mb))}`, style: { width: `${(100 * part.mb) / total}%` } })),
      other > 0 && h("i.other", { title: `other: ${mb(Math.round(other))}`, style: { width: `${(100 * other) / total}%` } })),
    device.state && h("p.error", null, `${device.state}: ${device.reason ?? ""}`));
}

function resident(model, node) {
  const bad = model.servable?.ok === false ? `not servable: ${model.servable.reason ?? "unknown"}` : null;
  return h("li", { "data-key": model.model },
    h(`i.swatch.${colour(model.model)}`), h("span.name", null, model.model),
    h("span.facts", null, [model.status, mb(model.vram_used_mb), model.in_flight ? `${model.in_flight} running` : "",
      model.queue_depth ? `${model.queue_depth} queued` : "", model.pinned ? "pinned" : "", bad].filter(Boolean).join(" · ")),
    may("operator") && !node.upstream && h("span.actions", null,
      h("button.plain", { "data-do": "pin", "data-model": model.model, "data-on": model.pinned ? "" : "yes" }, model.pinned ? "Unpin" : "Pin"),
      h("button.plain", { "data-do": "unload", "data-model": model.model, "data-node": node.name }, "Unload")));
}

function load(entry) {
  const { progress } = entry;
  const share = progress?.bytes_total ? progress.bytes_done / progress.bytes_total : null;
  const left = progress?.seconds_left;
  const speed = progress?.bytes_per_sec ? `${Math.round(progress.bytes_per_sec / 1e6)} MB/s` : "";
  return h("div.load", { "data-key": entry.model, "data-load": entry.model },
    h("strong", null, entry.model), ` on ${entry.node || "the first node with room"}: ${progress?.phase ?? entry.doing}`,
    h("span.facts", null, [secs(entry.seconds), speed, left !== undefined && left !== null ? `${secs(left)} left` : "",
      entry.waiters ? `${entry.waiters} wait` : "", `for ${entry.why}`].filter(Boolean).join(" · ")),
    h("progress", share === null ? { "aria-label": `Loading ${entry.model}` } : { max: 1, value: share, "aria-label": `Loading ${entry.model}` }));
}

const queue = (entry) =>
  h("div.load", { "data-key": `queue-${entry.model}` }, `${entry.waiting} wait for ${entry.model}, the first for ${entry.oldest_secs ?? 0} s`);

const OUTCOMES = { resident: "is there", loading: "is being loaded", fits: "fits", after_unloading: "fits after unloading", impossible: "cannot", unknown: "not known" };

/** What a load would take on each node, as the gateway foresees it; `order`: where it would be tried, one after the other. */
export function plan({ nodes, order }) {
  const first = nodes.length > 1 && !nodes.some((node) => node.outcome === "resident") ? order[0] : undefined;
  return h("ul.plan", null, nodes.map((node) => h("li", null, h("strong", null, node.node), ": ", OUTCOMES[node.outcome] ?? node.outcome, " ",
    node.victims.length > 0 && h("em", null, node.victims.join(", ")),
    node.required_mb !== undefined && h("span.facts", null, ` takes ${mb(node.required_mb)}, ${mb(node.free_mb)} free`),
    node.message && h("span.facts", null, ` ${node.message}`),
    node.node === first && h("span.pill.up", null, "here first"))));
}

/** Where requests for a model of a node go while that is drained. */
async function move(node, model) {
  const serves = (at) => at.node !== node && one(`node/${at.node}`)?.state === "up" && !one(`node/${at.node}`)?.draining;
  const others = (one(`model/${model}`)?.on ?? []).filter(serves);
  const on = (status) => others.filter((at) => at.status === status).map((at) => at.node).join(", ");
  if (on("loaded")) return `goes on, on ${on("loaded")}`;
  if (on("loading")) return `is being loaded on ${on("loading")}`;
  if (!one(`model/${model}`)?.catalogued) return "is nowhere else and in no catalogue: its requests are refused";
  const { nodes, order } = await call("POST", "/admin/plan-load", { model });
  const best = nodes.find((at) => at.node === order.find((name) => name !== node));
  if (!best) return "fits nowhere else: its requests are refused until this node is back";
  return `is loaded on ${best.node} with its next request${best.victims.length ? `, for which ${best.victims.join(", ")} would go` : ""}`;
}

/** Models whose moves are asked for at once. */
const ASKED = 4;

/** A line for each model of a node, which says where it goes once that is known. */
function moves(node) {
  const lines = node.models.map(({ model }) => ({ model, line: h("span", null, " …") }));
  const waiting = [...lines];
  const next = async () => {
    for (let one = waiting.shift(); one; one = waiting.shift()) {
      one.line.textContent = ` ${await move(node.name, one.model).catch((error) => error.message)}`;
    }
  };
  for (let asked = 0; asked < ASKED; asked += 1) next();
  return h("ul.plan", { "data-moves": true, "aria-live": "polite" }, lines.map(({ model, line }) => h("li", null, h("strong", null, model), line)));
}

async function did(what, doing) {
  try {
    await doing;
    notice(what);
  } catch (error) {
    notice(error.message, "error");
  }
}

export const actions = {
  async drain({ node, on }) {
    const known = one(`node/${node}`);
    if (!known) return notice(`${node} has left the fleet.`, "error");
    const content = on
      ? [h("p", null, `${node} gets no new requests and no loads. ${known.in_flight} requests that run there go on.`),
        known.models.length ? moves(known) : h("p", null, "It has no models.")]
      : h("p", null, `${node} takes requests and loads again.`);
    if (!await ask(on ? `Drain ${node}?` : `Take ${node} back?`, content, { confirm: on ? "Drain" : "Undrain" })) return;
    await did(on ? `${node} is draining.` : `${node} takes requests again.`, call("POST", "/admin/drain", { node, on: !!on }));
  },

  async unload({ node, model }) {
    const here = one(`model/${model}`);
    const others = (here?.on ?? []).filter((at) => at.node !== node).map((at) => at.node);
    const running = here?.on.find((at) => at.node === node)?.in_flight ?? 0;
    const drain = await ask(`Unload ${model}?`, [
      h("p", null, `It leaves ${node}; `, others.length ? `it stays on ${others.join(", ")}.` : "no other node has it: the next request for it waits for a load."),
      h("label.check", null, h("input", { type: "checkbox", name: "drain", checked: running > 0 }), ` wait for the ${running} requests that run`),
    ], { confirm: "Unload", danger: true, read: (form) => ({ drain: form.elements.drain.checked }) });
    if (!drain) return;
    await did(`${model} has left ${node}.`, call("POST", "/admin/unload", { model, node, ...drain }));
  },

  async pin({ model, on }) {
    const text = on ? "It is not unloaded for another, until the gateway is restarted." : "It may be unloaded for another again, unless the catalogue pins it.";
    if (!await ask(`${on ? "Pin" : "Unpin"} ${model}?`, h("p", null, text), { confirm: on ? "Pin" : "Unpin" })) return;
    await did(`${model} is ${on ? "pinned" : "not pinned any more"}.`, call("POST", "/admin/pin", { model, on: !!on }));
  },

  async load({ node, model }) {
    const there = new Set((one(`node/${node}`)?.models ?? []).map((entry) => entry.model));
    const list = all("model").filter((entry) => entry.catalogued && !there.has(entry.id));
    if (!model && !list.length) return notice(`${node} has every model of the catalogue already.`);
    const wanted = model ?? await ask(`Load on ${node}`, () => {
      return [h("label", { for: "wanted" }, "Model"),
        h("select", { id: "wanted", name: "model" }, list.map((entry) => h("option", { value: entry.id }, entry.id)))];
    }, { confirm: "Next", read: (form) => form.elements.model.value });
    if (!wanted) return;
    let foreseen;
    try {
      foreseen = await call("POST", "/admin/plan-load", { model: wanted, ...(node ? { node } : {}) });
    } catch (error) {
      return notice(error.message, "error");
    }
    const danger = foreseen.nodes.some((entry) => entry.victims.length);
    if (!await ask(`Load ${wanted}?`, plan(foreseen), { confirm: "Load", danger })) return;
    notice(`${wanted} is being loaded.`);
    await did(`${wanted} is loaded.`, call("POST", "/admin/load", { model: wanted, ...(node ? { node } : {}) }));
  },
};
