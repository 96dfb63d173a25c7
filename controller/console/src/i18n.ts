// Translations: in the chosen language, or else the browser's preferred one.

import { en } from "./words/en.ts";
import { zh } from "./words/zh.ts";

export type Key = keyof typeof zh;
export type Language = "zh" | "en";

const words = { zh, en };
const stored = localStorage.getItem("language");
let language: Language =
  stored === "zh" || stored === "en" ? stored : navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";

export const chosen = () => language;

export function choose(wanted: Language): void {
  language = wanted;
  localStorage.setItem("language", wanted);
  tell();
}

/** Sets the document's language, which screen readers use. */
export function tell(): void {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
}

/** Right-to-left text, and the characters that mark the direction of other text (Unicode Standard Annex #9). */
const RIGHT_TO_LEFT = /[\u0590-\u08ff\u200f\u202a-\u202e\u2066-\u2069\ufb1d-\ufdff\ufe70-\ufefc\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]/u;
const ISOLATE = /[\u2066-\u2069]/g;

/** A user's text, isolated so that it does not change the order of the words around it. */
export const isolated = (text: string) => (RIGHT_TO_LEFT.test(text) ? `\u2068${text}\u2069` : text);

/** A text without isolation characters, as when it is copied out of a sentence. */
export const bare = (text: string) => text.replace(ISOLATE, "");

/** The translation of a key, with values filled in. A key without translation, which the controller may cause, is shown as it is. */
export function t(key: Key, values: Record<string, string | number> = {}): string {
  const found: string | undefined = words[language][key];
  return (found ?? key).replace(/\{(\w+)\}/g, (_, name: string) => isolated(String(values[name] ?? "")));
}

/** A translation that may be missing: then the controller's own word is shown. */
export function tOr(key: string, otherwise: string): string {
  return key in words[language] ? words[language][key as Key] : otherwise;
}

const locale = () => (language === "zh" ? "zh-CN" : "en-GB");

export function time(text: string | null | undefined): string {
  if (!text) return t("common.none");
  const format = { dateStyle: "medium", timeStyle: "short" } as const;
  return new Intl.DateTimeFormat(locale(), format).format(new Date(text));
}

/** The time of day, with the date unless it is today. */
export function clock(text: string): string {
  const date = new Date(text);
  const today = date.toDateString() === new Date().toDateString();
  return today ? new Intl.DateTimeFormat(locale(), { timeStyle: "short" }).format(date) : time(text);
}

export const number = (value: number, digits = 0) =>
  new Intl.NumberFormat(locale(), { maximumFractionDigits: digits }).format(value);

export const unit = () => (language === "zh" ? "Mbps" : "Mbit/s");

/** An amount of money; to the cent if it has no smaller part. */
export function money(amount: number, currency: string): string {
  const small = Math.abs(amount) > 0 && Math.abs(amount) < 0.01;
  const digits = small ? { maximumFractionDigits: 6 } : {};
  return new Intl.NumberFormat(locale(), { style: "currency", currency, currencyDisplay: "narrowSymbol", ...digits }).format(amount);
}

export const mbit = (value: number | null) =>
  value === null ? t("list.unlimited") : `${number(value, value < 10 ? 2 : 0)} ${unit()}`;

export function bytes(value: number): string {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${number(value, unit === 0 ? 0 : 1)} ${units[unit]}`;
}
