// For operators: accounts, with their quotas and charge status.

import { useState } from "preact/hooks";
import { get, QUOTAS, type Account, type Who } from "../api.ts";
import { commandLine, type Call } from "../calls.tsx";
import { t, tOr, type Key } from "../i18n.ts";
import { useLoaded } from "../store.ts";
import { Dialog } from "../dialog.tsx";
import { carryOut } from "../told.tsx";
import { Badge, Empty, Field, Found, Heading, RowButton, Select, Show, Table, useFound } from "../ui.tsx";

const STATUSES = ["normal", "overdue", "arrear"] as const;

/** Quotas that can be set for an account; the limit on requests to another account is a setting of the controller. */
const SETTABLE = QUOTAS.filter((kind) => kind !== "peeringrequest");

const pathOf = (account: string) => `/admin/v1/accounts/${encodeURIComponent(account)}`;

function ChargeStatus({ account, onClose }: { account: Account; onClose: () => void }) {
  const [status, setStatus] = useState(account.chargeStatus);
  const call: Call = {
    method: "PUT", path: `${pathOf(account.accountId)}/chargeStatus`, body: { chargeStatus: status },
    cli: commandLine("admin account charge", [account.accountId, status]),
  };
  const change = async () => void (await carryOut(call, t("accounts.chargeDone", { account: account.accountId })));
  return (
    <Dialog title={`${t("accounts.charge")} · ${account.accountId}`} confirm={t("common.save")} danger={status === "arrear"} onConfirm={change} onClose={onClose} calls={[call]}>
      <Field label={t("detail.chargeStatus")} needed>
        {(its) => <Select {...its} value={status} onPick={setStatus} options={STATUSES.map((it) => [it, t(`charge.${it}`)])} />}
      </Field>
      {status === "arrear" && status !== account.chargeStatus && <p class="note warn">{t("accounts.arrearText")}</p>}
      {status !== "arrear" && account.chargeStatus === "arrear" && <p class="note info">{t("accounts.resumeText")}</p>}
    </Dialog>
  );
}

function SetQuota({ account, regions, onClose }: { account: Account; regions: string[]; onClose: () => void }) {
  const limitOf = (kind: string, region: string) =>
    String((kind === "vpcpeering" ? account.quotas : account.limits[kind])?.[region] ?? "");
  const [kind, setKind] = useState<string>("vpcpeering");
  const [region, setRegion] = useState(regions[0] ?? "");
  const [limit, setLimit] = useState(limitOf(kind, region));
  const pick = (kind: string, region: string) => {
    setKind(kind);
    setRegion(region);
    setLimit(limitOf(kind, region));
  };
  const path = `${pathOf(account.accountId)}/quotas/${encodeURIComponent(region)}`;
  const call: Call = limit === ""
    ? { method: "DELETE", path: `${path}?type=${kind}`, cli: commandLine("admin account quota reset", [account.accountId, region], [["--type", kind]]) }
    : { method: "PUT", path, body: { type: kind, maxLimit: Number(limit) },
      cli: commandLine("admin account quota set", [account.accountId, region, limit], [["--type", kind]]) };
  const change = async () => void (await carryOut(call, t("accounts.quotaDone", { account: account.accountId })));
  return (
    <Dialog title={`${t("accounts.setQuota")} · ${account.accountId}`} confirm={t("common.save")} onConfirm={change} onClose={onClose} calls={[call]}>
      <Field label={t("quota.of")} needed>
        {(its) => <Select {...its} value={kind} onPick={(it) => pick(it, region)} options={SETTABLE.map((it) => [it, t(`quota.${it}`)])} />}
      </Field>
      <Field label={t("common.region")} needed>
        {(its) => <Select {...its} value={region} onPick={(it) => pick(kind, it)} options={regions.map((it) => [it, it])} />}
      </Field>
      <Field label={t("accounts.limit")} hint={t("accounts.limitHint")} entries={["maxLimit"]}>
        {(its) => <input {...its} type="number" min={0} step={1} value={limit} onInput={(event) => setLimit(event.currentTarget.value)} />}
      </Field>
    </Dialog>
  );
}

export function Accounts({ who }: { who: Who }) {
  const path = "/admin/v1/accounts";
  const loaded = useLoaded(path, (background) => get<{ accounts: Account[] }>(path, background));
  const [doing, setDoing] = useState<{ what: "charge" | "quota"; account: Account }>();
  const filter = { name: "status", words: t("detail.chargeStatus"), options: STATUSES.map((it): [string, string] => [it, t(`charge.${it}`)]) };
  const found = useFound(loaded.value?.accounts ?? [], {
    text: (account) => [account.accountId, ...account.accessKeys, ...account.tokenIds].join(" "),
    filters: { status: (account, value) => account.chargeStatus === value },
  });
  const close = () => setDoing(undefined);
  return (
    <>
      <Heading title={t("nav.accounts")} intro={t("accounts.intro")} />
      <Show loaded={loaded}>
        {({ accounts }) => accounts.length === 0 ? <Empty title={t("accounts.empty")} hint={t("accounts.emptyHint")} /> : (
          <Found found={found} hint={t("accounts.searchHint")} none={t("accounts.noMatch")} filters={[filter]}>
            {(shown) => (
              <Table caption={t("accounts.caption")} heads={[t("common.account"), t("detail.chargeStatus"), t("accounts.keys"), t("accounts.tokens"),
                t("accounts.quotas"), t("common.actions")]}>
                {shown.map((account) => (
                  <tr key={account.accountId}>
                    <th scope="row">{account.accountId}</th>
                    <td><Badge look={account.chargeStatus === "normal" ? "good" : account.chargeStatus === "overdue" ? "warn" : "bad"}>
                      {t(`charge.${account.chargeStatus}` as Key)}</Badge></td>
                    <td>{account.accessKeys.map((key) => <div class="id" key={key}>{key}</div>)}</td>
                    <td>{account.tokenIds.map((id) => <div class="id" key={id}>{id}</div>)}</td>
                    <td>{[["", account.quotas] as const, ...Object.entries(account.limits)].flatMap(([kind, limits]) =>
                      Object.entries(limits).map(([region, limit]) => `${kind && `${tOr(`quota.${kind}`, kind)} `}${region}: ${limit}`))
                      .join(", ") || t("accounts.usual")}</td>
                    <td>
                      <div class="links">
                        {(["charge", "quota"] as const).map((what) => (
                          <RowButton key={what} words={t(what === "charge" ? "accounts.charge" : "accounts.setQuota")} name={account.accountId}
                            onPress={() => setDoing({ what, account })} />
                        ))}
                      </div>
                    </td>
                  </tr>
                ))}
              </Table>
            )}
          </Found>
        )}
      </Show>
      {doing?.what === "charge" && <ChargeStatus account={doing.account} onClose={close} />}
      {doing?.what === "quota" && <SetQuota account={doing.account} regions={who.regions} onClose={close} />}
    </>
  );
}
