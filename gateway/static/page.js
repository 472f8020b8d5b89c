/** Puts the page together: settings, one connection, two views, the strip. `gateway` in the console is the client. */

import { connect } from "./client.js";
import { setData, setText } from "./dom.js";
import { clock } from "./format.js";
import { loadSettings } from "./settings.js";
import { Storefront } from "./storefront.js";
import { Strip } from "./strip.js";
import { Terminal } from "./terminal.js";
import { startTheme } from "./theme.js";

const PING_MS = 1000;
const CARDS = 12;
const UNTRUSTED_AFTER_MS = 1500; // a reconnect that takes less is not worth a banner
const VIEWS = ["storefront", "terminal"];

startTheme(document.getElementById("theme"));
const settings = await loadSettings();
const client = connect(settings.realtime, { pingMs: PING_MS, token: settings.token });
globalThis.gateway = client;

let location = settings.locations[0].id;
const terminal = new Terminal(client, {
  locations: settings.locations,
  view: settings.view,
  onLocation: (id) => {
    location = id;
    terminal.follow(id);
  },
});
const storefront = new Storefront(client, {
  view: settings.view,
  locationName: (id) => settings.locations.find((one) => one.id === id)?.name ?? id,
});
new Strip(client);

/** Without a list of featured products, the first of the location are shown. */
function discover() {
  const { topic } = terminal;
  if (!storefront.empty || topic.state === "waiting") return;
  const ids = new Set();
  for (const item of topic.items.values()) if (item.kind !== "product") ids.add(item.product_id);
  if (ids.size) storefront.feature([...ids].sort().slice(0, CARDS));
  const place = topic.name.slice("location:".length);
  if (topic.state === "error") storefront.say(`No products to show: ${topic.error.message || topic.error.code}.`);
  else if (topic.state === "live" && !ids.size)
    storefront.say(`Nothing is in stock at “${place}” yet. Choose a location in the terminal.`);
  else storefront.say("");
}

if (settings.featured.length) storefront.feature(settings.featured, { missing: settings.asked });
else {
  terminal.follow(location);
  for (const event of ["topic", "change"]) client.on(event, discover);
  storefront.say("Looking for products…");
}

function showView() {
  const asked = globalThis.location.hash.slice(1);
  const view = VIEWS.includes(asked) ? asked : VIEWS[0];
  for (const name of VIEWS) {
    document.getElementById(name).hidden = name !== view;
    const link = document.querySelector(`nav [data-view=${name}]`);
    if (name === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.body.dataset.view = view;
  if (view === "terminal") terminal.follow(location);
}

addEventListener("hashchange", showView);
showView();

addEventListener("keydown", (event) => {
  const typing = event.target instanceof HTMLInputElement && event.target.type !== "radio";
  const meant = event.key === "/" && !event.ctrlKey && !event.metaKey && document.body.dataset.view === "terminal";
  if (!meant || typing) return;
  event.preventDefault();
  terminal.focusSearch();
});

// What is on the page may be behind: say so, and dim the numbers, but not for a blink.

const banner = document.getElementById("banner");
let untrusted = 0;

function showTrust() {
  const trusted = client.state === "open" && !client.stale;
  if (trusted) {
    clearTimeout(untrusted);
    untrusted = 0;
    setData(document.body, "trust", "fresh");
    banner.hidden = true;
  } else if (document.body.dataset.trust === "stale") say();
  else untrusted ||= setTimeout(say, client.state === "closed" ? 0 : UNTRUSTED_AFTER_MS);
}

function say() {
  setData(document.body, "trust", "stale");
  const { state, asOf, heardAt, lastClose } = client;
  let text = `Connection lost, trying again.${heardAt ? ` Last heard from at ${clock(heardAt)}.` : ""}`;
  if (state === "closed") text = `The gateway closed the connection (${lastClose?.code}). Reload to try again.`;
  else if (state === "open")
    text = `Updates are delayed.${asOf ? ` These counts are right as of ${clock(asOf)}, or newer.` : ""}`;
  setText(banner, text);
  banner.hidden = false;
}

client.on("state", showTrust);
client.on("freshness", showTrust);
showTrust();
