// What judges: versions, figures, the gate, and the way back.

import { h, fill, delegate, ask, notice, count } from "./dom.js";
import { all, one, call, state } from "./feed.js";

export const title = "Policies";

const STAGES = ["component", "imports", "world", "instantiate", "describe", "configure", "self-test", "golden", "prewarm"];
/** Bytes of a component, the most that any gateway takes. */
const LARGEST = 32 << 20;

const uploads = () => state.me?.roles.includes("policy-upload");

export function mount(main, { blind }) {
  const drop = uploads() && zone();
  const roles = h("section");
  const cards = h("div.cards.wide");
  main.append(h("h1", null, title), ...(drop ? [drop] : []), roles, cards);
  delegate(cards, { back });

  function update() {
    if (blind) return fill(roles, h("p.facts", null, `The key ${state.me.name} puts policies here, and sees nothing else.`));
    const about = one("gateway");
    const policies = all("policy");
    fill(roles, about && judges(about, policies));
    fill(cards, policies.length ? policies.map(card) : h("p.empty", null, `No policy: the built-in ones serve. cargo xtask build-policies makes some; drop one here or copy it to ${about?.policy_dirs.at(-1) ?? "a policy directory"}.`));
  }
  return { update };
}

function judges({ routing, eviction }, policies) {
  const serves = (name) => (policies.some((policy) => policy.name === name && policy.serving) ? name : `${name}, which is not there: the built-in serves`);
  const trial = routing.canary;
  const shadow = routing.shadow_outcomes;
  return h("dl", null,
    h("dt", null, "Routing"), h("dd", null, serves(routing.policy)),
    h("dt", null, "Eviction"), h("dd", null, serves(eviction.policy)),
    routing.shadow && [h("dt", null, "Shadow"), h("dd", null, `${routing.shadow}: ${count(shadow?.same)} decisions the same, ${count(shadow?.differs)} others, ${count(shadow?.failed)} failed, ${count(shadow?.dropped)} left out`)],
    routing.canary_share && [h("dt", null, "Canary"), h("dd", null, `${routing.canary_share.policy} decides for ${routing.canary_share.percent} %`,
      trial?.withdrawn ? h("span.error", null, `: taken back, ${trial.withdrawn}`) : trial?.policy ? `: ${count(trial.canary.answers)} answers with ${count(trial.canary.errors)} errors, beside ${count(trial.live.answers)} with ${count(trial.live.errors)}` : "")]);
}

const micros = (value) => (value === undefined || value === null ? "–" : value < 10 ? `${value.toFixed(1)} µs` : value < 1000 ? `${Math.round(value)} µs` : `${(value / 1000).toFixed(1)} ms`);
const nanos = (value) => micros(value === undefined || value === null ? null : value / 1000);

function card(policy) {
  const { serving, refused } = policy;
  const broken = serving && serving.breaker && serving.breaker !== "closed";
  // A dialect has no built-in to stand in for it.
  const stays = serving && !serving.rolled_back_to && ["translation", "upstream"].includes(serving.kind);
  const condition = !serving ? "refused" : broken ? (stays ? "failing" : "off") : serving.strikes > 0 ? "strikes" : "serving";
  return h("article.card", { "data-key": policy.name, "data-policy": policy.name },
    h("header", null, h("h2", null, policy.name), h(`span.pill.${condition}`, null, condition === "strikes" ? `serving, ${serving.strikes} strikes` : condition === "off" ? "switched off" : condition === "failing" ? "serving, keeps failing" : condition),
      uploads() && h("span.actions", null, h("button", { "data-do": "back", "data-policy": policy.name }, "Roll back…"))),
    serving && h("dl", null,
      h("dt", null, "Kind"), h("dd", null, serving.kind), h("dt", null, "Version"), h("dd", null, serving.version),
      h("dt", null, "SHA-256"), h("dd.mono", { title: serving.sha256 }, serving.sha256.slice(0, 16)), h("dt", null, "From"), h("dd.mono", null, serving.path),
      h("dt", null, "Calls"), h("dd", null, count(serving.calls)),
      h("dt", null, "Latency"), h("dd", null, `${nanos(serving.p50_ns)} median, ${nanos(serving.p99_ns)} at 99 %`),
      h("dt", null, "Instances"), h("dd", null, `${serving.instances}, ${(serving.memory_bytes / 1048576).toFixed(1)} MiB`),
      serving.last && [h("dt", null, "Last fault"), h("dd", null, serving.last)],
      serving.rolled_back_to && [h("dt", null, "Instead"), h("dd", null, `${serving.rolled_back_to.version} ${serving.rolled_back_to.sha256.slice(0, 12)}`)]),
    refused && h("p.error", null, `The newest file was refused${refused.stage ? ` at ${refused.stage}` : ""}: ${refused.error}`));
}

async function back({ policy }) {
  const serving = one(`policy/${policy}`)?.serving;
  const content = h("p", null, `What the last upload replaced goes through the gate and serves instead of ${serving?.version ?? "the file"} ${serving?.sha256.slice(0, 12) ?? ""}. Rolling back once more undoes it.`);
  if (!await ask(`Roll ${policy} back?`, content, { confirm: "Roll back", danger: true })) return;
  try {
    const said = await call("POST", `/admin/policies/${encodeURIComponent(policy)}/rollback`);
    notice(`${policy} is ${said.policy?.serving?.version ?? "back"} ${said.policy?.serving?.sha256.slice(0, 12) ?? ""} again.`);
  } catch (error) {
    notice(error.message, "error");
  }
}

// A file is dropped or chosen, and each stage of the gate is shown with what it took.
function zone() {
  const input = h("input", { type: "file", accept: ".wasm", id: "wasm", onchange: () => input.files[0] && take(input.files[0]) });
  const report = h("div.gate", { "aria-live": "polite" });
  const element = h("section.drop", {
    ondragover: (event) => {
      event.preventDefault();
      element.classList.add("over");
    },
    ondragleave: () => element.classList.remove("over"),
    ondrop: (event) => {
      event.preventDefault();
      element.classList.remove("over");
      if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
    },
  }, h("label", { for: "wasm" }, "Drop a policy (.wasm) here, or choose one: it serves when it has passed the gate. "), input, report);

  async function take(file) {
    const name = file.name.replace(/\.wasm$/, "");
    input.value = "";
    if (file.size > LARGEST) return fill(report, h("p.error", null, `${file.name} has ${count(file.size)} bytes; a policy may have ${count(LARGEST)}.`));
    fill(report, h("p", null, `${file.name} is at the gate…`));
    try {
      const said = await call("PUT", `/admin/policies/${encodeURIComponent(name)}`, file);
      fill(report, h("p", { "data-outcome": "live" }, `${name} ${said.policy?.serving?.version ?? ""} is live, ${said.sha256.slice(0, 12)}.`), stages(said.stages, null));
    } catch (error) {
      const verdict = error.said?.error?.report;
      fill(report, h("p.error", { role: "alert", "data-outcome": "refused" }, error.message), verdict && stages(verdict.stages, verdict.refused?.[0]));
    }
  }
  return element;
}

const stages = (passed, failed) =>
  h("ol.stages", null, STAGES.map((stage) => {
    const took = passed.find((entry) => entry.stage === stage);
    const kind = stage === failed ? "bad" : took ? "good" : "skipped";
    return h(`li.${kind}`, null, stage, took && h("span.facts", null, ` ${micros(took.micros)}`));
  }));
