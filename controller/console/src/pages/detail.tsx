// One peering: its properties, route policies, traffic, charges, and actions.

import { useEffect, useState } from "preact/hooks";
import { get, peeringPath, Refused, type PathHealth, type Peering, type Route, type Side, type Traffic } from "../api.ts";
import { Act } from "../actions.tsx";
import { reached } from "../choice.ts";
import { clock, mbit, number, t, time, type Key } from "../i18n.ts";
import { Cidr, Copy, Id } from "../copy.tsx";
import { backToList, to } from "../route.ts";
import { whyNot, type Action } from "../rules.ts";
import { PrefixCard } from "../scope.tsx";
import { useContent, useLoaded } from "../store.ts";
import { Badge, Empty, Heading, Select, Show, StateBadge, Table } from "../ui.tsx";
import { Chart, RANGES, type Range } from "../chart.tsx";

const ACTIONS: Action[] = ["accept", "reject", "bandwidth", "prefixes", "rename", "protect", "delete"];
/** How often hosts' counters and measurements are reloaded, in milliseconds: the controller takes samples every 5 to 20 s. */
const COUNTED = 10_000;
/** How often slow changes that the stream does not contain are reloaded: longer samples, times of reports. In milliseconds. */
const LATER = 60_000;

function about(peering: Peering): string {
  const { remoteVpcInfo: peer, vpcInfo: own, state, role } = peering;
  const initiator = role === "initiator" ? own.accountId : peer.accountId;
  if (state === "active" && !peering.routesInSync) {
    return peering.lastConfirmed === null ? t("about.activeLate") : t("about.activeUnheard", { time: clock(peering.lastConfirmed) });
  }
  const key = (state === "pending" ? `about.pending.${role}` : `about.${state}`) as Key;
  return t(key, { account: state === "suspended" ? initiator : peer.accountId, time: time(peering.expiredTime) });
}

/** Latency and loss between the hosts of both sides, or that they are unknown. */
export function Health({ health }: { health: PathHealth | null | undefined }) {
  if (!health) return <span class="quiet">{t("detail.noSample")}</span>;
  const { lossPercent, roundTripMs, mtuBlackHole, sampledAt } = health;
  return (
    <>
      {roundTripMs === null ? t("detail.noReply") : `${number(roundTripMs, roundTripMs < 10 ? 2 : 1)} ms`} / {number(lossPercent)} %{" "}
      {lossPercent > 0 && <Badge look={roundTripMs === null ? "bad" : "warn"}>{t("detail.lossy")}</Badge>}{" "}
      {mtuBlackHole === true && <Badge look="bad">{t("detail.blackHole")}</Badge>}{" "}
      <span class="quiet">{t("detail.sampledAt", { time: clock(sampledAt) })}</span>
    </>
  );
}

export function SideCard({ title, side }: { title: string; side: Side }) {
  return (
    <section class="card">
      <h3>{title}</h3>
      <dl>
        <div><dt>{t("detail.vpc")}</dt><dd><bdi>{side.vpcName}</bdi> {side.vpcName !== side.vpcId ? <Id id={side.vpcId} /> : <Copy text={side.vpcId} />}</dd></div>
        <div><dt>{t("common.region")}</dt><dd>{side.regionId}</dd></div>
        <div><dt>{t("common.account")}</dt><dd>{side.accountId}</dd></div>
        <div><dt>{t("detail.cidrs")}</dt><dd>{side.addressPrefix.map((cidr) => <Cidr key={cidr} cidr={cidr} />)}</dd></div>
        {side.vni !== undefined && <div><dt>{t("anyPeering.vni")}</dt><dd>{side.vni}</dd></div>}
      </dl>
    </section>
  );
}

export function RouteTable({ routes, peering }: { routes: Route[]; peering: Peering }) {
  const names = new Map([peering.vpcInfo, peering.remoteVpcInfo].map((side) => [side.vpcId, side.vpcName]));
  if (routes.length === 0) return <p class="quiet">{t("detail.routesNone")}</p>;
  return (
    <Table caption={t("detail.routes")} heads={[t("detail.vpc"), t("detail.family"), t("detail.destination"),
      t("detail.nextHop"), t("detail.installed"), t("detail.hosts")]}>
      {routes.map((route) => (
        <tr key={`${route.vpcId} ${route.destinationCidr}`}>
          <th scope="row">{names.get(route.vpcId) ?? route.vpcId} <div class="id">{route.vpcId}</div></th>
          <td>{route.destinationCidr.includes(":") ? "IPv6" : "IPv4"}</td>
          <td><code>{route.destinationCidr}</code></td>
          <td class="id">{route.nextHop}</td>
          <td>{route.installed && route.hosts === 0
            ? <Badge look="plain">{t("detail.noHosts")}</Badge>
            : route.installed
            ? <Badge look="good">{t("detail.isInstalled")}</Badge>
            : <Badge look="warn">{t("detail.notInstalled")}</Badge>}
            {route.lastReport !== null && <div class="quiet small">{t("detail.lastReport", { time: clock(route.lastReport) })}</div>}
          </td>
          <td class="number">{route.hosts}</td>
        </tr>
      ))}
    </Table>
  );
}

