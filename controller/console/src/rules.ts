// What a peering's state allows (rules L1, L5, B1, B2), so that nothing is offered that would be refused, and why not.

import type { Peering } from "./api.ts";
import { isCrossRegion } from "./store.ts";
import type { Key } from "./i18n.ts";

export type Action = "accept" | "reject" | "bandwidth" | "delete" | "rename" | "protect";

const ended = (peering: Peering) => ["rejected", "expired", "peer_deleted"].includes(peering.state);

/** Why an action is not allowed; nothing where it is. */
export function whyNot(action: Action, peering: Peering): Key | undefined {
  switch (action) {
    case "accept":
    case "reject":
      if (peering.role === "initiator") return "why.onlyReceiver";
      return peering.state === "pending" ? undefined : "why.notPending";
    case "bandwidth":
      if (!isCrossRegion(peering)) return "why.sameRegion";
      if (peering.role === "receiver") return "why.onlyInitiator";
      if (peering.state === "suspended") return "why.suspended";
      if (peering.state === "draining") return "why.draining";
      return ended(peering) ? "why.ended" : undefined;
    case "rename":
      if (peering.role === "receiver") return "why.onlyInitiator";
      if (peering.state === "suspended") return "why.suspended";
      if (peering.state === "draining") return "why.draining";
      return ended(peering) ? "why.ended" : undefined;
    case "protect":
      if (peering.state === "suspended") return "why.suspended";
      if (peering.state === "draining") return "why.draining";
      return ended(peering) ? "why.ended" : undefined;
    case "delete":
      if (peering.deletionProtection && !ended(peering) && peering.state !== "draining") return "why.protected";
      return peering.state === "draining" ? "why.draining" : undefined;
  }
}
