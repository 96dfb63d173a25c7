// Which page is shown: what stands behind the # of the address, so that the controller need not know of pages.

import { useEffect, useState } from "preact/hooks";

/** A part of an address in plain text; as it stands where it is none that an address could have. */
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

/** What `read` makes of the address, again whenever that is another. */
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

/** Remembers how the list stood that is left, for the way back to it. */
export function rememberList(): void {
  listLeft = location.hash;
}

export const backToList = () => listLeft || to("peerings");

/** Goes to the first page, and forgets where the one was who was there before. */
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
  // Changes of this kind make no event.
  moved();
};

/**
 * A part of the view's state that stands in the address, so that links and the way back lead to it. An empty one is left out. What is
 * typed takes the place of what was there; a step is one that the browser's way back undoes.
 */
export const useQuery = (): [URLSearchParams, SetQuery] => [useAddress(query), setQuery];
