/** Everything about one location: a table of its stock, what needs attention first. */

import { element, setData, setText } from "./dom.js";
import { clock, count, price } from "./format.js";
import { isKey } from "./settings.js";
import { StockList } from "./stock_list.js";
import { VirtualTable, textCell } from "./virtual_table.js";

const ROW_HEIGHT = 52; // page.css has the same
const REARRANGE_MS = 1000; // values change at once, places at most this often: a row under a finger stays put

const number = (field) => textCell((row) => (row.stock ? count(row.stock[field]) : "–"));
const COLUMNS = [
  { key: "name", title: "Product", fill: fillName },
  { key: "category", title: "Category", fill: textCell((row) => row.product?.category ?? "") },
  { key: "available", title: "Available", numeric: true, fill: fillAvailable },
  { key: "on_hand", title: "On hand", numeric: true, fill: number("on_hand") },
  { key: "reserved", title: "Reserved", numeric: true, fill: number("reserved") },
  { key: "incoming", title: "Incoming", numeric: true, fill: number("incoming") },
  { key: "price", title: "Price", numeric: true, fill: textCell(({ product }) => priceOf(product)) },
  { key: "updated", title: "Changed", numeric: true, fill: textCell(({ stock }) => clock(stock?.updated_at)) },
];
const DESCENDING_FIRST = new Set(["updated", "on_hand", "reserved", "incoming", "price"]);

const priceOf = (product) => (product ? price(product.price_minor, product.currency) : "–");

function fillName(cell, row) {
  if (!cell.firstChild) cell.append(element("span", { class: "title" }), element("span", { class: "sku" }));
  setText(cell.children[0], row.name);
  setText(cell.children[1], row.product?.sku || row.id);
}

function fillAvailable(cell, row) {
  if (!cell.firstChild) cell.append(element("b"), element("span", { class: "pill" }));
  setText(cell.children[0], row.available === null ? "" : count(row.available));
  setText(cell.children[1], row.words);
}

const get = (id) => document.getElementById(id);

export class Terminal {
  #client;
  #list = new StockList();
  #topic = null;
  #table;
  #chosen = null;
  #due = 0;
  #onLocation;

