// Draws what the page shows: the signal with its gaps, and the timeline of labels, episodes and states.

const style = () => getComputedStyle(document.documentElement);
export const colour = (index) => style().getPropertyValue(index < 0 ? "--missing" : `--c${index % 8}`).trim();
const named = (name) => style().getPropertyValue(name).trim();

function sheet(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  return { pen, width, height };
}

// bins: [number, time_s, lowest[], highest[]]; gives [least, most, share of the time that is missing].
export function drawSignal(canvas, bins, channel, { span_s, rate_hz }) {
  const { pen, width, height } = sheet(canvas);
  if (!bins.length) return null;
  const end = bins[bins.length - 1][1], start = end - span_s;
  const shown = bins.filter((bin) => bin[1] >= start);
  const step_s = Math.max(span_s / 600, 1 / rate_hz);
  const there = shown.filter((bin) => bin[2][channel] !== null);
  pen.fillStyle = named("--missing");
  let missing_s = 0;
  shown.forEach(([, time, low], place) => {
    const before = place ? shown[place - 1][1] : time;
    const gap_s = time - before > 2.5 * step_s ? time - before - step_s : 0;
    const gone_s = gap_s + (low[channel] === null ? step_s : 0);
    missing_s += gone_s;
    if (gone_s) pen.fillRect(((time - gap_s - start) / span_s) * width, 0, (gone_s / span_s) * width + 1, height);
  });
  const missing = shown.length > 1 ? missing_s / (end - shown[0][1] + step_s) : 0;
  if (!there.length) return [null, null, missing];
  let least = Math.min(...there.map((bin) => bin[2][channel]));
  let most = Math.max(...there.map((bin) => bin[3][channel]));
  const limits = [least, most];
  const room = most > least ? 0.06 * (most - least) : Math.abs(most) * 0.1 || 1;
  least -= room;
  most += room;
  const y = (value) => height - ((value - least) / (most - least)) * height;
  pen.strokeStyle = named("--line");
  pen.lineWidth = 1;
  pen.strokeRect(0.5, 0.5, width - 1, height - 1);
  pen.strokeStyle = colour(channel);
  pen.fillStyle = colour(channel);
  pen.lineWidth = 1.4;
  pen.lineJoin = "round";
  pen.beginPath();
  let last = null;
  for (const [, time, low, high] of shown) {
    const x = ((time - start) / span_s) * width;
    if (low[channel] === null) {
      last = null;
      continue;
    }
    if (last !== null && time - last > 2.5 * step_s) last = null;
    if (last === null) pen.moveTo(x, y(low[channel]));
    // Up and down in turn, so that a bin is a stroke from its lowest to its highest value.
    pen.lineTo(x, y(low[channel]));
    pen.lineTo(x, y(high[channel]));
    last = time;
  }
  pen.stroke();
  return [...limits, missing];
}

const moment = (result) => result.time_s ?? result.decided_s;

export function drawTimeline(canvas, results, episodes, labels) {
  const { pen, width, height } = sheet(canvas);
  if (!results.length) return;
  const end = moment(results[results.length - 1]);
  const span_s = Math.min(600, Math.max(60, end - moment(results[0])));
  const start = end - span_s;
  const x = (time) => Math.max(0, ((time - start) / span_s) * width);
  const strip = (top, tall, fill) => {
    results.forEach((result, place) => {
      const time = moment(result);
      if (time < start) return;
      const next = place + 1 < results.length ? moment(results[place + 1]) : end + span_s / 300;
      const before = place ? moment(results[place - 1]) : time;
      const wide = Math.max(1, x(Math.min(next, time + Math.max(2 * (time - before), span_s / 120))) - x(time));
      pen.fillStyle = fill(result);
      pen.fillRect(x(time), top, wide + 0.5, tall);
    });
  };
  pen.font = "12px system-ui, sans-serif";
  pen.textBaseline = "middle";
  strip(26, 26, (result) => colour(result.index));
  strip(58, 8, (result) => named(result.status === "warming_up" ? "--stale" : `--${result.status}`));
  for (const episode of episodes) {
    const { since_s, label, episode: number } = episode.alarm;
    if (since_s === null) continue;
    const length_s = episode.cleared_s === null ? end - since_s : episode.cleared_s - episode.raised_s;
    const [from, to] = [x(since_s), x(Math.min(end, since_s + Math.max(length_s, span_s / 100)))];
    if (to <= 0) continue;
    pen.fillStyle = colour(labels.indexOf(label));
    pen.fillRect(from, 18, Math.max(3, to - from), 4);
    pen.fillStyle = named("--ink");
    pen.fillText(`${label} ${number}`, Math.min(from, width - 60), 8);
  }
  pen.fillStyle = named("--soft");
  const ticks = width < 500 ? 3 : 6;
  for (let back = 0; back <= span_s; back += span_s / ticks) {
    const text = back ? `-${back >= 120 ? `${Math.round(back / 60)} min` : `${Math.round(back)} s`}` : "now";
    const at = width - (back / span_s) * width;
    pen.textAlign = back === 0 ? "right" : back >= span_s ? "left" : "center";
    pen.fillText(text, at, height - 9);
  }
  pen.textAlign = "left";
}
