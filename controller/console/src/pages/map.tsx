// The map: the account's VPCs and their peers, all of them or those around one.

import type { Peering, Who } from "../api.ts";
import { isolated, t } from "../i18n.ts";
import { Picture } from "../picture.tsx";
import { rememberList, to, useQuery } from "../route.ts";
import { isLive, LIVE } from "../rules.ts";
import { once, useContent } from "../store.ts";
import { Empty, Found, Heading, Select, short, Show, sortHeads, StateBadge, stateOptions, stateWord, Table, useFound } from "../ui.tsx";
import { SideCell, textOf } from "./list.tsx";

/** With more VPCs than these the map begins with the one that has most peerings. */
const MANY = 24;
const ZOOMS = [0.5, 0.75, 1, 1.25, 1.5];
/** Stands for no focus, if there would be one by default. */
const NONE = "all";

const endsOf = (peering: Peering) => [peering.vpcInfo.vpcId, peering.remoteVpcInfo.vpcId];

export function NetworkMap({ who }: { who: Who }) {
  const content = useContent();
  const [query] = useQuery();
  const vpcs = content.value?.vpcs ?? [];
  const live = once(content.value?.peerings ?? []).filter(isLive);
  const counts = new Map<string, number>();
  for (const id of live.flatMap(endsOf)) counts.set(id, (counts.get(id) ?? 0) + 1);
  const busiest = [...vpcs].sort((one, other) => (counts.get(other.vpcId) ?? 0) - (counts.get(one.vpcId) ?? 0))[0]?.vpcId ?? "";
  const places = new Set([...vpcs.map((it) => it.vpcId), ...counts.keys()]);
  const wanted = query.get("focus") ?? (places.size > MANY ? busiest : "");
  const focus = places.has(wanted) ? wanted : "";
  const found = useFound(live.filter((it) => !focus || endsOf(it).includes(focus)), {
    text: textOf,
    filters: { state: (peering, value) => peering.state === value },
    sorts: {
      name: (one, other) => one.vpcPeeringName.localeCompare(other.vpcPeeringName),
      own: (one, other) => one.vpcInfo.vpcName.localeCompare(other.vpcInfo.vpcName),
      peer: (one, other) => one.remoteVpcInfo.vpcName.localeCompare(other.remoteVpcInfo.vpcName),
      state: (one, other) => one.state.localeCompare(other.state),
    },
    first: "name",
  });
  const zoom = ZOOMS.find((it) => String(it) === found.of("zoom")) ?? 1;
  const step = (by: number) => ZOOMS[ZOOMS.indexOf(zoom) + by];
  const turn = (to: number | undefined) => { if (to !== undefined) found.set({ zoom: to === 1 ? "" : String(to) }); };
  const focusOn = (id: string) => found.set({ focus: id || (places.size > MANY ? NONE : ""), page: "" }, "step");
  const names = new Map<string, string>([...live.map(({ remoteVpcInfo: it }): [string, string] => [it.vpcId, `${it.vpcName} · ${it.accountId}`]),
    ...vpcs.map((it): [string, string] => [it.vpcId, it.name])]);
  const head = sortHeads(found);
  const seen = focus ? vpcs : vpcs.filter((vpc) => found.of("search") === "" || found.all.some((it) => endsOf(it).includes(vpc.vpcId)));
  return (
    <>
      <Heading title={t("nav.map")} intro={t("map.intro")} />
      <Show loaded={content}>
        {() => vpcs.length === 0
          ? <Empty title={t("map.empty")} hint={t("vpcs.emptyHint")}><a class="button" href={to("vpcs")}>{t("vpcs.create")}</a></Empty>
          : (
            <div class="stack">
              <div class="row between">
                <Select aria-label={t("map.focus")} value={focus} onPick={focusOn} options={[["", t("map.focusNone")],
                  ...[...names].sort(([, one], [, other]) => one.localeCompare(other)).map(([id, name]): [string, string] =>
                    [id, `${isolated(short(name, 40))} (${counts.get(id) ?? 0})`])]} />
                <div class="row" role="group" aria-label={t("map.zoom")}>
                  <button type="button" class="button" aria-label={t("map.zoomOut")} disabled={!step(-1)} onClick={() => turn(step(-1))}>−</button>
                  <span class="quiet">{Math.round(zoom * 100)} %</span>
                  <button type="button" class="button" aria-label={t("map.zoomIn")} disabled={!step(1)} onClick={() => turn(step(1))}>+</button>
                </div>
              </div>
              <Picture vpcs={seen} peerings={found.all} all={live} regions={who.regions} focus={focus} zoom={zoom} onFocus={focusOn} />
              <p class="legend" aria-label={t("map.legend")} role="group">
                {(["active", "provisioning", "pending", "suspended"] as const).map((state) => (
                  <span class={`key ${state}`} key={state}>{stateWord({ state, role: "initiator" })}</span>
                ))}
                <span class="key foreign">{t("map.foreign")}</span>
              </p>
              {live.length > 0 && (
                <section class="stack">
                  <h2>{t("map.list")}</h2>
                  <Found found={found} hint={t("list.searchHint")} none={t("list.noMatch")} filters={[{ name: "state", words: t("list.state"), options: stateOptions(LIVE, "initiator") }]}>
                    {(shown) => (
                      <Table caption={t("map.list")} heads={[head("name", t("list.nameId")), head("own", t("list.own")), head("peer", t("list.peer")),
                        head("state", t("list.state")), t("map.reaches")]}>
                        {shown.map((peering) => (
                          <tr key={peering.vpcPeeringId}>
                            <th scope="row"><a class="cut" title={peering.vpcPeeringName} onClick={rememberList}
                              href={to("peerings", peering.vpcInfo.regionId, peering.vpcPeeringId)}><bdi>{peering.vpcPeeringName}</bdi></a></th>
                            <td><SideCell side={peering.vpcInfo} /></td>
                            <td><SideCell side={peering.remoteVpcInfo} /></td>
                            <td><StateBadge peering={peering} /></td>
                            <td>{t(peering.state === "active" ? "common.yes" : "common.no")}</td>
                          </tr>
                        ))}
                      </Table>
                    )}
                  </Found>
                </section>
              )}
            </div>
          )}
      </Show>
    </>
  );
}