function Routes({ peering, region }: { peering: Peering; region: string }) {
  const path = `${peeringPath(region, peering.vpcPeeringId)}/routes`;
  const loaded = useLoaded(path, (background) => get<{ routes: Route[] }>(path, background), LATER,
    // What they depend on; the stream contains it.
    JSON.stringify([peering.state, peering.routesInSync, reached(peering.vpcInfo), reached(peering.remoteVpcInfo)]));
  return (
    <section class="card wide">
      <h2>{t("detail.routes")}</h2>
      <p class="quiet">{t("detail.routesHint")} <a href={`${to("path")}?${new URLSearchParams({ region, vpc: peering.vpcInfo.vpcId })}`}>{t("nav.path")}</a></p>
      <Show loaded={loaded}>{({ routes }) => <RouteTable routes={routes} peering={peering} />}</Show>
    </section>
  );
}

function TrafficCard({ peering, region }: { peering: Peering; region: string }) {
  const [range, setRange] = useState<Range>("1h");
  const path = `${peeringPath(region, peering.vpcPeeringId)}/traffic?range=${range}`;
  const load = (background: boolean) =>
    get<{ traffic: Traffic }>(path, background).then(({ traffic }) => traffic, (error: Error) => {
      if (error instanceof Refused && error.code === 404) return null;
      throw error;
    });
  const loaded = useLoaded(path, load, peering.state !== "active" ? undefined : range === "1h" ? COUNTED : LATER, peering.state);
  return (
    <section class="card wide">
      <div class="row between">
        <h2>{t("detail.traffic")}</h2>
        <Select aria-label={t("traffic.range")} value={range} onPick={(it) => setRange(it as Range)}
          options={(Object.keys(RANGES) as Range[]).map((it) => [it, t(`traffic.${it}`)])} />
      </div>
      <Show loaded={loaded}>{(traffic) => <Chart traffic={traffic} cap={peering.bandwidth} range={range} />}</Show>
    </section>
  );
}

function ChargeCard({ peering }: { peering: Peering }) {
  const { charge } = peering;
  const payer = peering.role === "initiator" ? peering.vpcInfo : peering.remoteVpcInfo;
  return (
    <section class="card">
      <h3>{t("detail.charge")}</h3>
      {charge === null
        ? <p class="quiet">{t("detail.chargeFree")}</p>
        : (
          <dl>
            <div><dt>{t("detail.chargeMode")}</dt><dd>{t("detail.chargeByConfig")}</dd></div>
            <div><dt>{t("detail.payer")}</dt><dd>{t("role.initiator")} {payer.accountId}</dd></div>
            <div><dt>{t("detail.chargeStatus")}</dt><dd>{t(`charge.${charge.chargeStatus}` as Key)}</dd></div>
            <div><dt>{t("detail.chargeStart")}</dt><dd>{time(charge.chargeStartTime)}</dd></div>
            {charge.chargeRetireTime && <div><dt>{t("detail.chargeEnd")}</dt><dd>{time(charge.chargeRetireTime)}</dd></div>}
          </dl>
        )}
    </section>
  );
}

/** The peering from the stream; if it is not there, it is loaded: it may be gone, or a link may lead to the other side of it. */
function usePeering(region: string, id: string) {
  const content = useContent();
  const views = content.value?.peerings.filter((it) => it.vpcPeeringId === id) ?? [];
  const told = views.find((it) => it.vpcInfo.regionId === region);
  const elsewhere = views.find((it) => it.vpcInfo.regionId !== region);
  const path = peeringPath(region, id);
  const asked = useLoaded(path, (background) =>
    get<{ vpcPeering: Peering }>(path, background).then(({ vpcPeering }) => vpcPeering, (error: Error) => {
      if (error instanceof Refused && error.code === 404) return null;
      throw error;
    }), !told || told.state === "active" ? COUNTED : LATER, JSON.stringify(told ?? null));
  useEffect(() => {
    if (!told && elsewhere && asked.value === null) location.replace(to("peerings", elsewhere.vpcInfo.regionId, id));
  }, [told, elsewhere, asked.value]);
  // While all is well the stream does not contain when hosts last reported.
  const value = told
    ? { ...told, lastConfirmed: told.lastConfirmed ?? asked.value?.lastConfirmed ?? null, lastReport: told.lastReport ?? asked.value?.lastReport ?? null, pathHealth: asked.value?.pathHealth ?? null }
    : asked.value;
  return { ...asked, value, ...(told ? { error: undefined } : {}) };
}

