/**
 * A grid of any number of rows of which only those in sight are in the document. One tab stop: arrow keys, Page Up and
 * Down, Home and End move the active row (`aria-activedescendant`), Enter or a click chooses it, Escape lets go.
 */

import { element, flash, setData, setText } from "./dom.js";

const OVERSCAN = 8; // rows above and below what is in sight
const NUMERIC = "numeric";

export class VirtualTable {
  #grid;
  #head;
  #body;
  #columns;
  #rows = [];
  #places = new Map(); // row id -> index
  #nodes = new Map(); // index -> node
  #spare = [];
  #drawn = new WeakMap(); // node -> what it shows: a row that has not changed is not drawn again
  #flashing = new Set();
  #activeId = null;
  #chosenId = null;
  #rowHeight;
  #frame = 0;
  #onChoose;

  /**
   * `columns`: `{key, title, short, numeric, fill(cell, row)}`, with `fill` called for cells in sight only.
   * `onChoose(id or null)`, `onSort(key)`. `rowHeight` in pixels, as the style sheet has it.
   */
  constructor(grid, { columns, label, rowHeight, onChoose, onSort }) {
    this.#grid = grid;
    this.#columns = columns;
    this.#rowHeight = rowHeight;
    this.#onChoose = onChoose;
    this.#head = element("div", { class: "row head", role: "row", "aria-rowindex": "1" });
    for (const { key, title, numeric } of columns) {
      const button = element("button", { type: "button", tabindex: "-1", text: title });
      button.addEventListener("click", () => onSort(key));
      const kind = numeric ? `${key} ${NUMERIC}` : key;
      this.#head.append(element("div", { class: `cell ${kind}`, role: "columnheader", "data-key": key }, button));
    }
    this.#body = element("div", { class: "body", role: "rowgroup" });
    const attributes = { role: "grid", tabindex: 0, "aria-label": label, "aria-colcount": columns.length };
    for (const [name, value] of Object.entries(attributes)) grid.setAttribute(name, value);
    grid.append(element("div", { role: "rowgroup" }, this.#head), this.#body);
    grid.addEventListener("scroll", () => this.refresh(), { passive: true });
    grid.addEventListener("keydown", (event) => this.#key(event));
    this.#body.addEventListener("click", (event) => this.#click(event));
    new ResizeObserver(() => this.refresh()).observe(grid);
  }

  set label(text) {
    this.#grid.setAttribute("aria-label", text);
  }

  /** Shows these rows in this order: objects with `id`, `status`, and a `revision` that differs after a change. */
  show(rows) {
    this.#rows = rows;
    this.#places = new Map(rows.map((row, index) => [row.id, index]));
    this.#body.style.height = `${rows.length * this.#rowHeight}px`;
    this.#grid.setAttribute("aria-rowcount", rows.length + 1);
    this.refresh();
  }

  /** Tells readers which column the order is by. */
  markSort(key, descending) {
    for (const cell of this.#head.children) {
      if (cell.dataset.key === key) cell.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    }
  }

  toTop() {
    this.#grid.scrollTop = 0;
  }

  /** Draws what is in sight anew, with the next frame. */
  refresh() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#draw();
    });
  }

  /** Lights up a cell of a row, if that is in sight. */
  flash(id, key, direction) {
    const node = this.#nodes.get(this.#places.get(id));
    if (!node) return;
    const cell = node.querySelector(`.${key}`);
    this.#flashing.add(node);
    flash(cell.firstElementChild ?? cell, direction);
  }

  #draw() {
    const top = Math.max(0, this.#grid.scrollTop);
    const height = this.#grid.clientHeight;
    const first = Math.max(0, Math.floor(top / this.#rowHeight) - OVERSCAN);
    const last = Math.min(this.#rows.length, Math.ceil((top + height) / this.#rowHeight) + OVERSCAN);
    for (const [index, node] of this.#nodes) {
      if (index >= first && index < last) continue;
      this.#nodes.delete(index);
      this.#spare.push(node);
    }
    for (let index = first; index < last; index++) this.#drawRow(index);
    for (const node of this.#spare.splice(0)) {
      this.#flashing.delete(node);
      node.remove();
    }
    this.#markActive();
  }

  #drawRow(index) {
    const row = this.#rows[index];
    let node = this.#nodes.get(index);
    if (!node) {
      node = this.#spare.pop() ?? this.#newNode();
      node.id = `row-${index}`;
      node.setAttribute("aria-rowindex", index + 2);
      node.style.transform = `translateY(${index * this.#rowHeight}px)`;
      this.#nodes.set(index, node);
    }
    const drawn = this.#drawn.get(node);
    const chosen = row.id === this.#chosenId;
    if (drawn?.row === row && drawn.revision === row.revision && drawn.chosen === chosen) return;
    if (drawn && drawn.row !== row) this.#stopFlashing(node);
    this.#drawn.set(node, { row, revision: row.revision, chosen });
    setData(node, "id", row.id);
    setData(node, "status", row.status);
    node.setAttribute("aria-selected", chosen);
    this.#columns.forEach(({ fill }, column) => fill(node.children[column], row));
  }

  /** The node is to show another row: the light was not for that one. */
  #stopFlashing(node) {
    if (!this.#flashing.delete(node)) return;
    for (const cell of node.querySelectorAll("[data-moved]")) delete cell.dataset.moved;
    for (const animation of node.getAnimations({ subtree: true })) animation.cancel();
  }

  #newNode() {
    const node = element("div", { class: "row", role: "row" });
    for (const { key, numeric } of this.#columns)
      node.append(element("div", { class: numeric ? `cell ${key} ${NUMERIC}` : `cell ${key}`, role: "gridcell" }));
    this.#body.append(node);
    return node;
  }

  #markActive() {
    const active = this.#places.get(this.#activeId);
    for (const [index, node] of this.#nodes) node.classList.toggle("active", index === active);
    if (this.#nodes.has(active)) this.#grid.setAttribute("aria-activedescendant", `row-${active}`);
    else this.#grid.removeAttribute("aria-activedescendant");
  }

  #key(event) {
    if (event.target !== this.#grid) return;
    const page = Math.max(1, Math.floor((this.#grid.clientHeight - this.#head.offsetHeight) / this.#rowHeight) - 1);
    const at = this.#places.get(this.#activeId) ?? -1;
    const goal = {
      ArrowDown: at + 1,
      ArrowUp: Math.max(0, at - 1),
      PageDown: at + page,
      PageUp: at - page,
      Home: 0,
      End: this.#rows.length - 1,
    }[event.key];
    if (goal !== undefined) this.#activate(goal);
    else if (event.key === "Enter" || event.key === " ") this.choose(this.#activeId);
    else if (event.key === "Escape") this.choose(null);
    else return;
    event.preventDefault();
  }

  #activate(goal) {
    if (!this.#rows.length) return;
    const index = Math.min(Math.max(goal, 0), this.#rows.length - 1);
    this.#activeId = this.#rows[index].id;
    const above = index * this.#rowHeight;
    const below = above + this.#rowHeight + this.#head.offsetHeight - this.#grid.clientHeight;
    this.#grid.scrollTop = Math.min(Math.max(this.#grid.scrollTop, below), above);
    this.#draw();
  }

  #click(event) {
    const node = event.target.closest(".row");
    if (!node) return;
    this.#activeId = node.dataset.id;
    this.choose(node.dataset.id);
  }

  /** Chooses a row, or none. */
  choose(id) {
    this.#chosenId = id;
    this.#onChoose(id);
    this.refresh();
  }
}

/** A `fill` for plain text. */
export function textCell(text) {
  return (cell, row) => setText(cell, text(row));
}
