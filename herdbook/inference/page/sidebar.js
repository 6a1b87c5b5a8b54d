// The list of conversations, and the choice of colours.

import { titleOf } from "./conversation.js";
import { $, h, icon, iconButton } from "./dom.js";

const THEMES = { auto: "light", light: "dark", dark: "auto" };
const THEME_NAMES = { auto: "as the system", light: "light", dark: "dark" };

export class Sidebar {
  constructor(element, app) {
    this.app = app;
    this.list = h("ul", { class: "conversations" });
    this.theme = h("button", { type: "button", class: "quiet wide", id: "theme", onclick: () => this.nextTheme() });
    element.append(
      h("div", { class: "brand" }, h("h1", {}, "herdbook"), iconButton("close", "Close the list", () => app.toggleSidebar(false), { class: "quiet narrow-only" })),
      h("button", { type: "button", id: "new", class: "wide", onclick: () => app.startNew() }, icon("new"), "New conversation"),
      this.list,
      this.theme,
    );
    this.showTheme();
  }

  draw() {
    const { conversations, conversation } = this.app;
    const rows = conversations.map((one) => {
      const current = one === conversation;
      const open = h("button", { type: "button", class: "open", "aria-current": current ? "true" : null, onclick: () => this.app.open(one) }, titleOf(one));
      const remove = iconButton("delete", `Delete “${titleOf(one)}”`, () => this.app.remove(one), { "data-action": "delete" });
      return h("li", {}, open, remove);
    });
    this.list.replaceChildren(...(rows.length ? rows : [h("li", { class: "hint" }, "No conversations yet.")]));
  }

  nextTheme() {
    const theme = THEMES[document.documentElement.dataset.theme];
    document.documentElement.dataset.theme = theme;
    try {
      localStorage.setItem("herdbook.theme", theme);
    } catch {
      // a browser that keeps nothing shows it until the page is left
    }
    this.showTheme();
  }

  showTheme() {
    const theme = document.documentElement.dataset.theme;
    this.theme.replaceChildren(icon("theme"), `Colours: ${THEME_NAMES[theme]}`);
  }
}

/** The pickers of models in the bar on top. */
export function drawPickers(app) {
  const pickers = $("#pickers");
  const lanes = app.conversation.lanes;
  const selects = lanes.map((chosen, lane) => {
    const names = app.models.map((model) => model.id);
    if (!names.includes(chosen)) names.unshift(chosen);
    const options = names.map((name) => {
      const missing = app.models.length > 0 && !app.modelNamed(name);
      return h("option", { value: name, selected: name === chosen }, missing ? `${name} (not served)` : name);
    });
    const label = lanes.length > 1 ? `Model ${lane + 1}` : "Model";
    const select = h("select", { "aria-label": label, class: "picker", "data-focus": `picker-${lane}` }, options);
    select.value = chosen;
    select.addEventListener("change", () => app.pickModel(lane, select.value));
    return select;
  });
  pickers.replaceChildren(...selects);
  $("#compare").setAttribute("aria-pressed", String(lanes.length > 1));
}
