// The list of peerings: name and id, state, both sides, bandwidth, time; filters, search and pages.

import { useState } from "preact/hooks";
import type { Peering, Side, State, Who } from "../api.ts";
import { Act } from "../actions.tsx";
import { mbit, t, time, type Key } from "../i18n.ts";
import { to } from "../route.ts";
import { whyNot, type Action } from "../rules.ts";
import { once, useContent } from "../store.ts";
import { Empty, Heading, Pager, Select, Show, StateBadge, Table } from "../ui.tsx";

const STATES: State[] =
  ["pending", "provisioning", "active", "suspended", "draining", "rejected", "expired", "peer_deleted"];
const OFFERED: Action[] = ["accept", "reject", "bandwidth", "delete"];
const ON_A_PAGE = 10;

export function SideCell({ side }: { side: Side }) {
  return (
    <>
      <div><bdi>{side.vpcName}</bdi></div>
      {side.vpcName !== side.vpcId && <div class="id">{side.vpcId}</div>}
      <div class="quiet small">{side.regionId}</div>
      <div class="quiet small">{side.accountId}</div>
    </>
  );
}

const text = (peering: Peering) =>
  [peering.vpcPeeringName, peering.vpcPeeringId, peering.description,
    ...[peering.vpcInfo, peering.remoteVpcInfo].flatMap((side) => [side.vpcId, side.vpcName, side.accountId, ...side.addressPrefix]),
  ].join(" ").toLowerCase();

export function List({ who }: { who: Who }) {
  const content = useContent(who);
  const [search, setSearch] = useState("");
  const [region, setRegion] = useState("");
  const [state, setState] = useState("");
  const [role, setRole] = useState("");
  const [page, setPage] = useState(1);
  const [doing, setDoing] = useState<{ action: Action; peering: Peering }>();
  // A filter that changes leads to its first page.
  const filter = (set: (value: string) => void) => (value: string) => {
    set(value);
    setPage(1);
  };
  const clear = () => [setSearch, setRegion, setState, setRole].forEach((set) => filter(set)(""));

  return (
    <>
      <Heading title={t("app.peerings")} intro={t("list.intro")}>
        <a class="button primary" href={to("peerings", "create")}>{t("list.create")}</a>
      </Heading>
      <Show loaded={content}>
        {({ peerings, vpcs }) => {
          const all = once(peerings);
          if (all.length === 0) {
            return (
              <Empty title={t("list.empty")} hint={t("list.emptyHint")}>
                <div class="row center">
                  <a class="button" href={to("vpcs")}>{t("vpcs.create")}</a>
                  {vpcs.length > 0 && <a class="button primary" href={to("peerings", "create")}>{t("create.title")}</a>}
                </div>
              </Empty>
            );
          }
          const words = search.toLowerCase().split(/\s+/).filter(Boolean);
          const found = once(peerings.filter((peering) => !region || peering.vpcInfo.regionId === region))
            .filter((peering) => !state || peering.state === state)
            .filter((peering) => !role || peering.role === role)
            .filter((peering) => words.every((word) => text(peering).includes(word)));
          const pages = Math.max(1, Math.ceil(found.length / ON_A_PAGE));
          const shown = Math.min(page, pages);
          const waiting = all.filter((peering) => peering.state === "pending" && peering.role === "receiver").length;
          return (
            <div class="stack">
              {waiting > 0 && <p class="note info">{t("list.pendingForYou", { count: waiting })}</p>}
              <form class="filters" role="search" onSubmit={(event) => event.preventDefault()}>
                <input type="search" aria-label={t("common.search")} placeholder={t("list.searchHint")} value={search}
                  onInput={(event) => filter(setSearch)(event.currentTarget.value)} />
                <Select aria-label={t("common.region")} value={region} onPick={filter(setRegion)}
                  options={[["", `${t("common.region")}: ${t("common.all")}`], ...who.regions.map((id): [string, string] => [id, id])]} />
                <Select aria-label={t("list.state")} value={state} onPick={filter(setState)}
                  options={[["", `${t("list.state")}: ${t("common.all")}`],
                    ...STATES.map((state): [string, string] =>
                      [state, t((state === "pending" ? "state.pending.receiver" : `state.${state}`) as Key)])]} />
                <Select aria-label={t("list.role")} value={role} onPick={filter(setRole)}
                  options={[["", `${t("list.role")}: ${t("common.all")}`],
                    ["initiator", t("role.initiator")], ["receiver", t("role.receiver")]]} />
              </form>
              {found.length === 0
                ? <Empty title={t("list.noMatch")}><button type="button" class="button" onClick={clear}>{t("common.clear")}</button></Empty>
                : (
                  <Table caption={t("list.caption")} heads={[t("list.nameId"), t("list.state"), t("list.role"), t("list.own"),
                    t("list.peer"), t("list.bandwidth"), t("common.created"), t("common.actions")]}>
                    {found.slice((shown - 1) * ON_A_PAGE, shown * ON_A_PAGE).map((peering) => (
                      <tr key={peering.vpcPeeringId}>
                        <th scope="row">
                          <a href={to("peerings", peering.vpcInfo.regionId, peering.vpcPeeringId)}><bdi>{peering.vpcPeeringName}</bdi></a>
                          <div class="id">{peering.vpcPeeringId}</div>
                        </th>
                        <td><StateBadge peering={peering} /></td>
                        <td>{t(`role.${peering.role}`)}</td>
                        <td><SideCell side={peering.vpcInfo} /></td>
                        <td><SideCell side={peering.remoteVpcInfo} /></td>
                        <td class="number">{mbit(peering.bandwidth)}</td>
                        <td class="small">{time(peering.createdTime)}</td>
                        <td>
                          <div class="links">
                            {OFFERED.filter((action) => whyNot(action, peering) === undefined).map((action) => (
                              <button type="button" class="link" key={action}
                                aria-label={`${t(`action.${action}`)} ${peering.vpcPeeringName}`}
                                onClick={() => setDoing({ action, peering })}>{t(`action.${action}`)}</button>
                            ))}
                          </div>
                        </td>
                      </tr>
                    ))}
                  </Table>
                )}
              <Pager page={shown} pages={pages} count={found.length} onTurn={setPage} />
            </div>
          );
        }}
      </Show>
      {doing && <Act {...doing} onClose={() => setDoing(undefined)} />}
    </>
  );
}
