// One host: its ports and peerings, its problems and since when it has them, and actions.

import { useState } from "preact/hooks";
import { get, Refused, type Host, type HostEvent, type Peering, type Port, type Problem } from "../api.ts";
import { commandLine, type Call } from "../calls.tsx";
import { clock, number, t, time, tOr } from "../i18n.ts";
import { to } from "../route.ts";
import { Said } from "../said.tsx";
import { useLoaded } from "../store.ts";
import { Dialog } from "../dialog.tsx";
import { carryOut } from "../told.tsx";
import { Health } from "./detail.tsx";
import { Badge, Empty, Heading, Show, StateBadge, Table } from "../ui.tsx";

export type HostAction = "drain" | "uncordon" | "pause" | "resume";

/** The actions on a host in its state. One that is being removed has none. */
export const offered = (host: Host): HostAction[] =>
  host.retiring ? [] : [host.drained ? "uncordon" : "drain", host.paused ? "resume" : "pause"];

export const hostPath = (id: string) => `/admin/v1/hosts/${encodeURIComponent(id)}`;

export function HostAct({ host, action, onClose }: { host: string; action: HostAction; onClose: () => void }) {
  const call: Call = { method: "POST", path: `${hostPath(host)}/${action}`, body: {}, cli: commandLine(`host ${action}`, [host]) };
  const words = t(`host.${action}`);
  const act = async () => void (await carryOut(call, t(`host.${action}.done`, { host })));
  return (
    <Dialog title={`${words} · ${host}`} confirm={words} danger={action === "pause"} onConfirm={act} onClose={onClose} calls={[call]}>
      <p>{t(`host.${action}.text`)}</p>
    </Dialog>
  );
}

export const revision = (it: Host["applied"]) => (it ? `${it.epoch}.${it.number}` : t("common.none"));