export function Detail({ region, id }: { region: string; id: string }) {
  const loaded = usePeering(region, id);
  const [doing, setDoing] = useState<Action>();
  const peering = loaded.value;
  const back = <a class="button" href={backToList()}>{t("detail.back")}</a>;
  const offered = peering ? ACTIONS.filter((action) => whyNot(action, peering) === undefined) : [];
  return (
    <>
      <Heading title={peering?.vpcPeeringName ?? id}>
        {offered.map((action) => (
          <button type="button" key={action} onClick={() => setDoing(action)}
            class={`button ${action === "accept" ? "primary" : action === "delete" || action === "reject" ? "danger" : ""}`}>
            {t(`action.${action}`)}
          </button>
        ))}
        {back}
      </Heading>
      <Show loaded={loaded}>
        {(peering) => peering === null ? <Empty title={t("detail.gone")}>{back}</Empty> : (
          <div class="stack">
            <div class="note plain row">
              <StateBadge peering={peering} /> <span>{about(peering)}</span>
            </div>
            {peering.state === "pending" && peering.role === "receiver" && <p class="note warn">{t("accept.warning")}</p>}
            <div class="cards">
              <section class="card">
                <h2>{t("detail.resource")}</h2>
                <dl>
                  <div><dt>{t("detail.id")}</dt><dd><Id id={peering.vpcPeeringId} /></dd></div>
                  <div><dt>{t("common.description")}</dt><dd class="lines"><bdi>{peering.description || t("common.none")}</bdi></dd></div>
                  {peering.message && <div><dt>{t(peering.role === "receiver" ? "detail.messageFromPeer" : "create.message")}</dt><dd class="lines"><bdi>{peering.message}</bdi></dd></div>}
                  {peering.tags.length > 0 && (
                    <div><dt>{t("detail.tags")}</dt><dd>{peering.tags.map(({ key, value }) => (
                      <div key={key}><bdi>{key}</bdi>{value && <>: <bdi>{value}</bdi></>}</div>
                    ))}</dd></div>
                  )}
                  <div><dt>{t("list.role")}</dt><dd>{t(`role.${peering.role}`)}</dd></div>
                  <div><dt>{t("list.bandwidth")}</dt><dd>{mbit(peering.bandwidth)}</dd></div>
                  <div><dt>{t("detail.protection")}</dt><dd>{t(peering.deletionProtection ? "common.yes" : "common.no")}</dd></div>
                  <div><dt>{t("common.created")}</dt><dd>{time(peering.createdTime)}</dd></div>
                  {peering.activatedTime && <div><dt>{t("detail.activated")}</dt><dd>{time(peering.activatedTime)}</dd></div>}
                  {peering.state === "pending" && <div><dt>{t("detail.expires")}</dt><dd>{time(peering.expiredTime)}</dd></div>}
                  <div><dt>{t("detail.inSync")}</dt><dd>{t(peering.routesInSync ? "common.yes" : "common.no")}
                    {peering.lastConfirmed !== null && <span class="quiet"> {t("detail.lastConfirmed", { time: clock(peering.lastConfirmed) })}</span>}</dd></div>
                  {peering.state === "active" && <div><dt>{t("detail.path")}</dt><dd><Health health={peering.pathHealth} /></dd></div>}
                </dl>
              </section>
              <SideCard title={t("create.own")} side={peering.vpcInfo} />
              <SideCard title={t("create.peer")} side={peering.remoteVpcInfo} />
              <PrefixCard peering={peering} titles={[t("create.own"), t("create.peer")]} />
              <Routes peering={peering} region={region} />
              <TrafficCard peering={peering} region={region} />
              <ChargeCard peering={peering} />
              {ACTIONS.some((action) => whyNot(action, peering) !== undefined) && (
              <section class="card">
                <h3>{t("detail.unavailable")}</h3>
                <dl>
                  {ACTIONS.filter((action) => whyNot(action, peering) !== undefined).map((action) => (
                    <div key={action}><dt>{t(`action.${action}`)}</dt><dd class="quiet">{t(whyNot(action, peering)!)}</dd></div>
                  ))}
                </dl>
              </section>
              )}
            </div>
          </div>
        )}
      </Show>
      {peering && doing && <Act action={doing} peering={peering} onClose={() => setDoing(undefined)} />}
    </>
  );
}
