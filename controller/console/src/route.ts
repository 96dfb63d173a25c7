// Routing: pages are in the fragment of the address, so that the controller need not know them.

import { useEffect, useState } from "preact/hooks";

/** A decoded part of an address; unchanged if it is not validly encoded. */
function plain(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

const parts = () => location.hash.replace(/^#\/?/, "").split("?")[0]!.split("/").filter(Boolean).map(plain);
const query = () => new URLSearchParams(location.hash.split("?")[1] ?? "");

const listeners = new Set<() => void>();
const moved = () => { for (const listener of [...listeners]) listener(); };
addEventListener("hashchange", moved);

/** The result of `read` on the address, again whenever it changes. */
function useAddress<T>(read: () => T): T {
  const [value, setValue] = useState(read);
  useEffect(() => {
    const listener = () => setValue(read());
    listeners.add(listener);
    return () => void listeners.delete(listener);
  }, []);
  return value;
}

export const useRoute = () => useAddress(parts);

export const to = (...parts: string[]) => `#/${parts.map(encodeURIComponent).join("/")}`;

export function go(...parts: string[]): void {
  location.hash = to(...parts);
}

let listLeft = "";

/** Remembers the state of the list that is left, for the way back to it. */
export function rememberList(): void {
  listLeft = location.hash;
}

export const backToList = () => listLeft || to("peerings");

/** Goes to the first page, and forgets where the previous user was. */
export function forgetPlace(): void {
  listLeft = "";
  history.replaceState(null, "", location.pathname);
  moved();
}

type SetQuery = (values: Record<string, string>, as?: "place" | "step") => void;

const setQuery: SetQuery = (values, as = "place") => {
  const next = query();
  for (const [name, value] of Object.entries(values)) {
    if (value === "") next.delete(name);
    else next.set(name, value);
  }
  const text = next.toString();
  const address = `${location.hash.split("?")[0] || "#/"}${text && `?${text}`}`;
  if (address === location.hash) return;
  if (as === "step") history.pushState(null, "", address);
  else history.replaceState(null, "", address);
  // Changes of this kind cause no event.
  moved();
};

/**
 * A part of the view's state in the address, so that links and the browser's history contain it. An empty one is left out. Typed text
 * replaces the current history entry; a step adds one.
 */
export const useQuery = (): [URLSearchParams, SetQuery] => [useAddress(query), setQuery];