export function HostState({ host }: { host: Host }) {
  return (
    <div class="row">
      {host.lastError !== null
        ? <Badge look="bad">{t(/^the agent('s URL| refused| has)/.test(host.lastError) ? "hosts.refuses" : "hosts.unreachable")}</Badge>
        : host.inSync ? <Badge look="good">{t("hosts.inSync")}</Badge> : <Badge look="bad">{t("hosts.outOfSync")}</Badge>}
      {host.drained ? <Badge look="warn">{t("hosts.drained")}</Badge> : host.maintenance && <Badge look="warn">{t("hosts.maintenance")}</Badge>}
      {host.maintenanceWindow && (
        <Badge look={host.maintenanceWindow.begun ? "warn" : "plain"}>
          {host.maintenanceWindow.begun
            ? t("hosts.maintenanceUntil", { time: clock(host.maintenanceWindow.until) })
            : t("hosts.maintenanceFrom", { from: clock(host.maintenanceWindow.from), until: clock(host.maintenanceWindow.until) })}
        </Badge>
      )}
      {host.paused && <Badge look="warn">{t("hosts.paused")}</Badge>}
      {host.retiring && <Badge look="plain">{t("hosts.retiring")}</Badge>}
    </div>
  );
}

/** A problem, with the kernel's message. */
export function Problems({ problems }: { problems: Problem[] }) {
  if (problems.length === 0) return null;
  return (
    <dl class="problems">
      {problems.map((problem) => (
        <div key={`${problem.object} ${problem.reason}`}>
          <dt><code>{problem.object}</code></dt>
          <dd><Said text={problem.reason} /> <span class="quiet">({tOr(`problem.${problem.kind}`, problem.kind)})</span></dd>
        </div>
      ))}
    </dl>
  );
}

/** Why a host is not in sync; if there are many problems, the first of them. */
export function Why({ host, most = Infinity }: { host: Host; most?: number }) {
  return (
    <>
      {host.lastError !== null && <div class="said"><Said text={host.lastError} /></div>}
      <Problems problems={host.problems.slice(0, most)} />
      {host.problems.length > most && <a href={to("hosts", host.host)}>{t("hosts.moreProblems", { count: host.problems.length - most })}</a>}
      {host.lastError === null && !host.inSync && host.problems.length === 0 && <p class="quiet">{t("hosts.waiting")}</p>}
    </>
  );
}

/** Events are loaded in pages of this size. */
const EVENTS = 1000;
/** After so many pages the rest of a long history is left for the next reload. */
const MOST_PAGES = 20;
/** How many events of a host are shown. */
const SHOWN = 50;
let seen: { after?: string; events: HostEvent[] } = { events: [] };

/** Events of hosts within the 7 days that they are kept. Only new ones are loaded. */
async function hostEvents(background: boolean): Promise<HostEvent[]> {
  let { after, events } = seen;
  for (let page = 0; page < MOST_PAGES; page++) {
    const place: string = after === undefined ? "" : `&after=${encodeURIComponent(after)}`;
    try {
      const found = await get<{ events: HostEvent[]; nextAfter: string }>(`/admin/v1/events?limit=${EVENTS}${place}`, background);
      events = [...events, ...found.events.filter((event) => event.host !== undefined)];
      after = found.nextAfter;
      if (found.events.length === 0) break;
    } catch (error) {
      // The cursor has expired, or belongs to another store: start over.
      if (!(error instanceof Refused) || error.code >= 500 || after === undefined) throw error;
      [after, events] = [undefined, []];
    }
  }
  seen = { after, events };
  return events;
}

/** Since when a host is out of sync, by its events; undefined if they do not go back that far. */
function since(events: HostEvent[]): string | undefined {
  const last = events.filter((event) => event.type === "host.outOfSync" || event.type === "host.inSync").at(-1);
  return last?.type === "host.outOfSync" ? last.time : undefined;
}

function Ports({ host }: { host: string }) {
  const loaded = useLoaded("inventory", (background) => get<{ ports: Port[] }>("/admin/v1/inventory", background));
  return (
    <section class="card wide">
      <h2>{t("host.ports")}</h2>
      <Show loaded={loaded}>
        {({ ports }) => {
          const own = ports.filter((port) => port.host === host);
          return own.length === 0 ? <p class="quiet">{t("host.noPorts")}</p> : (
            <Table caption={t("host.ports")} heads={[t("host.interface"), t("detail.vpc"), t("host.gateways")]}>
              {own.map((port) => (
                <tr key={port.interface}>
                  <th scope="row"><code>{port.interface}</code></th>
                  <td class="id">{port.vpc}</td>
                  <td>{port.gateways.map((it) => <div key={it}><code>{it}</code></div>)}</td>
                </tr>
              ))}
            </Table>
          );
        }}
      </Show>
    </section>
  );
}

function Peerings({ host }: { host: string }) {
  const path = "/admin/v1/peerings";
  const loaded = useLoaded(path, (background) => get<{ vpcPeerings: Peering[] }>(path, background));
  return (
    <section class="card wide">
      <h2>{t("nav.peerings")}</h2>
      <Show loaded={loaded}>
        {({ vpcPeerings }) => {
          const own = vpcPeerings.flatMap((peering) => {
            const there = peering.hosts?.find((it) => it.host === host);
            return there ? [{ peering, there }] : [];
          });
          return own.length === 0 ? <p class="quiet">{t("host.noPeerings")}</p> : (
            <Table caption={t("nav.peerings")} heads={[t("list.nameId"), t("list.state"), t("host.confirmed"), t("host.path")]}>
              {own.map(({ peering, there }) => (
                <tr key={peering.vpcPeeringId}>
                  <th scope="row"><a href={to("peerings", peering.vpcPeeringId)}><bdi>{peering.vpcPeeringName}</bdi></a><div class="id">{peering.vpcPeeringId}</div></th>
                  <td><StateBadge peering={peering} /></td>
                  <td><Badge look={there.confirmed ? "good" : "warn"}>{t(there.confirmed ? "common.yes" : "common.no")}</Badge></td>
                  <td>{peering.state === "active" && <Health health={there.pathHealth} />}</td>
                </tr>
              ))}
            </Table>
          );
        }}
      </Show>
    </section>
  );
}

export function HostDetail({ id }: { id: string }) {
  const path = "/admin/v1/hosts";
  const loaded = useLoaded(path, (background) => get<{ hosts: Host[] }>(path, background));
  const history = useLoaded("host events", hostEvents);
  const [doing, setDoing] = useState<HostAction>();
  const host = loaded.value?.hosts.find((it) => it.host === id);
  const events = (history.value ?? []).filter((event) => event.host === id);
  const out = host && !host.inSync ? since(events) : undefined;
  const back = <a class="button" href={to("hosts")}>{t("host.back")}</a>;
  return (
    <>
      <Heading title={id}>
        {host && offered(host).map((action) => (
          <button type="button" class="button" key={action} onClick={() => setDoing(action)}>{t(`host.${action}`)}</button>
        ))}
        {back}
      </Heading>
      <Show loaded={loaded}>
        {() => !host ? <Empty title={t("host.gone")}>{back}</Empty> : (
          <div class="stack">
            <div class="note plain row">
              <HostState host={host} />
              {out && <span>{t("host.outSince", { time: clock(out) })}</span>}
            </div>
            <div class="cards">
              <section class="card">
                <h2>{t("host.about")}</h2>
                <dl>
                  <div><dt>{t("common.region")}</dt><dd>{host.regionId}</dd></div>
                  <div><dt>{t("host.underlay")}</dt><dd class="id">{host.underlay}</dd></div>
                  <div><dt>{t("host.agent")}</dt><dd class="id">{host.agent}</dd></div>
                  <div><dt>{t("host.mtu")}</dt><dd>{host.underlayMtu ?? t("common.none")}</dd></div>
                  <div><dt>{t("hosts.revision")}</dt><dd>{revision(host.applied)} / {revision(host.desired)}</dd></div>
                  <div><dt>{t("hosts.drift")}</dt><dd>{host.driftRepaired === null ? t("common.none") : number(host.driftRepaired)}</dd></div>
                  <div><dt>{t("hosts.lastReport")}</dt><dd>{time(host.lastReport)}</dd></div>
                  <div><dt>{t("host.certificate")}</dt><dd>{time(host.certificateExpires ?? null)}
                    {host.certificateNotRenewed && <> <Badge look="bad">{t("host.notRenewed", { reason: tOr(`notRenewed.${host.certificateNotRenewed}`, host.certificateNotRenewed) })}</Badge></>}</dd></div>
                </dl>
              </section>
              <section class="card">
                <h2>{t("hosts.problems")}</h2>
                {host.inSync && host.lastError === null && host.problems.length === 0 ? <p class="quiet">{t("host.noProblems")}</p> : <Why host={host} />}
              </section>
              <section class="card">
                <h2>{t("host.history")}</h2>
                <Show loaded={history}>
                  {() => events.length === 0 ? <p class="quiet">{t("host.noHistory")}</p> : (
                    <ul class="lines">
                      {events.slice(-SHOWN).reverse().map((event) => (
                        <li key={event.id}><span>{tOr(`event.${event.type}`, event.type)}</span><span class="quiet small">{time(event.time)}</span></li>
                      ))}
                    </ul>
                  )}
                </Show>
              </section>
              <Ports host={id} />
              <Peerings host={id} />
            </div>
          </div>
        )}
      </Show>
      {doing && <HostAct host={id} action={doing} onClose={() => setDoing(undefined)} />}
    </>
  );
}
