// Which page is shown: what stands behind the # of the address, so that the controller need not know of pages.

import { useEffect, useState } from "preact/hooks";

const parts = () => location.hash.replace(/^#\/?/, "").split("?")[0]!.split("/").filter(Boolean).map(decodeURIComponent);

export function useRoute(): string[] {
  const [route, setRoute] = useState(parts);
  useEffect(() => {
    const moved = () => setRoute(parts());
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  return route;
}

export const to = (...parts: string[]) => `#/${parts.map(encodeURIComponent).join("/")}`;

export function go(...parts: string[]): void {
  location.hash = to(...parts);
}

const query = () => new URLSearchParams(location.hash.split("?")[1] ?? "");

/** A part of the view's state that stands in the address, so that links and the way back lead to it. An empty one is left out. */
export function useQuery(): [URLSearchParams, (values: Record<string, string>) => void] {
  const [parameters, setParameters] = useState(query);
  useEffect(() => {
    const moved = () => setParameters(query());
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  const set = (values: Record<string, string>) => {
    const next = query();
    for (const [name, value] of Object.entries(values)) {
      if (value === "") next.delete(name);
      else next.set(name, value);
    }
    const text = next.toString();
    // What is typed does not fill the history.
    history.replaceState(null, "", `${location.hash.split("?")[0] || "#/"}${text && `?${text}`}`);
    setParameters(next);
  };
  return [parameters, set];
}
