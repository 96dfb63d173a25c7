// The signed-in account's data, kept up to date by the controller's stream of changes.

import { useEffect, useReducer, useRef, useState } from "preact/hooks";
import { get, peeringsOf, Refused, vpcsOf, type Peering, type Vpc, type Who } from "./api.ts";
import { forgetPlace } from "./route.ts";
import { isRequestToAnswer } from "./rules.ts";

export interface Content { peerings: Peering[]; vpcs: Vpc[] }

const listeners = new Set<() => void>();
let changes = 0;

function render(): void {
  for (const listener of listeners) listener();
}

/** Notifies every page that something may have changed. */
export function changed(): void {
  changes++;
  if (lost) void askForContent();
  render();
}

/** A number that is different after every change. */
export function useChanges(): number {
  const [, again] = useReducer((count: number) => count + 1, 0);
  useEffect(() => {
    const listener = () => again(undefined as never);
    listeners.add(listener);
    return () => void listeners.delete(listener);
  }, []);
  return changes;
}

/** Whether the stream of changes is broken; when the shown data was last received or loaded, and when the stream is retried, in milliseconds. */
let lost = false;
let heard = 0;
let nextTry = 0;
/** Why the controller refuses the stream, if it does. */
let refusal: Refused | undefined;
/** The account's data, from the stream, or loaded while there is none; undefined before either. */
let content: Content | undefined;
let contentError: Error | undefined;
/** Whether the data is current, as far as known. */
let current = false;
/** The account of the data. */
let owner: string | undefined;
/** The last one to sign in, who may have signed out since. */
let lastOwner: string | undefined;
/** How many times somebody has signed in. */
let entries = 0;
export const timesSignedIn = () => entries;
/** The regions whose data is loaded; none for operators. */
let regions: string[] = [];
const told = new Map<string, unknown>();
let about: ((account: { chargeStatus: string; regions: string[] }) => void) | undefined;

export const connectionLost = () => lost;
export const lastHeard = () => heard;
export const nextAttempt = () => nextTry;
export const streamRefusal = () => refusal;

/** The account's current data. */
export const contentNow = () => content;

/** Whether the data is current. */
export const isCurrent = () => current;

/** The account's current peerings, each once. */
export const peeringsNow = () => once(content?.peerings ?? []);

/** How many requests wait for the account's answer. */
export const requests = () => peeringsNow().filter(isRequestToAnswer).length;

/** Called with changes of the account itself. */
export function onAccount(then: typeof about): void {
  about = then;
}

/** The key of a user's data. */
export const idOf = (who: Pick<Who, "role" | "accountId">) => `${who.role} ${who.accountId}`;

/** Sets the user, before anything is shown: the previous user's data and page are forgotten. */
export function own(who: Who): void {
  const id = idOf(who);
  if (owner !== id) forget();
  if (lastOwner !== undefined && lastOwner !== id) forgetPlace();
  owner = lastOwner = id;
  regions = who.role === "account" ? who.regions : [];
  entries++;
}

/** Forgets the data. */
export function forget(): void {
  told.clear();
  content = contentError = owner = undefined;
  current = false;
  heard = 0;
  regions = [];
}

interface News { all?: boolean; set?: Record<string, unknown>; gone?: string[] }

function hear({ all, set, gone }: News): void {
  if (!set) return;
  if (all) told.clear();
  for (const key of gone ?? []) told.delete(key);
  for (const [key, value] of Object.entries(set)) told.set(key, value);
  const those = <T>(kind: string) => [...told].filter(([key]) => key.startsWith(`${kind}/`)).map(([, value]) => value as T);
  content = { peerings: those<Peering>("peering"), vpcs: those<Vpc>("vpc") };
  current = true;
  if (set.account) {
    const account = set.account as { chargeStatus: string; regions: string[] };
    regions = account.regions;
    about?.(account);
  }
}

let asking = 0;

/** Loads the account's data while there is no stream. */
async function askForContent(): Promise<void> {
  if (regions.length === 0) return;
  const [mine, whose] = [++asking, owner];
  const isStale = () => mine !== asking || whose !== owner || !lost;
  try {
    const [peerings, vpcs] = await Promise.all([
      Promise.all(regions.map((region) => peeringsOf(region, true))),
      Promise.all(regions.map((region) => vpcsOf(region, true))),
    ]);
    if (isStale()) return;
    content = { peerings: peerings.flat(), vpcs: vpcs.flat() };
    contentError = undefined;
    current = true;
    heard = Date.now();
  } catch (error) {
    if (isStale()) return;
    contentError = error as Error;
    current = false;
  }
  render();
}

/** Why the stream is refused: browsers do not tell. */
async function whyRefused(): Promise<Refused | undefined> {
  const leave = new AbortController();
  try {
    const response = await fetch("/console/events", { signal: leave.signal });
    if (response.ok) return undefined;
    const { error, requestId } = await response.json();
    return new Refused(error.code, error.message, error.details ?? [], requestId);
  } catch {
    return undefined;
  } finally {
    leave.abort();
  }
}

