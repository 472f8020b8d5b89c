// Types of client.js. Times are milliseconds unless a name says otherwise; times on the wire are ISO 8601, UTC.

export type View = "exact" | "public";

export interface StockItem {
  kind: "stock";
  product_id: string;
  location_id: string;
  vendor_id: string;
  /** Rises with every change of the key, within an epoch. */
  version: number;
  available: number;
  on_hand: number;
  reserved: number;
  damaged: number;
  safety_stock: number;
  incoming: number;
  low_stock_at: number | null;
  updated_at: string | null;
}

export interface ProductItem {
  kind: "product";
  product_id: string;
  vendor_id: string;
  version: number;
  sku: string;
  name: string;
  category: string;
  /** In the smallest unit of `currency`. */
  price_minor: number;
  currency: string;
  status: "draft" | "published" | "archived";
  updated_at: string | null;
}

/** What the public view says instead of numbers. `location_id` is there in a location topic only. */
export interface AvailabilityItem {
  kind: "availability";
  product_id: string;
  location_id?: string;
  version: number;
  status: "in_stock" | "low_stock" | "out_of_stock";
  only_left?: number;
}

export type Item = StockItem | ProductItem | AvailabilityItem;

export type TopicState = "waiting" | "live" | "error" | "closed";

export interface TopicError {
  code: string;
  message: string;
  /** When it is asked for again (milliseconds since 1970), or null when the refusal is final. */
  retryAt: number | null;
}

export interface Topic {
  readonly name: string;
  readonly view: View | undefined;
  /** `waiting`: the copy is empty or may be behind. `live`: it follows. `error`: refused, see `error`. */
  readonly state: TopicState;
  readonly error: TopicError | null;
  readonly epoch: string | null;
  /** Applied through; -1 before the first snapshot. */
  readonly seq: number;
  /** The copy by key (see `itemKey`). While a topic waits it is what was known last. */
  readonly items: ReadonlyMap<string, Item>;
}

export interface Change {
  key: string;
  /** The item now; null when it is gone. */
  item: Item | null;
  /** The item before this batch; null when there was none. */
  previous: Item | null;
}

export interface Events {
  /** What changed in one topic since the last such event. `reset`: a whole snapshot has replaced the copy. */
  change: { topic: Topic; changes: Change[]; reset: boolean };
  /** A topic's state has changed. */
  topic: Topic;
  /** The connection's state has changed. */
  state: ConnectionState;
  /** The server's word on staleness, also with every heartbeat; `changed` when it differs from the last. */
  freshness: { stale: boolean; since: string | null; asOf: string | null; changed: boolean };
  /** A round trip was measured. */
  latency: number;
  /** An error message of the server, or a failure of our own (`no_token`, `unusable_url`, `bad_message`). */
  error: { code: string; message: string; topic: string | null; retryAfterMs?: number };
}

/** `waiting`: between two tries, see `retryAt`. `closed`: by `close()`, or for good, see `lastClose`. */
export type ConnectionState = "connecting" | "open" | "waiting" | "closed";

export interface Options {
  /**
   * The token, or what fetches one. A function is asked once, again after the server has refused the token
   * (`refused` is true then), and before the token ends. It goes out as a subprotocol entry, never in the URL.
   */
  token?: string | null | ((reason: { refused: boolean }) => string | null | Promise<string | null>);
  /** The view of subscriptions that name none; without it the best that the principal may have. */
  view?: View;
  /** A WebSocket class where there is no global one. */
  WebSocket?: new (url: string, protocols: string[]) => WebSocket;
  /** How long changes are collected into one `change` event (16). */
  batchMs?: number;
  /** Measure the round trip this often; 0 (the default) for never. */
  pingMs?: number;
  /** The first bound of the jittered backoff (500); it doubles up to `backoffMaxMs` (30000). */
  backoffMs?: number;
  backoffMaxMs?: number;
  /** From the start of a try, fetching the token included, to the server's welcome (15000). */
  connectTimeoutMs?: number;
  /** How long a connection may stay silent when the page wakes and asks for a sign of life (5000). */
  probeTimeoutMs?: number;
  /** A connection that lasted this long has held: the backoff begins anew (10000). */
  stableMs?: number;
  /** Randomness, clock and timers, for tests. */
  random?: () => number;
  now?: () => number;
  setTimeout?: (callback: () => void, ms: number) => unknown;
  clearTimeout?: (timer: never) => void;
}

export interface Client {
  readonly state: ConnectionState;
  readonly lastClose: { code: number; reason: string } | null;
  /** When the next try begins (milliseconds since 1970), while waiting. */
  readonly retryAt: number | null;
  readonly session: string | null;
  readonly principal: string | null;
  readonly limits: { max_message_bytes: number; max_topics: number };
  readonly heartbeatMs: number;
  readonly stale: boolean;
  readonly staleSince: string | null;
  readonly asOf: string | null;
  /** When the last message came (milliseconds since 1970), or null. */
  readonly heardAt: number | null;
  /** Connected, not stale, and no topic waits for its snapshot. */
  readonly fresh: boolean;
  readonly latencyMs: number | null;
  readonly clockOffsetMs: number;
  readonly topics: ReadonlyMap<string, Topic>;
  /** Counters since the client was made. */
  readonly stats: {
    messages: number;
    characters: number;
    items: number;
    connections: number;
    resumed: number;
    snapshots: number;
  };
  subscribe(name: string, options?: { view?: View }): Topic;
  subscribe(names: string[], options?: { view?: View }): Topic[];
  unsubscribe(names: string | Topic | Array<string | Topic>): void;
  on<E extends keyof Events>(event: E, listener: (value: Events[E]) => void): () => void;
  /** A round trip in milliseconds. */
  ping(): Promise<number>;
  reconnect(): void;
  close(): void;
}

/** `url` may be `ws:`, `wss:`, `http:` or `https:`, or relative to the page. Throws for what is no URL. */
export function connect(url: string | URL, options?: Options): Client;

/** The key of an item within its topic, e.g. `stock:A:L1`, `product:A`. */
export function itemKey(item: Pick<Item, "kind" | "product_id"> & { location_id?: string }): string;
