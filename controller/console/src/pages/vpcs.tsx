// VPCs and their CIDRs.

import { useState } from "preact/hooks";
import { ask, cidrsPath, get, QUOTAS, quotaPath, vpcsPath, type Quota, type SecondaryCidr, type Vpc, type Who } from "../api.ts";
import { t, time } from "../i18n.ts";
import { changed, once, useContent, useLoaded } from "../store.ts";
import { Dialog, Empty, Field, Heading, Select, Show, Table, tell, Wrong } from "../ui.tsx";

function Make({ who, onClose }: { who: Who; onClose: () => void }) {
  const [region, setRegion] = useState(who.regions[0] ?? "");
  const [name, setName] = useState("");
  const [cidr, setCidr] = useState("");
  const [ipv6, setIpv6] = useState(false);
  const [description, setDescription] = useState("");
  const make = async () => {
    const vpcSpec = { name, cidr: cidr.trim(), description: description || undefined, enableIpv6: ipv6 ? "yes" : "no" };
    await ask("PUT", vpcsPath(region), { vpcSpec });
    tell(t("vpcs.made", { name }));
    changed();
  };
  return (
    <Dialog title={t("vpcs.create")} onConfirm={make} onClose={onClose}>
      <Field label={t("common.name")} needed>
        {(its) => <input {...its} maxLength={60} autocomplete="off" value={name} onInput={(event) => setName(event.currentTarget.value)} />}
      </Field>
      <Field label={t("common.region")} needed>
        {(its) => <Select {...its} value={region} onPick={setRegion} options={who.regions.map((id) => [id, id])} />}
      </Field>
      <Field label={t("vpcs.cidr")} hint={t("vpcs.cidrHint")} needed>
        {(its) => <input {...its} autocomplete="off" value={cidr} onInput={(event) => setCidr(event.currentTarget.value)} />}
      </Field>
      <label class="check">
        <input type="checkbox" checked={ipv6} onChange={(event) => setIpv6(event.currentTarget.checked)} />{t("vpcs.ipv6")}
      </label>
      <Field label={t("common.description")}>
        {(its) => <input {...its} maxLength={256} autocomplete="off" value={description} onInput={(event) => setDescription(event.currentTarget.value)} />}
      </Field>
    </Dialog>
  );
}

function Cidrs({ vpc, onClose }: { vpc: Vpc; onClose: () => void }) {
  const path = `${cidrsPath(vpc.region)}?vpcId=${encodeURIComponent(vpc.vpcId)}`;
  const loaded = useLoaded(path, (background) => get<{ secondaryCidrs: SecondaryCidr[] }>(path, background));
  const [cidr, setCidr] = useState("");
  const [error, setError] = useState<Error>();
  const attempt = async (what: Promise<unknown>, words: string) => {
    setError(undefined);
    try {
      await what;
      tell(words);
      changed();
    } catch (error) {
      setError(error as Error);
    }
  };
  const add = async () => {
    await attempt(
      ask("PUT", cidrsPath(vpc.region), { secondaryCidrSpec: { vpcId: vpc.vpcId, cidr: cidr.trim() } }), t("vpcs.cidrAdded"));
    setCidr("");
  };
  const remove = (id: string) =>
    attempt(ask("DELETE", `${cidrsPath(vpc.region)}/${encodeURIComponent(id)}`), t("vpcs.cidrRemoved"));
  return (
    <Dialog title={`${t("vpcs.manage")} · ${vpc.name}`} onClose={onClose}>
      <Show loaded={loaded}>
        {({ secondaryCidrs }) => (
          <ul class="lines">
            <li><code>{vpc.cidrs[0]}</code> <span class="quiet">{t("vpcs.first")}</span></li>
            {secondaryCidrs.map((it) => (
              <li key={it.secondaryCidrId}>
                <code>{it.cidr}</code>
                <button type="button" class="link" aria-label={`${t("common.remove")} ${it.cidr}`}
                  onClick={() => void remove(it.secondaryCidrId)}>{t("common.remove")}</button>
              </li>
            ))}
          </ul>
        )}
      </Show>
      <Field label={t("vpcs.newCidr")} hint={t("vpcs.addCidrHint")}>
        {(its) => <input {...its} autocomplete="off" value={cidr} onInput={(event) => setCidr(event.currentTarget.value)} />}
      </Field>
      <div><button type="button" class="button" disabled={!cidr.trim()} onClick={() => void add()}>{t("vpcs.addCidr")}</button></div>
      {error && <Wrong error={error} />}
    </Dialog>
  );
}

