// The box to write in: grows with its text, sends or stops, and shows how full the model's context is.

import { shownAnswer } from "./conversation.js";
import { $, icon, number } from "./dom.js";

const NEARLY_FULL = 0.85;

export class Composer {
  constructor(form, app) {
    this.app = app;
    this.area = $("#message");
    this.button = $("#send");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.app.busy) this.app.stopAll();
      else this.send();
    });
    this.area.addEventListener("input", () => this.resize());
    this.area.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    if (event.isComposing) return; // Enter ends the choice of a character
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      if (!this.app.busy) this.send();
    } else if (event.key === "ArrowUp" && !this.area.value) {
      const edits = document.querySelectorAll('[data-action="edit"]');
      if (edits.length) {
        event.preventDefault();
        edits[edits.length - 1].click();
      }
    }
  }

  send() {
    const text = this.area.value;
    if (!text.trim() && !this.goesOn()) return;
    if (!this.app.send(text)) return;
    this.area.value = "";
    this.resize();
  }

  /** A base model may be asked to go on without a word more. */
  goesOn() {
    return this.app.conversation.turns.length > 0 && this.app.conversation.lanes.every((_, lane) => this.app.kindOf(lane) === "base");
  }

  resize() {
    this.area.style.height = "auto";
    this.area.style.height = `${Math.min(this.area.scrollHeight, innerHeight * 0.4)}px`;
  }

  draw() {
    const { app } = this;
    const running = app.busy;
    const base = app.conversation.lanes.every((_, lane) => app.kindOf(lane) === "base");
    const label = running ? "Stop" : base ? "Go on" : "Send";
    this.button.replaceChildren(icon(running ? "stop" : "send"), Object.assign(document.createElement("span"), { textContent: label }));
    this.button.title = label;
    this.button.classList.toggle("stop", running);
    this.button.disabled = !running && !app.models.length;
    this.area.placeholder = base ? "Text for the model to go on with" : "Write a message";
    this.area.setAttribute("aria-label", base ? "Text for the model to go on with" : "Your message");
    this.drawMeter();
  }

  /** How full the context was after the last answer, in the fullest lane. */
  drawMeter() {
    const { conversation } = this.app;
    let fullest = null;
    conversation.lanes.forEach((_, lane) => {
      const answers = conversation.turns.map((turn) => shownAnswer(turn, lane)).filter((answer) => answer?.stats.prompt !== undefined);
      const last = answers.at(-1);
      const context = last && this.app.modelNamed(last.model)?.context;
      if (!context) return;
      const used = last.stats.prompt + last.stats.tokens;
      if (!fullest || used / context > fullest.used / fullest.context) fullest = { used, context };
    });
    $("#meter").hidden = !fullest;
    if (!fullest) return;
    const share = Math.min(1, fullest.used / fullest.context);
    $("#meter-text").textContent = `context ${number.format(fullest.used)} of ${number.format(fullest.context)}`;
    $("#meter .meter-bar i").style.width = `${100 * share}%`;
    $("#meter").classList.toggle("full", share > NEARLY_FULL);
  }
}
