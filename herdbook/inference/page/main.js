// The page as a whole: what is open, what runs, and what each button does. The parts that draw are told of changes here.

import { addTurn, cutAfter, fromJson, messagesFor, newAnswer, newConversation, shownAnswer, textFor, titleOf, toJson, toMarkdown } from "./conversation.js";
import { Composer } from "./composer.js";
import { $, announce, saveFile, toast } from "./dom.js";
import { Panel } from "./panel.js";
import { Run } from "./run.js";
import { drawPickers, Sidebar } from "./sidebar.js";
import * as store from "./store.js";
import { isAlive, listModels } from "./stream.js";
import { Thread } from "./thread.js";

const ALTERNATIVES = 5; // tokens told of besides the drawn one
const LARGEST_SEED = 2 ** 31;

class App {
  constructor() {
    this.models = [];
    this.runs = new Map(); // answer → its run, while it is being written
    this.errorKinds = new Map(); // answer → what kind of error ended it
    this.settings = store.loadSettings();
    this.key = store.loadKey();
    this.conversations = store.loadConversations();
    const current = store.loadCurrent();
    this.conversation = this.conversations.find((one) => one.id === current) ?? newConversation([""]);
    this.thread = new Thread($("#thread"), this);
    this.sidebar = new Sidebar($("#sidebar"), this);
    this.panel = new Panel($("#panel"), this);
    this.composer = new Composer($("#composer"), this);
    this.listen();
  }

  async start() {
    this.draw();
    await this.connect();
  }

  listen() {
    $("#menu").addEventListener("click", () => this.toggleSidebar());
    $("#veil").addEventListener("click", () => this.toggleSidebar(false));
    $("#settings").addEventListener("click", () => this.togglePanel());
    $("#key-cancel").addEventListener("click", () => $("#key-dialog").close());
    $("#compare").addEventListener("click", () => this.toggleCompare());
    document.addEventListener("keydown", (event) => event.key === "Escape" && this.escape());
    addEventListener("pagehide", () => this.save());
  }

  escape() {
    if (this.busy) this.stopAll();
    else if (document.body.classList.contains("sidebar-open")) this.toggleSidebar(false);
    else if (!$("#panel").hidden) this.togglePanel(false);
    $("#message").focus();
  }

  // The server and its models

  async connect() {
    try {
      this.models = await listModels(this.key);
      this.banner("");
    } catch (error) {
      if (error.kind === "key") return this.askForKey(() => this.connect(), error.message);
      this.banner(`${error.message} Start it with “herdbook serve MODEL”; this page goes on once it is there.`);
      setTimeout(() => this.connect(), 3000);
      return;
    }
    if (!this.models.length) this.banner("The server serves no model.");
    const { lanes, turns } = this.conversation;
    if (!turns.length) this.conversation.lanes = lanes.map((name, lane) => (this.modelNamed(name) ? name : this.suggestModel(lane)));
    this.draw();
  }

  /** After an answer failed because nobody answered: look until the server is back. */
  async awaitServer() {
    if (this.waiting) return;
    this.waiting = true;
    this.banner("The server does not answer. This page looks for it every few seconds.");
    while (!(await isAlive())) await new Promise((resolve) => setTimeout(resolve, 2000));
    this.waiting = false;
    this.banner("");
    toast("The server is back");
    await this.connect();
  }

  banner(text) {
    $("#banner").textContent = text;
    $("#banner").hidden = !text;
  }

  modelNamed(name) {
    return this.models.find((model) => model.id === name) ?? null;
  }

  suggestModel(lane) {
    return (this.models[lane] ?? this.models[0])?.id ?? "";
  }

  /** How a lane's model is asked: as the person said, or as it was taught. */
  kindOf(lane) {
    if (this.settings.ask !== "auto") return this.settings.ask;
    return this.modelNamed(this.conversation.lanes[lane])?.kind ?? "chat";
  }

  pickModel(lane, name) {
    this.conversation.lanes[lane] = name;
    this.save();
    this.draw();
  }

