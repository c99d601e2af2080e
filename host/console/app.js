// The console: which view is shown, who is logged in, and whether the gateway is heard.

import { h, fill, notice } from "./dom.js";
import { state, key, watch, follow, headers } from "./feed.js";
import * as fleet from "./fleet.js";
import * as models from "./models.js";
import * as traffic from "./traffic.js";
import * as policies from "./policies.js";
import * as playground from "./playground.js";
import * as config from "./config.js";

const VIEWS = { fleet, models, traffic, policies, playground, config };
const main = document.getElementById("main");
let shown;
let watching = false;

// A fragment would be taken for a view's name.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});

async function start() {
  let who;
  try {
    who = await fetch("/admin/whoami", { headers: headers() });
  } catch {
    // What cannot stand in a header is no key.
    if (/[^\x21-\x7e]/.test(key.get() ?? "")) return login("this is no admin key: it has characters that none has");
    fill(main, h("p.empty", null, "The gateway does not answer. It is tried again."));
    return setTimeout(start, 2000);
  }
  if (who.status === 429) {
    fill(main, h("p.empty", { role: "alert" }, `${(await who.json().catch(() => ({}))).error?.message ?? "Too many wrong keys"}.`));
    return setTimeout(start, 6000);
  }
  if (!who.ok) return login((await who.json().catch(() => ({}))).error?.message);
  state.me = await who.json();
  navigation();
  if (!state.me.roles.includes("viewer")) return only();
  if (!watching) {
    watching = true;
    watch(() => {
      connection();
      shown?.update();
    });
  }
  follow((reason) => {
    leave();
    login(reason);
  });
  addEventListener("hashchange", show);
  show();
}

function navigation() {
  const nav = document.getElementById("nav");
  const link = (name) => h("a", { href: `#${name}` }, VIEWS[name].title);
  const out = h("button.plain", { onclick: logout, title: `Logged in as ${state.me.name}` }, "Log out");
  nav.replaceChildren(...Object.keys(VIEWS).map(link), ...(state.me.open ? [] : [out]));
}

function logout() {
  key.set(null);
  location.reload();
}

// A key that only puts policies there sees nothing else.
function only() {
  const room = h("div");
  main.replaceChildren(room);
  shown = policies.mount(room, { blind: true });
  shown.update();
}

function show() {
  const [name, ...rest] = location.hash.slice(1).split("/");
  const view = VIEWS[name] ?? fleet;
  leave();
  document.title = `cortex: ${view.title}`;
  for (const link of document.querySelectorAll("#nav a")) {
    if (link.hash === `#${name || "fleet"}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  // A room of its own: what listens in it goes with it.
  const room = h("div");
  main.replaceChildren(room);
  shown = view.mount(room, { rest: rest.map(decoded).join("/") });
  shown.update();
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function leave() {
  shown?.end?.();
  shown = undefined;
}

let heard = true;
function connection() {
  const at = document.getElementById("state");
  const about = state.items.get("gateway");
  const text = !state.live ? "connection lost; trying again" : about?.leaving ? "shutting down" : `live, ${about?.version ?? state.me.version}`;
  if (at.textContent !== text) at.textContent = text;
  at.className = state.live ? "live" : "lost";
  document.body.classList.toggle("stale", !state.live);
  if (heard && !state.live && state.items.size) notice("The connection to the gateway is lost. What is shown is the last that was heard.");
  if (!heard && state.live && state.since) notice("Connected again.");
  heard = state.live;
  renewed(about);
}

// After an upgrade: what is shown here may not be what the gateway says any more.
let told;
function renewed(about) {
  if (!about || about.version === state.me.version || told === about.version) return;
  told = about.version;
  notice(["The gateway is version ", told, " now, and this page is another's. ",
    h("button", { onclick: () => location.reload() }, "Load it anew")], "error");
}

function login(why) {
  // That one is needed is said by the form itself.
  const told = why && !why.startsWith("an admin key is needed") ? h("p.error", { role: "alert" }, why) : null;
  key.set(null);
  document.getElementById("nav").replaceChildren();
  document.getElementById("state").textContent = "";
  const input = h("input", { type: "password", id: "key", autocomplete: "current-password", required: true });
  const form = h("form.login", {
    onsubmit: (event) => {
      event.preventDefault();
      key.set(input.value.trim());
      start();
    },
  },
    h("h1", null, "Log in"), h("p", null, "One of the gateway's [[admin_keys]]. It stays in this tab, until that is closed."),
    told, h("label", { for: "key" }, "Admin key"), input, h("button.primary", { type: "submit" }, "Log in"));
  main.replaceChildren(form);
  input.focus();
}

start();
