// What the tests ask the page itself. Each function is run in the page by `Desk.probe`.

/** Note from now on which lengths the answer's text has had. */
function watchLengths() {
  window.lengths = new Set();
  const look = () => {
    const text = document.querySelector(".answer-text");
    if (text) window.lengths.add(text.textContent.length);
    requestAnimationFrame(look);
  };
  look();
}

/** Texts of the answers, without what of the prompt is shown again before them. */
function answers() {
  const own = (text) => [...text.childNodes].filter((node) => node.className !== "given").map((node) => node.textContent);
  return [...document.querySelectorAll(".answer-text")].map((text) => own(text).join(""));
}

/** What Markdown becomes, as lists [name, {attributes}, [children]]. */
async function shapes(sources) {
  const { renderMarkdown } = await import("/markdown.js");
  const shape = (node) => {
    if (node.nodeType === Node.TEXT_NODE) return node.data;
    const name = node.localName;
    if (name === "div") return shape(node.querySelector("pre, table")); // frames of code and tables
    const told = {};
    if (name === "a") told.href = node.href;
    if (node.hasAttribute("start")) told.start = node.getAttribute("start");
    const align = /align-(\w+)/.exec(node.className);
    if (align) told.align = align[1];
    const language = name === "pre" && node.previousSibling.firstChild.textContent;
    if (language) told.language = language;
    return [name, told, [...node.childNodes].map(shape)];
  };
  return sources.map((source) => {
    const box = document.createElement("div");
    renderMarkdown(box, source);
    return [...box.childNodes].map(shape);
  });
}

async function firstLinks(sources) {
  const { renderMarkdown } = await import("/markdown.js");
  return sources.map((source) => {
    const box = document.createElement("div");
    renderMarkdown(box, source);
    return box.querySelector("a")?.href ?? null;
  });
}

/** Texts that are not where the renderer says they are in the source. */
async function misplaced(sources) {
  const { renderMarkdown } = await import("/markdown.js");
  const wrong = [];
  for (const source of sources) {
    const check = (text, place) => {
      const there = source.slice(place, place + text.length).replace("\r", "\n").padEnd(text.length, "\n");
      const space = text === " " && there === "\n"; // a line's end within code is shown as a space
      if (there !== text && !space && !text.endsWith("\n")) wrong.push([source, text, place, there]);
      return [document.createTextNode(text)];
    };
    renderMarkdown(document.createElement("div"), source, check);
  }
  return wrong;
}

/** Sources that look otherwise when they came letter by letter. */
async function grownOtherwise(sources) {
  const { renderMarkdown } = await import("/markdown.js");
  return sources.filter((source) => {
    const whole = document.createElement("div");
    renderMarkdown(whole, source);
    const grown = document.createElement("div");
    for (let length = 0; length <= source.length; length += 1) renderMarkdown(grown, source.slice(0, length));
    return grown.innerHTML !== whole.innerHTML;
  });
}

/** Read long texts of the worst kinds; how deep their trees are. */
async function deepest() {
  const { parseBlocks } = await import("/block.js");
  const { parseInline } = await import("/inline.js");
  const worst = [
    "*a ".repeat(20000) + " b*".repeat(20000),
    "[".repeat(100000),
    "`a``".repeat(25000),
    "![x".repeat(12000) + "](https://a.example)".repeat(3000),
    ">".repeat(100000),
    "- ".repeat(50000),
    "> a\n" + "b\n".repeat(50000),
    "|a|b\n".repeat(20000),
    "[a](b(".repeat(17000),
    '[a](b "'.repeat(14000),
    "http://".repeat(14000),
    "_a__b".repeat(20000),
    "\\".repeat(100000),
    "<http://".repeat(12000),
    "*".repeat(100000),
    "> - ".repeat(25000),
  ];
  let depth = 0;
  const inline = (nodes, level) => {
    depth = Math.max(depth, level);
    for (const node of nodes) if (node.children) inline(node.children, level + 1);
  };
  const walk = (blocks, level) => {
    depth = Math.max(depth, level);
    for (const block of blocks) {
      if (block.children) walk(block.children, level + 1);
      for (const item of block.items ?? []) walk(item, level + 1);
      if (block.lines && block.type !== "code") inline(parseInline(block.lines), level + 1);
    }
  };
  for (const source of worst) walk(parseBlocks(source), 1);
  return depth;
}

/** Where the tokens [piece] of each case end in its text. */
async function tokenEnds(cases) {
  const { Alignment } = await import("/tokens.js");
  return cases.map(([pieces, text, whole]) => {
    const alignment = new Alignment();
    alignment.follow(pieces.map((piece) => ({ piece })), text, whole);
    return alignment.ends;
  });
}

