// The catalogue: where each model runs or could, and what became of the last loads.

import { h, fill, delegate, mb, ago, secs, notice } from "./dom.js";
import { all, one, call, now, state } from "./feed.js";
import { List } from "./list.js";
import { actions, plan, colour } from "./fleet.js";

export const title = "Models";

export function mount(main, { rest }) {
  const filter = h("input", { type: "search", placeholder: "Filter", "aria-label": "Filter models", oninput: update });
  const list = new List({ label: "Models", height: 44, key: (model) => model.id });
  const detail = h("section.detail", { "aria-live": "polite", "aria-label": "The model" });
  const events = h("section", { "aria-label": "Last loads and evictions" });
  main.append(h("h1", null, title), h("div.bar", null, filter), h("div.split", null, list.element, detail), events);
  let chosen = rest || null;
  let foreseen = null;
  delegate(main, {
    ...actions,
    choose({ model }) {
      chosen = model;
      foreseen = null;
      history.replaceState(null, "", `#models/${encodeURIComponent(model)}`);
      update();
    },
    async foresee({ model }) {
      try {
        foreseen = { model, plan: await call("POST", "/admin/plan-load", { model }) };
      } catch (error) {
        notice(error.message, "error");
      }
      update();
    },
  });

  function update() {
    const wanted = filter.value.trim().toLowerCase();
    const rows = all("model").filter((model) => !wanted || `${model.id} ${model.aliases.join(" ")}`.toLowerCase().includes(wanted));
    list.show(rows, (model) => row(model, model.id === chosen));
    const model = chosen && one(`model/${chosen}`);
    fill(detail, model ? about(model, foreseen?.model === chosen ? foreseen.plan : null) : h("p.empty", null, rows.length ? "Choose a model." : "No model: add one to models.toml."));
    fill(events, h("h2", null, "Last loads and evictions"), h("ol.events", null, all("event").reverse().slice(0, 50).map(event)));
  }
  return { update };
}

const where = (model) => model.on.filter((at) => at.status === "loaded").map((at) => at.node);

function row(model, chosen) {
  const places = where(model);
  const loading = one(`load/${model.id}`);
  return h("button.pick", { "data-do": "choose", "data-model": model.id, "aria-current": chosen && "true" },
    h(`i.swatch.${colour(model.id)}`), h("span.name", null, model.id),
    h("span.facts", null, loading ? "loading" : places.length ? `on ${places.join(", ")}` : "not loaded"),
    model.pinned || model.pinned_by_operator ? h("span.pill", null, "pinned") : null);
}

function about(model, foreseen) {
  const facts = [
    ["Aliases", model.aliases.join(", ")], ["Quantisation", model.quant], ["Memory", model.vram_mb && mb(model.vram_mb)],
    ["Devices", model.min_devices > 1 && model.min_devices], ["Only on", model.pinned_on?.join(", ")], ["Class", model.class],
    ["Context", model.limit?.context], ["Output", model.limit?.output], ["Capabilities", model.capabilities?.join(", ")],
    ["Price", model.cost && `${model.cost.input} in, ${model.cost.output} out, USD a million tokens`],
    ["Copies", model.replicas && `${model.replicas.min} to ${model.replicas.max}`],
    ["Unloaded after", model.idle_ttl && `${model.idle_ttl} s without a request`],
  ].filter(([, value]) => value);
  return [
    h("h2", null, model.id), !model.catalogued && h("p.facts", null, "Not in the catalogue: a node has it besides."),
    h("dl", null, facts.map(([name, value]) => [h("dt", null, name), h("dd", null, value)])),
    model.on.length > 0 && h("ul.models", null, model.on.map((at) => h("li", { "data-key": at.node }, h("span.name", null, at.node),
      h("span.facts", null, [at.status, mb(at.vram_used_mb), at.in_flight ? `${at.in_flight} running` : "", at.servable?.ok === false ? at.servable.reason : ""].filter(Boolean).join(" · ")),
      operator() && !one(`node/${at.node}`)?.upstream && h("span.actions", null, h("button.plain", { "data-do": "unload", "data-model": model.id, "data-node": at.node }, "Unload"))))),
    model.catalogued && h("p.actions", null,
      h("button", { "data-do": "foresee", "data-model": model.id }, "Where could it run?"),
      operator() && h("button", { "data-do": "load", "data-model": model.id }, "Load…"),
      operator() && h("button", { "data-do": "pin", "data-model": model.id, "data-on": model.pinned_by_operator ? "" : "yes" }, model.pinned_by_operator ? "Unpin" : "Pin")),
    foreseen && plan(foreseen),
  ];
}

const operator = () => state.me?.roles.includes("operator");

function event(entry) {
  const words = { loaded: "loaded", load_failed: "not loaded", unloaded: "unloaded" };
  return h("li", { "data-key": entry.number },
    h("time", { datetime: new Date(entry.at_ms).toISOString() }, ago(entry.at_ms, now())), " ",
    h(`span.pill.${entry.what}`, null, words[entry.what]), " ", h("strong", null, entry.model), ` ${entry.what === "unloaded" ? "from" : "on"} ${entry.node}`,
    entry.seconds !== null && ` in ${secs(entry.seconds)}`, h("span.facts", null, ` ${entry.why}`));
}
