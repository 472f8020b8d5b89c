/**
 * What the page shows: the URL's word, else `/page.json`, else location L1. The file beside this one suits the sample
 * shop; a server may answer with its own. All of it is optional:
 *
 *     {
 *       "locations": [{"id": "L1", "name": "Market Street"}, "L2"],   of the terminal's choice, the first is shown
 *       "featured": ["P00001", "P00002"],                             product ids of the storefront
 *       "realtime": "realtime",                                       where the gateway is, relative to the page
 *       "token": null                                                 sent with the connection
 *     }
 *
 * URL parameters: `?location=L2`, `?products=A,B,C`, `?view=exact` or `?view=public`. Behind `#`, which no server
 * and no log gets to see: `#token=...`.
 */

const KEY = /^[A-Za-z0-9._-]{1,64}$/;
const WAIT_MS = 4000;

/**
 * Returns `{locations: [{id, name}], featured: [id], asked, view, realtime: URL, token}`; never throws. `asked`: it
 * was the URL that named the featured products.
 */
export async function loadSettings(place = globalThis.location) {
  const told = await fetchSettings();
  const query = new URLSearchParams(place.search);
  const locations = list(told.locations)
    .map((one) => (typeof one === "string" ? { id: one, name: one } : { id: one?.id, name: one?.name || one?.id }))
    .filter(({ id }) => isKey(id));
  const first = query.get("location");
  if (isKey(first)) {
    const known = locations.findIndex(({ id }) => id === first);
    locations.unshift(...(known < 0 ? [{ id: first, name: first }] : locations.splice(known, 1)));
  }
  const asked = query.get("products")?.split(",").map((id) => id.trim());
  const view = query.get("view");
  return {
    locations: locations.length ? locations : [{ id: "L1", name: "L1" }],
    featured: list(asked ?? told.featured).filter(isKey),
    asked: asked !== undefined,
    view: view === "exact" || view === "public" ? view : undefined,
    realtime: new URL(told.realtime ?? "realtime", document.baseURI),
    token: new URLSearchParams(place.hash?.slice(1)).get("token") ?? told.token ?? null,
  };
}

/** Whether `text` may be the id of a product or a location. */
export function isKey(text) {
  return typeof text === "string" && KEY.test(text);
}

async function fetchSettings() {
  try {
    const response = await fetch("page.json", { signal: AbortSignal.timeout(WAIT_MS) });
    const told = response.ok ? await response.json() : {};
    return told && typeof told === "object" ? told : {};
  } catch {
    return {}; // no such file, no JSON, or no answer: the page does without
  }
}

function list(value) {
  return Array.isArray(value) ? value : [];
}