  toggleCompare() {
    const { lanes, turns } = this.conversation;
    if (lanes.length > 1) {
      turns.forEach((turn) => turn.answers[1]?.forEach((answer) => this.runs.get(answer)?.stop()));
      lanes.pop(); // the second lane's answers are kept, and shown again when it comes back
    } else {
      const other = this.models.find((model) => model.id !== lanes[0]) ?? this.models[0];
      lanes.push(turns.at(-1)?.answers[1]?.at(-1)?.model ?? other?.id ?? lanes[0]);
    }
    for (const turn of turns) {
      turn.answers[lanes.length - 1] ??= [];
      turn.chosen[lanes.length - 1] ??= 0;
    }
    this.save();
    this.draw();
  }

  askForKey(then, reason = "") {
    const dialog = $("#key-dialog");
    if (dialog.open) return;
    $("#key-reason").textContent = reason;
    $("#key").value = "";
    dialog.onclose = () => {
      if (dialog.returnValue !== "use") return this.banner("Without the key the server does not answer. Load the page again to be asked for it.");
      this.key = $("#key").value.trim();
      store.saveKey(this.key);
      this.banner("");
      then();
    };
    dialog.returnValue = "";
    dialog.showModal();
  }

  // Asking and answering

  /** Whether an answer is being written that nobody has stopped. */
  get busy() {
    return [...this.runs.values()].some((run) => !run.abort.signal.aborted);
  }

  send(prompt) {
    if (!this.models.length || this.busy) return false;
    const turn = addTurn(this.conversation, prompt);
    if (!this.conversations.includes(this.conversation)) this.conversations.unshift(this.conversation);
    this.thread.following = true;
    this.answerAll(turn);
    return true;
  }

  resend(index, prompt) {
    this.stopAll();
    cutAfter(this.conversation, index);
    this.conversation.turns.pop();
    this.send(prompt);
  }

  regenerate(index, lane) {
    const old = shownAnswer(this.conversation.turns[index], lane);
    this.runs.get(old)?.stop();
    if (old?.finish === "error" && !old.text) this.conversation.turns[index].answers[lane].splice(this.conversation.turns[index].chosen[lane], 1);
    this.begin(index, lane, this.drawSeed(index, lane));
    this.draw();
  }

  answerAll(index) {
    const seed = this.drawSeed(index, 0); // the same for all lanes: what differs is the model
    this.conversation.lanes.forEach((_, lane) => this.begin(index, lane, seed));
    this.draw();
  }

  drawSeed(index, lane) {
    const { seed } = this.settings;
    if (seed === null) return Math.floor(Math.random() * LARGEST_SEED);
    return (seed + this.conversation.turns[index].answers[lane].length) % LARGEST_SEED;
  }

  begin(index, lane, seed) {
    const { conversation } = this;
    const turn = conversation.turns[index];
    const model = conversation.lanes[lane];
    const kind = this.kindOf(lane);
    const answer = newAnswer(model, kind, seed);
    const context = this.modelNamed(model)?.context ?? null;
    const alternatives = this.settings.probabilities ? ALTERNATIVES : 0;
    const ask = { model, kind, context, sampling: this.sampling(seed), alternatives };
    if (kind === "chat") ask.messages = messagesFor(conversation, lane, index);
    else ask.prompt = textFor(conversation, lane, index);
    turn.answers[lane].push(answer);
    turn.chosen[lane] = turn.answers[lane].length - 1;
    const run = new Run(ask, answer, this.key, () => this.changed(answer));
    this.runs.set(answer, run);
    announce(`${model} is answering`);
    run.go().then(() => this.ended(conversation, answer, run));
  }

  sampling(seed) {
    const { temperature, top_p, top_k, min_p, max_tokens, stop } = this.settings;
    const sampling = { temperature, top_p, max_tokens, seed };
    if (top_k) sampling.top_k = top_k;
    if (min_p) sampling.min_p = min_p;
    if (stop) sampling.stop = [stop.replaceAll("\\n", "\n")];
    return sampling;
  }

  /** Draw at most once per frame what has come. */
  changed(answer) {
    this.dirty ??= new Set();
    if (!this.dirty.size) requestAnimationFrame(() => this.flush());
    this.dirty.add(answer);
  }

  flush() {
    for (const answer of this.dirty) this.thread.update(answer, this.runs.get(answer));
    this.dirty.clear();
  }

