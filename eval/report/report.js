"use strict";
// Filters of rows and examples, kept in the page's address; and players that start together.

const fields = ["split", "family", "words"].map(id => document.getElementById(id));
const items = [...document.querySelectorAll("[data-item]")];
const tables = [...document.querySelectorAll("section:not([data-item])")];

function fits(item) {
  const [split, family, words] = fields.map(field => field.value);
  const said = item.dataset.words.toLowerCase();
  return (!split || item.dataset.split === split)
    && (!family || !item.dataset.family || item.dataset.family === family)
    && words.toLowerCase().split(/\s+/).every(word => said.includes(word));
}

function show() {
  for (const item of items) item.hidden = !fits(item);
  for (const table of tables) table.hidden = !table.querySelector("[data-item]:not([hidden])");
  const all = items.filter(item => item.tagName === "TR");
  const rows = all.filter(item => !item.hidden).length;
  document.getElementById("count").textContent =
    rows === all.length ? `${rows} rows` : `${rows} of ${all.length} rows`;
}

function remember() {
  const given = new URLSearchParams();
  for (const field of fields) if (field.value) given.set(field.id, field.value);
  history.replaceState(null, "", `#${given}`);
  show();
}

function recall() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const field of fields) field.value = given.get(field.id) ?? "";
  for (const field of fields) if (field.selectedIndex < 0) field.value = "";  // no such option
  show();
}

for (const field of fields) field.addEventListener("input", remember);
const form = document.querySelector(".filters");
form.addEventListener("submit", event => event.preventDefault());
form.addEventListener("reset", () => setTimeout(remember));
addEventListener("hashchange", recall);
recall();

for (const button of document.querySelectorAll(".together")) {
  const text = button.textContent;
  const players = [...button.parentElement.querySelectorAll("video, audio")];
  const stop = () => {
    for (const player of players) player.pause();
    for (const player of players) player.muted = false;
    button.setAttribute("aria-pressed", "false");
    button.textContent = text;
  };
  button.addEventListener("click", async () => {
    if (button.getAttribute("aria-pressed") === "true") return stop();
    button.setAttribute("aria-pressed", "true");
    button.textContent = "Stop (the first one is heard)";
    players.forEach((player, k) => {
      player.currentTime = 0;
      player.muted = k > 0;
    });
    await Promise.allSettled(players.map(player => player.play()));
  });
  for (const player of players) player.addEventListener("ended", () => {
    if (players.every(other => other.ended || other.paused)) stop();
  });
}
