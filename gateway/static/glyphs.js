/** A drawing and a hue for a category of products, in place of photographs. Strokes on a 24 x 24 grid. */

const DRAWINGS = [
  [/kitchen|cook|mug|tea|coffee|drink|food|grocer/i, "M5 8h11v6.5a4.5 4.5 0 0 1-4.5 4.5h-2A4.5 4.5 0 0 1 5 14.5zM16 10h1.5a2.5 2.5 0 0 1 0 5H16M8 3.5v2M12.5 3.5v2"],
  [/light|lamp/i, "M9 3.5h6l3.5 8.5h-13zM12 12v7M8.5 20h7M15.5 12v3"],
  [/garden|plant|outdoor/i, "M7 14h10l-1.2 6.5H8.2zM12 14V8.5M12 10.5C8.5 10.5 7 8.5 7 5.5c3.5 0 5 1.5 5 5zM12 8.5c0-3 1.5-5 5-5 0 3.5-1.5 5-5 5z"],
  [/textile|cloth|apparel|fashion|wear|shirt|linen/i, "M8.5 4 4 7l2 3.5 1.5-.8V20h9V9.7l1.5.8L20 7l-4.5-3a3.5 3.5 0 0 1-7 0z"],
  [/station|book|paper|office|pen/i, "M6.5 4H18v16H6.5A1.5 1.5 0 0 1 5 18.5v-13A1.5 1.5 0 0 1 6.5 4zM8.5 4v16M11.5 8h3.5M11.5 11h3.5"],
  [/audio|music|sound|phone|electr|tech|computer/i, "M5 14.5v-2a7 7 0 0 1 14 0v2M5 13.5h2.5v6H6a1 1 0 0 1-1-1zM19 13.5h-2.5v6H18a1 1 0 0 0 1-1z"],
  [/toy|game|kid|baby/i, "M5 10.5h14v9H5zM8.5 10.5V7.5h7v3M9 14.5v2M8 15.5h2M15.5 14.5v.01M13.5 16.5v.01"],
  [/sport|fitness|bike/i, "M12 4a8 8 0 1 0 0 16 8 8 0 0 0 0-16zM4.5 10c4 1 11 1 15 0M9 4.7c-2 4-2 10 0 14.6M15 4.7c2 4 2 10 0 14.6"],
  [/beauty|health|care|bath/i, "M9 9h6v10.5H9zM10.5 9V6h3v3M10.5 6V4H15M9 13h6"],
];
const PARCEL = "M12 3.5 4.5 7.5v9l7.5 4 7.5-4v-9zM4.5 7.5l7.5 4 7.5-4M12 11.5v9M8.2 5.5l7.5 4";

export function glyph(category) {
  return DRAWINGS.find(([pattern]) => pattern.test(category))?.[1] ?? PARCEL;
}

const HUES = [168, 24, 265, 205, 335, 140, 42, 228, 300, 5];
const given = new Map();

/** A hue (degrees) for a category: each new one gets the next, so that neighbours differ. */
export function hue(category) {
  if (!given.has(category)) given.set(category, HUES[given.size % HUES.length]);
  return given.get(category);
}
