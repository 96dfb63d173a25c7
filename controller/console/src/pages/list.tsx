// The list of peerings: name and id, state, both sides, bandwidth, time; filters, search, pages, and bulk actions.

import { useState } from "preact/hooks";
import type { Peering, Side, Who } from "../api.ts";
import { Act } from "../actions.tsx";
import { Id } from "../copy.tsx";
import { csv, save } from "../csv.ts";
import { mbit, t, time } from "../i18n.ts";
import { rememberList, to, useQuery } from "../route.ts";
import { isRequestToAnswer, STATES, whyNot, type Action } from "../rules.ts";
import { once, useContent } from "../store.ts";
import { Empty, Found, Heading, RowButton, Show, sortHeads, StateBadge, stateOptions, Table, useFound } from "../ui.tsx";
import { Bulk, BULK, possible, type BulkAction } from "./bulk.tsx";
import { Requests, SHOWN } from "./requests.tsx";

const OFFERED: Action[] = ["accept", "reject", "bandwidth", "delete"];

export function SideCell({ side }: { side: Side }) {
  return (
    <>
      <div class="cut" title={`${side.vpcName} ${side.vpcId}`}><bdi>{side.vpcName}</bdi></div>
      <div class="quiet small cut" title={`${side.regionId} · ${side.accountId}`}>{side.regionId} · <bdi>{side.accountId}</bdi></div>
    </>
  );
}

export const textOf = (peering: Peering) =>
  [peering.vpcPeeringName, peering.vpcPeeringId, peering.description,
    ...[peering.vpcInfo, peering.remoteVpcInfo].flatMap((side) =>
      [side.vpcId, side.vpcName, side.accountId, side.regionId, ...side.addressPrefix]),
  ].join(" ");

const byText = (of: (peering: Peering) => string) => (one: Peering, other: Peering) =>
  of(one).localeCompare(of(other)) || one.vpcPeeringId.localeCompare(other.vpcPeeringId);

const SORTS: Record<string, (one: Peering, other: Peering) => number> = {
  // By default: requests that wait for an answer, and then the newest.
  first: (one, other) => Number(isRequestToAnswer(other)) - Number(isRequestToAnswer(one)) || SORTS.created!(other, one),
  created: byText((peering) => peering.createdTime),
  name: byText((peering) => peering.vpcPeeringName),
  state: byText((peering) => peering.state),
  role: byText((peering) => peering.role),
  own: byText((peering) => peering.vpcInfo.vpcName),
  peer: byText((peering) => peering.remoteVpcInfo.vpcName),
  bandwidth: (one, other) => (one.bandwidth ?? Infinity) - (other.bandwidth ?? Infinity) || 0,
};

function download(peerings: Peering[]): void {
  const side = (which: string) => ["vpc", "vpcId", "region", "account", "cidrs"].map((it) => `${which}.${it}`);
  const of = (it: Side) => [it.vpcName, it.vpcId, it.regionId, it.accountId, it.addressPrefix.join(" ")];
  save("peerings.csv", csv([
    ["name", "id", "state", "role", "bandwidthMbps", "created", ...side("local"), ...side("peer")],
    ...peerings.map((it) => [it.vpcPeeringName, it.vpcPeeringId, it.state, it.role, it.bandwidth, it.createdTime,
      ...of(it.vpcInfo), ...of(it.remoteVpcInfo)]),
  ]));
}

