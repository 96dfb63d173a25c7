// One peering of any accounts, for operators: both sides, the hosts that have it and their problems, and links for troubleshooting.

import { useState } from "preact/hooks";
import { get, Refused, type Host, type Peering, type PeeringHost, type Port, type Problem, type Route, type Side } from "../api.ts";
import { commandLine, AsCall } from "../calls.tsx";
import { reached } from "../choice.ts";
import { overlap } from "../cidr.ts";
import { Id } from "../copy.tsx";
import { clock, mbit, t, time, type Key } from "../i18n.ts";
import { operatorPath } from "../peering.tsx";
import { to } from "../route.ts";
import { Said } from "../said.tsx";
import { whyNot } from "../rules.ts";
import { ChangePrefixes, PrefixCard } from "../scope.tsx";
import { useLoaded } from "../store.ts";
import { Badge, Empty, Heading, Show, StateBadge, Table } from "../ui.tsx";
import { Health, RouteTable, SideCard } from "./detail.tsx";
import { Problems, revision } from "./host.tsx";

/** How many hosts are shown at first; those that have not confirmed come first. */
const SHOWN = 50;

const sidesOf = (peering: Peering): [Side, Side] => [peering.vpcInfo, peering.remoteVpcInfo];

/** Whether a host's problem concerns a peering: one of its sides, the VRF of one of its VPCs, or the whole host. */
function concerns({ scope }: Problem, peering: Peering): boolean {
  if (scope === "host") return true;
  const { side, vpc } = scope as { side?: number; vpc?: string };
  return sidesOf(peering).some((it) => (vpc !== undefined && it.vpcId === vpc) || (side !== undefined && it.vni === side));
}

/** Addresses of the gateways of a VPC's ports that the other side reaches. */
const gatewaysOf = (side: Side, ports: Port[]) => ports.filter((port) => port.vpc === side.vpcId)
  .flatMap((port) => port.gateways.map((gateway) => gateway.split("/")[0]!)).filter((address) => reached(side).some((prefix) => overlap(prefix, address)));

/** A query for the path trace from one side to the other, in a family that both have. */
function pathBetween(from: Side, dest: Side, ports: Port[]): string | undefined {
  for (const source of gatewaysOf(from, ports)) {
    const destination = gatewaysOf(dest, ports).find((it) => it.includes(":") === source.includes(":"));
    if (destination) return `${to("path")}?${new URLSearchParams({ source, destination, vpc: from.vpcId })}`;
  }
  return undefined;
}

function Paths({ peering, ports }: { peering: Peering; ports: Port[] }) {
  const [own, peer] = sidesOf(peering);
  const paths = [[own, peer], [peer, own]].flatMap(([from, dest]) => {
    const href = pathBetween(from!, dest!, ports);
    return href ? [{ href, words: `${from!.vpcName} → ${dest!.vpcName}` }] : [];
  });
  return (
    <section class="card wide">
      <h2>{t("nav.path")}</h2>
      <p class="quiet">{t(paths.length > 0 ? "anyPeering.pathHint" : "anyPeering.noPath")}</p>
      <ul class="lines">{paths.map(({ href, words }) => <li key={href}><a href={href}><bdi>{words}</bdi></a></li>)}</ul>
    </section>
  );
}

function HostRow({ there, host, peering, ports }: { there: PeeringHost; host: Host | undefined; peering: Peering; ports: Port[] }) {
  const vpcs = sidesOf(peering).filter((side) => ports.some((port) => port.host === there.host && port.vpc === side.vpcId));
  // Earlier controllers use another name.
  const lastError = there.lastError ?? null;
  const problems = host?.problems.filter((problem) => concerns(problem, peering)) ?? [];
  return (
    <tr>
      <th scope="row"><a href={to("hosts", there.host)}>{there.host}</a></th>
      <td>{vpcs.length === 0 ? t("common.none") : vpcs.map((side) => <div key={side.vpcId}><bdi>{side.vpcName}</bdi></div>)}</td>
      <td><Badge look={there.confirmed ? "good" : "warn"}>{t(there.confirmed ? "common.yes" : "common.no")}</Badge></td>
      <td class="small">{revision(there.applied)} / {revision(there.desired)}</td>
      <td class="small nowrap" title={time(there.lastReport)}>{there.lastReport ? clock(there.lastReport) : t("common.none")}</td>
      <td class="small">{peering.state === "active" && <Health health={there.pathHealth} />}</td>
      <td class="said">
        {lastError !== null && <div><Said text={lastError} /></div>}
        <Problems problems={problems} />
        {lastError === null && problems.length === 0 && t(there.confirmed ? "common.none" : "hosts.waiting")}
      </td>
    </tr>
  );
}

