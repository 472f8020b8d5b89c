/**
 * Browser client of the inventory gateway (protocol `inventory.v1`): one ES module, no dependencies.
 *
 *     import { connect } from "https://stock.example/client.js";
 *     const client = connect("wss://stock.example/realtime", { token: () => fetchToken() });
 *     const shelf = client.subscribe("product:A");
 *     client.on("change", ({ topic, changes }) => render(topic.items, changes));
 *
 * It keeps a copy of every topic by the rule of the contract, reconnects with a jittered backoff, resumes from
 * what it holds and says when the copy can not be trusted. It sends no cookies and needs none, so that it works
 * from any site. Times are milliseconds. Node >= 20 works too; before Node 22 pass a `WebSocket`.
 * @module
 */

const PROTOCOL = "inventory.v1";
const TOPIC = /^(product|location|vendor):[A-Za-z0-9._-]{1,64}$/;
const TOPICS_A_MESSAGE = 100; // the contract's bound on one `subscribe`
const ENVELOPE_BYTES = 160; // of a `subscribe` around its topics
const RETRY_GATHER_MS = 20; // so that topics refused one after the other go out in one message
const LONGEST_TIMER_MS = 2 ** 31 - 1; // a longer one fires at once
const RETRIED = new Set(["unavailable", "rate_limited", "internal"]);
const DISOWNED = new Set(["forbidden", "unauthenticated", "token_expired", "scope_changed"]);

/** What to do after a close code; every other one (1001, 1006, 1012, ...) means: try again. */
const ADVICE = {
  1002: "stop", 1007: "stop", 1009: "stop", 4400: "stop", 4403: "stop", // the client is wrong, or not wanted
  4401: "credentials", 4408: "credentials",
  1013: "later", 4429: "later",
};

const DEFAULTS = {
  token: null,
  view: undefined,
  batchMs: 16,
  pingMs: 0,
  backoffMs: 500,
  backoffMaxMs: 30_000,
  connectTimeoutMs: 15_000,
  probeTimeoutMs: 5_000,
  stableMs: 10_000,
  random: Math.random,
  now: Date.now, // the wall clock goes on while a machine sleeps; performance.now() need not
  setTimeout: (callback, ms) => globalThis.setTimeout(callback, ms),
  clearTimeout: (timer) => globalThis.clearTimeout(timer),
};

/** Opens a connection that keeps itself alive. See `Options` in client.d.ts. */
export function connect(url, options = {}) {
  return new Client(url, options);
}

/** The key of an item within its topic, e.g. `stock:A:L1`, `product:A`. */
export function itemKey(item) {
  const key = `${item.kind}:${item.product_id}`;
  return item.location_id === undefined ? key : `${key}:${item.location_id}`;
}

/** One topic and the copy that is kept of it. Made by `Client.subscribe`. */
class Topic {
  constructor(name, view) {
    this.name = name;
    this.view = view;
    /** @type {"waiting" | "live" | "error" | "closed"} */
    this.state = "waiting";
    /** Why the state is `error`: `{code, message, retryAt}`; `retryAt` is null when it is final. */
    this.error = null;
    this.epoch = null;
    this.seq = -1;
    /** The copy: key -> item. While a topic waits it is what was known last. */
    this.items = new Map();
    this.users = 0;
    this.request = null; // id of the last subscribe: answers to earlier ones are out of date
    this.complete = false; // only a whole snapshot may be resumed from
    this.exact = view === "exact";
    this.gone = new Map(); // key -> version of what was deleted in this epoch
    this.next = null; // a snapshot that is not complete yet
    this.refusals = 0;
  }

  /** Whether a delta alone brings this copy up to date. A public subscription is always answered by a snapshot. */
  get resumable() {
    return this.complete && this.exact && this.view !== "public";
  }
}

/**
 * Takes `items` into a copy: only what is newer than what is held, and what is gone stays remembered.
 * `note(key, previous)` is told of each key that changed.
 */
function take(copy, items, note) {
  for (const item of items) {
    const key = itemKey(item);
    const held = copy.items.get(key);
    if (item.version <= (held ? held.version : copy.gone.get(key) ?? -1)) continue;
    note?.(key, held);
    if (item.deleted) {
      copy.items.delete(key);
      copy.gone.set(key, item.version);
    } else {
      copy.items.set(key, item);
      copy.gone.delete(key);
    }
  }
}