function Remove({ vpc, onClose }: { vpc: Vpc; onClose: () => void }) {
  const remove = async () => {
    await ask("DELETE", `${vpcsPath(vpc.region)}/${encodeURIComponent(vpc.vpcId)}`);
    tell(t("vpcs.deleted"));
    changed();
  };
  return (
    <Dialog title={t("vpcs.delete")} confirm={t("common.delete")} danger onConfirm={remove} onClose={onClose}>
      <p>{t("vpcs.deleteText", { name: vpc.name })}</p>
    </Dialog>
  );
}

/** Of how many things there may be how many, by region. */
function Quotas({ who }: { who: Who }) {
  const loaded = useLoaded("quotas", (background) => Promise.all(who.regions.map((region) => Promise.all(
    QUOTAS.map((kind) => get<{ quota: Quota }>(quotaPath(region, kind), background).then(({ quota }) => quota))))));
  return (
    <details>
      <summary>{t("quota.title")}</summary>
      <Show loaded={loaded}>
        {(quotas) => (
          <Table caption={t("quota.caption")} heads={[t("quota.of"), ...who.regions]}>
            {QUOTAS.map((kind, row) => (
              <tr key={kind}>
                <th scope="row">{t(`quota.${kind}`)}</th>
                {quotas.map((of, column) => (
                  <td class="number" key={who.regions[column]}>{of[row]?.count} / {of[row]?.maxLimit}</td>
                ))}
              </tr>
            ))}
          </Table>
        )}
      </Show>
    </details>
  );
}

export function Vpcs({ who }: { who: Who }) {
  const content = useContent(who);
  const [making, setMaking] = useState(false);
  const [doing, setDoing] = useState<{ what: "cidrs" | "remove"; vpc: Vpc }>();
  const close = () => setDoing(undefined);
  return (
    <>
      <Heading title={t("nav.vpcs")} intro={t("vpcs.intro")}>
        <button type="button" class="button primary" onClick={() => setMaking(true)}>{t("vpcs.create")}</button>
      </Heading>
      <Show loaded={content}>
        {({ vpcs, peerings }) => vpcs.length === 0 ? <Empty title={t("vpcs.empty")} hint={t("vpcs.emptyHint")} /> : (
          <Table caption={t("vpcs.caption")} heads={[t("list.nameId"), t("common.region"), t("vpcs.cidrs"), t("vpcs.peerings"),
            t("common.description"), t("common.created"), t("common.actions")]}>
            {vpcs.map((vpc) => {
              const of = once(peerings).filter((it) => [it.vpcInfo.vpcId, it.remoteVpcInfo.vpcId].includes(vpc.vpcId));
              const live = of.filter((it) => !["rejected", "expired", "peer_deleted"].includes(it.state)).length;
              return (
                <tr key={vpc.vpcId}>
                  <th scope="row"><bdi>{vpc.name}</bdi><div class="id">{vpc.vpcId}</div></th>
                  <td>{vpc.region}</td>
                  <td>{vpc.cidrs.map((cidr) => <div key={cidr}><code>{cidr}</code></div>)}</td>
                  <td class="number">{live}</td>
                  <td><bdi>{vpc.description || t("common.none")}</bdi></td>
                  <td class="small">{time(vpc.createTime)}</td>
                  <td>
                    <div class="links">
                      <button type="button" class="link" aria-label={`${t("vpcs.manage")} ${vpc.name}`}
                        onClick={() => setDoing({ what: "cidrs", vpc })}>{t("vpcs.manage")}</button>
                      {live === 0
                        ? <button type="button" class="link" aria-label={`${t("common.delete")} ${vpc.name}`}
                            onClick={() => setDoing({ what: "remove", vpc })}>{t("common.delete")}</button>
                        : <span class="quiet small">{t("vpcs.hasPeerings")}</span>}
                    </div>
                  </td>
                </tr>
              );
            })}
          </Table>
        )}
      </Show>
      <Quotas who={who} />
      {making && <Make who={who} onClose={() => setMaking(false)} />}
      {doing?.what === "cidrs" && <Cidrs vpc={content.value?.vpcs.find((it) => it.vpcId === doing.vpc.vpcId) ?? doing.vpc} onClose={close} />}
      {doing?.what === "remove" && <Remove vpc={doing.vpc} onClose={close} />}
    </>
  );
}
