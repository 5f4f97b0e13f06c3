"use strict";
const study = JSON.parse(document.getElementById("data").textContent);
const at = id => document.getElementById(id);
const names = Object.keys(study.questions), values = Object.keys(study.answers);
const fields = ["study", "rater", "position", "trial", "question", "answer", "seconds"];
let rater = 0, order = [], kept = {}, shown = null, beeps = 0;

// ---- progress, kept in this browser

const place = () => `avjax study ${study.study} ${rater}`;
const last = `avjax study ${study.study}`;
let memory = true;

function stored(name, value) {
  try {
    if (value === undefined) return localStorage.getItem(name);
    localStorage.setItem(name, value);
  } catch (error) {
    memory = false;
  }
  return null;
}

// ---- the start

function told(text) { at("refused").textContent = text; }

function play_beeps() {
  const context = new AudioContext(), gain = context.createGain();
  const before = beeps;
  while (beeps === before) beeps = 2 + Math.floor(4 * Math.random());
  gain.connect(context.destination);
  gain.gain.value = 0;
  const tone = context.createOscillator();
  tone.frequency.value = 440;
  tone.connect(gain);
  for (let k = 0; k < beeps; k++) {
    const begin = context.currentTime + 0.2 + 0.6 * k;
    gain.gain.setTargetAtTime(study.level * Math.SQRT2, begin, 0.01);  // RMS of a sine
    gain.gain.setTargetAtTime(0, begin + 0.3, 0.01);
  }
  tone.start();
  tone.stop(context.currentTime + 0.6 + 0.6 * beeps);
  tone.onended = () => context.close();
}

function begin(event) {
  event.preventDefault();
  rater = Number(at("rater").value);
  if (!Number.isInteger(rater) || rater < 1 || rater > study.orders.length)
    return told(`Your number is from 1 to ${study.orders.length}.`);
  if (study.level && (!beeps || Number(at("heard").value) !== beeps))
    return told(beeps ? "That is not how many there were. Play the beeps again, louder."
                      : "Please play the beeps first.");
  told("");
  order = study.orders[rater - 1].map(k => study.trials[k]);
  kept = JSON.parse(stored(place()) || "{}");
  stored(last, String(rater));
  at("start").hidden = true;
  at("saving").hidden = false;
  next();
}

// ---- a trial

const position = () => order.findIndex(trial => !kept[trial.id]);

function media(file, title) {
  const film = study.video.some(suffix => file.endsWith(suffix));
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  const player = document.createElement(film ? "video" : "audio");
  caption.textContent = title;
  player.controls = true;
  player.preload = "auto";
  player.setAttribute("aria-label", title);
  player.src = `${study.folder}/${file}`;
  player.addEventListener("ended", () => { player.dataset.heard = "yes"; refresh(); });
  player.addEventListener("error", () => {
    at("skip").hidden = false;
    at("hint").textContent = "A recording cannot be played in this browser.";
  });
  player.addEventListener("play", () => {  // never two at once
    for (const other of players()) if (other !== player) other.pause();
  });
  figure.append(caption, player);
  return figure;
}

const players = () => [...at("players").querySelectorAll("video, audio")];
const heard = () => players().every(player => player.dataset.heard);
const chosen = name => at("questions").querySelector(`input[name=${name}]:checked`)?.value;
const answered = () => heard() && names.every(chosen);

function question(name) {
  const box = document.createElement("fieldset"), legend = document.createElement("legend");
  const row = document.createElement("div");
  legend.textContent = study.questions[name];
  row.className = "answers";
  for (const value of values) {
    const label = document.createElement("label"), radio = document.createElement("input");
    radio.type = "radio";
    radio.name = name;
    radio.value = value;
    radio.disabled = true;
    radio.addEventListener("change", refresh);
    const text = study.kind === "mos" ? `${value} ${study.answers[value]}` : study.answers[value];
    label.append(radio, ` ${text}`);
    row.append(label);
  }
  box.append(legend, row);
  return box;
}