function Hosts({ peering, hosts, ports }: { peering: Peering; hosts: Host[]; ports: Port[] }) {
  const [all, setAll] = useState(false);
  const those = [...(peering.hosts ?? [])].sort((one, other) => Number(one.confirmed) - Number(other.confirmed) || one.host.localeCompare(other.host));
  const byId = new Map(hosts.map((host) => [host.host, host]));
  return (
    <section class="card wide">
      <h2>{t("nav.hosts")}</h2>
      {those.length === 0 ? <p class="quiet">{t("anyPeering.noHosts")}</p> : (
        <>
          <p class="quiet">{t("anyPeering.confirmed", { count: those.filter((it) => it.confirmed).length, total: those.length })}</p>
          <Table caption={t("nav.hosts")} heads={[t("hosts.host"), t("detail.vpc"), t("host.confirmed"), t("hosts.revision"), t("hosts.lastReport"), t("detail.path"), t("hosts.problems")]}>
            {(all ? those : those.slice(0, SHOWN)).map((there) =>
              <HostRow key={there.host} there={there} host={byId.get(there.host)} peering={peering} ports={ports} />)}
          </Table>
          {!all && those.length > SHOWN && <button type="button" class="button" onClick={() => setAll(true)}>{t("hosts.moreProblems", { count: those.length - SHOWN })}</button>}
        </>
      )}
    </section>
  );
}

function Routes({ peering }: { peering: Peering }) {
  const path = `${operatorPath(peering.vpcPeeringId)}/routes`;
  const loaded = useLoaded(path, (background) => get<{ routes: Route[] }>(path, background));
  return (
    <section class="card wide">
      <h2>{t("detail.routes")}</h2>
      <Show loaded={loaded}>{({ routes }) => <RouteTable routes={routes} peering={peering} />}</Show>
    </section>
  );
}

export function AnyPeering({ id }: { id: string }) {
  const path = operatorPath(id);
  const loaded = useLoaded(path, (background) => get<{ vpcPeering: Peering }>(path, background).then(({ vpcPeering }) => vpcPeering, (error: Error) => {
    if (error instanceof Refused && error.code === 404) return null;
    throw error;
  }));
  const hosts = useLoaded("/admin/v1/hosts", (background) => get<{ hosts: Host[] }>("/admin/v1/hosts", background));
  const inventory = useLoaded("inventory", (background) => get<{ ports: Port[] }>("/admin/v1/inventory", background));
  const [changing, setChanging] = useState(false);
  const back = <a class="button" href={to("peerings")}>{t("detail.back")}</a>;
  return (
    <>
      <Heading title={loaded.value?.vpcPeeringName ?? id}>
        {loaded.value && whyNot("prefixes", loaded.value) === undefined &&
          <button type="button" class="button" onClick={() => setChanging(true)}>{t("action.prefixes")}</button>}
        {back}
      </Heading>
      <Show loaded={loaded}>
        {(peering) => peering === null ? <Empty title={t("detail.gone")}>{back}</Empty> : (
          <div class="stack">
            <div class="cards">
              <section class="card">
                <h2>{t("detail.resource")}</h2>
                <dl>
                  <div><dt>{t("detail.id")}</dt><dd><Id id={peering.vpcPeeringId} /></dd></div>
                  <div><dt>{t("list.state")}</dt><dd><StateBadge peering={peering} /></dd></div>
                  <div><dt>{t("list.bandwidth")}</dt><dd>{mbit(peering.bandwidth)}</dd></div>
                  {peering.charge && (
                    <div><dt>{t("detail.chargeStatus")}</dt><dd>
                      <a href={`${to("accounts")}?${new URLSearchParams({ search: peering.vpcInfo.accountId })}`}>{peering.vpcInfo.accountId}</a>{" "}
                      <Badge look={peering.charge.chargeStatus === "normal" ? "plain" : "bad"}>{t(`charge.${peering.charge.chargeStatus}` as Key)}</Badge>
                    </dd></div>
                  )}
                  <div><dt>{t("common.created")}</dt><dd>{time(peering.createdTime)}</dd></div>
                  {peering.activatedTime && <div><dt>{t("detail.activated")}</dt><dd>{time(peering.activatedTime)}</dd></div>}
                  {peering.state === "pending" && <div><dt>{t("detail.expires")}</dt><dd>{time(peering.expiredTime)}</dd></div>}
                  <div><dt>{t("detail.inSync")}</dt><dd>{t(peering.routesInSync ? "common.yes" : "common.no")}
                    {peering.lastConfirmed !== null && <span class="quiet"> {t("detail.lastConfirmed", { time: time(peering.lastConfirmed) })}</span>}</dd></div>
                  {peering.state === "active" && <div><dt>{t("detail.path")}</dt><dd><Health health={peering.pathHealth} /></dd></div>}
                </dl>
              </section>
              <SideCard title={t("role.initiator")} side={peering.vpcInfo} />
              <SideCard title={t("role.receiver")} side={peering.remoteVpcInfo} />
              <Show loaded={hosts}>
                {({ hosts }) => <Show loaded={inventory}>{({ ports }) => (
                  <>
                    <Hosts peering={peering} hosts={hosts} ports={ports} />
                    <Paths peering={peering} ports={ports} />
                  </>
                )}</Show>}
              </Show>
              <PrefixCard peering={peering} titles={[t("role.initiator"), t("role.receiver")]} />
              <Routes peering={peering} />
            </div>
            <AsCall calls={[{ method: "GET", path, cli: commandLine("peering show", [peering.vpcPeeringId]) }]} />
          </div>
        )}
      </Show>
      {loaded.value && changing && <ChangePrefixes peering={loaded.value} viewer="operator" onClose={() => setChanging(false)} />}
    </>
  );
}
