// What a peering's state allows (rules L1, L5, L13, B1, B2), so that no refused action is offered, and the reason is shown.

import type { Peering, State } from "./api.ts";
import type { Key } from "./i18n.ts";

export type Action = "accept" | "reject" | "bandwidth" | "delete" | "rename" | "protect" | "prefixes";

export const STATES: State[] = ["pending", "provisioning", "active", "suspended", "draining", "rejected", "expired", "peer_deleted"];
/** The states of peerings that have not ended. */
export const LIVE: State[] = ["pending", "provisioning", "active", "suspended", "draining"];

export const isLive = ({ state }: Pick<Peering, "state">) => LIVE.includes(state);

/** Whether both sides have accepted it, and it has not ended. */
export const isAgreed = (peering: Pick<Peering, "state">) => isLive(peering) && peering.state !== "pending";

/** Whether it is a request that waits for the account's own answer. */
export const isRequestToAnswer = ({ state, role }: Pick<Peering, "state" | "role">) => state === "pending" && role === "receiver";

export const isCrossRegion = (peering: Peering) => peering.vpcInfo.regionId !== peering.remoteVpcInfo.regionId;
export const isCrossAccount = (peering: Peering) => peering.vpcInfo.accountId !== peering.remoteVpcInfo.accountId;

/** The VPC at the other end of a peering, as seen from one; undefined if that is at neither end. */
export function otherEnd(peering: Peering, vpcId: string): Peering["vpcInfo"] | undefined {
  if (peering.vpcInfo.vpcId === vpcId) return peering.remoteVpcInfo;
  return peering.remoteVpcInfo.vpcId === vpcId ? peering.vpcInfo : undefined;
}

/** Why an action is not allowed; undefined if it is. */
export function whyNot(action: Action, peering: Peering): Key | undefined {
  switch (action) {
    case "accept":
    case "reject":
      if (peering.role === "initiator") return "why.onlyReceiver";
      return peering.state === "pending" ? undefined : "why.notPending";
    case "bandwidth":
      if (!isCrossRegion(peering)) return "why.sameRegion";
      return peering.role === "receiver" ? "why.onlyInitiator" : whyUnchangeable(peering);
    case "rename":
      return peering.role === "receiver" ? "why.onlyInitiator" : whyUnchangeable(peering);
    case "protect":
      return whyUnchangeable(peering);
    case "prefixes":
      return peering.state === "pending" && peering.role === "receiver" ? "why.whenAccepting" : whyUnchangeable(peering);
    case "delete":
      if (peering.state === "draining") return "why.draining";
      return peering.deletionProtection && isLive(peering) ? "why.protected" : undefined;
  }
}

function whyUnchangeable(peering: Peering): Key | undefined {
  if (peering.state === "suspended") return "why.suspended";
  if (peering.state === "draining") return "why.draining";
  return isLive(peering) ? undefined : "why.ended";
}
