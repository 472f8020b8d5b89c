/** Numbers, prices, times and the words for availability. */

const NUMBER = new Intl.NumberFormat();
const TIME = new Intl.DateTimeFormat(undefined, { timeStyle: "medium", hourCycle: "h23" });
const currencies = new Map();

/** T of the contract where no `low_stock_at` is set. */
export const LOW_STOCK = 5;

/** `1,204`, `−2` with a real minus sign. */
export const count = (value) => (value < 0 ? `−${NUMBER.format(-value)}` : NUMBER.format(value));

export const signed = (value) => (value < 0 ? count(value) : `+${NUMBER.format(value)}`);

/** `minor` is in the smallest unit of `currency`, whose number of digits differs (JPY has none). */
export function price(minor, currency) {
  let format = currencies.get(currency);
  if (!format) {
    try {
      format = new Intl.NumberFormat(undefined, { style: "currency", currency, currencyDisplay: "narrowSymbol" });
    } catch {
      format = { resolvedOptions: () => ({ maximumFractionDigits: 2 }), format: (n) => `${n.toFixed(2)} ${currency}` };
    }
    currencies.set(currency, format);
  }
  return format.format(minor / 10 ** format.resolvedOptions().maximumFractionDigits);
}

/** `14:03:59` of an ISO time or of milliseconds since 1970, or a dash. */
export function clock(iso) {
  const moment = new Date(iso ?? Number.NaN);
  return Number.isNaN(moment.getTime()) ? "–" : TIME.format(moment);
}

export function milliseconds(ms) {
  if (ms === null || !Number.isFinite(ms)) return "–";
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  return ms < 10_000 ? `${NUMBER.format(Math.round(ms))} ms` : `${(ms / 1000).toFixed(1)} s`;
}

/** The level of a number of pieces: `in_stock`, `low_stock` or `out_of_stock`. */
export function level(available, lowStockAt) {
  if (available <= 0) return "out_of_stock";
  return available <= (lowStockAt ?? LOW_STOCK) ? "low_stock" : "in_stock";
}

/** What a shopper reads. */
export function wording(status, onlyLeft) {
  if (status === "out_of_stock") return "Sold out";
  if (status === "low_stock") return onlyLeft === undefined ? "Low stock" : `Only ${count(onlyLeft)} left`;
  return "In stock";
}
