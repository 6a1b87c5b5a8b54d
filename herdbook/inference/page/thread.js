// The conversation as it is read: prompts that can be edited and sent again, answers below or beside each other.

import { AnswerView } from "./answer.js";
import { shownAnswer, textFor } from "./conversation.js";
import { h, iconButton, short } from "./dom.js";
import { TokenCard } from "./tokens.js";

const NEAR_THE_END = 80; // pixels from the end at which the view goes on following
const GIVEN = 120; // characters of a text that are shown again before what the model adds to it

export class Thread {
  /** `app` answers questions and does what buttons ask for; see main.js. */
  constructor(element, app) {
    this.element = element;
    this.app = app;
    this.views = new Map(); // answer → its view
    this.shaded = new WeakSet(); // answers whose tokens are shaded
    this.inside = h("div", { class: "thread-inside" });
    this.jump = iconButton("down", "To the newest", () => this.follow(true), { id: "jump", hidden: true });
    element.append(this.inside);
    element.after(this.jump);
    this.following = true;
    element.addEventListener("scroll", () => this.scrolled(), { passive: true });
    new TokenCard(element, (span) => span.closest(".answer")?.view.answer.tokens);
  }

  scrolled() {
    const { scrollHeight, scrollTop, clientHeight } = this.element;
    this.following = scrollHeight - scrollTop - clientHeight < NEAR_THE_END;
    this.jump.hidden = this.following;
  }

  follow(always = false) {
    if (!always && !this.following) return;
    this.element.scrollTop = this.element.scrollHeight;
    this.following = true;
    this.jump.hidden = true;
  }

  draw() {
    const { conversation } = this.app;
    this.views.clear();
    const turns = conversation.turns.map((turn, index) => this.drawTurn(turn, index));
    this.inside.replaceChildren(...(turns.length ? turns : [this.drawWelcome()]));
    this.inside.classList.toggle("wide", conversation.lanes.length > 1);
    this.follow();
  }

  drawTurn(turn, index) {
    const { conversation, runs } = this.app;
    const element = h("article", { class: "turn", "aria-label": `Turn ${index + 1}` });
    element.append(turn.prompt ? this.drawPrompt(turn, index, element) : h("p", { class: "went-on" }, "went on"));
    const lanes = h("div", { class: "lanes", "data-lanes": conversation.lanes.length });
    conversation.lanes.forEach((_, lane) => {
      const answer = shownAnswer(turn, lane);
      lanes.append(answer ? this.drawAnswer(turn, index, lane, answer, runs.get(answer)) : this.drawGap(index, lane));
    });
    element.append(lanes);
    return element;
  }

  drawAnswer(turn, index, lane, answer, run) {
    const { app } = this;
    const view = new AnswerView(turn, lane, {
      settings: app.settings,
      context: app.modelNamed(answer.model)?.context ?? null,
      given: answer.kind === "base" ? textFor(app.conversation, lane, index).split("\n").at(-1).slice(-GIVEN) : "",
      named: app.conversation.lanes.length > 1 || answer.model !== app.conversation.lanes[0] || app.models.length > 1,
      focus: `${index}-${lane}`,
      errorKind: () => app.errorKinds.get(answer),
      actions: {
        regenerate: () => app.regenerate(index, lane),
        choose: (step) => app.choose(index, lane, step),
        shade: (on) => (on ? this.shaded.add(answer) : this.shaded.delete(answer)),
        giveKey: () => app.askForKey(() => app.retryKeyless()),
      },
    });
    this.views.set(answer, view);
    view.update(run);
    view.setShaded(this.shaded.has(answer));
    return view.element;
  }

  drawGap(index, lane) {
    const button = h("button", { type: "button", onclick: () => this.app.regenerate(index, lane) }, "Ask this model too");
    return h("section", { class: "answer gap" }, h("header", { class: "answer-head" }, this.app.conversation.lanes[lane]), button);
  }

  drawPrompt(turn, index, element) {
    const text = h("div", { class: "prompt-text", dir: "auto" }, turn.prompt);
    const edit = iconButton("edit", "Edit and send again", () => this.edit(turn, index, element), { "data-action": "edit" });
    return h("div", { class: "prompt" }, text, edit);
  }

  /** The prompt becomes a box; sending it forgets what came after. */
  edit(turn, index, element) {
    const later = this.app.conversation.turns.length - index - 1;
    const area = h("textarea", { "aria-label": "Edit your message", rows: "3" });
    area.value = turn.prompt;
    const close = () => {
      form.replaceWith(this.drawPrompt(turn, index, element));
      element.querySelector('[data-action="edit"]').focus();
    };
    const send = (event) => {
      event.preventDefault();
      if (area.value.trim()) this.app.resend(index, area.value);
    };
    const note = later ? `Sending it forgets the ${later === 1 ? "turn" : `${later} turns`} after it.` : "";
    const form = h(
      "form",
      { class: "prompt-edit", onsubmit: send },
      area,
      h("p", { class: "hint" }, note),
      h("button", { type: "button", onclick: close }, "Cancel"),
      h("button", { class: "primary" }, "Send again"),
    );
    area.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send(event);
      if (event.key === "Escape") {
        event.stopPropagation();
        close();
      }
    });
    element.querySelector(".prompt").replaceWith(form);
    area.focus();
  }

  /** Draw what came of a running answer. */
  update(answer, run) {
    this.views.get(answer)?.update(run);
    this.follow();
  }

  drawWelcome() {
    const { app } = this;
    const cards = app.conversation.lanes.map((id) => app.modelNamed(id)).filter(Boolean).map(modelCard);
    const text = app.models.length ? "Nothing you write leaves this server and this browser." : "";
    return h("div", { class: "welcome" }, h("div", { class: "cards" }, cards), h("p", { class: "hint" }, text));
  }
}

const KINDS = {
  chat: "Taught to chat: it answers, and remembers the conversation.",
  base: "A base model: it goes on with the text it is given. It was not taught to answer.",
};

function modelCard(model) {
  const facts = [
    model.parameters && `${short(model.parameters)} parameters`,
    model.context && `context of ${model.context.toLocaleString("en")} tokens`,
  ];
  return h(
    "div",
    { class: "card" },
    h("h2", {}, model.id),
    h("p", {}, facts.filter(Boolean).join(" · ")),
    h("p", { class: "hint" }, KINDS[model.kind]),
    model.lineage ? h("p", { class: "lineage" }, model.lineage) : null,
  );
}
