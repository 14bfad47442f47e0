"use strict";
// The formulas of mmkd_models/evaluate/suites/cost.py; a test holds both equal.
const HOURS = 8760, SECONDS = 3600 * HOURS, MJ_PER_KWH = 3.6e9, MOST = 10000;
const state = JSON.parse(document.getElementById("cost-data").textContent);

const investment = (p, w) => {
  const station = w.sensor_price * (1 + w.spares_share) + w.installation + w.node_price;
  const gateways = Math.ceil(p.stations / w.stations_per_gateway) * w.gateway_price;
  const people = (w.labelling_hours + w.training_hours) * p.hourly_rate;
  return p.stations * station + gateways + w.campaign_cost + people;
};
const kwh = (w) => w.idle_w * HOURS / 1000 + w.inference_mj * w.inferences_per_s * SECONDS / MJ_PER_KWH;
const savings = (p, w) => p.stations * p.faults_per_station_year * w.detection * p.avoidable_share * p.missed_cost;
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
};
for (const slider of document.querySelectorAll("input[data-path]")) {
  slider.disabled = false;
  slider.addEventListener("input", () => {
    const [section, key] = slider.dataset.path.split(".");
    (section === "plant" ? state.plant : state.equipment[section])[key] = Number(slider.value);
    slider.parentElement.querySelector("output").textContent = slider.value;
    show();
  });
}
show();
