// Which prefixes of a VPC a peering is limited to, as somebody chooses them (rule L13).

import type { Peering, Side } from "./api.ts";
import { canonical, hasHostBits, within } from "./cidr.ts";
import { t } from "./i18n.ts";

/** The most prefixes of one list. */
const MOST = 64;

/** All, or only some: of the CIDRs that are known those that are picked, and what is typed besides. */
export interface Choice { limited: boolean; picked: string[]; typed: string }
/** What a side exports of its own VPC, and what it imports of the other. */
export interface Choices { export: Choice; import: Choice }

const ALL: Choice = { limited: false, picked: [], typed: "" };
export const EVERYTHING: Choices = { export: ALL, import: ALL };

/** A list as it stands; one that is empty stands for all. */
function choiceOf(list: string[], known: string[]): Choice {
  const [picked, rest] = [list.filter((it) => known.includes(it)), list.filter((it) => !known.includes(it))];
  return { limited: list.length > 0, picked, typed: rest.join("\n") };
}

/** The lists that a side has. */
export const choicesOf = (side: Side, other: Side): Choices => ({
  export: choiceOf(side.exportPrefixes ?? [], side.addressPrefix), import: choiceOf(side.importPrefixes ?? [], other.addressPrefix),
});

const typedIn = ({ typed }: Choice) => typed.split(/[\s,，、;；]+/).filter(Boolean);

/** What was chosen, as the controller is told it; empty for all. */
export const listOf = (choice: Choice): string[] =>
  choice.limited ? [...choice.picked, ...typedIn(choice).map((text) => canonical(text) ?? text)] : [];

/** Whether only some prefixes are to be let through, and none is named yet. */
export const isUnfinished = (choice: Choice) => choice.limited && listOf(choice).length === 0;

/** What is wrong with a choice, in words. What is exported must be within the VPC's own CIDRs, where these are said. */
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

/** Whether two lists name the same. */
export const isSame = (one: string[], other: string[]) => [...one].sort().join() === [...other].sort().join();

/** What of a side's VPC the other side reaches. */
export const reached = (side: Side): string[] => side.effectivePrefixes ?? side.addressPrefix;

/** Whether a peering joins less than all of two VPCs, as far as its viewer is told. */
export const isScoped = (peering: Peering) => [peering.vpcInfo, peering.remoteVpcInfo].some((side) =>
  (side.exportPrefixes?.length ?? 0) > 0 || (side.importPrefixes?.length ?? 0) > 0 || !isSame(reached(side), side.addressPrefix));
