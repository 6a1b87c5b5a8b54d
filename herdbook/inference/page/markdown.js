// Markdown to elements: what block.js and inline.js read, built node by node. No HTML is parsed anywhere, so a model's
// text can't become markup, run a script or fetch anything; a link is followed only when someone clicks it.

import { parseBlocks } from "./block.js";
import { copyText, h, iconButton } from "./dom.js";
import { parseInline } from "./inline.js";

const plainText = (text) => [document.createTextNode(text)];

/** Show `source` in `element`, keeping the blocks that have not changed since the last time.
 *
 * `makeText(text, place)` gives the nodes for a stretch of text that begins at `place` of the source; `version`
 * changes when it would give others for the same text.
 */
export function renderMarkdown(element, source, makeText = plainText, version = "") {
  const blocks = parseBlocks(source);
  const kept = element.children;
  blocks.forEach((block, index) => {
    const old = kept[index];
    const key = `${version} ${block.start} ${source.slice(block.start, block.end)}`;
    if (old?.markdownKey === key) return;
    const made = makeBlock(block, makeText);
    made.markdownKey = key;
    if (old) old.replaceWith(made);
    else element.append(made);
  });
  while (kept.length > blocks.length) element.lastElementChild.remove();
}

function makeBlock(block, makeText) {
  switch (block.type) {
    case "paragraph":
      return h("p", { dir: "auto" }, makeInline(block.lines, makeText));
    case "heading":
      return h(`h${block.level}`, { dir: "auto" }, makeInline(block.lines, makeText));
    case "rule":
      return h("hr");
    case "code":
      return makeCode(block, makeText);
    case "quote":
      return h("blockquote", {}, block.children.map((child) => makeBlock(child, makeText)));
    case "list":
      return makeList(block, makeText);
    default:
      return makeTable(block, makeText);
  }
}

function makeList(block, makeText) {
  const items = block.items.map((blocks) => {
    const children = blocks.map((child) => {
      const tight = child.type === "paragraph" && !block.loose;
      return tight ? makeInline(child.lines, makeText) : makeBlock(child, makeText);
    });
    return h("li", { dir: "auto" }, children.flat());
  });
  const start = block.ordered && block.first !== 1 ? block.first : null;
  return h(block.ordered ? "ol" : "ul", { start }, items);
}

function makeCode(block, makeText) {
  const text = block.lines.map((line) => `${line.text}\n`).join("");
  const nodes = block.lines.flatMap((line) => makeText(`${line.text}\n`, line.start));
  return h(
    "div",
    { class: "code" },
    h("div", { class: "code-head" }, h("span", {}, block.language), iconButton("copy", "Copy this code", () => copyText(text))),
    h("pre", { tabindex: "0" }, h("code", {}, nodes)),
  );
}

function makeTable(block, makeText) {
  const row = (cells, name) => {
    const made = cells.map((cell, index) => {
      const align = block.align[index] ? `align-${block.align[index]}` : null;
      return h(name, { class: align, dir: "auto" }, makeInline([unescapeBars(cell)], makeText));
    });
    return h("tr", {}, made);
  };
  const [head, ...rows] = block.rows;
  const body = rows.length ? h("tbody", {}, rows.map((cells) => row(cells, "td"))) : null;
  return h("div", { class: "table", tabindex: "0" }, h("table", {}, h("thead", {}, row(head, "th")), body));
}

/** In a table `\|` is a bar, in code too; outside code the inline reader takes the backslash away itself. */
function unescapeBars(cell) {
  return /`/.test(cell.text) ? { ...cell, text: cell.text.replaceAll("\\|", "|") } : cell;
}

function makeInline(lines, makeText) {
  return makeNodes(parseInline(lines), makeText);
}

function makeNodes(nodes, makeText) {
  return nodes.flatMap((node) => {
    switch (node.type) {
      case "text":
        return makeText(node.text, node.at);
      case "break":
        return [h("br")];
      case "code":
        return [h("code", {}, node.parts.flatMap((part) => makeText(part.text, part.at)))];
      case "link":
        return [makeLink(node, makeText)];
      default:
        return [h(node.type, {}, makeNodes(node.children, makeText))];
    }
  });
}

/** A picture becomes a link to it: showing it would tell its server that someone reads here. */
function makeLink(node, makeText) {
  const attributes = { href: node.href, target: "_blank", rel: "noopener noreferrer nofollow", title: node.href };
  const children = makeNodes(node.children, makeText);
  return h("a", { ...attributes, class: node.image ? "picture" : null }, children.length ? children : node.href);
}
