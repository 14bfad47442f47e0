"use strict";
// The formulas of mmkd_models/evaluation/suites/cost.py; a test holds both equal.
const HOURS = 8760, SECONDS = 3600 * HOURS, MJ_PER_KWH = 3.6e9, MOST = 10000;
const state = JSON.parse(document.getElementById("cost-data").textContent);

const investment = (p, w) => {
  const station = w.sensor_price * (1 + w.spares_fraction) + w.installation + w.node_price;
  const gateways = Math.ceil(p.stations / w.stations_per_gateway) * w.gateway_price;
  const people = (w.labelling_hours + w.training_hours) * p.hourly_rate;
  return p.stations * station + gateways + w.campaign_cost + people;
};
const kwh = (w) => w.idle_w * HOURS / 1000 + w.inference_mj * w.inferences_per_s * SECONDS / MJ_PER_KWH;
const savings = (p, w) => p.stations * p.faults_per_station_year * w.detection * p.avoidable_fraction * p.missed_cost;
const running = (p, w) => {
  const alarms = p.checks_per_station_year * w.false_alarms * p.false_alarm_cost;
  return p.stations * (alarms + kwh(w) * p.price_per_kwh + w.maintenance_hours * p.hourly_rate);
};
const yearly = (p, w) => savings(p, w) - running(p, w);
const due = (year, life) => Math.floor(year / life) > Math.floor((year - 1) / life);
const replacement = (p, w, year) => {
  if (year >= p.years) return 0;
  const sensors = due(year, w.sensor_life_years) ? w.sensor_price + w.installation : 0;
  const node = due(year, w.node_life_years) ? w.node_price : 0;
  return p.stations * (sensors + node);
};
const discounted = (p, ofYear) => {
  let sum = 0;
  for (let year = 1; year <= p.years; year += 1) sum += ofYear(year) / (1 + p.discount_rate) ** year;
  return sum;
};
const worth = (p, w) => discounted(p, (year) => yearly(p, w) - replacement(p, w, year)) - investment(p, w);
const payback = (p, w) => {
  let balance = -investment(p, w);
  const monthly = yearly(p, w) / 12;
  for (let month = 1; month <= 12 * p.years; month += 1) {
    balance += monthly;
    if (month % 12 === 0) balance -= replacement(p, w, month / 12);
    if (balance >= 0) return month;
  }
  return null;
};
const breakEven = (p, w) => {
  for (let stations = 1; stations <= MOST; stations += 1) if (worth({...p, stations}, w) >= 0) return stations;
  return null;
};
const stationYear = (p, w) => {
  const spent = investment(p, w) + discounted(p, (year) => running(p, w) + replacement(p, w, year));
  return spent / (p.stations * discounted(p, () => 1));
};
const FIGURES = {
  investment, yearly, net_present_value: worth, payback_month: payback, break_even_stations: breakEven,
  cost_per_station_year: stationYear,
};

// The tornado: the student's net present value, or that of the first way, with one assumption at the ends of its range.
const reckoned = "student" in state.equipment ? "student" : Object.keys(state.equipment)[0];
const worthWith = (path, value) => {
  const [section, key] = path.split("."), plant = {...state.plant}, way = {...state.equipment[reckoned]};
  (section === "plant" ? plant : way)[key] = value;
  return worth(plant, way);
};
const swings = () => state.assumptions
  .filter((one) => one.low < one.high && ["plant", reckoned].includes(one.path.split(".")[0]))
  .map((one) => ({path: one.path, low: worthWith(one.path, one.low), high: worthWith(one.path, one.high)}))
  .filter((one) => one.low !== one.high)
  .sort((one, other) => Math.abs(other.high - other.low) - Math.abs(one.high - one.low));
const follow = (path, value) => {
  const key = path.split(".")[1], reach = state.whole.includes(key) ? 0 : state.either_way;
  for (const one of state.assumptions) {
    if (one.path !== path || !one.follows) continue;
    one.low = value * (1 - reach);
    one.high = value * (1 + reach);
    if (state.fractions.includes(key)) one.high = Math.min(1, one.high);
  }
};

const written = (value) => {
  if (value === null) return "never";
  const digits = Math.abs(value).toFixed(0).replace(/\B(?=(\d{3})+$)/g, "\u202f");
  return value < 0 && digits !== "0" ? "\u2212" + digits : digits;
};
const show = () => {
  for (const cell of document.querySelectorAll("[data-figure]")) {
    const value = FIGURES[cell.dataset.figure](state.plant, state.equipment[cell.dataset.way]);
    cell.dataset.value = value === null ? "" : String(value);
    cell.textContent = written(value);
  }
  showSwings();
};
const bars = document.getElementById("swings"), pattern = bars && bars.rows[0].cloneNode(true);
const showSwings = () => {
  if (!bars) return;
  const found = swings().slice(0, state.most_swings);
  const ends = [0, ...found.flatMap((one) => [one.low, one.high])];
  const low = Math.min(...ends), span = Math.max(...ends) - low || 1;
  const place = (value) => 100 * (value - low) / span + "%";
  bars.replaceChildren(...found.map((one) => {
    const row = pattern.cloneNode(true), [name, atLow, atHigh] = row.cells, fill = row.querySelector(".bar-fill");
    row.dataset.swing = one.path;
    name.textContent = one.path.replace(/_/g, " ").replace(".", ": ");
    for (const [cell, value] of [[atLow, one.low], [atHigh, one.high]]) {
      cell.dataset.value = String(value);
      cell.textContent = written(value);
    }
    fill.setAttribute("x", place(Math.min(one.low, one.high)));
    fill.setAttribute("width", 100 * Math.abs(one.high - one.low) / span + "%");
    for (const end of ["x1", "x2"]) row.querySelector(".limit").setAttribute(end, place(0));
    return row;
  }));
};
for (const slider of document.querySelectorAll("input[data-path]")) {
  slider.disabled = false;
  slider.addEventListener("input", () => {
    const [section, key] = slider.dataset.path.split(".");
    (section === "plant" ? state.plant : state.equipment[section])[key] = Number(slider.value);
    follow(slider.dataset.path, Number(slider.value));
    slider.parentElement.querySelector("output").textContent = slider.value;
    show();
  });
}
show();
