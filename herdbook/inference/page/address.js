// Addresses in Markdown: `(address "title")` behind a link's text, bare ones in a sentence, and which may be followed.

const DEEPEST_PARENTHESES = 32;
const ESCAPABLE = /[!-/:-@[-`{-~]/;

/** Read `(address "title")` at `position`: {address, end}, or null. */
export function readTarget(text, position) {
  if (text[position] !== "(") return null;
  let at = skipSpace(text, position + 1);
  const begin = at;
  let address;
  if (text[at] === "<") {
    const end = /[<>\n]/g;
    end.lastIndex = at + 1;
    const found = end.exec(text);
    if (!found || found[0] !== ">") return null;
    address = text.slice(at + 1, found.index);
    at = found.index + 1;
  } else {
    let depth = 0;
    for (; at < text.length && !/[\s\x00-\x1f\x7f]/.test(text[at]); at += 1) {
      if (text[at] === "\\" && ESCAPABLE.test(text[at + 1] ?? "")) at += 1;
      else if (text[at] === "(" && (depth += 1) > DEEPEST_PARENTHESES) return null;
      else if (text[at] === ")" && (depth -= 1) < 0) break;
    }
    if (depth > 0) return null;
    address = text.slice(begin, at);
  }
  const behind = skipSpace(text, at);
  if (text[behind] === ")") return { address: unescape(address), end: behind + 1 };
  const closing = { '"': '"', "'": "'", "(": ")" }[text[behind]];
  if (!closing || behind === at) return null;
  let end = behind + 1;
  while (end < text.length && text[end] !== closing) end += text[end] === "\\" ? 2 : 1;
  end = skipSpace(text, end + 1);
  return text[end] === ")" ? { address: unescape(address), end: end + 1 } : null;
}

function skipSpace(text, position) {
  while (position < text.length && /\s/.test(text[position])) position += 1;
  return position;
}

function unescape(text) {
  return text.replace(/\\([!-/:-@[-`{-~])/g, "$1");
}

/** The address as a browser reads it, if it leads to the web; null for everything else. */
export function webAddress(text) {
  if (!/^https?:\/\/[^\s]/i.test(text)) return null;
  try {
    const url = new URL(text);
    return url.protocol === "https:" || url.protocol === "http:" ? url.href : null;
  } catch {
    return null;
  }
}

/** What of a bare address belongs to the sentence around it is taken off its end. */
export function trimAddress(text) {
  let surplus = (text.match(/\)/g) ?? []).length - (text.match(/\(/g) ?? []).length;
  let end = text.length;
  for (; end > 0; end -= 1) {
    const last = text[end - 1];
    if (last === ")" && surplus > 0) surplus -= 1;
    else if (!/[?!.,:;*_~'|]/.test(last)) break;
  }
  return text.slice(0, end);
}
