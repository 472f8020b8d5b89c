/** The rows of one location, joined, searched, filtered and sorted. Knows no DOM. */

import { level, wording } from "./format.js";

const RANK = { out_of_stock: 0, low_stock: 1, in_stock: 2 };

const by = (value) => (a, b) => (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0);
const ORDERS = {
  urgency: [by((row) => row.rank), by((row) => row.available ?? 0), by((row) => row.sortName)],
  name: [by((row) => row.sortName)],
  category: [by((row) => row.product?.category ?? ""), by((row) => row.sortName)],
  available: [by((row) => row.available ?? row.rank)],
  on_hand: [by((row) => row.stock?.on_hand ?? 0)],
  reserved: [by((row) => row.stock?.reserved ?? 0)],
  incoming: [by((row) => row.stock?.incoming ?? 0)],
  price: [by((row) => row.product?.price_minor ?? 0)],
  updated: [by((row) => row.stock?.updated_at ?? "")],
};
const LAST = by((row) => row.id);

export class StockList {
  /** What is shown, in order: the rows that match, as of the last `arrange`. */
  shown = [];
  counts = { all: 0, low: 0, out: 0 };
  #rows = new Map(); // product id -> row
  #moved = new Set(); // rows whose place may have changed since the last `arrange`
  #query = [];
  #filter = "all";
  #sort = { key: "urgency", descending: false };
  #rebuild = true;

  get sort() {
    return this.#sort;
  }

  get size() {
    return this.counts.all;
  }

  row(id) {
    return this.#rows.get(id);
  }

  clear() {
    this.#rows.clear();
    this.#moved.clear();
    this.#rebuild = true;
    this.arrange();
  }

  /** Takes the changes of a `change` event; returns the rows they concern, each with its number before. */
  apply(changes) {
    const touched = new Map();
    for (const { item, previous } of changes) {
      const { kind, product_id: id } = item ?? previous;
      let row = this.#rows.get(id);
      if (!row) {
        row = { id, revision: 0, stock: null, product: null, availability: null, available: null };
        this.#rows.set(id, row);
      }
      if (!touched.has(row)) touched.set(row, row.available);
      row[kind] = item;
    }
    for (const row of touched.keys()) this.#refresh(row);
    return touched;
  }

  search(text) {
    this.#query = text.toLowerCase().split(/\s+/).filter(Boolean);
    this.#rebuild = true;
  }

  filter(filter) {
    this.#filter = filter;
    this.#rebuild = true;
  }

  orderBy(key, descending) {
    this.#sort = { key, descending };
    this.#rebuild = true;
  }

  /** Brings `shown` and `counts` up to date. What moved is merged in, so that a few changes among many are cheap. */
  arrange() {
    if (!this.#rebuild && !this.#moved.size) return false;
    const compare = this.#comparator();
    if (this.#rebuild) this.shown = [...this.#rows.values()].filter((row) => this.#matches(row)).sort(compare);
    else {
      const moved = [...this.#moved].filter((row) => this.#matches(row)).sort(compare);
      this.shown = merge(this.shown.filter((row) => !this.#moved.has(row)), moved, compare);
    }
    this.#moved.clear();
    this.#rebuild = false;
    this.counts = { all: 0, low: 0, out: 0 };
    for (const row of this.#rows.values()) {
      if (!row.present) continue;
      this.counts.all += 1;
      if (row.status === "low_stock") this.counts.low += 1;
      if (row.status === "out_of_stock") this.counts.out += 1;
    }
    return true;
  }

  #refresh(row) {
    row.revision += 1;
    const { stock, product, availability } = row;
    row.present = stock !== null || availability !== null; // a product without stock here is none of this location's
    row.available = stock ? stock.available : null;
    row.status = stock ? level(stock.available, stock.low_stock_at) : availability?.status;
    row.words = wording(row.status, availability?.only_left);
    row.rank = RANK[row.status] ?? 3;
    row.name = product?.name || row.id;
    row.sortName = row.name.toLowerCase();
    row.haystack = `${row.sortName} ${row.id} ${product?.sku ?? ""} ${product?.category ?? ""}`.toLowerCase();
    if (!stock && !product && !availability) this.#rows.delete(row.id);
    this.#moved.add(row);
  }

  #matches(row) {
    if (!row.present || !this.#rows.has(row.id)) return false;
    if (this.#filter === "low" && row.status !== "low_stock") return false;
    if (this.#filter === "out" && row.status !== "out_of_stock") return false;
    return this.#query.every((word) => row.haystack.includes(word));
  }

  #comparator() {
    const { key, descending } = this.#sort;
    const sign = descending ? -1 : 1;
    const orders = ORDERS[key];
    return (a, b) => {
      for (const order of orders) {
        const result = order(a, b);
        if (result) return sign * result;
      }
      return LAST(a, b);
    };
  }
}

function merge(left, right, compare) {
  const merged = [];
  let i = 0;
  for (const row of right) {
    while (i < left.length && compare(left[i], row) <= 0) merged.push(left[i++]);
    merged.push(row);
  }
  while (i < left.length) merged.push(left[i++]);
  return merged;
}
