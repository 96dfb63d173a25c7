// Messages between the tabs of a browser, which share one session.

const tabs = new BroadcastChannel("cps-peering-session");

/** Tells the other tabs that the user has signed in, or out. */
export const tellTabs = (what: "in" | "out") => tabs.postMessage(what);

/** Called when the user has signed in or out in another tab. */
export function onOtherTab(then: (what: "in" | "out") => void): () => void {
  const heard = (event: MessageEvent<"in" | "out">) => then(event.data);
  tabs.addEventListener("message", heard);
  return () => tabs.removeEventListener("message", heard);
}