  ended(conversation, answer, run) {
    this.runs.delete(answer);
    conversation.changed = Date.now();
    if (run.errorKind) this.errorKinds.set(answer, run.errorKind);
    this.save(conversation);
    this.thread.update(answer, null);
    this.sidebar.draw();
    this.composer.draw();
    announce(answer.error ?? `${answer.model}: ${answer.text.slice(0, 500)}`);
    if (run.errorKind === "down") this.awaitServer();
    if (run.errorKind === "key") this.askForKey(() => this.retryKeyless(), answer.error);
  }

  /** Ask again for every shown answer that failed for want of a key. */
  retryKeyless() {
    this.conversation.turns.forEach((turn, index) => {
      this.conversation.lanes.forEach((_, lane) => {
        if (this.errorKinds.get(shownAnswer(turn, lane)) === "key") this.regenerate(index, lane);
      });
    });
  }

  stopAll() {
    for (const run of this.runs.values()) run.stop();
  }

  choose(index, lane, step) {
    this.conversation.turns[index].chosen[lane] += step;
    this.save();
    this.draw();
  }

  // Conversations

  startNew() {
    this.stopAll();
    this.conversation = newConversation(this.conversation.lanes.map((name, lane) => (this.modelNamed(name) ? name : this.suggestModel(lane))));
    this.show();
  }

  open(conversation) {
    if (conversation !== this.conversation) this.stopAll();
    this.conversation = conversation;
    this.show();
  }

  show() {
    store.saveCurrent(this.conversation.id);
    this.thread.following = true;
    this.toggleSidebar(false);
    this.draw();
    $("#message").focus();
  }

  remove(conversation) {
    if (!confirm(`Delete “${titleOf(conversation)}”? It is kept nowhere else.`)) return;
    store.removeConversation(conversation.id);
    this.conversations = this.conversations.filter((one) => one !== conversation);
    if (conversation === this.conversation) this.startNew();
    else this.draw();
  }

  save(conversation = this.conversation) {
    if (!this.conversations.includes(conversation)) return;
    const { kept, dropped } = store.saveConversation(conversation, this.conversations);
    this.conversations = this.conversations.filter((one) => !dropped.includes(one));
    store.saveCurrent(this.conversation.id);
    if (dropped.length) toast("The oldest conversations were dropped to make room");
    if (!kept && !this.warned) {
      this.warned = true;
      toast("This browser keeps nothing: save the conversation as a file if you need it");
    }
  }

  exportAs(kind) {
    const name = titleOf(this.conversation).replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40).replace(/^-|-$/g, "") || "conversation";
    if (kind === "json") saveFile(`${name}.json`, "application/json", toJson(this.conversation));
    else saveFile(`${name}.md`, "text/markdown", toMarkdown(this.conversation));
  }

  importText(text) {
    try {
      const conversation = fromJson(text, this.suggestModel(0));
      this.conversations.unshift(conversation);
      this.open(conversation);
      this.save();
      toast("Read");
    } catch (error) {
      toast(error.message);
    }
  }

  // Settings and the page's parts

  settingsChanged(name) {
    store.saveSettings(this.settings);
    if (["ask", "markdown", "all"].includes(name)) this.draw();
  }

  systemChanged(text) {
    this.conversation.system = text;
  }

  toggleSidebar(open = !document.body.classList.contains("sidebar-open")) {
    document.body.classList.toggle("sidebar-open", open);
    $("#menu").setAttribute("aria-expanded", String(open));
    $("#veil").hidden = !open;
    if (open) $("#sidebar button").focus();
  }

  togglePanel(open = $("#panel").hidden) {
    $("#panel").hidden = !open;
    $("#settings").setAttribute("aria-expanded", String(open));
    if (open) this.panel.show();
    $(open ? "#panel button" : "#settings").focus();
  }

  /** Draw everything anew; what had the focus has it again. */
  draw() {
    const focused = document.activeElement?.dataset.focus;
    drawPickers(this);
    this.thread.draw();
    this.sidebar.draw();
    this.panel.show();
    this.composer.draw();
    document.title = this.conversation.turns.length ? `${titleOf(this.conversation)} – herdbook` : "herdbook";
    if (focused) $(`[data-focus="${focused}"]`)?.focus({ preventScroll: true });
  }
}

const app = new App();
app.start();
