// Talking to the server: its models, and answers as they are written, in one form for chat and for plain text.

/** What went wrong, and in which way the person (or the page) can help it. */
export class ServerError extends Error {
  constructor(kind, message, { status = 0, wait = 0 } = {}) {
    super(message);
    this.kind = kind; // "down" | "key" | "busy" | "closing" | "refused" | "broken"
    this.status = status;
    this.wait = wait; // seconds until another try makes sense
  }
}

const address = (path) => new URL(path, document.baseURI);

async function request(path, key, options = {}) {
  const headers = { ...(options.body ? { "Content-Type": "application/json" } : {}) };
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(address(path), { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("down", "The server does not answer.");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  const { status } = response;
  let message = "";
  try {
    message = (await response.json()).error.message;
  } catch {
    message = "";
  }
  message = typeof message === "string" && message ? message : `The server answered ${status} ${response.statusText}`.trim();
  if (status === 401 || status === 403) return new ServerError("key", message, { status });
  if (status === 429) {
    const wait = Number(response.headers.get("Retry-After"));
    return new ServerError("busy", message, { status, wait: wait > 0 ? Math.min(wait, 60) : 2 });
  }
  if (status === 503) return new ServerError("closing", message, { status });
  return new ServerError(status < 500 ? "refused" : "broken", message, { status });
}

/** The served herd: [{id, kind: "chat" | "base", context, parameters, lineage}]. */
export async function listModels(key) {
  const body = await (await request("v1/models", key)).json();
  return body.data.map((model) => ({
    id: String(model.id),
    kind: model.kind === "base" ? "base" : "chat",
    context: model.context ?? model.max_model_len ?? null,
    parameters: model.parameters ?? null,
    lineage: model.lineage ?? "",
  }));
}

export async function isAlive() {
  try {
    return (await fetch(address("health"), { cache: "no-store" })).ok;
  } catch {
    return false;
  }
}

/** How many tokens a prompt has, as the model counts them. */
async function countTokens(ask, key, signal) {
  const text = ask.kind === "base" ? { prompt: ask.prompt } : { messages: ask.messages };
  const body = JSON.stringify({ model: ask.model, ...text });
  return (await (await request("tokenize", key, { method: "POST", body, signal })).json()).count;
}

/** Ask for one answer; yields {text, tokens, finish, usage}, each part only where the server sent it.
 *
 * `ask`: {model, kind, messages | prompt, context, sampling, alternatives}, `sampling` in the words of the API (its
 * `max_tokens` is lessened to what the context leaves), `alternatives` being how many tokens to tell the probabilities
 * of (0: none). A token is {piece, logprob, top: [[text, logprob]]}.
 */
export async function* streamAnswer(ask, key, signal) {
  const chat = ask.kind !== "base";
  const prompt = await countTokens(ask, key, signal);
  yield { text: "", tokens: [], finish: null, usage: { prompt_tokens: prompt, completion_tokens: 0 } };
  const body = { model: ask.model, stream: true, stream_options: { include_usage: true }, ...ask.sampling };
  if (ask.context) body.max_tokens = Math.max(1, Math.min(body.max_tokens, ask.context - prompt));
  if (chat) body.messages = ask.messages;
  else body.prompt = ask.prompt;
  if (ask.alternatives) Object.assign(body, chat ? { logprobs: true, top_logprobs: ask.alternatives } : { logprobs: ask.alternatives });
  const path = chat ? "v1/chat/completions" : "v1/completions";
  const response = await request(path, key, { method: "POST", body: JSON.stringify(body), signal });
  const read = chat ? chatReader() : textReader();
  let ended = false;
  for await (const data of readEvents(response.body)) {
    if (data === "[DONE]") return;
    const chunk = parse(data);
    if (chunk.error) throw new ServerError("broken", chunk.error.message ?? "The server gave up on this answer.");
    const choice = chunk.choices?.[0];
    const part = choice ? read(choice) : { text: "", tokens: [] };
    part.finish = choice?.finish_reason ?? null;
    part.usage = chunk.usage ?? null;
    ended ||= Boolean(part.finish);
    yield part;
  }
  if (!ended) throw new ServerError("broken", "The connection broke before the answer was whole.");
}

function parse(data) {
  try {
    return JSON.parse(data);
  } catch {
    throw new ServerError("broken", "The server sent something that is no JSON.");
  }
}

/** The data of each server-sent event. */
export async function* readEvents(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  let event = [];
  try {
    for (;;) {
      let result;
      try {
        result = await reader.read();
      } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new ServerError("broken", "The connection broke before the answer was whole.");
      }
      held += result.done ? "\n\n" : result.value;
      const lines = held.split(/\r\n|\n|\r(?!$)/);
      held = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) event.push(line.slice(line[5] === " " ? 6 : 5));
        else if (line === "" && event.length) {
          yield event.join("\n");
          event = [];
        }
      }
      if (result.done) return;
    }
  } finally {
    reader.cancel().catch(() => {}); // tells the server that nobody listens any more
  }
}

function chatReader() {
  const decoder = new TextDecoder();
  return (choice) => ({
    text: choice.delta?.content ?? "",
    tokens: (choice.logprobs?.content ?? []).map((token) => ({
      piece: token.bytes ? decoder.decode(new Uint8Array(token.bytes), { stream: true }) : token.token,
      logprob: token.logprob,
      top: (token.top_logprobs ?? []).map((other) => [other.token, other.logprob]),
    })),
  });
}

function textReader() {
  return (choice) => {
    const { tokens = [], token_logprobs: logprobs = [], top_logprobs: tops = [] } = choice.logprobs ?? {};
    return {
      text: choice.text ?? "",
      tokens: tokens.map((piece, index) => ({
        piece,
        logprob: logprobs[index],
        top: Object.entries(tops?.[index] ?? {}).sort((one, other) => other[1] - one[1]),
      })),
    };
  };
}
