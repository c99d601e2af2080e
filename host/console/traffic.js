// Requests under way as a waterfall, what they add up to, and one request's story.

import { h, fill, delegate, secs, count, clock } from "./dom.js";
import { all, one, call, now, state } from "./feed.js";
import { List } from "./list.js";
import { chart } from "./chart.js";

export const title = "Traffic";

const PHASES = ["read", "route", "acquire", "forward", "relay"];

export function mount(main, { rest }) {
  const filter = h("input", { type: "search", placeholder: "Filter by model, key, node, status or id", "aria-label": "Filter requests", oninput: update });
  const charts = h("div.charts");
  const live = new List({ label: "Requests", height: 30, key: (request) => request.id });
  const summary = h("p.summary");
  const story = h("section.detail", { "aria-live": "polite", "aria-label": "The request" });
  main.append(h("h1", null, title), charts, h("div.bar", null, filter, summary, legend()), h("div.split", null, live.element, story));
  let chosen = rest || null;
  let told = null;
  const tell = async () => {
    const id = chosen;
    if (!id || told?.id === id) return;
    const record = await call("GET", `/admin/requests/${encodeURIComponent(id)}`).catch(() => null);
    if (record && chosen === id) {
      told = record;
      update();
    }
  };
  delegate(main, {
    choose({ id }) {
      chosen = id;
      history.replaceState(null, "", `#traffic/${encodeURIComponent(id)}`);
      update();
    },
  });

  function update() {
    const wanted = filter.value.trim().toLowerCase();
    const under = all("live").sort((a, b) => b.arrived_ms - a.arrived_ms);
    const ended = all("request").sort((a, b) => b.arrived_ms - a.arrived_ms);
    const text = (request) => [request.id, request.model, request.key, request.node, request.dialect, request.status, request.phase].join(" ").toLowerCase();
    const rows = [...under, ...ended].filter((request) => !wanted || text(request).includes(wanted));
    live.show(rows, (request) => row(request, request.id === chosen));
    fill(summary, `${one("gateway")?.under_way ?? 0} under way, ${count(ended.length)} ended lately`);
    fill(charts, ...panels());
    if (chosen && one(`request/${chosen}`)) tell();
    // Switched off, it goes from here too.
    if (told?.transcript && !one("gateway")?.keeps_prompts) delete told.transcript;
    const shown = told?.id === chosen ? told : chosen && (one(`live/${chosen}`) ?? one(`request/${chosen}`));
    fill(story, shown ? whole(shown) : h("p.empty", null, `Choose a request for its story. What was asked and answered is ${one("gateway")?.keeps_prompts ? "kept for it" : "not kept (gateway.keep_prompts)"}.`));
  }
  return { update };
}

function panels() {
  const rate = (value) => (value === null ? "–" : count(Math.round(value)));
  const { samples } = state;
  return [
    chart("Tokens a second", samples, [{ name: "tokens", of: (sample) => sample.tokens }], rate),
    chart("Requests", samples, [{ name: "under way", of: (sample) => sample.under_way }, { name: "waiting", of: (sample) => sample.waiting }], rate),
    chart("Time to first token", samples, [{ name: "median", of: (sample) => sample.first_token_p50_s }, { name: "95 %", of: (sample) => sample.first_token_p95_s }], secs),
    chart("Ended a second", samples, [{ name: "all", of: (sample) => sample.requests }, { name: "errors", of: (sample) => sample.errors }], rate),
  ];
}

const legend = () => h("p.legend", null, PHASES.map((phase) => h("span", null, h(`i.phase.${phase}`), phase)));

function row(request, chosen) {
  const status = request.status ?? request.phase;
  const kind = request.status === undefined ? "running" : request.status >= 500 ? "bad" : request.status >= 400 ? "warn" : "good";
  const end = length(request);
  return h("button.pick.request", { "data-do": "choose", "data-id": request.id, "aria-current": chosen && "true" },
    h("time", null, clock(request.arrived_ms)), h(`span.pill.${kind}`, null, status),
    h("span.name", null, request.model || request.dialect), h("span.facts.node", null, request.node ?? ""), waterfall(request.phases, end),
    h("span.facts.end", null, [speed(request), secs(end)].filter(Boolean).join(" · ")));
}

/** Seconds that it took, or has taken. */
const length = (request) => request.duration_s ?? Math.max(0, (now() - request.arrived_ms) / 1000);

/** Tokens a second, of what is streamed also while it is. */
function speed(request) {
  if (request.tokens_per_second) return `${request.tokens_per_second.toFixed(0)} tok/s`;
  const since = length(request) - request.phases?.relay;
  return request.tokens > 1 && since > 0.5 ? `${(request.tokens / since).toFixed(0)} tok/s` : "";
}

