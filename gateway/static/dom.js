/** The few helpers that build the page. Nothing is ever parsed as HTML: what the server sends is text. */

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes, properties (`class`, `text`) and children. */
export function element(name, { text, ...attributes } = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== undefined) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  node.append(...children);
  return node;
}

export function drawing(path, size = 24) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("width", size);
  svg.setAttribute("height", size);
  svg.setAttribute("aria-hidden", "true");
  const shape = document.createElementNS(SVG, "path");
  shape.setAttribute("d", path);
  svg.append(shape);
  return svg;
}

/** Sets the text where it differs: an untouched text node costs no layout. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setData(node, name, value) {
  if (node.dataset[name] !== value) node.dataset[name] = value;
}

const still = matchMedia("(prefers-reduced-motion: reduce)");

/**
 * Shows that a number has moved: `data-moved` is `up` or `down` for a moment, and its ground lights up unless the
 * reader prefers less motion.
 */
export function flash(node, direction) {
  setData(node, "moved", direction);
  clearTimeout(flashes.get(node));
  flashes.set(node, setTimeout(() => delete node.dataset.moved, 1400));
  if (still.matches || document.hidden) return;
  const colour = getComputedStyle(node).getPropertyValue(direction === "up" ? "--flash-up" : "--flash-down");
  const frames = [{ backgroundColor: colour }, { backgroundColor: "transparent" }];
  node.animate(frames, { duration: 1100, easing: "ease-out" });
}

const flashes = new WeakMap();

/** `+3` that rises from a number and fades. */
export function rise(node, text, direction) {
  if (still.matches || document.hidden || node.querySelector(".rise")) return;
  const mark = element("span", { class: "rise", "data-moved": direction, "aria-hidden": "true", text });
  node.append(mark);
  const frames = [
    { opacity: 0, transform: "translateY(4px)" },
    { opacity: 1, transform: "translateY(0)", offset: 0.2 },
    { opacity: 0, transform: "translateY(-14px)" },
  ];
  mark.animate(frames, { duration: 1300, easing: "ease-out" }).finished.then(
    () => mark.remove(),
    () => mark.remove(),
  );
}
