// Inline Markdown: what stands inside one paragraph, heading or table cell, as a tree of nodes.
//
// The CommonMark algorithm for emphasis (a stack of delimiter runs) with code spans, links to http(s) addresses,
// bare addresses, ~~strikethrough~~ and backslash escapes. A newline is a line break, as people mean it in a chat.
// HTML, entities and all other schemes are left as the characters they are. Every node that holds text knows where
// in the source that text stood, so that a token of the model can be found again in what is shown. Time is linear.

import { readTarget, trimAddress, webAddress } from "./address.js";

const PUNCTUATION = /[!-/:-@[-`{-~]/;
const SPACE = /\s/u;
const SYMBOL = /[\p{P}\p{S}]/u;
const SPECIAL = /[\\`*_~[\]!<\nhH]/g;
const MOST_OPEN = 16; // runs or brackets waiting for their end; bounds time and depth
const LONGEST_RUN = 16; // of * or _ that is still taken for emphasis

/** Parse `lines` ([{text, start}], `start` being the place of `text` in the source) to inline nodes.
 *
 * Nodes: {type: "text" | "code", text, at} · {type: "break"} · {type: "em" | "strong" | "del", children} ·
 * {type: "link", href, image, children}. `at(i)` of the returned object tells the source's place of character i.
 */
export function parseInline(lines) {
  const source = new Source(lines);
  return new Parser(source).parse();
}

class Source {
  constructor(lines) {
    this.text = "";
    this.begins = []; // of each line in this.text
    this.starts = []; // of each line in the whole source
    lines.forEach((line, number) => {
      const indent = line.text.length - line.text.trimStart().length;
      if (number) this.text += "\n";
      this.begins.push(this.text.length);
      this.starts.push(line.start + indent);
      const body = line.text.slice(indent);
      const trimmed = body.trimEnd();
      this.text += trimmed.endsWith("\\") && trimmed !== body ? `${trimmed} ` : trimmed; // `\ ` is no break
    });
  }

  /** Where the character `index` of the joined text stands in the source. */
  place(index) {
    let low = 0;
    let high = this.begins.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.begins[middle] <= index) low = middle;
      else high = middle - 1;
    }
    return this.starts[low] + index - this.begins[low];
  }
}

/** A list with a head that is no node, so that taking nodes out needs no special cases. */
class Chain {
  constructor() {
    this.head = {};
    this.head.next = this.head.previous = this.head;
  }

  push(node) {
    const last = this.head.previous;
    node.previous = last;
    node.next = this.head;
    last.next = this.head.previous = node;
    return node;
  }
}

function remove(node) {
  node.previous.next = node.next;
  node.next.previous = node.previous;
}

/** Take all nodes strictly between two out of their chain. */
function takeBetween(first, last) {
  const taken = [];
  for (let node = first.next; node !== last; node = node.next) taken.push(node);
  first.next = last;
  last.previous = first;
  return taken;
}

class Parser {
  constructor(source) {
    this.source = source;
    this.text = source.text;
    this.position = 0;
    this.chain = new Chain();
    this.delimiters = []; // runs of * _ ~ that may still open or close
    this.brackets = []; // [ and ![ that may still begin a link
    this.backticks = backtickRuns(this.text);
  }

  parse() {
    while (this.position < this.text.length) this.step();
    this.emphasise(0);
    const nodes = takeBetween(this.chain.head, this.chain.head);
    return nodes.map((node) => settle(node));
  }

  addText(text, index) {
    const last = this.chain.head.previous;
    const place = this.source.place(index);
    if (last.type === "text" && !last.bracket && last.at + last.text.length === place) last.text += text;
    else this.chain.push({ type: "text", text, at: place });
  }

