// For operators: hosts with the problems in their kernels, and all peerings.

import { useState } from "preact/hooks";
import { get, type Host, type Peering } from "../api.ts";
import { clock, mbit, number, t, time, type Key } from "../i18n.ts";
import { to } from "../route.ts";
import { LIVE } from "../rules.ts";
import { useLoaded } from "../store.ts";
import { Empty, Found, Heading, RowButton, Show, StateBadge, stateOptions, Table, useFound } from "../ui.tsx";
import { HostAct, HostState, offered, revision, Why, type HostAction } from "./host.tsx";
import { SideCell, textOf } from "./list.tsx";

const STANDINGS: [string, Key][] = [["inSync", "hosts.inSync"], ["outOfSync", "hosts.outOfSync"], ["maintenance", "hosts.maintenance"]];
/** How many problems of a host are in the list; its page has all. */
const PROBLEMS = 3;

export function Hosts() {
  const path = "/admin/v1/hosts";
  const loaded = useLoaded(path, (background) => get<{ hosts: Host[] }>(path, background));
  const [doing, setDoing] = useState<{ host: string; action: HostAction }>();
  const hosts = loaded.value?.hosts ?? [];
  const found = useFound([...hosts].sort((one, other) => Number(one.inSync) - Number(other.inSync) || one.host.localeCompare(other.host)), {
    text: (host) => [host.host, host.regionId, host.underlay, host.agent, host.lastError, ...host.problems.map((it) => `${it.object} ${it.reason}`)].join(" "),
    filters: {
      standing: (host, value) =>
        value === "maintenance" ? host.maintenance || !!host.maintenanceWindow || host.drained || host.paused : value === "inSync" ? host.inSync : !host.inSync,
      region: (host, value) => host.regionId === value,
    },
  });
  const regions = [...new Set(hosts.map((host) => host.regionId))].sort();
  return (
    <>
      <Heading title={t("nav.hosts")} intro={t("hosts.intro")} />
      <Show loaded={loaded}>
        {() => hosts.length === 0 ? <Empty title={t("hosts.empty")} hint={t("hosts.emptyHint")} /> : (
          <div class="stack">
            <p class="sum">{t("hosts.summary", { inSync: hosts.filter((host) => host.inSync).length, total: hosts.length })}</p>
            <Found found={found} hint={t("hosts.searchHint")} none={t("hosts.noMatch")} filters={[
              { name: "standing", words: t("hosts.state"), options: STANDINGS.map(([value, key]) => [value, t(key)]) },
              { name: "region", words: t("common.region"), options: regions.map((it) => [it, it]) },
            ]}>
              {(shown) => (
                <Table caption={t("hosts.caption")} heads={[t("hosts.host"), t("common.region"), t("hosts.state"), t("hosts.problems"),
                  t("hosts.revision"), t("hosts.drift"), t("hosts.lastReport"), t("common.actions")]}>
                  {shown.map((host) => (
                    <tr key={host.host}>
                      <th scope="row"><a href={to("hosts", host.host)}>{host.host}</a><div class="id">{host.underlay}</div><div class="id">{host.agent}</div></th>
                      <td class="nowrap">{host.regionId}</td>
                      <td><HostState host={host} /></td>
                      <td><Why host={host} most={PROBLEMS} /></td>
                      <td class="small">{revision(host.applied)} / {revision(host.desired)}</td>
                      <td class="number">{host.driftRepaired === null ? t("common.none") : number(host.driftRepaired)}</td>
                      <td class="small nowrap" title={time(host.lastReport)}>{host.lastReport ? clock(host.lastReport) : t("common.none")}</td>
                      <td>
                        <div class="links">
                          {offered(host).map((action) => (
                            <RowButton key={action} words={t(`host.${action}`)} name={host.host} onPress={() => setDoing({ host: host.host, action })} />
                          ))}
                        </div>
                      </td>
                    </tr>
                  ))}
                </Table>
              )}
            </Found>
          </div>
        )}
      </Show>
      {doing && <HostAct {...doing} onClose={() => setDoing(undefined)} />}
    </>
  );
}

export function AllPeerings() {
  const path = "/admin/v1/peerings";
  const loaded = useLoaded(path, (background) => get<{ vpcPeerings: Peering[] }>(path, background));
  const found = useFound(loaded.value?.vpcPeerings ?? [], {
    text: textOf,
    filters: { state: (peering, value) => peering.state === value },
  });
  return (
    <>
      <Heading title={t("nav.peerings")} intro={t("allPeerings.intro")} />
      <Show loaded={loaded}>
        {({ vpcPeerings }) => vpcPeerings.length === 0 ? <Empty title={t("list.empty")} /> : (
          <Found found={found} hint={t("list.searchHint")} none={t("list.noMatch")} filters={[{ name: "state", words: t("list.state"), options: stateOptions(LIVE, "initiator") }]}>
            {(shown) => (
              <Table caption={t("allPeerings.caption")} heads={[t("list.nameId"), t("list.state"), t("role.initiator"), t("role.receiver"),
                t("list.bandwidth"), t("common.created"), t("allPeerings.missing")]}>
                {shown.map((peering) => {
                  const missing = (peering.hosts ?? []).filter((host) => !host.confirmed).map((host) => host.host);
                  return (
                    <tr key={peering.vpcPeeringId}>
                      <th scope="row"><a class="cut" title={peering.vpcPeeringName} href={to("peerings", peering.vpcPeeringId)}><bdi>{peering.vpcPeeringName}</bdi></a><div class="id">{peering.vpcPeeringId}</div></th>
                      <td><StateBadge peering={peering} /></td>
                      <td><SideCell side={peering.vpcInfo} /></td>
                      <td><SideCell side={peering.remoteVpcInfo} /></td>
                      <td class="number">{mbit(peering.bandwidth)}</td>
                      <td class="small nowrap">{time(peering.createdTime)}</td>
                      <td>{missing.length === 0 ? t("common.none") : missing.map((host) => <div key={host}><a href={to("hosts", host)}>{host}</a></div>)}</td>
                    </tr>
                  );
                })}
              </Table>
            )}
          </Found>
        )}
      </Show>
    </>
  );
}
