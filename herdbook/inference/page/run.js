// One answer while it is being written: asks for it, waits when the server is busy, counts, and says how it ended.

import { streamAnswer } from "./stream.js";

const MOST_TRIES = 3;

const ADVICE = {
  down: "Is herdbook serve still running? This page goes on by itself once it is back.",
  key: "Give the key that the server was started with.",
  busy: "Too many are asking at once. Try again in a moment.",
  closing: "It is shutting down, or has just done so. Start it again, then try again.",
  broken: "What had come is kept. Try again for a whole answer.",
  refused: "",
};

export class Run {
  /** `ask` is what `streamAnswer` takes; `answer` is filled in as it comes, `changed` called each time it is. */
  constructor(ask, answer, key, changed) {
    Object.assign(this, { ask, answer, key, changed });
    this.abort = new AbortController();
    this.notice = "";
    this.errorKind = null;
  }

  stop() {
    this.abort.abort();
  }

  async go() {
    for (let tries = 1; ; tries += 1) {
      try {
        await this.once();
        break;
      } catch (error) {
        if (this.abort.signal.aborted) {
          this.answer.finish = "stopped";
          break;
        }
        if (error.kind === "busy" && tries <= MOST_TRIES && (await this.waited(error.wait))) continue;
        this.fail(error);
        break;
      }
    }
    this.notice = "";
    this.changed();
  }

  fail(error) {
    if (!error.kind) console.error(error);
    this.errorKind = error.kind ?? "broken";
    this.answer.finish = this.abort.signal.aborted ? "stopped" : "error";
    if (this.answer.finish === "error") this.answer.error = `${error.message} ${ADVICE[this.errorKind]}`.trim();
  }

  /** Count down; false when the person stopped it meanwhile. */
  async waited(seconds) {
    for (let left = Math.ceil(seconds); left > 0 && !this.abort.signal.aborted; left -= 1) {
      this.notice = `The server is busy; asking again in ${left} s`;
      this.changed();
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, 1000);
        this.abort.signal.addEventListener("abort", () => resolve(clearTimeout(timer)), { once: true });
      });
    }
    this.notice = "";
    return !this.abort.signal.aborted;
  }

  async once() {
    const { answer } = this;
    const begin = performance.now();
    let pieces = 0;
    let first = 0;
    for await (const part of streamAnswer(this.ask, this.key, this.abort.signal)) {
      const now = performance.now();
      if (part.text || part.tokens.length) {
        pieces += part.tokens.length || 1;
        first ||= now;
        answer.stats = { ...answer.stats, tokens: pieces, first: (first - begin) / 1000, seconds: (now - begin) / 1000 };
      }
      answer.text += part.text;
      answer.tokens.push(...part.tokens);
      if (part.finish) answer.finish = part.finish;
      if (part.usage) {
        answer.stats.prompt = part.usage.prompt_tokens;
        answer.stats.tokens = part.usage.completion_tokens;
      }
      this.changed();
    }
  }
}

/** Tokens that came within this many seconds came in one gust, which tells the network's pace and not the model's. */
const GUST = 0.1;

/**
 * Tokens per second while tokens came, so without the wait for the first; with it where they came in one gust. Null when
 * there is nothing to tell.
 */
export function speedOf({ tokens, seconds, first }) {
  if (!(tokens > 1 && seconds > 0)) return null;
  return seconds - first >= GUST ? (tokens - 1) / (seconds - first) : tokens / seconds;
}
