// The user's choice of prefixes that limit a peering (rule L13).

import type { Peering, Side } from "./api.ts";
import { canonical, hasHostBits, within } from "./cidr.ts";
import { t } from "./i18n.ts";

/** The most prefixes of one list. */
const MOST = 64;

/** All, or only some: those selected of the known CIDRs, and those typed. */
export interface Choice { limited: boolean; picked: string[]; typed: string }
/** What a side exports of its own VPC, and what it imports of the other. */
export interface Choices { export: Choice; import: Choice }

const ALL: Choice = { limited: false, picked: [], typed: "" };
export const EVERYTHING: Choices = { export: ALL, import: ALL };

/** The fields for an existing list; an empty one means all. */
function choiceOf(list: string[], known: string[]): Choice {
  const [picked, rest] = [list.filter((it) => known.includes(it)), list.filter((it) => !known.includes(it))];
  return { limited: list.length > 0, picked, typed: rest.join("\n") };
}

/** The lists that a side has. */
export const choicesOf = (side: Side, other: Side): Choices => ({
  export: choiceOf(side.exportPrefixes ?? [], side.addressPrefix), import: choiceOf(side.importPrefixes ?? [], other.addressPrefix),
});

const typedIn = ({ typed }: Choice) => typed.split(/[\s,，、;；]+/).filter(Boolean);

/** The chosen list for the controller; empty for all. */
export const listOf = (choice: Choice): string[] =>
  choice.limited ? [...choice.picked, ...typedIn(choice).map((text) => canonical(text) ?? text)] : [];

/** Whether only some prefixes are to be allowed, and none is named yet. */
export const isUnfinished = (choice: Choice) => choice.limited && listOf(choice).length === 0;

/** The errors of a choice, in words. Exported prefixes must be within the VPC's own CIDRs, if these are given. */
export function faultOf(choice: Choice, cidrs?: string[]): string | undefined {
  if (!choice.limited) return undefined;
  for (const text of typedIn(choice)) {
    const prefix = canonical(text);
    if (prefix === undefined) return t("prefixes.noPrefix", { text: text.slice(0, 64) });
    if (hasHostBits(text)) return t("prefixes.hostBits", { text, prefix });
  }
  const list = listOf(choice);
  if (list.length > MOST) return t("prefixes.tooMany", { count: list.length, most: MOST });
  for (const [place, prefix] of list.entries()) {
    if (cidrs && !cidrs.some((cidr) => within(prefix, cidr))) return t("prefixes.outside", { prefix });
    const wider = list.find((it, other) => other !== place && within(prefix, it));
    if (wider !== undefined) return t(wider === prefix ? "prefixes.twice" : "prefixes.inside", { prefix, wider });
  }
  return undefined;
}

/** Whether two lists contain the same. */
export const isSame = (one: string[], other: string[]) => [...one].sort().join() === [...other].sort().join();

/** The prefixes of a side's VPC that the other side reaches. */
export const reached = (side: Side): string[] => side.effectivePrefixes ?? side.addressPrefix;

/** Whether a peering connects less than all of two VPCs, as far as its viewer knows. */
export const isScoped = (peering: Peering) => [peering.vpcInfo, peering.remoteVpcInfo].some((side) =>
  (side.exportPrefixes?.length ?? 0) > 0 || (side.importPrefixes?.length ?? 0) > 0 || !isSame(reached(side), side.addressPrefix));
