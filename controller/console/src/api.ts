// The controller's API, as the console uses it.

export type State =
  | "pending" | "provisioning" | "active" | "suspended" | "draining" | "rejected" | "expired" | "peer_deleted";

/** Empty lists mean all; those of another account's side are not disclosed. Earlier controllers do not send any. */
export interface Side {
  vpcId: string; vpcName: string; addressPrefix: string[]; regionId: string; accountId: string;
  exportPrefixes?: string[]; importPrefixes?: string[]; effectivePrefixes?: string[]; vni?: number;
}
/** What would be reachable: of the own VPC, and of the other one if that is disclosed already. */
export interface Reachable { ownPrefixes: string[]; remotePrefixes: string[] | null }
export interface Charge {
  chargeMode: string; chargeStatus: string; chargeStartTime: string | null; chargeRetireTime: string | null;
}
/** The health of the paths between hosts, by probes: the worst values. */
export interface PathHealth { lossPercent: number; roundTripMs: number | null; mtuBlackHole: boolean | null; sampledAt: string }
export interface PeeringHost {
  host: string; confirmed: boolean; desired: Revision | null; applied: Revision | null; lastReport: string | null; lastError: string | null;
  pathHealth?: PathHealth | null;
}
export interface Peering {
  vpcPeeringId: string; vpcPeeringName: string; description: string; message: string; tags: { key: string; value: string }[]; vpcInfo: Side; remoteVpcInfo: Side;
  createdTime: string; state: State; stateReason: string | null; role: "initiator" | "receiver";
  expiredTime: string | null; activatedTime: string | null; bandwidth: number | null; charge: Charge | null;
  deletionProtection: boolean; routesInSync: boolean; lastReport: string | null; lastConfirmed: string | null;
  /** Absent if the controller is of an earlier version. */
  pathHealth?: PathHealth | null; hosts?: PeeringHost[];
}
export interface Vpc {
  region: string; vpcId: string; name: string; description: string; createTime: string; cidrs: string[]; deletionProtection: boolean;
}
export interface SecondaryCidr { secondaryCidrId: string; cidr: string; vpcId: string }
export interface Route {
  destinationCidr: string; nextHop: string; vpcId: string; installed: boolean; hosts: number; lastReport: string | null;
}
export interface Sample { time: string; outBytes: number; inBytes: number; outDrops: number }
export interface Traffic {
  bandwidth: number | null; interval: number; samples: Sample[];
  total: { outBytes: number; outPackets: number; inBytes: number; inPackets: number; outDrops: number };
}
export interface Who { role: "account" | "operator"; accountId: string | null; chargeStatus: string | null; regions: string[] }
export interface AuditEntry {
  number: number; time: string; actor: string; action: string; target: string; outcome: string; reason: string;
}
export interface Invoice {
  currency: string; total: string;
  lines: {
    vpcPeeringId: string; regionId: string; remoteRegionId: string; bandwidth: number; from: string; to: string;
    seconds: string; amount: string; open: boolean;
  }[];
}
export interface Revision { epoch: number; number: number }
export interface Problem { scope: unknown; kind: string; object: string; reason: string }
export interface Host {
  host: string; regionId: string; underlay: string; agent: string; retiring: boolean; maintenance: boolean;
  drained: boolean; paused: boolean; maintenanceWindow?: { from: string; until: string; begun: boolean } | null; underlayMtu: number | null;
  desired: Revision; applied: Revision | null; inSync: boolean; problems: Problem[]; driftRepaired: number | null;
  lastReport: string | null; lastError: string | null; certificateExpires?: string | null; certificateNotRenewed?: string | null;
}
export interface Port { host: string; interface: string; vpc: string; gateways: string[] }
export interface HostEvent { id: string; type: string; time: string; host?: string }
export interface Account {
  accountId: string; chargeStatus: string; accessKeys: string[]; tokenIds: string[]; quotas: Record<string, number>; limits: Record<string, Record<string, number>>;
}
export interface Prices {
  currency: string; timeZone: string;
  prices: { regions: string[] | null; tiers: { upToMbit: number | null; perMbitHour: string }[] }[];
}
/** One step of a path: what was examined, the verdict, and who can fix it, which earlier controllers call `mend`. */
export interface Step {
  step: string; title: string; direction?: string; side?: string; host?: string; verdict: "ok" | "differs" | "unknown" | "stops";
  object?: string; observed?: string; expected?: string; reason?: string; fixableBy?: string; mend?: string;
}
/** `reaches` is null if unknown; `firstWrong` is the index of a step. */
export interface Path {
  source: string; destination: string; vpcId: string | null; vpcPeeringId: string | null; reaches: boolean | null; firstWrong: number | null; steps: Step[];
}
export interface Quota { maxLimit: number; count: number }

