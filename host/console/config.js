// What is in force and where it came from.

import { h, fill } from "./dom.js";
import { one } from "./feed.js";

export const title = "Config";

export function mount(main) {
  const filter = h("input", { type: "search", placeholder: "Filter", "aria-label": "Filter settings", oninput: update });
  const set = h("input", { type: "checkbox", onchange: update });
  const head = h("section");
  const table = h("div.scroll");
  main.append(h("h1", null, title), head, h("div.bar", null, filter, h("label.check", null, set, " only what is set")), table);

  function update() {
    const config = one("config");
    if (!config) return;
    const { files, last_reload: reload, settings } = config;
    const wanted = filter.value.trim().toLowerCase();
    const shown = settings.filter(({ key, from }) => (!wanted || key.toLowerCase().includes(wanted)) && !(set.checked && from === "default"));
    fill(head, h("p", null, "From ", files.map((file) => h("code", null, file)), ": changes are taken up as the files are saved."),
      (one("gateway")?.doubts ?? []).map((doubt) => h("p.doubt", null, doubt)),
      reload && (reload.ok ? [h("p", null, `The last reload changed: ${reload.changed}.`), reload.lines?.length > 0 && h("ul.diff", { tabindex: 0, "aria-label": "What it changed" }, reload.lines.map(line))]
        : h("p.error", { role: "alert" }, `The last reload failed, and what was in force stays: ${reload.error}`)));
    fill(table, h("table.settings", null, h("thead", null, h("tr", null, ["Setting", "Value", "From"].map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", null, shown.map(({ key, value, from }) => h("tr", { "data-key": key }, h("th.mono", { scope: "row" }, key),
        h("td.mono", null, value === null ? "" : typeof value === "string" ? value : JSON.stringify(value)), h("td", null, from))))));
  }
  return { update };
}

const KINDS = { "+": "new", "-": "gone", "~": "other", "!": "warning" };

/** As `cortex plan` says it: a sign, and what it is of. */
const line = (text) => h(`li.${KINDS[text[0]] ?? "other"}`, null, h("code", { "aria-hidden": "true" }, text[0]), h("span.unseen", null, `${KINDS[text[0]] ?? "other"}: `), text.slice(2));
