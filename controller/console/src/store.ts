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

/** Listens for word of changes while the page is looked at. Browsers come back by themselves when the connection breaks. */
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
    opened.addEventListener("changed", changed);
    opened.addEventListener("error", () => {
      if (opened.readyState !== EventSource.CLOSED || source !== opened) return;
      // The controller said no. It is asked again; when that was because the session has ended, `changed` finds out.
      changed();
      timer = setTimeout(open, again);
    });
    source = opened;
  };
  open();
  document.addEventListener("visibilitychange", open);
  return () => {
    document.removeEventListener("visibilitychange", open);
    clearTimeout(timer);
    source?.close();
    source = undefined;
  };
}

export type Loaded<T> = { value?: T; error?: Error; reload: () => void };

/**
 * Loads something when its key changes, and again after every change. What was there stays until the new is there, so that
 * nothing flickers; an error of a later attempt stands beside it. With `every`, also after so many milliseconds.
 */
export function useLoaded<T>(key: string, load: (background: boolean) => Promise<T>, every?: number): Loaded<T> {
  const version = useChanges();
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
export function useContent(who: Who): Loaded<Content> {
  return useLoaded(`content ${who.accountId}`, async (background) => {
    const [peerings, vpcs] = await Promise.all([
      Promise.all(who.regions.map((region) => peeringsOf(region, background))),
      Promise.all(who.regions.map((region) => vpcsOf(region, background))),
    ]);
    return { peerings: peerings.flat(), vpcs: vpcs.flat() };
  });
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
