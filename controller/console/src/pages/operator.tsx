// What operators see: hosts with what is wrong in their kernels, all peerings, accounts.

import { get, type Account, type Host, type Peering, type Revision } from "../api.ts";
import { mbit, number, t, time, tOr, type Key } from "../i18n.ts";
import { useLoaded } from "../store.ts";
import { Badge, Empty, Heading, Show, StateBadge, Table } from "../ui.tsx";
import { SideCell } from "./list.tsx";

const revision = (it: Revision | null) => (it ? `${it.epoch}.${it.number}` : t("common.none"));

function HostState({ host }: { host: Host }) {
  return (
    <div class="row">
      {host.lastError !== null
        ? <Badge look="bad">{t(/^the agent('s URL| refused| has)/.test(host.lastError) ? "hosts.refuses" : "hosts.unreachable")}</Badge>
        : host.inSync ? <Badge look="good">{t("hosts.inSync")}</Badge> : <Badge look="bad">{t("hosts.outOfSync")}</Badge>}
      {host.maintenance && <Badge look="warn">{t("hosts.maintenance")}</Badge>}
      {host.retiring && <Badge look="plain">{t("hosts.retiring")}</Badge>}
    </div>
  );
}

/** Why a host is not in sync, in the words of its kernel. */
function Why({ host }: { host: Host }) {
  return (
    <>
      {host.lastError !== null && <p class="said" lang="en">{host.lastError}</p>}
      {host.problems.length > 0 && (
        <dl class="problems">
          {host.problems.map((problem) => (
            <div key={`${problem.object} ${problem.reason}`}>
              <dt><code>{problem.object}</code></dt>
              <dd lang="en">{problem.reason} <span class="quiet">({problem.kind})</span></dd>
            </div>
          ))}
        </dl>
      )}
      {host.lastError === null && !host.inSync && host.problems.length === 0 && <p class="quiet">{t("hosts.waiting")}</p>}
    </>
  );
}

export function Hosts() {
  const path = "/admin/v1/hosts";
  const loaded = useLoaded(path, (background) => get<{ hosts: Host[] }>(path, background));
  return (
    <>
      <Heading title={t("nav.hosts")} intro={t("hosts.intro")} />
      <Show loaded={loaded}>
        {({ hosts }) => hosts.length === 0 ? <Empty title={t("hosts.empty")} hint={t("hosts.emptyHint")} /> : (
          <div class="stack">
            <p class="sum">{t("hosts.summary", { inSync: hosts.filter((host) => host.inSync).length, total: hosts.length })}</p>
            <Table caption={t("hosts.caption")} heads={[t("hosts.host"), t("common.region"), t("hosts.state"), t("hosts.problems"),
              t("hosts.revision"), t("hosts.drift"), t("hosts.lastReport")]}>
              {[...hosts].sort((one, other) => Number(one.inSync) - Number(other.inSync)).map((host) => (
                <tr key={host.host}>
                  <th scope="row">{host.host}<div class="id">{host.underlay}</div><div class="id">{host.agent}</div></th>
                  <td>{host.regionId}</td>
                  <td><HostState host={host} /></td>
                  <td><Why host={host} /></td>
                  <td class="small">{revision(host.applied)} / {revision(host.desired)}</td>
                  <td class="number">{host.driftRepaired === null ? t("common.none") : number(host.driftRepaired)}</td>
                  <td class="small">{time(host.lastReport)}</td>
                </tr>
              ))}
            </Table>
          </div>
        )}
      </Show>
    </>
  );
}

export function AllPeerings() {
  const path = "/admin/v1/peerings";
  const loaded = useLoaded(path, (background) => get<{ vpcPeerings: Peering[] }>(path, background));
  return (
    <>
      <Heading title={t("nav.peerings")} intro={t("allPeerings.intro")} />
      <Show loaded={loaded}>
        {({ vpcPeerings }) => vpcPeerings.length === 0 ? <Empty title={t("list.empty")} /> : (
          <Table caption={t("allPeerings.caption")} heads={[t("list.nameId"), t("list.state"), t("role.initiator"), t("role.receiver"),
            t("list.bandwidth"), t("common.created"), t("allPeerings.missing")]}>
            {vpcPeerings.map((peering) => (
              <tr key={peering.vpcPeeringId}>
                <th scope="row"><bdi>{peering.vpcPeeringName}</bdi><div class="id">{peering.vpcPeeringId}</div></th>
                <td><StateBadge peering={peering} /></td>
                <td><SideCell side={peering.vpcInfo} /></td>
                <td><SideCell side={peering.remoteVpcInfo} /></td>
                <td class="number">{mbit(peering.bandwidth)}</td>
                <td class="small">{time(peering.createdTime)}</td>
                <td>{(peering.hosts ?? []).filter((host) => !host.confirmed).map((host) => host.host).join(", ") || t("common.none")}</td>
              </tr>
            ))}
          </Table>
        )}
      </Show>
    </>
  );
}

export function Accounts() {
  const path = "/admin/v1/accounts";
  const loaded = useLoaded(path, (background) => get<{ accounts: Account[] }>(path, background));
  return (
    <>
      <Heading title={t("nav.accounts")} intro={t("accounts.intro")} />
      <Show loaded={loaded}>
        {({ accounts }) => accounts.length === 0 ? <Empty title={t("accounts.empty")} /> : (
          <Table caption={t("accounts.caption")} heads={[t("common.account"), t("detail.chargeStatus"), t("accounts.keys"), t("accounts.tokens"), t("accounts.quotas")]}>
            {accounts.map((account) => (
              <tr key={account.accountId}>
                <th scope="row">{account.accountId}</th>
                <td><Badge look={account.chargeStatus === "normal" ? "good" : account.chargeStatus === "overdue" ? "warn" : "bad"}>
                  {t(`charge.${account.chargeStatus}` as Key)}</Badge></td>
                <td>{account.accessKeys.map((key) => <div class="id" key={key}>{key}</div>)}</td>
                <td>{account.tokenIds.map((id) => <div class="id" key={id}>{id}</div>)}</td>
                <td>{[["", account.quotas] as const, ...Object.entries(account.limits)].flatMap(([kind, limits]) =>
                  Object.entries(limits).map(([region, limit]) => `${kind && `${tOr(`quota.${kind}`, kind)} `}${region}: ${limit}`))
                  .join(", ") || t("accounts.usual")}</td>
              </tr>
            ))}
          </Table>
        )}
      </Show>
    </>
  );
}
