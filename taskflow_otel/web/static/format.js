// Numbers and times in a form for people.

import { now, parts } from "./now.js";

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.001) return seconds <= 0 ? "0 ms" : "<1 ms";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${seconds.toFixed(2)} s`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const [days, hours, minutes] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${pad(minutes)} m`;
  return `${minutes} m ${pad(whole % 60)} s`;
}

/** A duration that still grows: in whole seconds, so that the digits do not flicker. */
export function elapsed(seconds) {
  return seconds < 60 ? `${Math.floor(seconds)} s` : duration(Math.floor(seconds));
}

export function count(number) {
  if (number === null || number === undefined) return "–";
  return number.toLocaleString("en", { notation: number >= 100000 ? "compact" : "standard", maximumFractionDigits: 1 });
}

export function rate(number) {
  return number.toLocaleString("en", { maximumFractionDigits: number < 10 ? 1 : 0, notation: number >= 100000 ? "compact" : "standard" });
}

export function share(value) {
  if (value === null || value === undefined) return "–";
  const percent = value * 100;
  if (percent === 0) return "0 %";
  return percent < 0.1 ? "<0.1 %" : `${percent.toFixed(percent < 10 ? 1 : 0)} %`;
}

/** A relative change, with its sign. */
export function change(value) {
  if (value === null || value === undefined) return "–";
  const percent = Math.round(value * 100);
  return `${percent > 0 ? "+" : percent < 0 ? "−" : "±"}${Math.abs(percent)} %`;
}

/** The time of day, with the date unless it is today. */
export function clock(iso) {
  if (!iso) return "–";
  const { day, time, shifted } = parts(iso);
  if (day === parts(new Date(now()).toISOString()).day) return time;
  return `${shifted.toLocaleDateString("en", { month: "short", day: "numeric", timeZone: "UTC" })} ${time}`;
}

export function precise(iso) {
  return iso ? `${clock(iso)}.${parts(iso).millis}` : "–";
}

/** The same with the name of the zone. */
export function zoned(iso) {
  return iso ? `${precise(iso)} ${parts(iso).zone}` : "–";
}

/** A moment with its date and the name of its zone. */
export function full(iso) {
  if (!iso) return "";
  const { day, time, millis, zone } = parts(iso);
  return `${day} ${time}.${millis} ${zone}`;
}

export function ago(iso) {
  const seconds = secondsBetween(iso, null);
  if (seconds < 2) return "just now";
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} d ago`;
}

/** The time until a moment. */
export function until(iso) {
  if (!iso) return "–";
  const seconds = (Date.parse(iso) - now()) / 1000;
  if (seconds < 1) return "now";
  if (seconds < 60) return `in ${Math.floor(seconds)} s`;
  if (seconds < 3600) return `in ${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `in ${Math.floor(seconds / 3600)} h`;
  return `in ${Math.floor(seconds / 86400)} d`;
}

/** Seconds from one ISO time to another; to now if the second is missing. */
export function secondsBetween(from, to) {
  return Math.max(0, ((to ? Date.parse(to) : now()) - Date.parse(from)) / 1000);
}

/** The last part of a UUIDv7, in which ids differ. */
export function shortId(id) {
  return id.slice(-8);
}

export function firstLine(text) {
  return (text ?? "").trim().split("\n", 1)[0];
}

export function plural(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}

function pad(number) {
  return String(number).padStart(2, "0");
}