/** How long after a broken connection the next one is tried, in milliseconds; doubled each time. */
const FIRST_PAUSE = 2000;
const LONGEST_PAUSE = 30_000;
/** A stream that has been silent for this many times its promised interval is lost. */
const SILENCE = 2.5;
/** How long the first event of a stream may take, in milliseconds: it contains everything, and lines can be slow. */
const FIRST_WORD = 180_000;

let reconnect: () => void = () => {};

/** Reconnects now. */
export const tryNow = () => reconnect();

/**
 * Listens for changes while the page is visible. Browsers reconnect automatically, but do not say when; so the page does it itself.
 */
export function listen(): () => void {
  let source: EventSource | undefined;
  let retry: ReturnType<typeof setTimeout> | undefined;
  let silence: ReturnType<typeof setTimeout> | undefined;
  let pause = FIRST_PAUSE;
  const close = () => {
    clearTimeout(retry);
    clearTimeout(silence);
    source?.close();
    source = undefined;
  };
  const open = () => {
    close();
    nextTry = 0;
    if (document.hidden) return;
    const opened = new EventSource("/console/events");
    /** How often the stream sends a sign of life, in seconds; earlier controllers do not say. */
    let alive: number | undefined;
    const listening = () => {
      heard = Date.now();
      clearTimeout(silence);
      if (alive !== undefined) silence = setTimeout(broken, SILENCE * alive * 1000);
    };
    const broken = () => {
      if (source !== opened) return;
      close();
      const first = !lost;
      lost = true;
      current = false;
      nextTry = Date.now() + pause;
      retry = setTimeout(open, pause);
      pause = Math.min(2 * pause, LONGEST_PAUSE);
      changed();
      if (first || refusal) {
        void whyRefused().then((why) => {
          if (!lost || refusal?.message === why?.message) return;
          refusal = why;
          render();
        });
      }
    };
    opened.addEventListener("alive", listening);
    opened.addEventListener("changed", (event) => {
      const news = JSON.parse((event as MessageEvent<string>).data) as News & { aliveSeconds?: number };
      alive = news.aliveSeconds ?? alive;
      listening();
      lost = false;
      refusal = undefined;
      pause = FIRST_PAUSE;
      hear(news);
      changed();
    });
    opened.addEventListener("error", broken);
    silence = setTimeout(broken, FIRST_WORD);
    source = opened;
  };
  lost = false;
  refusal = undefined;
  heard ||= Date.now();
  reconnect = open;
  open();
  document.addEventListener("visibilitychange", open);
  return () => {
    document.removeEventListener("visibilitychange", open);
    close();
    reconnect = () => {};
  };
}

export type Loaded<T> = { value?: T; error?: Error; reload: () => void };

/**
 * Loads something when its key changes, and again after every change. The previous data stays until the new is there, so that
 * nothing flickers; an error of a later attempt is shown beside it. With `every`, also after so many milliseconds. With `of`, only when
 * that has changed, instead of after every change.
 */
export function useLoaded<T>(key: string, load: (background: boolean) => Promise<T>, every?: number, of?: string | number): Loaded<T> {
  const changed = useChanges();
  // A new sign-in loads it again.
  const version = of === undefined ? changed : `${of} ${entries}`;
  const [nudge, setNudge] = useState(0);
  const [result, setResult] = useState<{ key: string; value?: T; error?: Error }>({ key: "" });
  const loader = useRef(load);
  loader.current = load;
  const loadedKey = useRef("");
  useEffect(() => {
    let stale = false;
    const background = loadedKey.current === key;
    loadedKey.current = key;
    const attempt = (background: boolean) =>
      loader.current(background).then(
        (value) => stale || setResult({ key, value }),
        (error: Error) => stale || setResult((old) => ({ key, value: old.key === key ? old.value : undefined, error })),
      );
    void attempt(background);
    const timer = every === undefined ? undefined : setInterval(() => document.hidden || void attempt(true), every);
    return () => {
      stale = true;
      clearInterval(timer);
    };
  }, [key, version, nudge, every]);
  const current = result.key === key ? result : { key };
  return { value: current.value, error: current.error, reload: () => setNudge((count) => count + 1) };
}

/** Everything that the account has, in all regions. */
export function useContent(): Loaded<Content> {
  useChanges();
  return { value: content, error: content ? undefined : contentError, reload: changed };
}

export const whoami = () => get<Who>("/v1/whoami", true);

/** Each peering once: between regions of one account, there is a view from either end, and the initiator's comes first. */
export function once(peerings: Peering[]): Peering[] {
  const byId = new Map<string, Peering>();
  for (const peering of peerings) {
    if (!byId.has(peering.vpcPeeringId) || peering.role === "initiator") byId.set(peering.vpcPeeringId, peering);
  }
  return [...byId.values()].sort((one, other) => other.createdTime.localeCompare(one.createdTime)
    || one.vpcPeeringId.localeCompare(other.vpcPeeringId));
}
