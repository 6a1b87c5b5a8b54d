// Small helpers to build the page's elements. Text only ever becomes text nodes; nothing here parses HTML.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes (`on…` functions are listeners, null and false leave one away) and children. */
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** One of the drawings in index.html. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** A button that shows a drawing; `label` is what it says to who can't see it, and on hover. */
export function iconButton(name, label, onclick, attributes = {}) {
  return h("button", { type: "button", class: "quiet", "aria-label": label, title: label, onclick, ...attributes }, icon(name));
}

export const $ = (selector, root = document) => root.querySelector(selector);

const said = { timer: 0 };

/** Say something to who listens to the page; looks stay as they are. */
export function announce(text) {
  const region = $("#announcer");
  region.textContent = "";
  clearTimeout(said.timer);
  said.timer = setTimeout(() => (region.textContent = text), 60); // a changed region is read, a replaced one is not always
}

/** A note at the foot of the page that goes away by itself. */
export function toast(text) {
  const note = h("div", { class: "toast" }, text);
  $("#toasts").append(note);
  announce(text);
  setTimeout(() => note.remove(), 6000);
}

export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = h("textarea", { class: "offstage", "aria-hidden": "true" }); // pages served without TLS have no clipboard
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  toast("Copied");
}

/** Offer `text` as a file to save. */
export function saveFile(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

export const number = new Intl.NumberFormat("en");

/** 56200000 → "56.2M". */
export function short(count) {
  for (const [size, letter] of [[1e9, "B"], [1e6, "M"], [1e3, "k"]]) {
    if (count >= size) return `${(count / size).toPrecision(3).replace(/\.?0+$/, "")}${letter}`;
  }
  return String(count);
}