  step() {
    const { text, position } = this;
    SPECIAL.lastIndex = position;
    const found = SPECIAL.exec(text);
    const stop = found ? found.index : text.length;
    if (stop > position) {
      this.addText(text.slice(position, stop), position);
      this.position = stop;
      return;
    }
    const done = {
      "\\": () => this.escape(),
      "`": () => this.code(),
      "*": () => this.run("*"),
      "_": () => this.run("_"),
      "~": () => this.run("~"),
      "[": () => this.open(false),
      "!": () => text[position + 1] === "[" && this.open(true),
      "]": () => this.close(),
      "<": () => this.pointed(),
      "\n": () => this.lineBreak(1),
      h: () => this.bare(),
      H: () => this.bare(),
    }[text[position]]();
    if (!done) {
      this.addText(text[position], position);
      this.position += 1;
    }
  }

  lineBreak(length) {
    this.chain.push({ type: "break" });
    this.position += length;
    return true;
  }

  escape() {
    const next = this.text[this.position + 1];
    if (next === "\n") return this.lineBreak(2);
    if (next === undefined || !PUNCTUATION.test(next)) return false;
    this.chain.push({ type: "text", text: next, at: this.source.place(this.position + 1) });
    this.position += 2;
    return true;
  }

  code() {
    const begin = this.position;
    let end = begin;
    while (this.text[end] === "`") end += 1;
    const closing = this.backticks(end - begin, end);
    if (closing < 0) {
      this.addText(this.text.slice(begin, end), begin);
      this.position = end;
      return true;
    }
    let [from, to] = [end, closing];
    const inside = this.text.slice(from, to).replaceAll("\n", " ");
    if (inside.startsWith(" ") && inside.endsWith(" ") && inside.trim()) {
      from += 1;
      to -= 1;
    }
    const parts = [];
    for (let at = from; at < to; ) {
      const newline = this.text.indexOf("\n", at);
      const stop = newline < 0 || newline >= to ? to : newline;
      if (stop > at) parts.push({ text: this.text.slice(at, stop), at: this.source.place(at) });
      if (stop < to) parts.push({ text: " ", at: this.source.place(stop) });
      at = stop + 1;
    }
    this.chain.push({ type: "code", parts });
    this.position = closing + (end - begin);
    return true;
  }

  run(char) {
    const { text, position } = this;
    let end = position;
    while (text[end] === char) end += 1;
    const before = position ? previousCharacter(text, position) : " ";
    const after = end < text.length ? String.fromCodePoint(text.codePointAt(end)) : " ";
    const spaceAfter = SPACE.test(after);
    const spaceBefore = SPACE.test(before);
    const left = !spaceAfter && (!SYMBOL.test(after) || spaceBefore || SYMBOL.test(before));
    const right = !spaceBefore && (!SYMBOL.test(before) || spaceAfter || SYMBOL.test(after));
    const word = char === "_";
    const count = end - position;
    const node = this.chain.push({
      type: "run",
      char,
      count,
      length: count,
      at: this.source.place(position),
      opens: left && (!word || !right || SYMBOL.test(before)),
      closes: right && (!word || !left || SYMBOL.test(after)),
    });
    if (char === "~" ? count === 2 : count <= LONGEST_RUN) this.delimiters.push(node);
    this.position = end;
    return true;
  }

  /** Pair the runs above `bottom` of the stack to emphasis, and drop them from the stack. */
  emphasise(bottom) {
    const runs = this.delimiters.splice(bottom);
    const openers = []; // runs before the one in hand that may still open
    for (const closer of runs) {
      while (closer.closes && closer.count) {
        let index = openers.length - 1;
        while (index >= 0 && !pairs(openers[index], closer)) index -= 1;
        if (index < 0) break;
        this.wrap(openers[index], closer);
        openers.length = openers[index].count ? index + 1 : index;
      }
      if (closer.opens && closer.count) openers.push(closer);
      if (openers.length > MOST_OPEN) openers.shift();
    }
  }

