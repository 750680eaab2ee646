// The time of the server, and the zone in which times are shown.

const ZONE = "taskflow-zone";

let offset = 0;
let trust = Infinity;
let frozen = null;
let utc = localStorage.getItem(ZONE) === "utc";

/** Milliseconds since 1970 by the server's clock. */
export function real() {
  return Date.now() + offset;
}

/** The same, but while the page is not connected, those of the last contact: nothing must seem to continue. */
export function now() {
  return frozen ?? real();
}

/** Correct the browser's clock by a time that the server has told between two moments of this clock. */
export function correct(iso, asked, answered) {
  const error = (answered - asked) / 2;
  // A slow answer says little about the time. Each later one may be a bit slower, so that a corrected clock is noticed.
  trust += 1;
  if (error > trust) return;
  trust = error;
  offset = Date.parse(iso) - (asked + answered) / 2;
}

/** Stop the time of `now`. */
export function freeze(moment) {
  frozen ??= moment;
}

export function thaw() {
  frozen = null;
}

export function isUtc() {
  return utc;
}

/** Show times in UTC, or in the zone of the browser. */
export function useUtc(wanted) {
  utc = wanted;
  localStorage.setItem(ZONE, wanted ? "utc" : "local");
}

/** The parts of a moment in the chosen zone. */
export function parts(iso) {
  const moment = new Date(iso);
  const minutes = utc ? 0 : -moment.getTimezoneOffset();
  // Read as UTC, this has the digits of the zone.
  const shifted = new Date(moment.getTime() + minutes * 60000);
  const sign = minutes < 0 ? "-" : "+";
  const away = Math.abs(minutes);
  return {
    shifted,
    day: shifted.toISOString().slice(0, 10),
    time: shifted.toISOString().slice(11, 19),
    millis: shifted.toISOString().slice(20, 23),
    zone: minutes ? `UTC${sign}${String(Math.floor(away / 60)).padStart(2, "0")}:${String(away % 60).padStart(2, "0")}` : "UTC",
  };
}

/** The name of the zone in which times are shown. */
export function zoneName() {
  if (utc) return "UTC";
  const name = Intl.DateTimeFormat().resolvedOptions().timeZone;
  return name === "UTC" ? "UTC" : `${name} (${parts(new Date(now()).toISOString()).zone})`;
}