/** One violation: the field, the rule, and a reason for programs. */
export interface Detail { entry: string; rule: string; reason: string | null }

/** A refusal of the controller. */
export class Refused extends Error {
  constructor(readonly code: number, message: string, readonly details: Detail[], readonly requestId?: string) {
    super(message);
  }
}

/** The controller could not be reached, or its response is unreadable. */
export class Unreachable extends Error {}

/** Whether an error means that the session has ended, which the console shows in a place of its own. */
export const isSessionEnd = (error: unknown) => error instanceof Refused && error.code === 401;

let ended: () => void = () => {};

/** Called when the session has ended. */
export function onSessionEnd(then: () => void): void {
  ended = then;
}

/** How long a request that a page makes by itself may take, also on a slow line, in milliseconds; the page then retries. */
const BACKGROUND = 120_000;

/** Calls the controller. Requests that a page makes by itself (`background`) keep no session alive. `timeout` is in milliseconds. */
export async function ask<T>(method: string, path: string, body?: unknown, background = false, timeout = background ? BACKGROUND : undefined): Promise<T> {
  let answer: { requestId?: string; result?: T; error?: { code: number; message: string; details?: Detail[] } };
  try {
    const response = await fetch(path, {
      method,
      headers: { "x-cps-console": background ? "background" : "user", "content-type": "application/json" },
      body: body === undefined ? null : JSON.stringify(body),
      signal: timeout === undefined ? null : AbortSignal.timeout(timeout),
    });
    answer = await response.json();
  } catch {
    throw new Unreachable();
  }
  if (answer.error) {
    if (answer.error.code === 401 && path !== "/console/session") ended();
    throw new Refused(answer.error.code, answer.error.message, answer.error.details ?? [], answer.requestId);
  }
  return answer.result as T;
}

/** Makes the call that a dialog shows. */
export const perform = <T>({ method, path, body }: { method: string; path: string; body?: unknown }, timeout?: number) => ask<T>(method, path, body, false, timeout);

export const get = <T>(path: string, background = false) => ask<T>("GET", path, undefined, background);

export const regional = (region: string) => `/v1/regions/${encodeURIComponent(region)}`;
export const peeringPath = (region: string, id: string) => `${regional(region)}/vpcPeerings/${encodeURIComponent(id)}`;
export const blockedPath = (account: string) => `/v1/blockedAccounts/${encodeURIComponent(account)}`;
export const vpcsPath = (region: string) => `${regional(region)}/vpcs`;
export const vpcPath = (vpc: Pick<Vpc, "region" | "vpcId">) => `${vpcsPath(vpc.region)}/${encodeURIComponent(vpc.vpcId)}`;
export const cidrsPath = (region: string) => `${regional(region)}/secondaryCidrs`;
export const QUOTAS = ["vpcpeering", "vpc", "secondarycidr", "tag", "clienttoken", "blockedaccount", "peeringrequest", "bandwidthchange"] as const;
export const quotaPath = (region: string, kind: (typeof QUOTAS)[number] = "vpcpeering") => `${regional(region)}/quotas/?type=${kind}`;
export const peeringsPath = (region: string) => `${regional(region)}/vpcPeerings/`;

async function pages<T>(path: string, of: (page: Record<string, unknown>) => T[], background: boolean): Promise<T[]> {
  const all: T[] = [];
  let marker: string | undefined;
  do {
    const page: Record<string, unknown> & { nextMarker?: string } = await get(
      `${path}?pageSize=100${marker === undefined ? "" : `&marker=${encodeURIComponent(marker)}`}`, background);
    all.push(...of(page));
    marker = page.nextMarker;
  } while (marker !== undefined);
  return all;
}

/** All peerings of the account with a side in a region. */
export const peeringsOf = (region: string, background = false) =>
  pages(peeringsPath(region), (page) => page.vpcPeerings as Peering[], background);

/** All VPCs of the account in a region. */
export const vpcsOf = (region: string, background = false) =>
  pages(vpcsPath(region), (page) => page.vpcs as Vpc[], background);
