/** Product cards with live counts: exact ones, or what the public view tells shoppers. */

import { drawing, element, flash, rise, setData, setText } from "./dom.js";
import { count, level, price, signed, wording } from "./format.js";
import { glyph, hue } from "./glyphs.js";

const PLACES_SHOWN = 4;

/** What a card shows, from the items of a `product:` topic. `available` is null where only a status is known. */
export function summarise(items) {
  const stock = [];
  let product = null;
  let availability = null;
  for (const item of items.values()) {
    if (item.kind === "product") product = item;
    else if (item.kind === "availability") availability = item;
    else if (item.location_active !== false) stock.push(item);
  }
  if (product && product.status !== "published")
    return { product, stock, status: "off", words: "Not on sale", available: null };
  if (availability) {
    const { status, only_left: left } = availability;
    return { product, stock, status, words: wording(status, left), available: null };
  }
  const available = stock.reduce((sum, item) => sum + Math.max(0, item.available), 0);
  const marks = stock.map((item) => item.low_stock_at).filter((mark) => mark !== null);
  const status = level(available, marks.length ? Math.max(...marks) : null);
  return { product, stock, status, words: wording(status, available), available };
}

class Card {
  constructor(id, locationName) {
    this.locationName = locationName;
    this.available = null;
    this.price = null;
    this.category = null;
    this.tile = element("div", { class: "tile", "aria-hidden": "true" });
    this.eyebrow = element("p", { class: "eyebrow" });
    this.name = element("h2", { text: id });
    this.cost = element("p", { class: "price" });
    this.pill = element("span", { class: "pill" });
    this.number = element("b", { class: "number" });
    this.unit = element("span", { class: "unit", text: "available" });
    this.figure = element("p", { class: "figure" }, this.number, this.unit);
    this.places = element("dl", { class: "places" });
    const words = element("div", { class: "words" }, this.eyebrow, this.name, this.cost);
    const state = element("div", { class: "state" }, this.pill, this.figure);
    const article = element("article", { class: "card", "data-product": id }, this.tile, words, state, this.places);
    this.node = element("li", {}, article);
    this.article = article;
  }

  show(topic) {
    const { product, stock, status, words, available } = summarise(topic.items);
    this.#describe(product);
    const known = topic.items.size > 0;
    setData(this.article, "status", known ? status : "unknown");
    setText(this.pill, known ? words : topic.state === "waiting" ? "Loading" : "Not found");
    this.figure.hidden = available === null || !known;
    if (available !== null) setText(this.number, count(available));
    this.article.dataset.available = available ?? "";
    const moved = this.available !== null && available !== null && available !== this.available;
    if (moved) this.#move(available - this.available);
    this.available = available;
    this.#showPlaces(stock);
  }

  #describe(product) {
    if (!product) return;
    setText(this.name, product.name || product.product_id);
    setText(this.eyebrow, product.category);
    const cost = price(product.price_minor, product.currency);
    setText(this.cost, cost);
    if (this.price !== null && this.price !== product.price_minor)
      flash(this.cost, product.price_minor > this.price ? "up" : "down");
    this.price = product.price_minor;
    if (product.category === this.category) return;
    this.category = product.category;
    this.tile.style.setProperty("--hue", hue(product.category));
    this.tile.replaceChildren(drawing(glyph(product.category), 64));
  }

  #move(difference) {
    const direction = difference > 0 ? "up" : "down";
    flash(this.number, direction);
    rise(this.figure, signed(difference), direction);
  }

  #showPlaces(stock) {
    const sorted = [...stock].sort((a, b) => (a.location_id < b.location_id ? -1 : 1));
    const shown = sorted.slice(0, PLACES_SHOWN);
    while (this.places.children.length > shown.length) this.places.lastChild.remove();
    while (this.places.children.length < shown.length)
      this.places.append(element("div", {}, element("dt"), element("dd")));
    shown.forEach((item, index) => {
      const [place, number] = this.places.children[index].children;
      const name = this.locationName(item.location_id);
      setText(place, index === PLACES_SHOWN - 1 && sorted.length > PLACES_SHOWN ? `${name} and others` : name);
      const rest = index === PLACES_SHOWN - 1 ? sorted.slice(index) : [item];
      setText(number, count(rest.reduce((sum, one) => sum + Math.max(0, one.available), 0)));
      setData(number, "level", level(item.available, item.low_stock_at));
    });
    this.places.hidden = shown.length < 2;
  }
}

export class Storefront {
  #client;
  #cards = new Map(); // topic name -> Card
  #view;
  #list = document.getElementById("cards");
  #notice = document.getElementById("storefront-notice");
  #audience = document.getElementById("audience");
  #locationName;
  #missing = true;

  constructor(client, { view, locationName }) {
    this.#client = client;
    this.#view = view;
    this.#locationName = locationName;
    client.on("change", ({ topic }) => this.#cards.has(topic.name) && this.#show(this.#cards.get(topic.name), topic));
    client.on("topic", (topic) => this.#topic(topic));
    this.#audience.addEventListener("change", (event) => this.#switchView(event.target.value));
    if (view === "public") this.#audience.querySelector("[value=public]").checked = true;
  }

  /** Shows these products, and no others. Those that nobody has heard of are shown as such only if `missing`. */
  feature(productIds, { missing = true } = {}) {
    this.#missing = missing;
    const names = productIds.map((id) => `product:${id}`);
    const left = [...this.#cards.keys()].filter((name) => !names.includes(name));
    this.#client.unsubscribe(left);
    for (const name of left) this.#cards.delete(name);
    productIds.forEach((id, index) => {
      if (!this.#cards.has(names[index])) this.#cards.set(names[index], new Card(id, this.#locationName));
    });
    this.#list.replaceChildren(...names.map((name) => this.#cards.get(name).node));
    for (const name of names) this.#follow(name);
  }

  get empty() {
    return this.#cards.size === 0;
  }

  say(text) {
    this.#notice.hidden = !text;
    setText(this.#notice, text ?? "");
  }

  #show(card, topic) {
    card.show(topic);
    card.node.hidden = !this.#missing && topic.state === "live" && !topic.items.size;
  }

  #follow(name) {
    if (!this.#client.topics.has(name) || this.#client.topics.get(name).view !== this.#view)
      this.#client.subscribe(name, { view: this.#view });
  }

  #switchView(view) {
    this.#view = view;
    for (const card of this.#cards.values()) card.available = null;
    for (const name of this.#cards.keys()) this.#follow(name);
  }

  #topic(topic) {
    const card = this.#cards.get(topic.name);
    if (!card || topic.state === "closed" || this.#client.topics.get(topic.name) !== topic) return;
    if (topic.state === "error" && topic.error.code === "forbidden" && topic.view === "exact") {
      this.#audience.querySelector("[value=public]").checked = true;
      this.#audience.querySelector("[value=exact]").disabled = true;
      queueMicrotask(() => this.#switchView("public"));
      return;
    }
    if (topic.items.size || topic.state !== "waiting") this.#show(card, topic);
    if (topic.state === "live") this.#offerViews(topic);
  }

  /** A reader who may have numbers may also see what shoppers see. */
  #offerViews(topic) {
    const exact = this.#view === "exact" || [...topic.items.values()].some(({ kind }) => kind === "stock");
    if (!this.#audience.hidden || !exact) return;
    this.#view ??= "exact";
    this.#audience.hidden = false;
  }
}