export function List({ who }: { who: Who }) {
  const content = useContent();
  const [query] = useQuery();
  const [doing, setDoing] = useState<{ action: Action; peering: Peering; block?: boolean }>();
  const [bulk, setBulk] = useState<BulkAction>();
  const [chosen, setChosen] = useState<ReadonlySet<string>>(new Set());
  const peerings = content.value?.peerings ?? [];
  const all = once(peerings);
  // Between two regions of the account there is a view from either; with a region filter, that region's.
  const region = query.get("region") ?? "";
  const found = useFound(region ? once(peerings.filter((it) => it.vpcInfo.regionId === region)) : all, {
    text: textOf,
    filters: {
      region: (peering, value) => peering.vpcInfo.regionId === value,
      state: (peering, value) => peering.state === value,
      role: (peering, value) => peering.role === value,
    },
    sorts: SORTS, first: "first",
  });
  /** The current state of a peering, if it still exists. */
  const now = (peering: Peering) => peerings.find((it) =>
    it.vpcPeeringId === peering.vpcPeeringId && it.vpcInfo.regionId === peering.vpcInfo.regionId) ?? peering;
  const waiting = all.filter(isRequestToAnswer);
  const above = new Set(waiting.slice(0, SHOWN).map((it) => it.vpcPeeringId));
  const picked = all.filter((it) => chosen.has(it.vpcPeeringId));
  const choose = (those: Peering[], is: boolean) => setChosen((old) => {
    const next = new Set(old);
    for (const { vpcPeeringId: id } of those) if (is) next.add(id); else next.delete(id);
    return next;
  });
  const row = (peering: Peering) => {
    const { vpcPeeringId: id, vpcPeeringName: name } = peering;
    // Requests above the list are answered there.
    const offered = OFFERED.filter((action) => whyNot(action, peering) === undefined)
      .filter((action) => !(above.has(id) && (action === "accept" || action === "reject")));
    return (
      <tr key={id}>
        <td class="pick"><input type="checkbox" aria-label={t("bulk.choose", { name })} checked={chosen.has(id)}
          onChange={(event) => choose([peering], event.currentTarget.checked)} /></td>
        <th scope="row">
          <a class="cut" title={name} href={to("peerings", peering.vpcInfo.regionId, id)} onClick={rememberList}><bdi>{name}</bdi></a>
          <Id id={id} />
        </th>
        <td><StateBadge peering={peering} /></td>
        <td>{t(`role.${peering.role}`)}</td>
        <td><SideCell side={peering.vpcInfo} /></td>
        <td><SideCell side={peering.remoteVpcInfo} /></td>
        <td class="number">{mbit(peering.bandwidth)}</td>
        <td class="small nowrap">{time(peering.createdTime)}</td>
        <td>
          <div class="links">
            {offered.map((action) => (
              <RowButton key={action} words={t(`action.${action}`)} name={name} onPress={() => setDoing({ action, peering })} />
            ))}
          </div>
        </td>
      </tr>
    );
  };
  const head = sortHeads(found);
  const table = (shown: Peering[]) => (
    <Table caption={t("list.caption")} heads={[
      <input type="checkbox" aria-label={t("bulk.chooseAll")} checked={shown.every((it) => chosen.has(it.vpcPeeringId))}
        onChange={(event) => choose(shown, event.currentTarget.checked)} />,
      head("name", t("list.nameId")), head("state", t("list.state")), head("role", t("list.role")), head("own", t("list.own")),
      head("peer", t("list.peer")), head("bandwidth", t("list.bandwidth")), head("created", t("common.created")), t("common.actions")]}>
      {shown.map(row)}
    </Table>
  );
  return (
    <>
      <Heading title={t("app.peerings")} intro={t("list.intro")}>
        <a class="button primary" href={to("peerings", "create")}>{t("list.create")}</a>
      </Heading>
      <Show loaded={content}>
        {({ vpcs }) => all.length === 0
          ? (
            <Empty title={t("list.empty")} hint={t("list.emptyHint")}>
              <div class="row center">
                <a class="button" href={to("vpcs")}>{t("vpcs.create")}</a>
                {vpcs.length > 0 && <a class="button primary" href={to("peerings", "create")}>{t("create.title")}</a>}
              </div>
            </Empty>
          )
          : (
            <div class="stack">
              <Requests waiting={waiting} onAct={(action, peering, block) => setDoing({ action, peering, ...(block ? { block } : {}) })} />
              <Found found={found} hint={t("list.searchHint")} none={t("list.noMatch")} filters={[
                { name: "region", words: t("common.region"), options: who.regions.map((id) => [id, id]) },
                { name: "state", words: t("list.state"), options: stateOptions(STATES, "receiver") },
                { name: "role", words: t("list.role"), options: [["initiator", t("role.initiator")], ["receiver", t("role.receiver")]] },
              ]} tools={<button type="button" class="button" onClick={() => download(found.all)}>{t("common.csv")}</button>}>
                {(shown) => (
                  <>
                    {picked.length > 0 && (
                      <div class="row note plain" role="group" aria-label={t("bulk.group")}>
                        <span>{t("bulk.chosen", { count: picked.length })}</span>
                        {BULK.map((action) => (
                          <button type="button" key={action} class="button" disabled={possible(action, picked).length === 0}
                            onClick={() => setBulk(action)}>{t("bulk.button", { action: t(`action.${action}`), count: possible(action, picked).length })}</button>
                        ))}
                        <button type="button" class="link" onClick={() => setChosen(new Set())}>{t("bulk.none")}</button>
                      </div>
                    )}
                    {table(shown)}
                  </>
                )}
              </Found>
            </div>
          )}
      </Show>
      {doing && <Act {...doing} peering={now(doing.peering)} onClose={() => setDoing(undefined)} />}
      {bulk && <Bulk action={bulk} peerings={picked} onClose={() => setBulk(undefined)} />}
    </>
  );
}