class Client {
  #options;
  #url;
  #socket = null;
  #attempt = 0; // numbers the connections, so that nothing of an old one is heeded
  #failures = 0; // connections in a row that did not hold
  #openedAt = 0;
  #notBefore = 0; // a server's word on when to come back
  #credentials; // the token in use; undefined: ask for one
  #refused = false;
  #jitter = 0; // of retries: one for all topics, so that those refused together are asked for together
  #probed = -1;
  #requests = 0;
  #unsent = new Set();
  #changes = new Map(); // topic -> {reset, before: key -> the item before this batch}
  #pings = new Map();
  #timers = new Map();
  #listeners = new Map();
  #forgetPage;

  constructor(url, options) {
    this.#options = { ...DEFAULTS, ...options };
    this.#options.WebSocket ??= globalThis.WebSocket;
    if (!this.#options.WebSocket) throw new TypeError("no WebSocket here: pass one as options.WebSocket");
    this.#url = new URL(url, globalThis.location?.href);
    this.#url.protocol = this.#url.protocol.replace(/^http/, "ws");
    /** @type {"connecting" | "open" | "waiting" | "closed"} */
    this.state = "waiting";
    /** `{code, reason}` of the last connection that ended, else null. */
    this.lastClose = null;
    this.retryAt = null;
    this.session = null;
    this.principal = null;
    this.limits = { max_message_bytes: 16_384, max_topics: 500 };
    this.heartbeatMs = 20_000;
    /** Whether the server says that what it sends may be behind. */
    this.stale = false;
    this.staleSince = null;
    /** Everything committed before this time (ISO 8601) has reached us, as far as the server said. */
    this.asOf = null;
    /** When the last message came (milliseconds since 1970), or null. */
    this.heardAt = null;
    this.latencyMs = null;
    /** The server's clock minus ours, known after the first ping. */
    this.clockOffsetMs = 0;
    this.topics = new Map();
    this.stats = { messages: 0, characters: 0, items: 0, connections: 0, resumed: 0, snapshots: 0 };
    this.#forgetPage = this.#watchPage();
    this.#connect();
  }

  /** True when every copy that is kept is connected, complete and not stale. Topics in `error` do not count. */
  get fresh() {
    if (this.state !== "open" || this.stale) return false;
    for (const topic of this.topics.values()) if (topic.state === "waiting") return false;
    return true;
  }

  /**
   * Subscribes to a topic, or to each of a list; returns its Topic, or a list of them. Those of one turn of the event
   * loop go out together. Subscribing twice gives the same Topic, which is left when each has unsubscribed. Another
   * `view` than before replaces the subscription.
   */
  subscribe(names, { view = this.#options.view } = {}) {
    if (Array.isArray(names)) return names.map((name) => this.subscribe(name, { view }));
    let topic = this.topics.get(names);
    if (topic && topic.view === view) {
      topic.users += 1;
      return topic;
    }
    const users = topic ? topic.users : 0;
    if (topic) this.#drop(topic);
    topic = new Topic(String(names), view);
    topic.users = users + 1;
    this.topics.set(topic.name, topic);
    this.#ask(topic);
    return topic;
  }

  /** Leaves topics (names or Topics): the copy stops changing and nothing of it is remembered. */
  unsubscribe(names) {
    const leave = [];
    for (const name of Array.isArray(names) ? names : [names]) {
      const topic = this.topics.get(name.name ?? name);
      if (!topic || --topic.users > 0) continue;
      this.#drop(topic);
      if (topic.request) leave.push(topic.name);
    }
    for (let i = 0; i < leave.length; i += TOPICS_A_MESSAGE)
      this.#send({ type: "unsubscribe", id: this.#id("u"), topics: leave.slice(i, i + TOPICS_A_MESSAGE) });
  }

  /** Calls `listener` at each `event`; returns what stops that. See `Events` in client.d.ts. */
  on(event, listener) {
    if (!this.#listeners.has(event)) this.#listeners.set(event, new Set());
    this.#listeners.get(event).add(listener);
    return () => this.#listeners.get(event).delete(listener);
  }

  /** Measures a round trip: a promise of milliseconds. Rejects when the connection is not open, or ends first. */
  ping() {
    return new Promise((resolve, reject) => {
      if (this.state !== "open") return reject(new Error("not connected"));
      const id = this.#id("p");
      this.#pings.set(id, { resolve, reject, at: performance.now() });
      return this.#send({ type: "ping", id });
    });
  }

  /** Starts over at once, also after the client had stopped by itself. */
  reconnect() {
    this.#forgetPage ??= this.#watchPage();
    this.#failures = 0;
    this.#hangUp();
    this.#connect();
  }

  /** Ends it for good; the copies stay readable. */
  close() {
    this.#forgetPage?.();
    this.#forgetPage = undefined;
    this.#hangUp();
    for (const topic of this.topics.values()) this.#drop(topic);
    this.#setState("closed");
  }

  // One connection: open, lose, come back

  async #connect() {
    const attempt = ++this.#attempt;
    this.#jitter = this.#options.random();
    this.#setState("connecting");
    this.#after("connect", this.#options.connectTimeoutMs, () => this.#lose(1006, "no welcome in time"));
    const protocols = [PROTOCOL];
    let fatal = false;
    try {
      const token = await this.#token();
      if (attempt !== this.#attempt) return;
      if (token) protocols.push(`bearer.${base64url(token)}`);
      fatal = true; // a URL that this page may not open will not do better the next time
      const socket = new this.#options.WebSocket(this.#url.href, protocols);
      this.#socket = socket;
      socket.onmessage = (event) => this.#receive(event.data);
      socket.onclose = (event) => this.#lose(event.code, event.reason);
      socket.onerror = () => {}; // a close always follows; Node's `ws` throws when nobody listens
    } catch (error) {
      if (attempt !== this.#attempt) return;
      this.#emit("error", { code: fatal ? "unusable_url" : "no_token", message: String(error), topic: null });
      this.#lose(fatal ? 4400 : 1006, String(error));
    }
  }

  async #token() {
    const { token } = this.#options;
    if (typeof token !== "function") return token;
    this.#credentials ??= await token({ refused: this.#refused });
    return this.#credentials;
  }

  /** The connection is gone, or as good as gone. */
  #lose(code, reason) {
    this.lastClose = { code, reason };
    const held = this.state === "open" && this.#options.now() - this.#openedAt >= this.#options.stableMs;
    this.#hangUp();
    const advice = ADVICE[code];
    this.#failures = held ? 1 : this.#failures + 1;
    this.#refused = advice === "credentials";
    if (this.#refused) this.#credentials = undefined;
    if (advice === "stop" || (this.#refused && typeof this.#options.token !== "function")) {
      this.#forgetPage?.();
      this.#forgetPage = undefined;
      this.#setState("closed");
      return;
    }
    this.#wait(advice === "later");
  }

  /** Full jitter: anything up to an exponential bound, so that a crowd does not come back as a crowd. */
  #wait(later) {
    const { backoffMs, backoffMaxMs, random, now } = this.#options;
    const tries = this.#failures + (later ? 3 : 0);
    const bound = Math.min(backoffMaxMs, backoffMs * 2 ** Math.min(tries - 1, 20));
    const told = this.#notBefore - now(); // already spread over the crowd by the server
    const ms = told > 0 ? told : random() * bound;
    if (later) this.#notBefore = now() + ms;
    this.retryAt = now() + ms;
    this.#setState("waiting");
    this.#after("connect", ms, () => this.#connect());
  }

  #hangUp() {
    this.#attempt += 1;
    for (const name of ["connect", "watch", "probe", "ping", "retry", "leave"]) this.#after(name, 0, null);
    for (const { reject } of this.#pings.values()) reject(new Error("connection lost"));
    this.#pings.clear();
    this.#unsent.clear();
    const socket = this.#socket;
    this.#socket = null;
    if (socket) {
      socket.onmessage = socket.onclose = null;
      socket.close(); // may take its time with a dead peer: nobody waits for it
    }
    for (const topic of this.topics.values()) {
      topic.request = topic.next = null;
      this.#setTopic(topic, "waiting");
    }
  }

  // What keeps a connection honest: silence, sleep, pings

  /** Nothing heard for two heartbeats is a dead connection, unless it was this machine that slept. */
  #watch() {
    const { now } = this.#options;
    const due = this.heardAt + 2 * this.heartbeatMs;
    this.#after("watch", due - now(), () => {
      if (this.heardAt + 2 * this.heartbeatMs > now()) this.#watch();
      else if (now() - due > this.heartbeatMs) this.#probe();
      else this.#lose(1006, "nothing heard for two heartbeats");
    });
  }

