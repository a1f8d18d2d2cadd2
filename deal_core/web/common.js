// What the pages share.
"use strict";
// The token stays out of the history and of pictures of the screen; from now on a cookie serves.
if (location.search) history.replaceState(null, "", location.pathname);
const el = id => document.getElementById(id);

const PRESENT = 1, ABSENT = 0, UNKNOWN = -1;

function make(kind, style = "", text = "") {
  const element = document.createElement(kind);
  element.className = style;
  element.textContent = text;
  return element;
}

// A class's button, which shows its state.
function makeChip({name, color: [red, green, blue]}) {
  const chip = make("button", "chip");
  chip.style.setProperty("--hue", `rgb(${red} ${green} ${blue})`);
  chip.style.setProperty("--on", red * .3 + green * .59 + blue * .11 > 140 ? "#10141c" : "#fff");
  chip.append(make("i"), make("span", "", name));
  chip.dataset.name = name;
  chip.tabIndex = -1;
  return chip;
}

function showState(chip, state) {
  if (chip.dataset.state === String(state)) return;
  chip.dataset.state = state;
  const word = {[PRESENT]: "present", [ABSENT]: "absent", [UNKNOWN]: "unknown"}[state] ?? "differs";
  chip.setAttribute("aria-label", `${chip.dataset.name}: ${word}`);
}

async function ask(path, body) {
  const answer = await fetch(path, body === undefined ? {} :
    {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body)});
  if (answer.ok) return answer.json();
  const text = await answer.text();
  let detail = text;
  try { detail = JSON.parse(text).detail; } catch { /* plain text */ }
  throw Object.assign(new Error(typeof detail === "string" ? detail : text), {status: answer.status});
}

let silence = 0;
function say(text) {
  el("say").textContent = text;
  el("say").hidden = false;
  clearTimeout(silence);
  silence = setTimeout(() => { el("say").hidden = true; }, 5000);
}
