// The networks of a request beside the account's own, and where they overlap.

import type { Peering } from "./api.ts";
import { isSame, reached } from "./choice.ts";
import { overlap } from "./cidr.ts";
import { Cidr } from "./copy.tsx";
import { t } from "./i18n.ts";
import { isAgreed, otherEnd } from "./rules.ts";
import { isCurrent, peeringsNow } from "./store.ts";

/** What the peer's networks must not overlap: the own VPC's, and those that it reaches in VPCs that it is peered with already. */
function inTheWay({ vpcInfo: own, vpcPeeringId }: Peering): { name: string; cidrs: string[] }[] {
  const others = peeringsNow().filter((it) => it.vpcPeeringId !== vpcPeeringId && isAgreed(it));
  const peers = others.flatMap((it) => otherEnd(it, own.vpcId) ?? []);
  return [{ name: own.vpcName, cidrs: own.addressPrefix }, ...peers.map((side) => ({ name: side.vpcName, cidrs: reached(side) }))];
}

export function Compared({ peering }: { peering: Peering }) {
  const { vpcInfo: own, remoteVpcInfo: peer } = peering;
  const rest = inTheWay(peering);
  const clashing = (cidr: string) => rest.filter((it) => it.cidrs.some((other) => overlap(cidr, other)));
  const clashes = peer.addressPrefix.flatMap((cidr) => clashing(cidr).map((it) => t("requests.clash", { cidr, vpc: it.name })));
  return (
    <div class="compared">
      <div>
        <div class="quiet small">{t("requests.theirs", { account: peer.accountId })}</div>
        {peer.addressPrefix.map((cidr) => <Cidr key={cidr} cidr={cidr} clash={clashing(cidr).length > 0} />)}
      </div>
      <div>
        <div class="quiet small">{t("requests.own")} <bdi>{own.vpcName}</bdi></div>
        {own.addressPrefix.map((cidr) =>
          <Cidr key={cidr} cidr={cidr} clash={peer.addressPrefix.some((other) => overlap(cidr, other))} />)}
      </div>
      {!isSame(reached(own), own.addressPrefix) && <p class="across small">{t("requests.takes", { cidrs: reached(own).join("、") || t("prefixes.nothing") })}</p>}
      {clashes.length > 0
        ? <div class="note bad across">{clashes.map((words) => <p key={words}>{words}</p>)}</div>
        : isCurrent() ? <p class="across small good">{t("requests.noOverlap")}</p>
        : <p class="across note warn">{t("requests.notCompared")}</p>}
    </div>
  );
}
