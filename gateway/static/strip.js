/** The operations strip: the connection, how far the data can be trusted, how fast it comes. */

import { setData, setText } from "./dom.js";
import { clock, count, milliseconds } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";
const SAMPLES = 60;
const FEW = 16; // so many fill the width: a line that has just begun is not a dot
const SAMPLE_MS = 1000;
const WIDTH = 96;
const HEIGHT = 24;

/** The middle of a list of numbers; null of an empty one. */
export function median(values) {
  if (!values.length) return null;
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1];
}

class Gauge {
  #samples = [];
  #value;
  #svg;
  #line = document.createElementNS(SVG, "polyline");
  #area = document.createElementNS(SVG, "polygon");

  constructor(id) {
    const node = document.getElementById(id);
    this.#value = node.querySelector("b");
    this.#svg = node.querySelector("svg");
    this.#svg?.append(this.#area, this.#line);
  }

  say(text) {
    setText(this.#value, text);
  }

  add(sample) {
    this.#samples.push(sample);
    if (this.#samples.length > SAMPLES) this.#samples.shift();
    const top = Math.max(...this.#samples) * 1.15 || 1;
    const step = WIDTH / (Math.max(this.#samples.length, FEW) - 1);
    const height = (value) => (HEIGHT - 2 - (value / top) * (HEIGHT - 4)).toFixed(1);
    const points = this.#samples.map((value, index) => `${(index * step).toFixed(1)},${height(value)}`);
    this.#line.setAttribute("points", points.join(" "));
    const end = ((this.#samples.length - 1) * step).toFixed(1);
    this.#area.setAttribute("points", `0,${HEIGHT} ${points.join(" ")} ${end},${HEIGHT}`);
  }
}

const CONNECTION = { open: "Connected", connecting: "Connecting", waiting: "Reconnecting", closed: "Stopped" };

export class Strip {
  #client;
  #connection = document.getElementById("connection");
  #trust = document.getElementById("trust");
  #latency = new Gauge("latency");
  #age = new Gauge("age");
  #rate = new Gauge("rate");
  #held = new Gauge("held");
  #ages = [];
  #messages = 0;
  #sampledAt = performance.now();

  constructor(client) {
    this.#client = client;
    client.on("latency", (ms) => {
      this.#latency.say(milliseconds(ms));
      this.#latency.add(ms);
    });
    client.on("change", (event) => this.#note(event));
    for (const event of ["state", "topic", "freshness"]) client.on(event, () => this.#show());
    setInterval(() => this.#sample(), SAMPLE_MS);
    this.#show();
  }

  /** From the row's `updated_at` to here, on the server's clock: a snapshot's items are old, and do not count. */
  #note({ changes, reset }) {
    if (reset) return;
    const now = Date.now() + this.#client.clockOffsetMs;
    for (const { item, previous } of changes)
      if (item?.updated_at && previous) this.#ages.push(Math.max(0, now - Date.parse(item.updated_at)));
  }

  #sample() {
    const now = performance.now();
    const { messages } = this.#client.stats;
    const perSecond = ((messages - this.#messages) * 1000) / (now - this.#sampledAt);
    this.#messages = messages;
    this.#sampledAt = now;
    this.#rate.say(`${count(Math.round(perSecond))}/s`);
    this.#rate.add(perSecond);
    const age = median(this.#ages.splice(0));
    if (age !== null) {
      this.#age.say(milliseconds(age));
      this.#age.add(age);
    }
    let items = 0;
    for (const topic of this.#client.topics.values()) items += topic.items.size;
    this.#held.say(`${count(items)} items · ${count(this.#client.topics.size)} topics`);
    this.#show();
  }

  #show() {
    const { state, stale, fresh, heardAt, topics, lastClose } = this.#client;
    setData(this.#connection, "state", state);
    const reason = state === "closed" && lastClose ? ` (${lastClose.code})` : "";
    setText(this.#connection.querySelector("b"), CONNECTION[state] + reason);
    const waiting = [...topics.values()].filter((topic) => topic.state === "waiting").length;
    setData(this.#trust, "state", fresh ? "fresh" : "stale");
    let text = "Fresh";
    if (state !== "open") text = heardAt ? `Not live since ${clock(heardAt)}` : "Not live";
    else if (stale) text = `Stale since ${clock(this.#client.staleSince)}`;
    else if (waiting) text = "Catching up";
    setText(this.#trust.querySelector("b"), text);
  }
}
