// Requests that wait for the account's answer: from whom, with which networks, and the answers.

import type { Peering } from "../api.ts";
import { Compared } from "../compared.tsx";
import { t, time } from "../i18n.ts";
import { rememberList, to } from "../route.ts";
import type { Action } from "../rules.ts";

/** How many are shown above the list; the others follow as these are answered. */
export const SHOWN = 5;

export function Requests({ waiting, onAct }: { waiting: Peering[]; onAct: (action: Action, peering: Peering, block?: boolean) => void }) {
  if (waiting.length === 0) return null;
  return (
    <section class="stack requests" aria-label={t("requests.title")}>
      <p class="note info">{t("list.pendingForYou", { count: waiting.length })}</p>
      {waiting.slice(0, SHOWN).map((peering) => {
        const { vpcPeeringId: id, vpcPeeringName: name, remoteVpcInfo: peer, vpcInfo: own } = peering;
        const button = (words: string, look: string, act: () => void) =>
          <button type="button" class={`button ${look}`} aria-label={`${words} ${name}`} onClick={act}>{words}</button>;
        return (
          <article class="card" key={id}>
            <div class="row between">
              <h2><a href={to("peerings", own.regionId, id)} onClick={rememberList}><bdi>{name}</bdi></a></h2>
              <div class="row">
                {button(t("action.accept"), "primary", () => onAct("accept", peering))}
                {button(t("action.reject"), "danger", () => onAct("reject", peering))}
                {button(t("requests.block"), "", () => onAct("reject", peering, true))}
              </div>
            </div>
            <p class="small">{t("requests.from", { account: peer.accountId, peer: peer.vpcName, vpc: own.vpcName, region: peer.regionId })}
              <span class="quiet"> · {t("requests.until", { time: time(peering.expiredTime) })}</span></p>
            {peering.message && <p class="small">{t("requests.message")}: <bdi>{peering.message}</bdi></p>}
            <Compared peering={peering} />
          </article>
        );
      })}
    </section>
  );
}
