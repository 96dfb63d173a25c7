// What the account is charged for, what was done in its name, and whom it wants no requests from.

import { useState } from "preact/hooks";
import { ask, get, type AuditEntry, type Invoice } from "../api.ts";
import { mbit, number, t, time, tOr } from "../i18n.ts";
import { changed, useLoaded } from "../store.ts";
import { Badge, Dialog, Empty, Field, Heading, Select, Show, Table, tell } from "../ui.tsx";

type Period = "thisMonth" | "lastMonth" | "everything";

function windowOf(period: Period): string {
  if (period === "everything") return "";
  const now = new Date();
  const month = (offset: number) => new Date(Date.UTC(now.getUTCFullYear(), now.getUTCMonth() + offset)).toISOString();
  const [from, to] = period === "thisMonth" ? [month(0), month(1)] : [month(-1), month(0)];
  return `from=${from.slice(0, 19)}Z&to=${to.slice(0, 19)}Z`;
}

export function Billing() {
  const [period, setPeriod] = useState<Period>("thisMonth");
  const query = windowOf(period);
  const loaded = useLoaded(`metering ${query}`, (background) => get<Invoice>(`/v1/metering?${query}`, background));
  return (
    <>
      <Heading title={t("nav.billing")} intro={t("billing.intro")} />
      <div class="filters">
        <Select aria-label={t("billing.period")} value={period} onPick={(it) => setPeriod(it as Period)}
          options={(["thisMonth", "lastMonth", "everything"] as const).map((it) => [it, t(`billing.${it}`)])} />
        <a class="button" download="metering.csv" href={`/v1/metering?${query}${query && "&"}format=csv`}>{t("billing.csv")}</a>
      </div>
      <Show loaded={loaded}>
        {({ currency, total, lines }) => lines.length === 0 ? <Empty title={t("billing.empty")} /> : (
          <div class="stack">
            <p class="sum"><span class="quiet">{t("billing.total")}</span> <strong>{number(Number(total), 6)} {currency}</strong></p>
            <Table caption={t("billing.caption")} heads={[t("billing.peering"), t("billing.regions"), t("list.bandwidth"),
              t("billing.from"), t("billing.to"), t("billing.hours"), t("billing.amount")]}>
              {lines.map((line) => (
                <tr key={`${line.vpcPeeringId} ${line.from}`}>
                  <th scope="row" class="id">{line.vpcPeeringId}</th>
                  <td class="small">{line.regionId} → {line.remoteRegionId}</td>
                  <td class="number">{mbit(line.bandwidth)}</td>
                  <td class="small">{time(line.from)}</td>
                  <td class="small">{line.open ? <Badge look="good">{t("billing.open")}</Badge> : time(line.to)}</td>
                  <td class="number">{number(Number(line.seconds) / 3600, 3)}</td>
                  <td class="number">{line.amount ? `${number(Number(line.amount), 6)} ${currency}` : t("billing.noPrice")}</td>
                </tr>
              ))}
            </Table>
          </div>
        )}
      </Show>
    </>
  );
}

const OUTCOMES: Record<string, "good" | "bad" | "plain"> = { done: "good", refused: "bad" };

export function Audit({ operator }: { operator: boolean }) {
  const base = operator ? "/admin/v1/audit" : "/v1/auditEntries";
  const [count, setCount] = useState(50);
  const loaded = useLoaded(`${base} ${count}`, (background) => get<{ entries: AuditEntry[] }>(`${base}?limit=${count}`, background));
  return (
    <>
      <Heading title={t("nav.audit")} intro={t(operator ? "audit.introOperator" : "audit.intro")} />
      <Show loaded={loaded}>
        {({ entries }) => entries.length === 0 ? <Empty title={t("audit.empty")} /> : (
          <div class="stack">
            <Table caption={t("audit.caption")} heads={[t("audit.time"), t("audit.actor"), t("audit.action"), t("audit.target"), t("audit.outcome")]}>
              {entries.map((entry) => (
                <tr key={entry.number}>
                  <td class="small">{time(entry.time)}</td>
                  <td>{entry.actor === "system" ? t("audit.system") : entry.actor === "operator" ? t("session.operator") : entry.actor.replace(/^account\//, "")}</td>
                  <td>{tOr(`did.${entry.action}`, entry.action)}</td>
                  <td class="id">{entry.target}</td>
                  <td>
                    <Badge look={OUTCOMES[entry.outcome] ?? "plain"}>{tOr(`outcome.${entry.outcome}`, tOr(`state.${entry.outcome}`, entry.outcome))}</Badge>
                    {entry.reason && <div class="said small" lang="en"><bdi>{entry.reason}</bdi></div>}
                  </td>
                </tr>
              ))}
            </Table>
            {entries.length >= count && count < 1000 && (
              <div><button type="button" class="button" onClick={() => setCount(Math.min(1000, count * 4))}>{t("common.more")}</button></div>
            )}
          </div>
        )}
      </Show>
    </>
  );
}

export function Blocked() {
  const path = "/v1/blockedAccounts";
  const loaded = useLoaded(path, (background) => get<{ blockedAccounts: string[] }>(path, background));
  const [adding, setAdding] = useState(false);
  const [account, setAccount] = useState("");
  const [removing, setRemoving] = useState<string>();
  const one = (id: string) => `${path}/${encodeURIComponent(id)}`;
  const block = async () => {
    await ask("PUT", one(account.trim()));
    tell(t("blocked.added", { account: account.trim() }));
    setAccount("");
    changed();
  };
  const unblock = async () => {
    await ask("DELETE", one(removing ?? ""));
    tell(t("blocked.removed", { account: removing ?? "" }));
    changed();
  };
  return (
    <>
      <Heading title={t("nav.blocked")} intro={t("blocked.intro")}>
        <button type="button" class="button primary" onClick={() => setAdding(true)}>{t("blocked.add")}</button>
      </Heading>
      <Show loaded={loaded}>
        {({ blockedAccounts }) => blockedAccounts.length === 0 ? <Empty title={t("blocked.empty")} /> : (
          <ul class="lines card">
            {blockedAccounts.map((id) => (
              <li key={id}>
                <span>{id}</span>
                <button type="button" class="link" aria-label={`${t("blocked.remove")} ${id}`} onClick={() => setRemoving(id)}>{t("blocked.remove")}</button>
              </li>
            ))}
          </ul>
        )}
      </Show>
      {adding && (
        <Dialog title={t("blocked.add")} onConfirm={block} onClose={() => setAdding(false)}>
          <Field label={t("blocked.account")} needed>
            {(its) => <input {...its} autocomplete="off" value={account} onInput={(event) => setAccount(event.currentTarget.value)} />}
          </Field>
        </Dialog>
      )}
      {removing && (
        <Dialog title={t("blocked.remove")} onConfirm={unblock} onClose={() => setRemoving(undefined)}><p>{removing}</p></Dialog>
      )}
    </>
  );
}
