// The account's charges, audit trail and blocked accounts.

import { useState } from "preact/hooks";
import { blockedPath, get, type AuditEntry, type Invoice, type Prices } from "../api.ts";
import { blockCall } from "../actions.tsx";
import { commandLine, type Call } from "../calls.tsx";
import { particulars } from "../errors.tsx";
import { mbit, money, number, t, time, tOr } from "../i18n.ts";
import { rememberList, to, useQuery } from "../route.ts";
import { useContent, useLoaded } from "../store.ts";
import { Dialog } from "../dialog.tsx";
import { carryOut } from "../told.tsx";
import { Badge, Empty, Field, Found, Heading, RowButton, Select, Show, sortHeads, Table, useFound } from "../ui.tsx";

const PERIODS = ["thisMonth", "lastMonth", "everything"] as const;
type Period = (typeof PERIODS)[number];

/** From the first day of a month to that of the next, as days in the time zone of bills. */
function windowOf(period: Period, timeZone: string): string {
  if (period === "everything") return "";
  const parts = new Intl.DateTimeFormat("en-CA", { timeZone, year: "numeric", month: "2-digit" }).formatToParts(new Date());
  const of = (type: string) => Number(parts.find((part) => part.type === type)?.value);
  const first = (offset: number) => new Date(Date.UTC(of("year"), of("month") - 1 + offset)).toISOString().slice(0, 10);
  const [from, to] = period === "thisMonth" ? [first(0), first(1)] : [first(-1), first(0)];
  return `from=${from}&to=${to}`;
}

export function Billing() {
  const [parameters, setParameters] = useQuery();
  const period = PERIODS.find((it) => it === parameters.get("period")) ?? "thisMonth";
  const loaded = useLoaded(`metering ${period}`, async (background) => {
    const { timeZone } = await get<Prices>("/v1/prices", background);
    const query = windowOf(period, timeZone);
    return { timeZone, query, invoice: await get<Invoice>(`/v1/metering?${query}`, background) };
  });
  const names = new Map(useContent().value?.peerings.map((it) => [it.vpcPeeringId, it.vpcPeeringName]) ?? []);
  const found = useFound(loaded.value?.invoice.lines ?? [], {
    text: (line) => [line.vpcPeeringId, names.get(line.vpcPeeringId), line.regionId, line.remoteRegionId].join(" "),
    filters: {},
    sorts: {
      from: (one, other) => one.from.localeCompare(other.from),
      bandwidth: (one, other) => one.bandwidth - other.bandwidth,
      hours: (one, other) => Number(one.seconds) - Number(other.seconds),
      amount: (one, other) => Number(one.amount || 0) - Number(other.amount || 0),
    },
  });
  const head = sortHeads(found);
  return (
    <>
      <Heading title={t("nav.billing")} intro={t("billing.intro")} />
      <div class="filters">
        <Select aria-label={t("billing.period")} value={period} onPick={(it) => setParameters({ period: it, page: "" }, "step")}
          options={PERIODS.map((it) => [it, t(`billing.${it}`)])} />
        {loaded.value && <a class="button" download="metering.csv"
          href={`/v1/metering?${loaded.value.query}${loaded.value.query && "&"}format=csv`}>{t("common.csv")}</a>}
      </div>
      <Show loaded={loaded}>
        {({ invoice, timeZone }) => invoice.lines.length === 0 ? <Empty title={t("billing.empty")} /> : (
          <div class="stack">
            <p class="sum"><span class="quiet">{t("billing.total")}</span> <strong>{money(Number(invoice.total), invoice.currency)}</strong>
              <span class="quiet"> {t("billing.zone", { zone: timeZone })}</span></p>
            <Found found={found} hint={t("list.searchHint")} none={t("billing.empty")} filters={[]}>
              {(shown) => (
                <Table caption={t("billing.caption")} heads={[t("billing.peering"), t("billing.regions"), head("bandwidth", t("list.bandwidth")),
                  head("from", t("billing.from")), t("billing.to"), head("hours", t("billing.hours")), head("amount", t("billing.amount"))]}>
                  {shown.map((line) => (
                    <tr key={`${line.vpcPeeringId} ${line.from}`}>
                      <th scope="row">{names.has(line.vpcPeeringId) && (
                        <a class="cut" title={names.get(line.vpcPeeringId)} href={to("peerings", line.regionId, line.vpcPeeringId)} onClick={rememberList}><bdi>{names.get(line.vpcPeeringId)}</bdi></a>
                      )}<div class="id">{line.vpcPeeringId}</div></th>
                      <td class="small">{line.regionId} → {line.remoteRegionId}</td>
                      <td class="number">{mbit(line.bandwidth)}</td>
                      <td class="small">{time(line.from)}</td>
                      <td class="small">{line.open ? <Badge look="good">{t("billing.open")}</Badge> : time(line.to)}</td>
                      <td class="number">{number(Number(line.seconds) / 3600, 3)}</td>
                      <td class="number">{line.amount ? money(Number(line.amount), invoice.currency) : t("billing.noPrice")}</td>
                    </tr>
                  ))}
                </Table>
              )}
            </Found>
          </div>
        )}
      </Show>
    </>
  );
}

const OUTCOMES: Record<string, "good" | "bad" | "plain"> = { done: "good", refused: "bad" };

export function Audit({ operator }: { operator: boolean }) {
  const base = operator ? "/admin/v1/audit" : "/v1/auditEntries";
  const [parameters, setParameters] = useQuery();
  const count = Math.min(1000, Math.max(50, Number(parameters.get("count")) || 50));
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
                    {entry.reason && <div class="said small" title={entry.reason}><bdi>{particulars(entry.reason)}</bdi></div>}
                  </td>
                </tr>
              ))}
            </Table>
            {entries.length >= count && count < 1000 && (
              <div><button type="button" class="button" onClick={() => setParameters({ count: String(Math.min(1000, count * 4)) })}>{t("common.more")}</button></div>
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
  const adds = blockCall(account.trim());
  const block = async () => {
    await carryOut(adds, t("blocked.added", { account: account.trim() }));
    setAccount("");
  };
  const removes: Call = { method: "DELETE", path: blockedPath(removing ?? ""), cli: commandLine("unblock", [removing ?? ""]) };
  const unblock = async () => void (await carryOut(removes, t("blocked.removed", { account: removing ?? "" })));
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
                <RowButton words={t("blocked.remove")} name={id} onPress={() => setRemoving(id)} />
              </li>
            ))}
          </ul>
        )}
      </Show>
      {adding && (
        <Dialog title={t("blocked.add")} onConfirm={block} onClose={() => setAdding(false)} calls={[adds]}>
          <Field label={t("blocked.account")} entries={["accountId"]} needed>
            {(its) => <input {...its} autocomplete="off" value={account} onInput={(event) => setAccount(event.currentTarget.value)} />}
          </Field>
        </Dialog>
      )}
      {removing && (
        <Dialog title={t("blocked.remove")} onConfirm={unblock} onClose={() => setRemoving(undefined)} calls={[removes]}><p>{removing}</p></Dialog>
      )}
    </>
  );
}
