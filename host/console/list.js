// Rows of which only those in sight are there: five hundred models scroll like ten.

import { h, fill } from "./dom.js";

/** Rows outside of the window that are there all the same, for quick scrolling and for Tab. */
const SPARE = 8;

/** A scrolling list of rows of one height. `show(rows, row)`: `row(entry)` makes one. */
export class List {
  constructor({ label, height = 34, key }) {
    this.height = height;
    this.key = key;
    this.rows = [];
    this.space = h("div.rows", { role: "presentation" });
    this.element = h("div.list", { role: "list", "aria-label": label, tabindex: "0" }, this.space);
    this.element.addEventListener("scroll", () => this.#draw(), { passive: true });
    new ResizeObserver(() => this.#draw()).observe(this.element);
  }

  show(rows, row) {
    [this.rows, this.row] = [rows, row];
    this.#draw();
  }

  #draw() {
    if (!this.row) return;
    const { scrollTop, clientHeight } = this.element;
    const first = Math.max(0, Math.floor(scrollTop / this.height) - SPARE);
    const last = Math.min(this.rows.length, Math.ceil((scrollTop + clientHeight) / this.height) + SPARE);
    this.space.style.height = `${this.rows.length * this.height}px`;
    const shown = this.rows.slice(first, last).map((entry, place) => {
      const at = first + place;
      return h("div.row", {
        role: "listitem", "aria-setsize": this.rows.length, "aria-posinset": at + 1, "data-key": this.key(entry),
        style: { transform: `translateY(${at * this.height}px)` },
      }, this.row(entry));
    });
    fill(this.space, ...shown);
  }
}