  wrap(opener, closer) {
    const strike = opener.char === "~";
    const used = strike || (opener.count >= 2 && closer.count >= 2) ? 2 : 1;
    const children = takeBetween(opener, closer);
    const node = { type: strike ? "del" : used === 2 ? "strong" : "em", children };
    node.previous = opener;
    node.next = closer;
    opener.next = closer.previous = node;
    opener.count -= used;
    closer.count -= used;
    closer.at += used;
    if (!opener.count) remove(opener);
    if (!closer.count) remove(closer);
  }

  open(image) {
    const length = image ? 2 : 1;
    const node = this.chain.push({
      type: "text",
      text: image ? "![" : "[",
      at: this.source.place(this.position),
      bracket: true,
    });
    if (this.brackets.length === MOST_OPEN) this.brackets.shift();
    this.brackets.push({ node, image, bottom: this.delimiters.length, active: true });
    this.position += length;
    return true;
  }

  close() {
    const bracket = this.brackets.pop();
    if (!bracket || !bracket.active) return false;
    const target = readTarget(this.text, this.position + 1);
    const href = target && webAddress(target.address);
    if (!href) return false;
    this.emphasise(bracket.bottom);
    const children = takeBetween(bracket.node, this.chain.head).flatMap(withoutLinks);
    remove(bracket.node);
    this.chain.push({ type: "link", href, image: bracket.image, children });
    if (!bracket.image) for (const other of this.brackets) other.active = false; // no link inside a link
    this.position = target.end;
    return true;
  }

  pointed() {
    const pattern = /<(https?:\/\/[^\s<>]*)>/iy;
    pattern.lastIndex = this.position;
    const found = pattern.exec(this.text);
    const href = found && webAddress(found[1]);
    if (!href) return false;
    this.addLink(found[1], href, this.position + 1);
    this.position += found[0].length;
    return true;
  }

  bare() {
    const before = this.text[this.position - 1];
    if (before !== undefined && /[\p{L}\p{N}_]/u.test(before)) return false;
    const pattern = /https?:\/\/[^\s<>"`[\]\\]+/iy;
    pattern.lastIndex = this.position;
    const found = pattern.exec(this.text);
    const address = found && trimAddress(found[0]);
    const href = address && webAddress(address);
    if (!href) return false;
    this.addLink(address, href, this.position);
    this.position += address.length;
    return true;
  }

  addLink(text, href, index) {
    const children = [{ type: "text", text, at: this.source.place(index) }];
    this.chain.push({ type: "link", href, image: false, children });
  }
}

/** CommonMark's rule of three included: `*a**b*` is one emphasis, not two halves. */
function pairs(opener, closer) {
  if (opener.char !== closer.char) return false;
  const either = opener.closes || closer.opens;
  return !(either && (opener.length + closer.length) % 3 === 0 && (opener.length % 3 || closer.length % 3));
}

/** Runs that paired with nothing are text; children are settled too. */
function settle(node) {
  if (node.type === "run") return { type: "text", text: node.char.repeat(node.count), at: node.at };
  const { previous, next, ...rest } = node;
  if (rest.children) rest.children = rest.children.map(settle);
  return rest;
}

function withoutLinks(node) {
  if (node.type === "link") return node.children;
  return [node.children ? { ...node, children: node.children.flatMap(withoutLinks) } : node];
}

function previousCharacter(text, position) {
  const low = text.charCodeAt(position - 1);
  const pair = low >= 0xdc00 && low <= 0xdfff && position > 1;
  return pair ? text.slice(position - 2, position) : text[position - 1];
}

/** A function that finds the next run of exactly `length` backticks at or after a place; -1 when there is none. */
function backtickRuns(text) {
  const runs = new Map();
  for (const found of text.matchAll(/`+/g)) {
    const length = found[0].length;
    if (!runs.has(length)) runs.set(length, []);
    runs.get(length).push(found.index);
  }
  const passed = new Map();
  return (length, from) => {
    const places = runs.get(length) ?? [];
    let index = passed.get(length) ?? 0;
    while (index < places.length && places[index] < from) index += 1;
    passed.set(length, index);
    return places[index] ?? -1;
  };
}
