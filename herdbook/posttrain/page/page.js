// Shows one pair after the other; every judgement goes to the server before the next pair is shown.
const at = (id) => document.getElementById(id);
let strengths = [];
let pair = null;
let busy = false;

async function ask(path, body) {
  const options = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  const response = await fetch(path, options);
  if (!response.ok) throw new Error(`the server answered ${response.status}`);
  return response.json();
}

async function act(path, body) {
  if (busy) return;
  busy = true;
  try {
    show(await ask(path, body));
    at("trouble").hidden = true;
  } catch (error) {
    at("trouble").textContent = `Not kept: ${error.message}. Is the run still going? Try again.`;
    at("trouble").hidden = false;
  } finally {
    busy = false;
  }
}

function show(state) {
  strengths = state.strengths ?? strengths;
  if (!at("scale").childElementCount) makeScale();
  pair = state.pair;
  at("bar").max = state.total;
  at("bar").value = state.done;
  at("count").textContent = `${state.done} of ${state.total}`;
  at("undo").disabled = state.done === 0;
  at("work").hidden = pair === null;
  at("done").hidden = pair !== null;
  if (pair === null) return;
  const lines = pair.messages.map((message) => {
    const line = document.createElement("p");
    const role = document.createElement("b");
    role.textContent = message.role;
    line.append(role, message.content ?? "");
    return line;
  });
  at("request").replaceChildren(...lines);
  for (const side of ["left", "right"]) at(side).querySelector("pre").textContent = pair[side];
  at("edited").value = "";
  document.activeElement?.blur();
  window.scrollTo(0, 0);
}

function makeScale() {
  const falling = strengths.map((strength) => ["left", strength]);
  const rising = [...strengths].reverse().map((strength) => ["right", strength]);
  [...falling, ["skip", strengths[1]], ...rising].forEach(([better, strength], place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = better === "skip" ? "Skip" : `${better === "left" ? "Left" : "Right"} is ${strength}`;
    button.title = better === "skip" ? "S" : String(place < 4 ? place + 1 : place);
    button.addEventListener("click", () => judge(better, strength));
    at("scale").append(button);
  });
}

function judge(better, strength) {
  if (pair === null) return;
  const edited = better === "skip" ? null : at("edited").value.trim() || null;
  act("judge", { number: pair.number, better, strength, edited });
}

function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target === at("edited")) {
    if (event.key === "Escape") at("edited").blur();
    return;
  }
  const place = "12345678".indexOf(event.key);
  if (place >= 0 && place < 4) judge("left", strengths[place]);
  else if (place >= 4) judge("right", strengths[7 - place]);
  else if (event.key === "s") judge("skip", strengths[1]);
  else if (event.key === "u") act("undo", {});
  else if (event.key === "e") at("edited").focus();
  else return;
  event.preventDefault();
}

document.addEventListener("keydown", key);
at("undo").addEventListener("click", () => act("undo", {}));
at("finish").addEventListener("click", () => {
  if (confirm("Leave the remaining pairs unjudged and go on with the run?")) act("finish", {});
});
for (const side of ["left", "right"]) {
  at(`copy-${side}`).addEventListener("click", () => {
    at("edited").value = pair[side];
    at("edited").focus();
  });
}
act("state");