  /** Asks a connection that may have died unnoticed; any word within `probeTimeoutMs` will do. */
  #probe() {
    const heard = this.stats.messages;
    if (this.#timers.has("probe") && this.#probed === heard) return; // one without an answer yet
    this.#probed = heard;
    this.ping().catch(() => {});
    this.#after("probe", this.#options.probeTimeoutMs, () => {
      if (this.stats.messages === heard) this.#lose(1006, "no answer after a pause");
      else this.#watch();
    });
  }

  #keepPinging() {
    if (!this.#options.pingMs) return;
    this.#after("ping", this.#options.pingMs, () => {
      if (this.#pings.size < 3) this.ping().catch(() => {});
      this.#keepPinging();
    });
  }

  /** A page that wakes, or a network that is back, does not sit out a backoff or trust an old socket. */
  #watchPage() {
    const page = globalThis.document;
    const wake = () => {
      if (page && page.visibilityState === "hidden") return;
      if (this.state === "open") this.#probe();
      else if (this.state === "waiting" && this.#notBefore <= this.#options.now()) {
        this.#failures = Math.min(this.#failures, 1);
        this.#connect();
      }
    };
    const places = [[page, "visibilitychange"], [page, "resume"], [globalThis, "online"], [globalThis, "pageshow"]];
    for (const [target, event] of places) target?.addEventListener?.(event, wake);
    return () => {
      for (const [target, event] of places) target?.removeEventListener?.(event, wake);
    };
  }

  // Messages in

  #receive(data) {
    this.heardAt = this.#options.now();
    this.stats.messages += 1;
    this.stats.characters += data.length;
    let message;
    try {
      message = JSON.parse(data);
    } catch {
      this.#emit("error", { code: "bad_message", message: "the server sent no JSON", topic: null });
      return;
    }
    const topic = message.topic === undefined ? undefined : this.topics.get(message.topic);
    switch (message.type) {
      case "delta": return topic && this.#delta(topic, message);
      case "snapshot": return topic && this.#snapshot(topic, message);
      case "resumed": return topic && this.#resumed(topic, message);
      case "unsubscribed": return topic && message.reason && this.#refuse(topic, { ...message, code: message.reason });
      case "heartbeat": return this.#freshness(message.stale, message.as_of);
      case "stale": return this.#freshness(true, null, message.since);
      case "fresh": return this.#freshness(false, message.as_of);
      case "pong": return this.#pong(message);
      case "error": return this.#error(topic, message);
      case "welcome": return this.#welcome(message);
      case "reconnect": return this.#leave(message.after_ms);
      case "auth_expiring": return this.#renew();
      default: return undefined; // of a newer server
    }
  }

  #welcome(message) {
    this.session = message.session;
    this.principal = message.principal;
    this.limits = { ...this.limits, ...message.limits };
    this.heartbeatMs = message.heartbeat_s * 1000;
    this.stale = false; // a connection that starts stale hears so at once
    this.staleSince = this.retryAt = null;
    this.stats.connections += 1;
    this.#openedAt = this.#options.now();
    this.#notBefore = 0;
    this.#refused = false;
    this.#after("connect", 0, null);
    this.#setState("open");
    this.#watch();
    this.#keepPinging();
    for (const topic of this.topics.values()) this.#ask(topic);
    this.#sendUnsent();
  }

  #delta(topic, message) {
    if (topic.state !== "live") return; // of a subscription that has been replaced
    if (message.epoch !== topic.epoch) return this.#startOver(topic);
    topic.seq = Math.max(topic.seq, message.seq);
    this.#take(topic, message.items);
  }

  /**
   * A first snapshot shows while it arrives. A later one is collected aside and replaces the copy in one step, so that
   * a page does not go blank in between; the topic is `waiting` until then.
   */
  #snapshot(topic, message) {
    if (message.id !== undefined && message.id !== topic.request) return;
    if (message.part === 1) {
      const shows = !topic.complete || !topic.items.size;
      if (shows) for (const [key, item] of topic.items) this.#note(topic, key, item);
      if (shows) topic.items = new Map();
      topic.complete &&= !shows;
      topic.next = { items: shows ? topic.items : new Map(), gone: new Map() };
      this.#setTopic(topic, "waiting");
    } else if (!topic.next) return;
    const shows = topic.next.items === topic.items;
    this.stats.items += message.items.length;
    take(topic.next, message.items, shows ? (key, previous) => this.#note(topic, key, previous) : undefined);
    if (message.last) this.#complete(topic, message);
  }

  #complete(topic, { epoch, seq }) {
    const { items: before } = topic;
    const { items, gone } = topic.next;
    if (items !== before) {
      for (const [key, { version }] of items)
        if (before.get(key)?.version !== version) this.#note(topic, key, before.get(key));
      for (const [key, item] of before) if (!items.has(key)) this.#note(topic, key, item);
    }
    Object.assign(topic, { items, gone, epoch, seq, next: null, complete: true });
    topic.exact = topic.view === "exact" || some(items.values(), (item) => item.kind === "stock");
    this.#batch(topic).reset = true;
    this.#emitChanges(); // before `live` is told, all that led there
    this.stats.snapshots += 1;
    this.#setTopic(topic, "live");
  }

  #resumed(topic, message) {
    if (message.id !== undefined && message.id !== topic.request) return;
    if (!topic.complete || message.epoch !== topic.epoch) return this.#startOver(topic);
    this.stats.resumed += 1;
    this.#setTopic(topic, "live");
  }

  #drop(topic) {
    this.topics.delete(topic.name);
    this.#unsent.delete(topic);
    this.#changes.delete(topic);
    this.#setTopic(topic, "closed");
  }

  #startOver(topic) {
    topic.complete = false;
    this.#ask(topic);
  }

  #freshness(stale, asOf, since = this.staleSince ?? this.asOf) {
    const changed = stale !== this.stale;
    this.stale = stale;
    this.staleSince = stale ? since : null;
    this.asOf = asOf ?? this.asOf;
    this.#emit("freshness", { stale, since: this.staleSince, asOf: this.asOf, changed });
  }

  #pong(message) {
    const ping = this.#pings.get(message.id);
    if (!ping) return;
    this.#pings.delete(message.id);
    this.latencyMs = performance.now() - ping.at;
    const offset = Date.parse(message.time) + this.latencyMs / 2 - Date.now();
    if (Number.isFinite(offset)) this.clockOffsetMs = offset;
    ping.resolve(this.latencyMs);
    this.#emit("latency", this.latencyMs);
  }

  /** An error about one topic, about all topics of one request, or about none. */
  #error(topic, message) {
    if (topic) {
      if (message.id === undefined || message.id === topic.request) this.#refuse(topic, message);
    } else if (message.id !== undefined && message.topic === undefined) {
      this.#pings.get(message.id)?.reject(new Error(message.code));
      this.#pings.delete(message.id);
      for (const one of this.topics.values())
        if (one.request === message.id && one.state === "waiting") this.#refuse(one, message);
    }
    const { code, message: text, retry_after_ms: retryAfterMs } = message;
    this.#emit("error", { code, message: text, topic: message.topic ?? null, retryAfterMs });
  }

  /** A topic is refused, or taken away: asked for again where that may help, and forgotten where it is not ours. */
  #refuse(topic, { code, message = "", retry_after_ms: told }) {
    const { backoffMs, backoffMaxMs, now } = this.#options;
    topic.request = topic.next = null;
    topic.complete = false;
    if (DISOWNED.has(code)) {
      for (const [key, item] of topic.items) this.#note(topic, key, item);
      topic.items = new Map();
      topic.gone = new Map();
    }
    topic.error = { code, message, retryAt: null };
    if (RETRIED.has(code)) {
      const bound = Math.min(backoffMaxMs, backoffMs * 2 ** Math.min(topic.refusals++, 20));
      topic.error.retryAt = now() + (told || 0) + this.#jitter * (told ? Math.min(told / 2, bound) : bound);
      this.#scheduleRetry();
    }
    this.#setTopic(topic, "error");
  }

  #scheduleRetry() {
    const { now } = this.#options;
    const refused = [...this.topics.values()].filter((topic) => topic.error?.retryAt);
    if (!refused.length) return;
    this.#after("retry", Math.min(...refused.map((topic) => topic.error.retryAt)) - now() + RETRY_GATHER_MS, () => {
      for (const topic of refused)
        if (topic.error?.retryAt <= now() && this.topics.get(topic.name) === topic) this.#ask(topic);
      this.#scheduleRetry();
    });
  }

  /** The server wants to be left: stay until the time it gave to us alone, then come back (likely elsewhere). */
  #leave(afterMs) {
    const { now } = this.#options;
    this.#notBefore = now() + afterMs;
    this.#after("leave", afterMs, () => this.#lose(1012, "asked to reconnect"));
  }

  /** The token ends soon: a new one goes on the same connection. Without one the connection ends with 4401. */
  async #renew() {
    if (typeof this.#options.token !== "function") return;
    const attempt = this.#attempt;
    this.#credentials = undefined;
    try {
      const token = await this.#token();
      if (token && attempt === this.#attempt) this.#send({ type: "auth", id: this.#id("a"), token });
    } catch (error) {
      this.#emit("error", { code: "no_token", message: String(error), topic: null });
    }
  }

  // Messages out

  #id(prefix) {
    this.#requests += 1;
    return `${prefix}${this.#requests}`;
  }

  #send(message) {
    if (this.state === "open" && this.#socket.readyState === 1) this.#socket.send(JSON.stringify(message));
  }

  #ask(topic) {
    this.#setTopic(topic, "waiting");
    if (!TOPIC.test(topic.name)) {
      this.#refuse(topic, { code: "unknown_topic", message: "a topic is product:<id>, location:<id> or vendor:<id>" });
      return;
    }
    if (!this.#unsent.size) queueMicrotask(() => this.#sendUnsent());
    this.#unsent.add(topic);
  }

  /** Subscribes in messages of at most 100 topics and `max_message_bytes`, those of a view together. */
  #sendUnsent() {
    if (this.state !== "open") return;
    const batches = new Map();
    const send = (view) => {
      const { topics, positions } = batches.get(view);
      const id = this.#id("s");
      for (const topic of topics) topic.request = id;
      const resume = Object.keys(positions).length ? positions : undefined;
      this.#send({ type: "subscribe", id, topics: topics.map((topic) => topic.name), view, resume });
      batches.delete(view);
    };
    for (const topic of this.#unsent) {
      const position = topic.resumable ? { epoch: topic.epoch, seq: topic.seq } : null;
      const cost = topic.name.length + 3 + (position ? topic.name.length + 4 + bytes(JSON.stringify(position)) : 0);
      const batch = batches.get(topic.view);
      const full = batch && batch.size + cost > this.limits.max_message_bytes - ENVELOPE_BYTES;
      if (full || batch?.topics.length === TOPICS_A_MESSAGE) send(topic.view);
      if (!batches.has(topic.view)) batches.set(topic.view, { topics: [], positions: {}, size: 0 });
      const into = batches.get(topic.view);
      into.topics.push(topic);
      into.size += cost;
      if (position) into.positions[topic.name] = position;
    }
    for (const view of [...batches.keys()]) send(view);
    this.#unsent.clear();
  }

  // Events

  #take(topic, items) {
    this.stats.items += items.length;
    take(topic, items, (key, previous) => this.#note(topic, key, previous));
  }

  #note(topic, key, previous) {
    const { before } = this.#batch(topic);
    if (!before.has(key)) before.set(key, previous ?? null);
  }

  /** What has changed since the last `change` event; bounded by the number of distinct items. */
  #batch(topic) {
    let batch = this.#changes.get(topic);
    if (!batch) {
      batch = { reset: false, before: new Map() };
      this.#changes.set(topic, batch);
      if (!this.#timers.has("changes")) this.#after("changes", this.#options.batchMs, () => this.#emitChanges());
    }
    return batch;
  }

  #emitChanges() {
    this.#after("changes", 0, null);
    const batches = this.#changes;
    this.#changes = new Map();
    for (const [topic, { reset, before }] of batches) {
      const changes = [];
      for (const [key, previous] of before) {
        const item = topic.items.get(key) ?? null;
        if (item !== previous) changes.push({ key, item, previous });
      }
      if (changes.length || reset) this.#emit("change", { topic, changes, reset });
    }
  }

  #setTopic(topic, state) {
    if (state === "live") topic.refusals = 0;
    if (state !== "error") topic.error = null;
    else if (topic.state === state) return void this.#emit("topic", topic);
    if (topic.state === state) return;
    topic.state = state;
    this.#emit("topic", topic);
  }

  #setState(state) {
    if (this.state === state) return;
    this.state = state;
    this.#emit("state", state);
  }

  #emit(event, value) {
    for (const listener of this.#listeners.get(event) ?? []) {
      try {
        listener(value);
      } catch (error) {
        queueMicrotask(() => {
          throw error; // the page's own mistake: its console shows it, our state stays whole
        });
      }
    }
  }

  /** One timer of a name: it replaces the one before; `callback` null only stops that. */
  #after(name, ms, callback) {
    this.#options.clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
    if (!callback) return;
    const run = () => {
      this.#timers.delete(name);
      callback();
    };
    this.#timers.set(name, this.#options.setTimeout(run, Math.min(Math.max(ms, 0), LONGEST_TIMER_MS)));
  }
}

function some(values, test) {
  for (const value of values) if (test(value)) return true;
  return false;
}

function bytes(text) {
  return new TextEncoder().encode(text).length;
}

function base64url(text) {
  const binary = Array.from(new TextEncoder().encode(text), (byte) => String.fromCharCode(byte)).join("");
  return btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}