/** Put into the page what it would never put there itself; which directives of the policy refused something. */
async function refusals() {
  const refused = [];
  document.addEventListener("securitypolicyviolation", (event) => refused.push(event.effectiveDirective));
  const box = document.createElement("div");
  document.body.append(box);
  const picture = '<img src="https://evil.example/x.png" onerror="window.hit=1">';
  box.innerHTML = `${picture}<iframe src="https://evil.example"></iframe><p style="color:red">`;
  const script = document.createElement("script");
  script.textContent = "window.hit = 2";
  document.body.append(script);
  await fetch("https://evil.example/").catch(() => 0);
  await new Promise((done) => setTimeout(done, 200));
  box.remove();
  return refused;
}

function nameOfFocus() {
  const one = document.activeElement;
  return (one.id || one.getAttribute("aria-label") || one.textContent).trim();
}

/** Things to use or to walk to that have no name for who can't see them. */
function nameless() {
  const named = (one) => one.getAttribute("aria-label") || one.labels?.length || one.textContent.trim();
  const all = [...document.querySelectorAll('button, input, select, textarea, [tabindex="0"]')];
  return all.filter((one) => one.checkVisibility() && !named(one)).map((one) => one.outerHTML);
}

/** What hangs over the edge of the window; code and tables scroll by themselves. */
function overhanging() {
  return [...document.querySelectorAll("body *")]
    .filter((one) => {
      const { right, left, width } = one.getBoundingClientRect();
      const held = one.closest("pre, .table, #sidebar, .offstage, .skip, [hidden]");
      return width && !held && (right > innerWidth + 1 || left < -1);
    })
    .map((one) => one.outerHTML.slice(0, 100));
}

function smallButtons() {
  const all = [...document.querySelectorAll("button")].filter((one) => one.checkVisibility());
  return all.filter((one) => one.getBoundingClientRect().height < 32).map((one) => one.outerHTML);
}

/** How bright a colour is, by WCAG 2.1: from 0 to 1. */
function luminance(colour) {
  const canvas = document.createElement("canvas").getContext("2d");
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  const linear = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  const [red, green, blue] = [...canvas.getImageData(0, 0, 1, 1).data].map((value) => linear(value / 255));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

function paper() {
  return luminance(getComputedStyle(document.body).backgroundColor);
}

/** Contrast of writing on its grounds. */
function contrasts() {
  const value = (name) => {
    const probe = document.createElement("i");
    probe.style.color = `var(--${name})`;
    document.body.append(probe);
    const { color } = getComputedStyle(probe);
    probe.remove();
    return luminance(color);
  };
  const pairs = ["ink paper", "soft paper", "soft sunk", "ink said", "accent raised", "accent sunk", "on-accent accent", "warn paper"];
  const ratio = (one, other) => (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  return Object.fromEntries(pairs.map((pair) => [pair, ratio(...pair.split(" ").map(value))]));
}

/** Fill the browser's storage: what is kept after many, after large, after larger conversations. */
async function fillStorage() {
  const store = await import("/store.js");
  const { addTurn, newAnswer, newConversation } = await import("/conversation.js");
  let all = [];
  const keep = (number, length, tokens) => {
    const one = newConversation(["m"]);
    one.changed = number;
    addTurn(one, `${number}`);
    const token = { piece: "x".repeat(1000), logprob: -1, top: [] };
    const answer = { ...newAnswer("m", "chat", 1), text: "x".repeat(length), finish: "stop", tokens: Array(tokens).fill(token) };
    one.turns[0].answers[0].push(answer);
    all.push(one);
    const { kept, dropped } = store.saveConversation(one, all);
    all = all.filter((other) => !dropped.includes(other));
    return kept;
  };
  const state = () => ({
    kept: store.loadConversations().map((one) => [one.changed, one.turns[0].answers[0][0].tokens.length]),
    size: Object.entries(localStorage).reduce((sum, [name, value]) => sum + (name.includes("conversation") ? value.length : 0), 0),
  });
  for (let number = 0; number < 130; number += 1) keep(number, 1, 0);
  const many = state();
  for (let number = 200; number < 204; number += 1) keep(number, 300_000, 600);
  const large = state();
  for (let number = 300; number < 310; number += 1) keep(number, 300_000, 0);
  const larger = state();
  const last = keep(400, 1_500_000, 900);
  return { many, large, larger, last, end: state() };
}
