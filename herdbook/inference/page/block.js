// Block Markdown: paragraphs, headings, rules, quotes, lists, fenced code and tables, as a tree of nodes.
//
// Follows CommonMark (tables: GitHub's) where people's habits in chats agree with it. Left out on purpose: code by
// indentation, headings by underlining (`---` below a line is a rule), references, HTML. A table may follow a list or
// quote without an empty line. Lines carry their place in the source through every quote and list they stand in.

const DEEPEST = 12; // quotes and lists within each other; what is deeper is a paragraph
const FENCE = /^ {0,3}(`{3,}(?=[^`]*$)|~{3,})[ \t]*(\S*)/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+|$)/;
const RULE = /^ {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])([ \t]+|$)/;

/** Parse the source to blocks.
 *
 * Nodes: {type: "paragraph" | "heading", lines, level} · {type: "rule"} · {type: "code", language, lines} ·
 * {type: "quote", children} · {type: "list", ordered, first, loose, items: [blocks]} ·
 * {type: "table", align, rows: [[line]]}, the first row being the head. Lines are {text, start}.
 * Top-level blocks have `start` and `end`, places in the source.
 */
export function parseBlocks(source) {
  const lines = [];
  let start = 0;
  for (const text of source.split("\n")) {
    lines.push({ text: text.endsWith("\r") ? text.slice(0, -1) : text, start });
    start += text.length + 1;
  }
  return parseLines(lines, 0);
}

function parseLines(lines, depth) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (isBlank(lines[at].text)) {
      at += 1;
      continue;
    }
    const [block, next] = readBlock(lines, at, depth);
    const last = lines[next - 1];
    const spaced = at > 0 && isBlank(lines[at - 1].text);
    blocks.push({ ...block, spaced, start: lines[at].start, end: last.start + last.text.length });
    at = next;
  }
  return blocks;
}

function readBlock(lines, at, depth) {
  const { text } = lines[at];
  if (FENCE.test(text)) return readFence(lines, at);
  if (HEADING.test(text)) return [readHeading(lines[at]), at + 1];
  if (RULE.test(text)) return [{ type: "rule" }, at + 1];
  if (depth < DEEPEST && QUOTE.test(text)) return readQuote(lines, at, depth);
  if (depth < DEEPEST && ITEM.test(text)) return readList(lines, at, depth);
  if (isTable(lines, at)) return readTable(lines, at, depth);
  return readParagraph(lines, at, depth);
}

function isBlank(text) {
  return !/\S/.test(text);
}

/** Whether a paragraph ends where this line begins. */
function interrupts(lines, at, depth) {
  return isTable(lines, at) || beginsOther(lines[at].text, depth);
}

/** Whether this line is empty, or begins something that is neither a paragraph nor a table. */
function beginsOther(text, depth) {
  if (isBlank(text) || FENCE.test(text) || HEADING.test(text) || RULE.test(text)) return true;
  if (depth >= DEEPEST) return false;
  if (QUOTE.test(text)) return true;
  const item = ITEM.exec(text);
  return Boolean(item) && !isBlank(text.slice(item[0].length)) && (/[-*+]/.test(item[2]) || parseInt(item[2]) === 1);
}

function readParagraph(lines, at, depth) {
  let next = at + 1;
  while (next < lines.length && !interrupts(lines, next, depth)) next += 1;
  return [{ type: "paragraph", lines: lines.slice(at, next) }, next];
}