  /** `locations`: `[{id, name}]`, the choice that is offered. `onLocation(id)` hears of another choice. */
  constructor(client, { locations, view, onLocation }) {
    this.#client = client;
    this.view = view;
    this.#onLocation = onLocation;
    this.#table = new VirtualTable(get("table"), {
      columns: COLUMNS,
      label: "Stock",
      rowHeight: ROW_HEIGHT,
      onChoose: (id) => this.#choose(id),
      onSort: (key) => this.#sort(key),
    });
    this.#offer(locations);
    client.on("change", (event) => event.topic === this.#topic && this.#change(event));
    client.on("topic", (topic) => topic === this.#topic && this.#say());
    get("search").addEventListener("input", (event) => this.#arrangeBy(() => this.#list.search(event.target.value)));
    get("filter").addEventListener("change", (event) => this.#arrangeBy(() => this.#list.filter(event.target.value)));
    this.#table.markSort("available", false);
  }

  get topic() {
    return this.#topic;
  }

  /** Follows a location, instead of the one before. */
  follow(location) {
    const name = `location:${location}`;
    if (this.#topic?.name === name) return;
    if (this.#topic) this.#client.unsubscribe(this.#topic);
    this.#list.clear();
    this.#choose(null);
    this.#topic = this.#client.subscribe(name, { view: this.view });
    this.#table.label = `Stock at ${this.locationName(location)}`;
    setText(get("terminal-title"), this.locationName(location));
    get("location").value = location;
    this.#table.toTop();
    const items = [...this.#topic.items].map(([key, item]) => ({ key, item, previous: null }));
    this.#change({ changes: items, reset: true });
    this.#say();
  }

  locationName(id) {
    return [...get("location").options].find((option) => option.value === id)?.textContent ?? id;
  }

  focusSearch() {
    get("search").focus();
    get("search").select();
  }

  #offer(locations) {
    const choice = get("location");
    const input = get("location-id");
    choice.append(...locations.map(({ id, name }) => element("option", { value: id, text: name })));
    choice.append(element("option", { value: "", text: "Another location …" }));
    choice.addEventListener("change", () => {
      this.#ask(choice.value === "");
      if (choice.value) this.#onLocation(choice.value);
      else input.focus();
    });
    get("where").addEventListener("submit", (event) => {
      event.preventDefault();
      const id = input.value.trim();
      if (!isKey(id)) return;
      if (![...choice.options].some((option) => option.value === id))
        choice.insertBefore(element("option", { value: id, text: id }), choice.lastElementChild);
      this.#ask(false);
      this.#onLocation(id);
    });
  }

  #ask(open) {
    get("location-id").hidden = get("location-go").hidden = !open;
  }

  #change({ changes, reset }) {
    for (const [row, before] of this.#list.apply(changes)) {
      if (reset || before === null || row.available === null || row.available === before) continue;
      this.#table.flash(row.id, "available", row.available > before ? "up" : "down");
    }
    this.#table.refresh();
    if (this.#chosen) this.#showDetail();
    if (reset) this.#arrange();
    else this.#due ||= setTimeout(() => this.#arrange(), REARRANGE_MS);
  }

  #arrange() {
    clearTimeout(this.#due);
    this.#due = 0;
    if (!this.#list.arrange()) return;
    this.#table.show(this.#list.shown);
    for (const node of get("filter").querySelectorAll("[data-count]"))
      setText(node, count(this.#list.counts[node.dataset.count]));
    this.#say();
  }

  #arrangeBy(change) {
    change();
    this.#table.toTop();
    this.#arrange();
  }

  #sort(key) {
    const sort = this.#list.sort;
    const wanted = key === "available" ? "urgency" : key;
    const descending = sort.key === wanted ? !sort.descending : DESCENDING_FIRST.has(key);
    this.#arrangeBy(() => this.#list.orderBy(wanted, descending));
    this.#table.markSort(key, descending);
  }

  /** One line under the title, and a notice where there is nothing to show. */
  #say() {
    const { state, error, name } = this.#topic;
    const { all, low, out } = this.#list.counts;
    const place = name.slice("location:".length);
    const loading = state === "waiting" && !all;
    const summary = loading ? "Loading…" : `${count(all)} products · ${count(low)} low · ${count(out)} sold out`;
    setText(get("terminal-summary"), summary);
    let notice = "";
    if (state === "error") notice = refusal(error, place);
    else if (state === "live" && !all)
      notice = `Nothing is in stock at “${place}” yet. Is it another location you want?`;
    else if (all && !this.#list.shown.length) notice = "Nothing matches.";
    get("terminal-notice").hidden = !notice;
    setText(get("terminal-notice"), notice);
    if (state === "error" || (state === "live" && !all)) this.#ask(true);
  }

  #choose(id) {
    this.#chosen = id;
    this.#showDetail();
  }

  #showDetail() {
    const panel = get("detail");
    const row = this.#chosen && this.#list.row(this.#chosen);
    panel.hidden = !row;
    if (row) drawDetail(panel, row, () => this.#table.choose(null));
  }
}

function refusal({ code, message, retryAt }, place) {
  if (code === "topic_too_large") return `“${place}” holds more than one page can follow. Choose a smaller one.`;
  if (code === "forbidden") return `You may not see the stock of “${place}”.`;
  if (retryAt) return `Not available just now (${message || code}); trying again.`;
  return `The gateway refused: ${message || code}`;
}

const PARTS = [
  ["available", "Available"],
  ["reserved", "Reserved"],
  ["damaged", "Damaged"],
  ["safety_stock", "Safety stock"],
];

function drawDetail(panel, row, onClose) {
  if (!panel.firstChild) {
    const close = element("button", { type: "button", class: "quiet", "aria-label": "Close", text: "×" });
    const bar = element("div", { class: "bar" }, ...PARTS.map(([part]) => element("i", { "data-part": part })));
    panel.append(close, element("h2"), element("p", { class: "sku" }), bar, element("dl"));
  }
  panel.firstChild.onclick = onClose;
  const { stock, product } = row;
  setText(panel.querySelector("h2"), row.name);
  const subtitle = [product?.sku, product?.category, product && priceOf(product)].filter(Boolean).join(" · ");
  setText(panel.querySelector(".sku"), subtitle);
  for (const [part] of PARTS) {
    const piece = panel.querySelector(`.bar [data-part=${part}]`);
    piece.style.flexGrow = Math.max(0, stock?.[part] ?? 0);
    piece.hidden = !(stock?.[part] > 0);
  }
  const facts = stock
    ? [
        ...PARTS.map(([part, title]) => [title, count(stock[part]), part]),
        ["On hand", count(stock.on_hand)],
        ["Incoming", count(stock.incoming)],
        ["Low at", stock.low_stock_at === null ? "default" : count(stock.low_stock_at)],
        ["Changed", clock(stock.updated_at)],
      ]
    : [["Availability", row.words]];
  const list = panel.querySelector("dl");
  while (list.children.length > facts.length) list.lastChild.remove();
  while (list.children.length < facts.length) list.append(element("div", {}, element("dt"), element("dd")));
  facts.forEach(([title, value, part], index) => {
    const [name, text] = list.children[index].children;
    setText(name, title);
    setText(text, value);
    setData(list.children[index], "part", part ?? "");
  });
}
