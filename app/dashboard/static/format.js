// How figures and moments are written.

export function size(bytes) {
  if (bytes === null || bytes === undefined) return "–";
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let value = bytes;
  while (value >= 1000 && units.length > 1) { value /= 1000; units.shift(); }
  return `${Number(value.toPrecision(3))} ${units[0]}`;
}

export function duration(seconds, whole = Math.floor) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 90) return `${Math.max(0, whole(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

export const share = (value) => `${(value * 100).toFixed(1)} %`;
export const percent = (value) => `${Math.floor(value * 100)} %`;
export const number = (value, digits = 3) => (
  value === null || value === undefined ? "–" : Number(value.toPrecision(digits)).toLocaleString("en", { maximumSignificantDigits: digits }));
const hundredths = (value) => value.toFixed(2);
export const between = (interval, write = hundredths) => (interval ? `${write(interval.low)} to ${write(interval.high)}` : "");

export function secondsOf(job) {
  if (!job.started_at) return null;
  return ((job.finished_at ? new Date(job.finished_at) : new Date()) - new Date(job.started_at)) / 1000;
}

const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
export function ago(text) {
  const seconds = (new Date(text) - new Date()) / 1000;
  for (const [unit, length] of [["day", 86400], ["hour", 3600], ["minute", 60]]) {
    if (Math.abs(seconds) >= length) return relative.format(Math.trunc(seconds / length), unit);
  }
  return Math.abs(seconds) < 5 ? "just now" : relative.format(Math.trunc(seconds), "second");
}

export const moment = (text) => new Date(text).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" });
export const clock = (text) => new Date(text).toLocaleTimeString("en-GB");
export const method = ({ method: name, effort }) => (effort ? `${name} · ${effort}` : name);
// Older requests have the pattern as two numbers.
export const pattern = (value) => (value && typeof value === "object" ? `${value.n}:${value.m}` : value);
