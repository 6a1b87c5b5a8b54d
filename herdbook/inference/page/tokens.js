// Tokens in what is shown: where each token of an answer stands in its text, how likely it was, and what else could
// have stood there. The same spans serve the hover, the arrow keys and the shading.

import { h } from "./dom.js";

const LOOK_AHEAD = 16; // characters to skip at most to find a token's text again

/** Where the tokens of a growing text stand in it. */
export class Alignment {
  constructor() {
    this.ends = []; // of each token that has been placed
    this.position = 0;
  }

  /** Place further tokens; `whole` says that the text will not grow any more. */
  follow(tokens, text, whole) {
    while (this.ends.length < tokens.length) {
      const { piece } = tokens[this.ends.length];
      const rest = text.length - this.position;
      if (text.startsWith(piece, this.position)) this.position += piece.length;
      else if (rest < piece.length && piece.startsWith(text.slice(this.position))) {
        if (!whole) return; // the text is held back, it may become a stop text
        this.position = text.length;
      } else this.skipTo(piece, text);
      this.ends.push(this.position);
    }
    if (whole && this.ends.length) this.ends[this.ends.length - 1] = Math.max(this.position, text.length);
  }

  /** Tokens that are no text of their own (parts of a character, special ones) take what stands before the next that is. */
  skipTo(piece, text) {
    const found = piece && !piece.includes("\ufffd") ? text.slice(this.position, this.position + LOOK_AHEAD + piece.length).indexOf(piece) : -1;
    if (found < 0) return;
    if (this.ends.length) this.ends[this.ends.length - 1] = this.position + found;
    this.position += found + piece.length;
  }

  /** The first token that ends behind `place`. */
  at(place) {
    let low = 0;
    let high = this.ends.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.ends[middle] > place) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** A maker of text nodes for markdown.js: each stretch of a token in a span that names it. */
  maker(tokens) {
    return (text, place) => {
      const nodes = [];
      let done = 0;
      for (let index = this.at(place); done < text.length; index += 1) {
        if (index >= this.ends.length) {
          nodes.push(document.createTextNode(text.slice(done)));
          break;
        }
        const stop = Math.min(text.length, this.ends[index] - place);
        if (stop <= done) continue;
        const span = h("span", { class: "token", "data-token": index }, text.slice(done, stop));
        span.style.setProperty("--doubt", (1 - Math.exp(tokens[index].logprob)).toFixed(3));
        nodes.push(span);
        done = stop;
      }
      return nodes;
    };
  }
}

/** Space that would not be seen is drawn. */
export function visible(text) {
  if (text === "") return "(part of a character)";
  return text.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥").replace(/[\u0000-\u001f\u007f-\u009f]/g, "�");
}

export function percent(logprob) {
  const share = 100 * Math.exp(logprob);
  if (share >= 99.95) return "100 %";
  if (share < 0.01) return "< 0.01 %";
  return `${share >= 10 ? share.toFixed(1) : share.toFixed(2)} %`;
}

/** The card beside a token: its probability and the likeliest tokens of that step. */
export class TokenCard {
  /** `find(element)` gives the tokens of the answer that an element belongs to. */
  constructor(root, find) {
    this.find = find;
    this.card = h("div", { id: "token-card", role: "tooltip", hidden: true });
    document.body.append(this.card);
    root.addEventListener("pointerover", (event) => this.point(event.target.closest(".token")));
    root.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && this.hide()); // fingers leave at once
    root.addEventListener("scroll", () => this.hide(), { passive: true });
    root.addEventListener("keydown", (event) => this.key(event));
    root.addEventListener("focusout", () => this.hide());
  }

  point(span) {
    const tokens = span && this.find(span);
    if (!tokens) return this.hide();
    this.show(span, tokens[Number(span.dataset.token)]);
  }

  /** Left and right walk through the tokens of the answer that has the focus. */
  key(event) {
    const body = event.target.closest(".answer-text.shaded");
    if (event.key === "Escape" && !this.card.hidden) {
      event.stopPropagation();
      return this.hide();
    }
    if (body !== event.target || !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
    event.preventDefault();
    const spans = [...body.querySelectorAll(".token")];
    const now = spans.indexOf(this.span);
    const next = event.key === "ArrowRight" ? now + 1 : now < 0 ? spans.length - 1 : now - 1;
    const span = spans[Math.max(0, Math.min(spans.length - 1, next))];
    if (!span) return;
    span.scrollIntoView({ block: "nearest" });
    this.point(span);
  }

  show(span, token) {
    this.hide();
    this.span = span;
    span.classList.add("pointed");
    const others = token.top.some(([text, logprob]) => isSame(token, text, logprob)) ? token.top : [...token.top, [token.piece, token.logprob]];
    const rows = others.map(([text, logprob]) => {
      const row = h("tr", { class: isSame(token, text, logprob) ? "chosen" : null });
      const bar = h("i", { class: "share" });
      bar.style.width = `${(100 * Math.exp(logprob)).toFixed(1)}%`;
      row.append(h("th", { scope: "row" }, visible(text)), h("td", { class: "shares" }, bar), h("td", {}, percent(logprob)));
      return row;
    });
    this.card.replaceChildren(
      h("p", {}, h("strong", {}, visible(token.piece)), ` ${percent(token.logprob)}`),
      h("table", {}, h("tbody", {}, rows)),
    );
    this.card.hidden = false;
    this.place(span.getClientRects()[0] ?? span.getBoundingClientRect());
    span.closest(".answer-text").setAttribute("aria-describedby", "token-card");
  }

  place(around) {
    const { width, height } = this.card.getBoundingClientRect();
    const left = Math.max(8, Math.min(around.left, innerWidth - width - 8));
    const above = around.top - height - 6;
    this.card.style.left = `${left}px`;
    this.card.style.top = `${above > 8 ? above : Math.min(around.bottom + 6, innerHeight - height - 8)}px`;
  }

  hide() {
    this.span?.classList.remove("pointed");
    this.span?.closest(".answer-text")?.removeAttribute("aria-describedby");
    this.span = null;
    this.card.hidden = true;
  }
}

function isSame(token, text, logprob) {
  return Math.abs(logprob - token.logprob) < 1e-9 && (text === token.piece || token.piece === "" || text.includes("\ufffd"));
}
