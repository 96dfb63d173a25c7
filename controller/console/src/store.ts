// What the signed-in account has, kept up to date by the controller's word of changes.

import { useEffect, useReducer, useRef, useState } from "preact/hooks";
import { get, peeringsOf, vpcsOf, type Peering, type Vpc, type Who } from "./api.ts";

export interface Content { peerings: Peering[]; vpcs: Vpc[] }

const listeners = new Set<() => void>();
let changes = 0;

/** Tells every page that something may be new. */
export function changed(): void {
  changes++;
  for (const listener of listeners) listener();
}

/** A number that is another after every change. */
export function useChanges(): number {
  const [, again] = useReducer((count: number) => count + 1, 0);
  useEffect(() => {
    const listener = () => again(undefined as never);
    listeners.add(listener);
    return () => void listeners.delete(listener);
  }, []);
  return changes;
}

/** How the page stands with the controller: since when it hears nothing, in milliseconds; 0 while it does. */
let lostSince = 0;
/** What the account has, as the stream has told it; nothing before it has. */
let content: Content | undefined;
const told = new Map<string, unknown>();
let about: ((account: { chargeStatus: string; regions: string[] }) => void) | undefined;

export const connectionLost = () => lostSince;

/** How many requests wait for the account's answer. */
export const requests = () =>
  once(content?.peerings ?? []).filter((peering) => peering.state === "pending" && peering.role === "receiver").length;

/** What to do with news of the account itself. */
export function onAccount(then: typeof about): void {
  about = then;
}

interface News { all?: boolean; set?: Record<string, unknown>; gone?: string[] }

function hear({ all, set, gone }: News): void {
  if (!set) return;
  if (all) told.clear();
  for (const key of gone ?? []) told.delete(key);
  for (const [key, value] of Object.entries(set)) told.set(key, value);
  const those = <T>(kind: string) => [...told].filter(([key]) => key.startsWith(`${kind}/`)).map(([, value]) => value as T);
  content = { peerings: those<Peering>("peering"), vpcs: those<Vpc>("vpc") };
  if (set.account) about?.(set.account as { chargeStatus: string; regions: string[] });
}

/** Listens for changes while the page is looked at. Browsers come back by themselves when the connection breaks. */
export function listen(): () => void {
  const again = 5000;
  let source: EventSource | undefined;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const open = () => {
    clearTimeout(timer);
    source?.close();
    source = undefined;
    if (document.hidden) return;
    const opened = new EventSource("/console/events");
    opened.addEventListener("changed", (event) => {
      lostSince = 0;
      hear(JSON.parse((event as MessageEvent<string>).data) as News);
      changed();
    });
    opened.addEventListener("error", () => {
      if (source !== opened) return;
      lostSince ||= Date.now();
      changed();
      // The controller said no. It is asked again; when that was because the session has ended, the next question finds out.
      if (opened.readyState === EventSource.CLOSED) timer = setTimeout(open, again);
    });
    source = opened;
  };
  told.clear();
  content = undefined;
  lostSince = 0;
  open();
  document.addEventListener("visibilitychange", open);
  return () => {
    document.removeEventListener("visibilitychange", open);
    clearTimeout(timer);
    source?.close();
    source = undefined;
    told.clear();
    content = undefined;
  };
}

export type Loaded<T> = { value?: T; error?: Error; reload: () => void };

/**
 * Loads something when its key changes, and again after every change. What was there stays until the new is there, so that
 * nothing flickers; an error of a later attempt stands beside it. With `every`, also after so many milliseconds; what is `fixed`
 * does not change with the others.
 */
export function useLoaded<T>(key: string, load: (background: boolean) => Promise<T>, every?: number, fixed = false): Loaded<T> {
  const changed = useChanges();
  const version = fixed ? 0 : changed;
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

/** Everything that the account has, in all regions: as the stream tells it, which is asked for only where there is none. */
export function useContent(who: Who): Loaded<Content> {
  const version = useChanges();
  const [asked, setAsked] = useState<{ value?: Content; error?: Error }>({});
  const [nudge, setNudge] = useState(0);
  const silent = content === undefined && lostSince > 0;
  useEffect(() => {
    if (!silent) return;
    let stale = false;
    Promise.all([
      Promise.all(who.regions.map((region) => peeringsOf(region, true))),
      Promise.all(who.regions.map((region) => vpcsOf(region, true))),
    ]).then(
      ([peerings, vpcs]) => stale || setAsked({ value: { peerings: peerings.flat(), vpcs: vpcs.flat() } }),
      (error: Error) => stale || setAsked((old) => ({ ...old, error })),
    );
    return () => { stale = true; };
  }, [silent, silent && version, nudge]);
  if (content !== undefined) return { value: content, reload: changed };
  return { ...asked, reload: () => setNudge((count) => count + 1) };
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

export const isCrossRegion = (peering: Peering) => peering.vpcInfo.regionId !== peering.remoteVpcInfo.regionId;
export const isCrossAccount = (peering: Peering) => peering.vpcInfo.accountId !== peering.remoteVpcInfo.accountId;
