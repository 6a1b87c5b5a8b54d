// The settings beside the conversation: what the model is told, how tokens are drawn, what is shown, and files.

import { h } from "./dom.js";
import { DEFAULTS } from "./store.js";

const SLIDERS = [
  ["temperature", "Temperature", 0, 2, 0.05, "0 takes the likeliest token always; higher is more varied."],
  ["top_p", "Top-p", 0.01, 1, 0.01, "Draw among the fewest likeliest tokens that reach this sum of probabilities."],
  ["min_p", "Min-p", 0, 1, 0.01, "Leave out tokens less likely than this share of the likeliest; 0 is off."],
];
const NUMBERS = [
  ["top_k", "Top-k", 0, 1_000_000, "Draw among this many likeliest tokens; 0 is off."],
  ["max_tokens", "Most tokens", 1, 1_000_000, "Longest answer."],
];

export class Panel {
  /** `app.settings` is changed in place; `app.settingsChanged()` is told. */
  constructor(element, app) {
    this.app = app;
    this.element = element;
    this.fields = {};
    this.system = h("textarea", { id: "system", rows: "4", placeholder: "Told to the model before the conversation" });
    this.system.addEventListener("input", () => app.systemChanged(this.system.value));
    this.system.addEventListener("change", () => app.save());
    element.append(
      h("div", { class: "panel-head" }, h("h2", {}, "Settings"), h("button", { type: "button", class: "quiet", onclick: () => app.togglePanel(false) }, "Close")),
      h("div", { class: "field" }, h("label", { for: "system" }, "System prompt"), this.system, h("p", { class: "hint", id: "system-hint" })),
      h("fieldset", {}, h("legend", {}, "How tokens are drawn"), SLIDERS.map((row) => this.slider(...row)), NUMBERS.map((row) => this.number(...row)), this.seed(), this.stop()),
      h("fieldset", {}, h("legend", {}, "What is asked and shown"), this.ask(), this.check("probabilities", "Probabilities of tokens", "Asked for with each answer; point at a word to see them."), this.check("markdown", "Draw Markdown", "Off: show the characters as they came.")),
      h("button", { type: "button", onclick: () => this.reset() }, "Back to the usual settings"),
      this.files(),
    );
    this.show();
  }

  change(name, value) {
    this.app.settings[name] = value;
    this.app.settingsChanged(name);
  }

  slider(name, label, min, max, step, hint) {
    const range = h("input", { type: "range", min, max, step, "aria-label": `${label}, slider`, tabindex: "-1" });
    const box = h("input", { type: "number", id: name, min, max, step, "aria-describedby": `${name}-hint`, inputmode: "decimal" });
    range.addEventListener("input", () => {
      box.value = range.value;
      this.change(name, Number(range.value));
    });
    box.addEventListener("input", () => {
      if (!box.validity.valid || box.value === "") return;
      range.value = box.value;
      this.change(name, Number(box.value));
    });
    this.fields[name] = (value) => (box.value = range.value = value);
    return h("div", { class: "field" }, h("label", { for: name }, label), range, box, h("p", { class: "hint", id: `${name}-hint` }, hint));
  }

  number(name, label, min, max, hint) {
    const box = h("input", { type: "number", id: name, min, max, step: 1, "aria-describedby": `${name}-hint`, inputmode: "numeric" });
    box.addEventListener("input", () => box.validity.valid && box.value !== "" && this.change(name, Number(box.value)));
    this.fields[name] = (value) => (box.value = value);
    return h("div", { class: "field" }, h("label", { for: name }, label), box, h("p", { class: "hint", id: `${name}-hint` }, hint));
  }

  seed() {
    const box = h("input", { type: "number", id: "seed", min: 0, max: 2 ** 31 - 1, step: 1, placeholder: "drawn anew", "aria-describedby": "seed-hint" });
    box.addEventListener("input", () => box.validity.valid && this.change("seed", box.value === "" ? null : Number(box.value)));
    this.fields.seed = (value) => (box.value = value ?? "");
    const hint = "The same seed and prompt give the same answer; answering again takes the next seed.";
    return h("div", { class: "field" }, h("label", { for: "seed" }, "Seed"), box, h("p", { class: "hint", id: "seed-hint" }, hint));
  }

  stop() {
    const box = h("input", { type: "text", id: "stop", "aria-describedby": "stop-hint", spellcheck: "false" });
    box.addEventListener("input", () => this.change("stop", box.value));
    this.fields.stop = (value) => (box.value = value);
    const hint = "The answer ends before this text; \\n is a new line. Useful with base models.";
    return h("div", { class: "field" }, h("label", { for: "stop" }, "Stop at"), box, h("p", { class: "hint", id: "stop-hint" }, hint));
  }

  ask() {
    const options = [["auto", "As it was taught"], ["base", "Go on with the text"]];
    const select = h("select", { id: "ask" }, options.map(([value, text]) => h("option", { value }, text)));
    select.addEventListener("change", () => this.change("ask", select.value));
    this.fields.ask = (value) => (select.value = value);
    return h("div", { class: "field" }, h("label", { for: "ask" }, "Ask the model"), select);
  }

  check(name, label, hint) {
    const box = h("input", { type: "checkbox", id: name, "aria-describedby": `${name}-hint` });
    box.addEventListener("change", () => this.change(name, box.checked));
    this.fields[name] = (value) => (box.checked = value);
    return h("div", { class: "field check" }, h("label", { for: name }, box, label), h("p", { class: "hint", id: `${name}-hint` }, hint));
  }

  files() {
    const { app } = this;
    const chooser = h("input", { type: "file", accept: ".json,application/json", id: "import-file", class: "offstage", tabindex: "-1", "aria-label": "A conversation to read" });
    chooser.addEventListener("change", async () => {
      const [file] = chooser.files;
      if (file) app.importText(await file.text());
      chooser.value = "";
    });
    const button = (text, onclick) => h("button", { type: "button", onclick }, text);
    return h(
      "fieldset",
      { class: "files" },
      h("legend", {}, "This conversation"),
      button("Save as Markdown", () => app.exportAs("md")),
      button("Save as JSON", () => app.exportAs("json")),
      button("Read a file…", () => chooser.click()),
      chooser,
    );
  }

  reset() {
    Object.assign(this.app.settings, DEFAULTS);
    this.show();
    this.app.settingsChanged("all");
  }

  /** Show the settings and the conversation's system prompt as they are. */
  show() {
    for (const [name, set] of Object.entries(this.fields)) set(this.app.settings[name]);
    this.system.value = this.app.conversation.system;
    const chats = this.app.conversation.lanes.some((_, lane) => this.app.kindOf(lane) === "chat");
    document.getElementById("system-hint").textContent = chats ? "" : "Base models are told no system prompt.";
  }
}
