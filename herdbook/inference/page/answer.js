// How one answer looks: its text, how it ended, what can be done with it, and its figures.

import { shownAnswer } from "./conversation.js";
import { copyText, h, icon, iconButton, number } from "./dom.js";
import { renderMarkdown } from "./markdown.js";
import { speedOf } from "./run.js";
import { Alignment } from "./tokens.js";

const ENDS = {
  length: "cut at the most tokens allowed",
  stopped: "stopped",
};

export class AnswerView {
  /** `actions`: {regenerate, choose(step), shade(on), giveKey}; `context` is the model's, in tokens, if known; `given` what
   * stands before the answer of a base model; `focus` makes names by which a button gets the focus back. */
  constructor(turn, lane, { settings, context, given, named, focus, errorKind, actions }) {
    Object.assign(this, { turn, lane, settings, context, given, focus, errorKind, actions });
    this.answer = shownAnswer(turn, lane);
    this.alignment = new Alignment();
    this.shaded = false;
    this.text = h("div", { class: "answer-text" });
    this.notice = h("p", { class: "notice", hidden: true });
    this.problem = h("div", { class: "problem", role: "alert", hidden: true });
    this.stats = h("span", { class: "stats" });
    this.foot = h("footer", { class: "answer-foot" });
    const label = `Answer of ${this.answer.model}`;
    const head = named ? h("header", { class: "answer-head" }, this.answer.model) : null;
    this.element = h("section", { class: "answer", "aria-label": label }, head, this.text, this.notice, this.problem, this.foot);
    this.element.view = this;
    this.plain = this.answer.kind === "base" || !settings.markdown;
    this.text.classList.add(this.plain ? "plain" : "prose");
    this.drawFoot();
  }

  drawFoot() {
    const { answer, actions } = this;
    const tries = this.turn.answers[this.lane].length;
    const index = this.turn.chosen[this.lane];
    const others = tries > 1 && [
      iconButton("left", "Earlier answer", () => actions.choose(-1), { disabled: index === 0, "data-focus": `earlier-${this.focus}` }),
      h("span", { class: "stats" }, `${index + 1}/${tries}`),
      iconButton("right", "Later answer", () => actions.choose(1), { disabled: index === tries - 1, "data-focus": `later-${this.focus}` }),
    ];
    this.shade = iconButton("shade", "Show how likely each token was", () => this.setShaded(!this.shaded), {
      "aria-pressed": "false",
      "data-focus": `shade-${this.focus}`,
    });
    this.foot.replaceChildren(
      h(
        "span",
        { class: "actions" },
        iconButton("copy", "Copy this answer", () => copyText(answer.text)),
        iconButton("again", "Answer again", actions.regenerate, { "data-action": "regenerate", "data-focus": `again-${this.focus}` }),
        this.shade,
        others || [],
      ),
      this.stats,
    );
  }

  setShaded(shaded) {
    this.shaded = shaded;
    this.actions.shade(shaded);
    this.text.classList.toggle("shaded", shaded);
    this.shade.setAttribute("aria-pressed", String(shaded));
    if (shaded) this.text.setAttribute("tabindex", "0");
    else this.text.removeAttribute("tabindex");
    if (shaded) this.text.setAttribute("aria-label", "Tokens; left and right arrow keys walk through them");
    else this.text.removeAttribute("aria-label");
  }

  /** Draw what has come so far; `run` is there while it is coming. */
  update(run = null) {
    const { answer } = this;
    this.alignment.follow(answer.tokens, answer.text, !run);
    const known = answer.tokens.length > 0;
    const makeText = known ? this.alignment.maker(answer.tokens) : undefined;
    if (this.plain) this.drawPlain(makeText, !run);
    else renderMarkdown(this.text, answer.text, makeText, run ? "live" : "whole");
    this.element.classList.toggle("live", Boolean(run));
    this.element.classList.toggle("waiting", Boolean(run) && !answer.text);
    this.notice.textContent = run?.notice || (!run && answer.finish === "stop" && !answer.text ? "(an empty answer)" : "");
    this.notice.hidden = !this.notice.textContent;
    this.foot.classList.toggle("away", !run && Boolean(answer.error) && !answer.text); // there is nothing to copy
    this.shade.hidden = !known;
    this.stats.textContent = this.figures(run);
    this.drawProblem(run);
  }

  /** Only what is new is added while the answer is coming. */
  drawPlain(makeText, whole) {
    if (whole || !this.drawn) {
      this.text.replaceChildren(...(this.given ? [h("span", { class: "given" }, this.given)] : []));
      this.drawn = 0;
    }
    const { text } = this.answer;
    const rest = text.slice(this.drawn);
    this.text.append(...(makeText ? makeText(rest, this.drawn) : [rest]));
    this.drawn = text.length;
  }

  figures(run) {
    const { stats, finish, seed, error } = this.answer;
    if (error && !stats.tokens) return "";
    const speed = speedOf(stats);
    const used = stats.prompt === undefined ? null : stats.prompt + stats.tokens;
    const parts = [
      stats.tokens > 0 && `${number.format(stats.tokens)} token${stats.tokens === 1 ? "" : "s"}`,
      speed && `${speed >= 10 ? speed.toFixed(0) : speed.toFixed(1)} tokens/s`,
      !run && stats.first !== undefined && `first after ${stats.first.toFixed(2)} s`,
      used !== null && (this.context ? `context ${number.format(used)} of ${number.format(this.context)}` : `context ${number.format(used)}`),
      !run && seed !== null && `seed ${seed}`,
      !run && ENDS[finish],
    ];
    return parts.filter(Boolean).join(" · ");
  }

  drawProblem(run) {
    const { error } = this.answer;
    this.problem.hidden = Boolean(run) || !error;
    if (this.problem.hidden || this.problem.childElementCount) return;
    const keyed = this.errorKind() === "key";
    const button = keyed
      ? h("button", { type: "button", onclick: this.actions.giveKey }, "Give the key")
      : h("button", { type: "button", onclick: this.actions.regenerate }, "Try again");
    this.problem.append(icon("warn"), h("p", {}, error), button);
  }
}
