// Elements from names and values. Text is text: nothing here makes markup of a string.

const SVG = "http://www.w3.org/2000/svg";
const DRAWN = new Set(["svg", "rect", "path", "line", "text", "g", "title", "circle"]);

/** h("button.primary", {onclick}, "Load"): children are nodes, texts, lists of them, or nothing. */
export function h(tag, props, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = DRAWN.has(name) ? document.createElementNS(SVG, name) : document.createElement(name);
  if (classes.length) element.setAttribute("class", classes.join(" "));
  for (const [key, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "style") Object.assign(element.style, value);
    else if (key === "value" || key === "checked" || key === "disabled" || key === "selected") element[key] = value;
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children) {
    if (child === undefined || child === null || child === false) continue;
    if (Array.isArray(child)) append(element, child);
    else element.append(child instanceof Node ? child : String(child));
  }
}

/** Puts `children` in the place of what the element has, and leaves alone what is the same already. */
export function fill(element, ...children) {
  const fresh = h("div", null, ...children);
  morph(element, [...fresh.childNodes]);
}

// What a person is at (focus, a selection, an open list) stays where it is: only what differs is touched, and what has a
// key is found by it, wherever it was.
function morph(old, fresh) {
  const keyed = new Map();
  for (const child of old.children) if (child.dataset.key !== undefined) keyed.set(child.dataset.key, child);
  let at = old.firstChild;
  for (const node of fresh) {
    const key = node.dataset?.key;
    const match = key !== undefined ? keyed.get(key) : at && at.dataset?.key === undefined ? at : null;
    if (!match || !same(match, node)) {
      old.insertBefore(node, at);
      continue;
    }
    if (match === at) at = at.nextSibling;
    else old.insertBefore(match, at);
    become(match, node);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function same(a, b) {
  return a.nodeType === b.nodeType && a.nodeName === b.nodeName && a.dataset?.key === b.dataset?.key;
}

function become(old, fresh) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  for (const { name, value } of [...fresh.attributes]) {
    if (old.getAttribute(name) === value) continue;
    // The page's policy lets scripts set styles one by one, and no style attributes.
    if (name === "style") old.style.cssText = value;
    else old.setAttribute(name, value);
  }
  morph(old, [...fresh.childNodes]);
}

/** Keeps an element for each entry, made anew only when the entry, or what `also` says of it, is another. */
export class Cards {
  constructor(element) {
    this.element = element;
    this.made = new Map();
  }

  show(entries, name, make, also = () => "") {
    const now = new Map();
    let last = null;
    for (const entry of entries) {
      const key = name(entry);
      const more = also(entry);
      let card = this.made.get(key);
      if (!card) card = { element: make(entry), entry, also: more };
      else if (card.entry !== entry || card.also !== more) {
        const fresh = make(entry);
        if (same(card.element, fresh)) become(card.element, fresh);
        else {
          card.element.replaceWith(fresh);
          card.element = fresh;
        }
        Object.assign(card, { entry, also: more });
      }
      now.set(key, card);
      const place = last ? last.nextSibling : this.element.firstChild;
      if (card.element !== place) this.element.insertBefore(card.element, place);
      last = card.element;
    }
    for (const [key, card] of this.made) if (!now.has(key)) card.element.remove();
    this.made = now;
  }
}

/** Whose handlers are set once: a click is looked up by what was clicked. */
export function delegate(element, actions) {
  element.addEventListener("click", (event) => {
    const at = event.target.closest("[data-do]");
    if (at && element.contains(at)) actions[at.dataset.do]?.(at.dataset, at);
  });
}

/** A dialog with a form; resolves to what `read` says, or to undefined where it was left. */
export function ask(title, content, { confirm = "OK", danger = false, read = () => true } = {}) {
  const dialog = document.getElementById("dialog");
  const before = document.activeElement;
  return new Promise((resolve) => {
    let answer;
    const body = typeof content === "function" ? content() : content;
    const form = h("form", {
      onsubmit: (event) => {
        event.preventDefault();
        answer = read(form);
        dialog.close();
      },
    },
      h("h2", { id: "dialog-title" }, title), h("div.body", null, body),
      h("div.actions", null,
        h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"),
        h(danger ? "button.danger" : "button.primary", { type: "submit", "data-confirm": true }, confirm)));
    dialog.replaceChildren(form);
    dialog.addEventListener("close", () => {
      dialog.replaceChildren();
      before?.focus?.();
      resolve(answer);
    }, { once: true });
    dialog.showModal();
  });
}

/** A line at the top that goes by itself, errors excepted. */
export function notice(text, kind = "info") {
  const close = () => line.remove();
  const line = h(`p.notice.${kind}`, kind === "error" ? { role: "alert" } : null, text, " ",
    h("button.plain", { onclick: close, "aria-label": "Dismiss" }, "×"));
  const all = document.getElementById("notices");
  all.append(line);
  while (all.childElementCount > 5) all.firstElementChild.remove();
  if (kind !== "error") setTimeout(close, 5000);
}

export const mb = (value) =>
  value === undefined || value === null ? "–" : value >= 1024 ? `${(value / 1024).toFixed(1)} GiB` : `${value} MiB`;

export const secs = (value) => {
  if (value === undefined || value === null) return "–";
  if (value < 0.001) return `${Math.round(value * 1e6)} µs`;
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 100) return `${value.toFixed(1)} s`;
  const minutes = Math.floor(value / 60);
  return minutes < 120 ? `${minutes} min` : `${Math.floor(minutes / 60)} h`;
};

export const count = (value) => (value ?? 0).toLocaleString("en");

export const clock = (ms) => new Date(ms).toLocaleTimeString([], { hour12: false });

/** `at`: what time it is there where `ms` is from. */
export const ago = (ms, at = Date.now()) => {
  const since = Math.max(0, (at - ms) / 1000);
  return since < 1 ? "now" : `${secs(Math.floor(since)).replace(".0", "")} ago`;
};