/** Each phase as long as it took. */
function waterfall(phases, end) {
  const begun = PHASES.filter((phase) => phases?.[phase] !== undefined);
  const whole = Math.max(end, 1e-6);
  return h("span.waterfall", { role: "img", "aria-label": begun.map((phase) => `${phase} at ${secs(phases[phase])}`).join(", ") },
    begun.map((phase, place) => {
      const until = Math.min(whole, place + 1 < begun.length ? phases[begun[place + 1]] : end);
      const share = Math.max(0, until - phases[phase]) / whole;
      return h(`i.phase.${phase}`, { style: { width: `${(100 * share).toFixed(2)}%` }, title: `${phase}: ${secs(until - phases[phase])}` });
    }));
}

function whole(request) {
  const facts = [
    ["Dialect", request.dialect], ["Model", request.model], ["Key", request.key || "none"], ["Node", request.node], ["Status", request.status ?? request.phase],
    ["Error", request.error], ["Took", request.duration_s !== undefined && secs(request.duration_s)], ["Waited for a seat", request.queue_wait_s > 0 && secs(request.queue_wait_s)],
    ["Waited for a load", request.cold_wait_s && secs(request.cold_wait_s)], ["First token", request.time_to_first_token_s && secs(request.time_to_first_token_s)],
    ["Speed", speed(request)], ["So far", request.status === undefined && request.tokens > 0 && `${count(request.tokens)} pieces of the answer`],
    ["Tokens", request.prompt_tokens !== undefined && `${count(request.prompt_tokens)} in (${count(request.cached_prompt_tokens)} cached), ${count(request.completion_tokens)} out${request.estimated ? ", estimated" : ""}`],
    ["Cost", request.cost_usd && `${request.cost_usd.toFixed(6)} USD`], ["Trace", request.trace_id],
  ].filter(([, value]) => value);
  const end = length(request);
  return [
    h("h2", null, request.id), waterfall(request.phases, end),
    h("dl", null, facts.map(([name, value]) => [h("dt", null, name), h("dd", null, value)])),
    request.steps?.length > 0 && h("ol.steps", null, request.steps.map(step)),
    request.transcript && words(request.transcript),
  ];
}

const PARTS = [["asked", "What was asked"], ["reasoning", "Thoughts"], ["answered", "What was answered"], ["refusal", "Refusal"]];

/** Of each the beginning, for it may be long. */
function words(transcript) {
  const calls = Object.entries(transcript.calls ?? {}).map(([place, { name, arguments: said }]) => [`call-${place}`, `Call of ${name}`, said]);
  const parts = [...PARTS.map(([name, title]) => [name, title, transcript[name]]), ...calls].filter(([, , part]) => part?.bytes > 0);
  return parts.map(([name, title, { text, bytes, cut }]) => h("details.words", { "data-part": name },
    h("summary", null, `${title}, ${count(bytes)} bytes`),
    h("pre", { tabindex: 0, "aria-label": title }, laidOut(text)), cut && h("p.facts", null, "and so on")));
}

/** An object or a list as JSON on several lines; every name and value as it was written. */
function laidOut(text) {
  try {
    if (typeof JSON.parse(text) !== "object") return text;
  } catch {
    return text;
  }
  let depth = 0;
  const line = () => `\n${"  ".repeat(depth)}`;
  return text.replace(/"(?:[^"\\]|\\.)*"|[[{]\s*[\]}]|[[{\]},:]|\s+/g, (token) => {
    if (/^\s+$/.test(token)) return "";
    if (token === ",") return `,${line()}`;
    if (token === ":") return ": ";
    if (token === "{" || token === "[") {
      depth += 1;
      return token + line();
    }
    if (token === "}" || token === "]") {
      depth -= 1;
      return line() + token;
    }
    return token;
  });
}

function step(entry) {
  const at = h("span.facts", null, `${secs(entry.at_s)} `);
  if (entry.step === "decided") {
    return h("li", null, at, `${entry.by} chose ${entry.order.join(", then ")}`,
      h("details", null, h("summary", null, `what it knew of ${entry.nodes.length} nodes`), h("table", null, entry.nodes.slice(0, 20).map((node) => h("tr", null,
        h("th", { scope: "row" }, node.node), h("td", null, Object.entries(node).filter(([name]) => name !== "node").map(([name, value]) => `${name} ${value}`).join(", ")))))));
  }
  if (entry.step === "sent") {
    const after = entry.cold_s !== null ? `, after ${secs(entry.cold_s)} for the model to be there` : entry.waited_s >= 0.001 ? `, after ${secs(entry.waited_s)} for a place` : "";
    return h("li", null, at, `sent to ${entry.node}${after}`);
  }
  return h("li", null, at, `${entry.node} did not answer: ${entry.why}`);
}
