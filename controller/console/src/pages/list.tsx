// The list of peerings: name and id, state, both sides, bandwidth, time; filters, search and pages.

import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import type { Peering, Side, State, Who } from "../api.ts";
import { Act } from "../actions.tsx";
import { mbit, t, time, type Key } from "../i18n.ts";
import { to, useQuery } from "../route.ts";
import { whyNot, type Action } from "../rules.ts";
import { once, useContent } from "../store.ts";
import { Empty, Heading, Pager, Select, Show, StateBadge, Table } from "../ui.tsx";

const STATES: State[] =
  ["pending", "provisioning", "active", "suspended", "draining", "rejected", "expired", "peer_deleted"];
const OFFERED: Action[] = ["accept", "reject", "bandwidth", "delete"];
const ON_A_PAGE = 20;

export function SideCell({ side }: { side: Side }) {
  return (
    <>
      <div class="cut" title={`${side.vpcName} ${side.vpcId}`}><bdi>{side.vpcName}</bdi></div>
      <div class="quiet small">{side.regionId} · {side.accountId}</div>
    </>
  );
}

const text = (peering: Peering) =>
  [peering.vpcPeeringName, peering.vpcPeeringId, peering.description,
    ...[peering.vpcInfo, peering.remoteVpcInfo].flatMap((side) => [side.vpcId, side.vpcName, side.accountId, ...side.addressPrefix]),
  ].join(" ").toLowerCase();

export function List({ who }: { who: Who }) {
  const content = useContent(who);
  const [query, setQuery] = useQuery();
  const of = (name: string) => query.get(name) ?? "";
  const [search, region, state, role] = [of("search"), of("region"), of("state"), of("role")];
  const sort = of("sort") || "-created";
  const page = Number(of("page")) || 1;
  const [doing, setDoing] = useState<{ action: Action; peering: Peering }>();
  // A filter that changes leads to its first page.
  const filter = (name: string) => (value: string) => setQuery({ [name]: value, page: "" });
  const clear = () => setQuery({ search: "", region: "", state: "", role: "", page: "" });
  const order = (one: Peering, other: Peering) => {
    const by = sort.replace("-", "");
    const value = (peering: Peering) =>
      by === "name" ? peering.vpcPeeringName : by === "state" ? peering.state : by === "bandwidth" ? String(peering.bandwidth ?? 0).padStart(8, "0") : peering.createdTime;
    const compared = value(one).localeCompare(value(other)) || one.vpcPeeringId.localeCompare(other.vpcPeeringId);
    return sort.startsWith("-") ? -compared : compared;
  };
  const head = (by: string, words: string): ComponentChildren => (
    <button type="button" class="sort" onClick={() => setQuery({ sort: sort === by ? `-${by}` : by, page: "" })}>
      {words}{sort === by ? " ↑" : sort === `-${by}` ? " ↓" : ""}
    </button>
  );

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
            .filter((peering) => words.every((word) => text(peering).includes(word)))
            .sort(order);
          const pages = Math.max(1, Math.ceil(found.length / ON_A_PAGE));
          const shown = Math.min(page, pages);
          const waiting = all.filter((peering) => peering.state === "pending" && peering.role === "receiver").length;
          return (
            <div class="stack">
              {waiting > 0 && <p class="note info">{t("list.pendingForYou", { count: waiting })}</p>}
              <form class="filters" role="search" onSubmit={(event) => event.preventDefault()}>
                <input type="search" aria-label={t("common.search")} placeholder={t("list.searchHint")} value={search}
                  onInput={(event) => filter("search")(event.currentTarget.value)} />
                <Select aria-label={t("common.region")} value={region} onPick={filter("region")}
                  options={[["", `${t("common.region")}: ${t("common.all")}`], ...who.regions.map((id): [string, string] => [id, id])]} />
                <Select aria-label={t("list.state")} value={state} onPick={filter("state")}
                  options={[["", `${t("list.state")}: ${t("common.all")}`],
                    ...STATES.map((state): [string, string] =>
                      [state, t((state === "pending" ? "state.pending.receiver" : `state.${state}`) as Key)])]} />
                <Select aria-label={t("list.role")} value={role} onPick={filter("role")}
                  options={[["", `${t("list.role")}: ${t("common.all")}`],
                    ["initiator", t("role.initiator")], ["receiver", t("role.receiver")]]} />
              </form>
              {found.length === 0
                ? <Empty title={t("list.noMatch")}><button type="button" class="button" onClick={clear}>{t("common.clear")}</button></Empty>
                : (
                  <Table caption={t("list.caption")} heads={[head("name", t("list.nameId")), head("state", t("list.state")), t("list.role"), t("list.own"),
                    t("list.peer"), head("bandwidth", t("list.bandwidth")), head("created", t("common.created")), t("common.actions")]}>
                    {found.slice((shown - 1) * ON_A_PAGE, shown * ON_A_PAGE).map((peering) => (
                      <tr key={peering.vpcPeeringId}>
                        <th scope="row">
                          <a class="cut" title={peering.vpcPeeringName} href={to("peerings", peering.vpcInfo.regionId, peering.vpcPeeringId)}><bdi>{peering.vpcPeeringName}</bdi></a>
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
              <Pager page={shown} pages={pages} count={found.length} onTurn={(page) => setQuery({ page: page > 1 ? String(page) : "" })} />
            </div>
          );
        }}
      </Show>
      {doing && <Act {...doing} onClose={() => setDoing(undefined)} />}
    </>
  );
}