function refresh() {
  const ready = heard();
  for (const radio of at("questions").querySelectorAll("input")) radio.disabled = !ready;
  at("next").disabled = !answered();
  if (at("skip").hidden)
    at("hint").textContent = ready ? "" : players().length > 1
      ? "Play both to their ends, then answer." : "Play it to its end, then answer.";
}

function next() {
  const k = position();
  at("kept").textContent = memory ? "" : "This browser keeps nothing: save before you close it.";
  if (k < 0) {
    at("trial").hidden = true;
    at("done").hidden = false;
    at("done").querySelector("h2").focus();
    return;
  }
  shown = {trial: order[k], position: k + 1, since: Date.now()};
  at("place").textContent = `Recording ${k + 1} of ${order.length}`;
  at("progress").value = k / order.length;
  at("players").replaceChildren(...shown.trial.media.map((file, side) =>
    media(file, shown.trial.media.length > 1 ? "AB"[side] : "Recording")));
  at("questions").replaceChildren(...names.map(question));
  at("skip").hidden = true;
  at("trial").hidden = false;
  refresh();
  at("place").focus();
}

function keep(answers) {
  kept[shown.trial.id] = {position: shown.position, answers,
                          seconds: ((Date.now() - shown.since) / 1000).toFixed(1)};
  stored(place(), JSON.stringify(kept));
  next();
}

function go_on(event) {
  event.preventDefault();
  if (answered()) keep(Object.fromEntries(names.map(name => [name, chosen(name)])));
}

// ---- keys

function key(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || at("trial").hidden) return;
  const where = event.target.tagName;
  if (event.key === " " && !["BUTTON", "VIDEO", "AUDIO"].includes(where)) {
    event.preventDefault();
    const playing = players().find(player => !player.paused);
    if (playing) playing.pause();
    else (players().find(player => !player.dataset.heard) || players()[0]).play()
      .catch(() => {});  // interrupted, or told by its error event
  } else if (event.key === "Enter" && where !== "BUTTON") {
    go_on(event);
  } else {
    const value = study.kind === "mos" ? event.key : event.key.toUpperCase();
    if (!values.includes(value)) return;
    const name = where === "INPUT" ? event.target.name : names.find(n => !chosen(n)) || names[0];
    const radio = at("questions").querySelector(`input[name=${name}][value="${value}"]`);
    if (radio.disabled) return;
    event.preventDefault();
    radio.checked = true;
    refresh();
    // further digits answer the next question
    if (where === "INPUT") (names.some(n => !chosen(n)) ? at("place") : at("next")).focus();
  }
}

// ---- the answers as a file

function csv() {
  const rows = order.filter(trial => kept[trial.id]).flatMap(trial => {
    const {position, answers, seconds} = kept[trial.id];
    return names.map(name => [study.study, rater, position, trial.id, name, answers[name] ?? "",
                              seconds]);
  });
  return [fields, ...rows].map(row => row.join(",") + "\n").join("");
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv()], {type: "text/csv"}));
  link.download = `ratings_${study.study}_${String(rater).padStart(3, "0")}.csv`;
  link.click();
  URL.revokeObjectURL(link.href);
  at("kept").textContent = position() < 0 ? "Saved." : "Saved what is done so far.";
}

at("start").addEventListener("submit", begin);
at("beep").addEventListener("click", play_beeps);
at("trial").addEventListener("submit", go_on);
at("skip").addEventListener("click", () => keep({}));
at("save").addEventListener("click", save);
document.addEventListener("keydown", key);
at("keys").textContent = `${values.map(v => v.toLowerCase()).join(", ")} answer`;
at("rater").value = new URLSearchParams(location.search).get("rater") || stored(last) || "";
if (!study.level) {
  at("volume").hidden = true;
  at("heard").required = false;
}
