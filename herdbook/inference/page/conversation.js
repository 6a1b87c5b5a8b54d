// A conversation as data: turns, each one prompt and the answers to it, in one lane or in two side by side. What is sent
// to a model, what is written to a file and what is read from one are all made from this.
//
// conversation: {id, title, changed, system, lanes: [model], turns: [turn]}
// turn:         {prompt, answers: [[answer]], chosen: [index]}   by lane: every try, and which of them is shown
// answer:       {model, kind, text, finish, error, seed, stats: {prompt, tokens, seconds, first}, tokens}

const FORMAT = "herdbook conversation";
const LONGEST_TITLE = 60;

export function newConversation(lanes) {
  return { id: crypto.randomUUID?.() ?? randomId(), title: "", changed: Date.now(), system: "", lanes: [...lanes], turns: [] };
}

function randomId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function newAnswer(model, kind, seed) {
  return { model, kind, text: "", finish: null, error: null, seed, stats: {}, tokens: [] };
}

/** What the list of conversations calls it. */
export function titleOf(conversation) {
  const first = conversation.title || conversation.turns[0]?.prompt || "";
  const line = first.trim().split("\n")[0];
  return line.length > LONGEST_TITLE ? `${line.slice(0, LONGEST_TITLE - 1)}…` : line || "New conversation";
}

/** The answer of a lane that is shown, and that later turns build on. */
export function shownAnswer(turn, lane) {
  const tries = turn.answers[lane] ?? [];
  return tries[turn.chosen[lane] ?? 0] ?? null;
}

/** A lane that joined later has the first one's answers as its own past. */
function pastAnswer(turn, lane) {
  return shownAnswer(turn, lane) ?? shownAnswer(turn, 0);
}

/** The dialog up to and with the prompt of a turn, as messages. */
export function messagesFor(conversation, lane, turnIndex) {
  const messages = conversation.system.trim() ? [{ role: "system", content: conversation.system }] : [];
  conversation.turns.slice(0, turnIndex + 1).forEach((turn, index) => {
    messages.push({ role: "user", content: turn.prompt });
    const answer = index < turnIndex && pastAnswer(turn, lane);
    if (answer?.text) messages.push({ role: "assistant", content: answer.text });
  });
  return messages;
}

/** The text up to and with the prompt of a turn, for a model that goes on with it. */
export function textFor(conversation, lane, turnIndex) {
  return conversation.turns
    .slice(0, turnIndex + 1)
    .map((turn, index) => turn.prompt + (index < turnIndex ? (pastAnswer(turn, lane)?.text ?? "") : ""))
    .join("");
}

/** Forget everything behind a turn's prompt; returns how many turns went. */
export function cutAfter(conversation, turnIndex) {
  const gone = conversation.turns.length - turnIndex - 1;
  conversation.turns.length = turnIndex + 1;
  return gone;
}

export function addTurn(conversation, prompt) {
  conversation.turns.push({ prompt, answers: conversation.lanes.map(() => []), chosen: conversation.lanes.map(() => 0) });
  return conversation.turns.length - 1;
}

export function toJson(conversation) {
  return JSON.stringify({ format: FORMAT, version: 1, ...conversation }, null, 1);
}

export function toMarkdown(conversation) {
  const parts = [`# ${titleOf(conversation)}`];
  if (conversation.system.trim()) parts.push(`**System**\n\n${quote(conversation.system)}`);
  for (const turn of conversation.turns) {
    if (turn.prompt) parts.push(`**You**\n\n${quote(turn.prompt)}`);
    conversation.lanes.forEach((model, lane) => {
      const answer = shownAnswer(turn, lane);
      if (answer) parts.push(`**${answer.model}**\n\n${answer.text}`);
    });
  }
  return `${parts.join("\n\n")}\n`;
}

function quote(text) {
  return text.split("\n").map((line) => `> ${line}`.trimEnd()).join("\n");
}

/** Read what `toJson` wrote, or a list of messages in OpenAI's form. Everything is checked and copied field by field:
 * the file may come from anyone. Throws an Error that says what is wrong. */
export function fromJson(text, fallbackModel) {
  let data;
  try {
    data = JSON.parse(text);
  } catch (error) {
    throw new Error(`This file is no JSON (${error.message}).`);
  }
  const messages = Array.isArray(data) ? data : data?.messages;
  if (Array.isArray(messages)) return fromMessages(messages, fallbackModel);
  if (data?.format !== FORMAT) throw new Error("This file holds no conversation: export one as JSON to see the form.");
  const lanes = list(data.lanes).slice(0, 2).map(string);
  if (!lanes.length) lanes.push(fallbackModel);
  const conversation = { ...newConversation(lanes), title: string(data.title), system: string(data.system) };
  for (const turn of list(data.turns)) {
    const answers = lanes.map((_, lane) => list(list(turn?.answers)[lane]).map(readAnswer));
    const chosen = answers.map((tries, lane) => Math.min(count(list(turn?.chosen)[lane]), Math.max(0, tries.length - 1)));
    conversation.turns.push({ prompt: string(turn?.prompt), answers, chosen });
  }
  return conversation;
}

function fromMessages(messages, model) {
  const conversation = newConversation([model]);
  for (const message of messages) {
    const text = string(message?.content);
    if (message?.role === "system") conversation.system = text;
    else if (message?.role === "user") addTurn(conversation, text);
    else if (message?.role === "assistant" && conversation.turns.length) {
      conversation.turns.at(-1).answers[0].push({ ...newAnswer(model, "chat", null), text, finish: "stop" });
    }
  }
  if (!conversation.turns.length) throw new Error("There is no message of a user in this file.");
  return conversation;
}

function readAnswer(data) {
  const stats = {};
  for (const name of ["prompt", "tokens", "seconds", "first"]) {
    if (Number.isFinite(data?.stats?.[name])) stats[name] = data.stats[name];
  }
  return {
    ...newAnswer(string(data?.model), data?.kind === "base" ? "base" : "chat", Number.isInteger(data?.seed) ? data.seed : null),
    text: string(data?.text),
    finish: ["stop", "length", "stopped", "error"].includes(data?.finish) ? data.finish : "stopped",
    error: data?.error ? string(data.error) : null,
    stats,
    tokens: list(data?.tokens).map(readToken).filter(Boolean),
  };
}

function readToken(data) {
  if (typeof data?.piece !== "string" || !Number.isFinite(data.logprob)) return null;
  const top = list(data.top).filter((other) => typeof other?.[0] === "string" && Number.isFinite(other[1]));
  return { piece: data.piece, logprob: data.logprob, top: top.map(([text, logprob]) => [text, logprob]) };
}

const list = (value) => (Array.isArray(value) ? value : []);
const string = (value) => (typeof value === "string" ? value : "");
const count = (value) => (Number.isInteger(value) && value >= 0 ? value : 0);
