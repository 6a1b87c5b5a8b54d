// What this browser keeps: conversations, one item each, in bounded room; settings; the key until the window closes.
// Nothing of it leaves the browser. A browser that keeps nothing (private windows) is lived with.

import { fromJson, toJson } from "./conversation.js";

const PREFIX = "herdbook.conversation.";
const SETTINGS = "herdbook.settings";
const CURRENT = "herdbook.current";
const KEY = "herdbook.key";
const MOST_CONVERSATIONS = 100;
const MOST_CHARACTERS = 2_000_000; // of the 5 million a browser allows

export const DEFAULTS = {
  temperature: 0.7,
  top_p: 0.95,
  top_k: 0,
  min_p: 0,
  max_tokens: 512,
  seed: null,
  stop: "",
  ask: "auto",
  probabilities: true,
  markdown: true,
};

function read(name, storage = localStorage) {
  try {
    return storage.getItem(name);
  } catch {
    return null;
  }
}

function write(name, value, storage = localStorage) {
  try {
    if (value === null) storage.removeItem(name);
    else storage.setItem(name, value);
    return true;
  } catch {
    return false;
  }
}

/** All conversations, the last changed first. What can't be read is left where it is and not shown. */
export function loadConversations() {
  const found = [];
  try {
    for (let index = 0; index < localStorage.length; index += 1) {
      const name = localStorage.key(index);
      if (name.startsWith(PREFIX)) found.push(name);
    }
  } catch {
    return [];
  }
  const conversations = found.flatMap((name) => {
    try {
      const text = read(name);
      const conversation = fromJson(text, "");
      return [{ ...conversation, id: name.slice(PREFIX.length), changed: Number(JSON.parse(text).changed) || 0 }];
    } catch {
      return [];
    }
  });
  return conversations.sort((one, other) => other.changed - one.changed);
}

/** Keep a conversation; others lose their probabilities, then go, the oldest first, when room runs short. One that
 * would take half of the room is kept without its own.
 *
 * `all` is every conversation, `conversation` among them. Returns {kept, dropped}: whether it was kept, and the
 * conversations that had to go.
 */
export function saveConversation(conversation, all) {
  if (!conversation.turns.length) return { kept: true, dropped: [] };
  const others = all.filter((other) => other !== conversation).sort((one, other) => other.changed - one.changed);
  const dropped = others.splice(MOST_CONVERSATIONS - 1);
  let text = toJson(conversation);
  if (text.length > MOST_CHARACTERS / 2) text = toJson(withoutTokens(conversation));
  const sizes = new Map(others.map((other) => [other, (read(PREFIX + other.id) ?? "").length]));
  let total = text.length + [...sizes.values()].reduce((sum, size) => sum + size, 0);
  for (const other of [...others].reverse()) {
    if (total <= MOST_CHARACTERS) break;
    if (!forgetTokens(other)) continue;
    const less = toJson(other);
    total += less.length - sizes.get(other);
    sizes.set(other, less.length);
    write(PREFIX + other.id, less);
  }
  while (total > MOST_CHARACTERS && others.length) {
    const oldest = others.pop();
    total -= sizes.get(oldest);
    dropped.push(oldest);
  }
  dropped.forEach((other) => removeConversation(other.id));
  return { kept: write(PREFIX + conversation.id, text), dropped };
}

function forgetTokens(conversation) {
  let had = false;
  for (const answer of conversation.turns.flatMap((turn) => turn.answers.flat())) {
    had ||= answer.tokens.length > 0;
    answer.tokens = [];
  }
  return had;
}

function withoutTokens(conversation) {
  const copy = structuredClone(conversation);
  forgetTokens(copy);
  return copy;
}

export const removeConversation = (id) => write(PREFIX + id, null);

export function loadSettings() {
  try {
    const saved = JSON.parse(read(SETTINGS)) ?? {};
    const known = Object.entries(DEFAULTS).map(([name, value]) => {
      const fits = name === "seed" ? Number.isInteger(saved[name]) : typeof saved[name] === typeof value;
      return [name, fits ? saved[name] : value];
    });
    return Object.fromEntries(known);
  } catch {
    return { ...DEFAULTS };
  }
}

export const saveSettings = (settings) => write(SETTINGS, JSON.stringify(settings));
export const loadCurrent = () => read(CURRENT);
export const saveCurrent = (id) => write(CURRENT, id);
export const loadKey = () => read(KEY, sessionStorage) ?? "";
export const saveKey = (key) => write(KEY, key || null, sessionStorage);