function readHeading(line) {
  const [opening, marks] = HEADING.exec(line.text);
  const text = line.text.slice(opening.length).replace(/(^|[ \t])#+[ \t]*$/, "");
  return { type: "heading", level: marks.length, lines: [{ text, start: line.start + opening.length }] };
}

function readFence(lines, at) {
  const [, marks, language] = FENCE.exec(lines[at].text);
  const indent = lines[at].text.length - lines[at].text.trimStart().length;
  const body = [];
  for (let next = at + 1; next < lines.length; next += 1) {
    const { text } = lines[next];
    const bare = text.trim();
    const closes = bare.length >= marks.length && columns(text) < 4 && bare === marks[0].repeat(bare.length);
    if (closes) return [{ type: "code", language, lines: body, closed: true }, next + 1];
    body.push(outdent(lines[next], indent));
  }
  return [{ type: "code", language, lines: body, closed: false }, lines.length];
}

function readQuote(lines, at, depth) {
  const inner = new Inside(depth + 1);
  let next = at;
  for (; next < lines.length; next += 1) {
    const found = QUOTE.exec(lines[next].text);
    if (found) inner.push(cut(lines[next], found[0].length));
    else if (inner.paragraph && !ITEM.test(lines[next].text) && !interrupts(lines, next, depth)) inner.push(lines[next]);
    else break;
  }
  return [{ type: "quote", children: parseLines(inner.lines, depth + 1) }, next];
}

/** Tells, line by line, whether a line without the mark of its quote or list may go on with a paragraph in it. */
class Inside {
  constructor(depth) {
    this.depth = depth;
    this.lines = [];
    this.fence = null;
    this.paragraph = false;
  }

  push(line) {
    this.lines.push(line);
    let { text } = line;
    for (let level = this.depth; level < DEEPEST; level += 1) {
      const mark = QUOTE.exec(text) ?? (RULE.test(text) ? null : ITEM.exec(text));
      if (!mark) break;
      text = text.slice(mark[0].length);
    }
    const marks = FENCE.exec(text);
    const closes = this.fence && marks && marks[1].startsWith(this.fence) && !marks[2];
    this.paragraph = !this.fence && !marks && !isBlank(text) && !HEADING.test(text) && !RULE.test(text);
    if (closes) this.fence = null;
    else if (marks && !this.fence) this.fence = marks[1];
  }
}

function readList(lines, at, depth) {
  const [, , mark] = ITEM.exec(lines[at].text);
  const kind = mark.at(-1);
  const items = [];
  let loose = false;
  let next = at;
  while (next < lines.length) {
    const found = ITEM.exec(lines[next].text);
    if (!found || found[2].at(-1) !== kind || RULE.test(lines[next].text)) break;
    const [inner, end] = readItem(lines, next, found, depth);
    const blocks = parseLines(inner, depth + 1);
    items.push(blocks);
    loose ||= blocks.some((block, number) => number && block.spaced);
    next = end;
    while (next < lines.length && isBlank(lines[next].text)) next += 1;
    const more = next < lines.length && ITEM.exec(lines[next].text);
    if (!more || more[2].at(-1) !== kind || RULE.test(lines[next].text)) {
      next = end;
      break;
    }
    loose ||= next > end;
  }
  const ordered = /\d/.test(mark);
  return [{ type: "list", ordered, first: ordered ? parseInt(mark) : 1, loose, items }, next];
}

/** The lines of one item without its mark and indentation, and where the next begins. */
function readItem(lines, at, found, depth) {
  const [whole, indent, mark, space] = found;
  const rest = lines[at].text.slice(whole.length);
  const begin = indent.length + mark.length;
  const spaces = isBlank(rest) || columns(space, begin) > 4 ? 1 : columns(space, begin);
  const width = begin + spaces;
  const inner = new Inside(depth + 1);
  inner.push(cut(lines[at], whole.length - (isBlank(rest) ? 0 : Math.max(0, space.length - spaces))));
  let next = at + 1;
  for (; next < lines.length; next += 1) {
    const { text } = lines[next];
    if (isBlank(text)) {
      if (next === at + 1 && isBlank(rest)) break; // an item may begin with one empty line only
      inner.push(cut(lines[next], text.length));
    } else if (columns(text) >= width) inner.push(outdent(lines[next], width));
    else if (inner.paragraph && !ITEM.test(text) && !interrupts(lines, next, depth)) inner.push(lines[next]);
    else break;
  }
  while (next > at + 1 && isBlank(lines[next - 1].text)) {
    next -= 1;
    inner.lines.pop();
  }
  return [inner.lines, next];
}

function cut(line, length) {
  return { text: line.text.slice(length), start: line.start + length };
}

/** How far a line is indented, a tab reaching to the next column divisible by four; `begin` is the column it begins at. */
function columns(text, begin = 0) {
  let column = begin;
  for (const char of text) {
    if (char === " ") column += 1;
    else if (char === "\t") column += 4 - (column % 4);
    else break;
  }
  return column - begin;
}

/** Take up to `width` columns of indentation off a line. */
function outdent(line, width) {
  let column = 0;
  let length = 0;
  for (; column < width && length < line.text.length; length += 1) {
    if (line.text[length] === " ") column += 1;
    else if (line.text[length] === "\t") column += 4 - (column % 4);
    else break;
  }
  return cut(line, length);
}

function isTable(lines, at) {
  const next = lines[at + 1];
  if (!next || !/^[ \t|:-]*$/.test(next.text) || !lines[at].text.includes("|")) return false;
  const rule = cells(next);
  if (!rule.every((cell) => /^:?-+:?$/.test(cell.text))) return false;
  return cells(lines[at]).length === rule.length;
}

function readTable(lines, at, depth) {
  const align = cells(lines[at + 1]).map(({ text }) => {
    if (text.endsWith(":")) return text.startsWith(":") ? "center" : "right";
    return text.startsWith(":") ? "left" : "";
  });
  const rows = [cells(lines[at])];
  let next = at + 2;
  for (; next < lines.length && !ITEM.test(lines[next].text) && !beginsOther(lines[next].text, depth); next += 1) {
    const row = cells(lines[next]).slice(0, align.length);
    while (row.length < align.length) row.push({ text: "", start: lines[next].start + lines[next].text.length });
    rows.push(row);
  }
  return [{ type: "table", align, rows }, next];
}

/** The cells of a table's line; a bar behind a backslash is part of its cell. */
function cells(line) {
  const { text } = line;
  const bounds = [];
  for (let index = 0; index < text.length; index += 1) {
    if (text[index] === "\\") index += 1;
    else if (text[index] === "|") bounds.push(index);
  }
  const edges = [-1, ...bounds, text.length];
  if (edges.length > 2 && isBlank(text.slice(0, edges[1]))) edges.shift();
  if (edges.length > 2 && isBlank(text.slice(edges.at(-2) + 1))) edges.pop();
  const row = [];
  for (let index = 0; index + 1 < edges.length; index += 1) {
    const whole = text.slice(edges[index] + 1, edges[index + 1]);
    const indent = whole.length - whole.trimStart().length;
    row.push({ text: whole.trim(), start: line.start + edges[index] + 1 + indent });
  }
  return row;
}
