// Follows the stream of one station and shows it. Knows nothing but what the server sends.
import { colour, drawSignal, drawTimeline } from "./drawing.js";

const MAX_BINS = 600, MAX_RESULTS = 600;
const $ = (id) => document.getElementById(id);
const kept = { bins: [], results: [], update: null, spoken: "", shown: "" };
let source = null, paused = false, waiting = null;

// ---- words

const number = (value) => new Intl.NumberFormat("en").format(value);
const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;
const clock = (utc_s) => new Date(1000 * utc_s).toLocaleTimeString("en-GB");
function duration(seconds) {
  if (seconds < 1e-3) return `${Math.round(1e6 * seconds)} µs`;
  if (seconds < 0.01) return `${(1e3 * seconds).toFixed(1)} ms`;
  if (seconds < 1) return `${Math.round(1e3 * seconds)} ms`;
  if (seconds < 120) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${(seconds / 3600).toFixed(1)} h` : `${(seconds / 86400).toFixed(1)} d`;
}
const element = (name, text = "", attributes = {}) => {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
};
const replace = (id, children) => $(id).replaceChildren(...children);

// ---- the stream

function follow(station) {
  if (source) source.close();
  kept.shown = station || "";
  source = new EventSource(station ? `events?station=${encodeURIComponent(station)}` : "events");
  source.onopen = () => connection("live", "live");
  source.onerror = () => connection("lost", "no answer from mmkd-run; trying again");
  source.onmessage = (event) => take(JSON.parse(event.data));
}

function connection(state, text) {
  if ($("connection").textContent === text) return;
  $("connection").dataset.state = state;
  $("connection").textContent = text;
}

function take(update) {
  const { seen } = update.station;
  if (update.first) Object.assign(kept, { bins: [], results: [] });
  for (const bin of seen.bins) {
    while (kept.bins.length && kept.bins[kept.bins.length - 1][0] >= bin[0]) kept.bins.pop();
    kept.bins.push(bin);
  }
  kept.bins = kept.bins.slice(-MAX_BINS);
  kept.results = kept.results.concat(seen.results).slice(-MAX_RESULTS);
  kept.update = update;
  if (!paused) show();
}

// ---- what is shown

function show() {
  const { update, results } = kept;
  if (!update) return;
  kept.shown = update.station.name;
  document.title = `${update.station.name}: mmkd-run`;
  $("uptime").textContent = duration(update.uptime_s);
  showStations(update.stations, update.station.name);
  showNow(update.station, results[results.length - 1]);
  showSignal(update.station);
  showShares(update.station, results[results.length - 1]);
  showTimeline(update.station);
  showEpisodes(update.station);
  showHealth(update.station, results[results.length - 1]);
  showSinks(update);
}

function showStations(stations, shown) {
  const key = JSON.stringify([stations, shown]);
  if ($("stations").dataset.key === key) return;
  const focused = document.activeElement?.dataset?.station;
  $("stations").dataset.key = key;
  replace("stations", stations.map((one) => {
    const button = element("button", "", { type: "button", "data-station": one.name, "aria-current": one.name === shown });
    button.append(
      element("span", "", { class: "dot", "data-status": one.status, "aria-hidden": "true" }),
      element("span", one.name),
      element("span", one.status === "ok" ? one.label : one.status || one.state, { class: "said" }),
    );
    if (one.open) button.append(element("span", `${one.open} new`, { class: "open" }));
    button.addEventListener("click", () => follow(one.name));
    const item = element("li");
    item.append(button);
    return item;
  }));
  if (focused) $("stations").querySelector(`[data-station="${CSS.escape(focused)}"]`)?.focus();
}

function answerOf(station, result) {
  if (result.index >= 0) return station.labels[result.index];
  return result.score === null ? "no answer" : "unlike normal";
}

function showNow(station, last) {
  $("now-name").textContent = station.name;
  const said = last ? answerOf(station, last) : "no answer yet";
  const value = last && last.value !== null;
  $("label").textContent = value ? `${Number(last.value.toFixed(4))} ${station.value_unit}` : said;
  $("label").style.color = last && last.index >= 0 && station.value_unit === null ? colour(last.index) : "";
  const scored = last && last.score !== null;
  $("probability").textContent = scored ? `score ${last.score.toPrecision(3)}`
    : last && last.index >= 0 && !value ? percent(last.probabilities[last.index]) : "";
  $("status").textContent = last ? last.status.replace("_", " ") : "waiting";
  $("status").dataset.status = last ? last.status : "";
  $("reason").textContent = last ? last.reason : "";
  const novelty = last ? last.novelty ?? last.p_value : null;
  $("novelty").hidden = novelty === null;
  $("novelty").textContent = novelty === null ? "" : `${scored ? "" : "novelty: "}p-value ${novelty.toPrecision(2)}`;
  const spoken = `${station.name}: ${said}, ${last ? last.status : "waiting"}`;
  if (spoken !== kept.spoken) $("spoken").textContent = kept.spoken = spoken;
}

function showSignal(station) {
  const names = JSON.stringify([station.name, station.modality, station.channels]);
  if ($("signal").dataset.of !== names) {
    $("signal").dataset.of = names;
    $("signal-title").textContent = station.sensors > 1 ? `Signal of ${station.modality}` : "Signal";
    replace("signal", station.channels.slice(0, 8).map((name) => {
      const figure = element("figure"), caption = element("figcaption");
      caption.append(element("span", station.unit ? `${name} in ${station.unit}` : name), element("span"));
      figure.append(caption, element("canvas", "", { role: "img" }));
      return figure;
    }));
    if (station.channels.length > 8) $("signal").append(element("p", `and ${station.channels.length - 8} more channels`));
  }
  [...$("signal").querySelectorAll("figure")].forEach((figure, channel) => {
    const limits = drawSignal(figure.querySelector("canvas"), kept.bins, channel, station);
    const range = !limits ? "no samples yet" : limits[0] === null ? "missing" : `${limits[0].toPrecision(3)} to ${limits[1].toPrecision(3)}`;
    const gaps = limits && limits[2] > 0 ? `, ${percent(limits[2])} missing` : "";
    figure.querySelector("figcaption span:last-child").textContent = range + gaps;
    figure.querySelector("canvas").setAttribute("aria-label", `${station.channels[channel]}, last ${station.span_s} seconds: ${range}${gaps}`);
  });
}

function showShares(station, last) {
  const shares = last && station.value_unit === null ? last.probabilities : [];
  $("shares").closest("section").hidden = station.value_unit !== null;
  if ($("shares").dataset.of !== JSON.stringify(station.labels)) {
    $("shares").dataset.of = JSON.stringify(station.labels);
    replace("shares", station.labels.map((label, index) => {
      const item = element("li"), track = element("span", "", { class: "track", "aria-hidden": "true" });
      const fill = element("div", "", { class: "fill" });
      track.append(fill);
      item.append(element("span", label, { class: "name" }), track, element("span", "", { class: "number" }));
      return item;
    }));
  }
  [...$("shares").children].forEach((item, index) => {
    const share = shares[index] || 0;
    item.querySelector(".fill").style.transform = `scaleX(${share})`;
    item.querySelector(".fill").style.background = colour(index);
    item.querySelector(".number").textContent = last ? percent(share) : "";
  });
}

function showTimeline(station) {
  drawTimeline($("timeline"), kept.results, station.seen.episodes, station.labels);
  const counts = {};
  for (const result of kept.results) {
    const name = answerOf(station, result);
    counts[name] = (counts[name] || 0) + 1;
  }
  const parts = Object.entries(counts).map(([name, count]) => `${name} ${count} times`);
  $("timeline").setAttribute("aria-label", `The last ${kept.results.length} results: ${parts.join(", ") || "none"}`);
  const without = kept.results.some((result) => result.score !== null) ? "unlike normal, or no answer" : "no answer";
  const key = JSON.stringify([station.labels, without]);
  if ($("legend").dataset.of === key) return;
  $("legend").dataset.of = key;
  replace("legend", [...station.labels, without].map((name, index) => {
    const item = element("li"), mark = element("i");
    mark.style.background = index < station.labels.length ? colour(index) : colour(-1);
    item.append(mark, name);
    return item;
  }));
}

function showEpisodes(station) {
  const { episodes } = station.seen;
  const key = JSON.stringify([station.name, episodes]);
  $("no-episodes").hidden = episodes.length > 0;
  $("episodes").closest(".scroll").hidden = episodes.length === 0;
  const now_s = Date.now() / 1000;
  if ($("episodes").dataset.key === key) {
    for (const cell of $("episodes").querySelectorAll("[data-since]")) cell.textContent = `open, ${duration(Math.max(1, Math.round(now_s - cell.dataset.since)))}`;
    return;
  }
  $("episodes").dataset.key = key;
  const { episode: had, false: hadFalse } = document.activeElement?.dataset ?? {};
  replace("episodes", episodes.map((one) => {
    // On a phone rows are no table rows to the browser any more; the roles say what they are.
    const row = element("tr", "", { role: "row" }), cell = (text = "") => element("td", text, { role: "cell" });
    const lasted = cell(), noted = cell();
    lasted.append(one.cleared_s === null
      ? element("span", "open", { class: "open", "data-since": one.raised_s })
      : element("span", duration(one.cleared_s - one.raised_s)));
    if (one.acknowledged) noted.textContent = one.contradicted ? "false alarm" : "noted";
    else for (const [text, isFalse] of [["Acknowledge", false], ["False alarm", true]]) {
      const button = element("button", text, { type: "button", "data-episode": one.alarm.episode, "data-false": isFalse, "aria-label": `${text} ${one.alarm.label} ${one.alarm.episode}` });
      button.addEventListener("click", () => acknowledge({ station: station.name, episode: one.alarm.episode, false: isFalse }));
      noted.append(button, " ");
    }
    const name = element("th", `${one.alarm.label} ${one.alarm.episode}`, { scope: "row", role: "rowheader" });
    row.append(name, cell(clock(one.raised_s)), lasted, cell(percent(one.alarm.probability)), noted);
    return row;
  }));
  if (had) $("episodes").querySelector(`[data-episode="${had}"][data-false="${hadFalse}"]`)?.focus();
}

function showHealth(station, last) {
  const { intake, stream, results, missed, faults } = station.facts;
  const recent = kept.results.slice(-60);
  const missing = recent.length ? recent.reduce((sum, one) => sum + one.missing_fraction, 0) / recent.length : 0;
  const facts = [
    ["results", Object.values(results).reduce((sum, one) => sum + one, 0), false],
    ["samples", intake.samples, false],
    ["missing", percent(missing), missing > 0.1],
    ["dropped", intake.dropped, intake.dropped > 0],
    ["late", stream.late, stream.late > 0],
    ["filled in", missed, missed > 0],
    ["no samples", intake.garbage, intake.garbage > 0],
    ["not answered", faults, faults > 0],
    ["queue", intake.queued, intake.queued > 100],
    ["running", duration(station.facts.running_s), false],
    ["inputs", station.drift.replaceAll("_", " ") || "unknown", station.drift === "drifting"],
  ];
  if (station.facts.adaptation) facts.push(["adaptation is due", station.facts.adaptation, true]);
  if (intake.connects) facts.push(["connects", intake.connects, intake.connects > 1]);
  replace("facts", facts.map(([name, value, bad]) => {
    const pair = element("div");
    pair.append(element("dt", name), element("dd", typeof value === "number" ? number(value) : value, { "data-bad": bad }));
    return pair;
  }));
  const [half, most, longest] = station.latency_s ?? [];
  $("latency").textContent = station.latency_s ? `half within ${duration(half)}, 99 % within ${duration(most)}, longest ${duration(longest)}` : "no result yet";
}

function showSinks(update) {
  replace("sinks", update.sinks.length ? update.sinks.map((one) => {
    const item = element("li");
    const parts = [`${number(one.written)} written`];
    if (one.dropped) parts.push(`${number(one.dropped)} dropped`);
    if (one.waiting) parts.push(`${number(one.waiting)} wait`);
    item.append(element("strong", one.sink), `: ${parts.join(", ")}`);
    if (one.fault) item.append(element("span", `; ${one.fault}`, { class: "fault" }));
    return item;
  }) : [element("li", "none: this page alone")]);
  replace("states", update.station.seen.states.slice(0, 8).map((one) => {
    const item = element("li"), bad = ["disconnected", "refused", "adaptation_due", "failed"].includes(one.state);
    item.append(element("time", clock(one.decided_s)), element("span", `${one.state.replaceAll("_", " ")}: ${one.reason}`, bad ? { class: "bad" } : {}));
    return item;
  }));
}

// ---- what an operator does

async function post(path, document_) {
  return fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(document_) });
}

async function acknowledge(said) {
  const answer = await post("acknowledge", said);
  if (answer.status === 401) {
    waiting = said;
    $("ask-error").textContent = "";
    $("ask").showModal();
    $("token").focus();
  }
}

$("ask-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const answer = await post("login", { token: $("token").value });
  if (!answer.ok) {
    $("ask-error").textContent = (await answer.json()).error;
    return;
  }
  $("token").value = "";
  $("ask").close();
  if (waiting) await acknowledge(waiting);
  waiting = null;
});
$("ask-cancel").addEventListener("click", () => $("ask").close());
$("pause").addEventListener("click", () => {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", paused);
  $("pause").textContent = paused ? "Go on" : "Pause";
  if (!paused) show();
});
window.addEventListener("resize", () => { if (!paused) show(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const id of ["legend"]) delete $(id).dataset.of;
  show();
});
follow("");
