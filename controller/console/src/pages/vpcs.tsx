// VPCs and their CIDRs.

import { useState } from "preact/hooks";
import { cidrsPath, get, QUOTAS, quotaPath, vpcPath, vpcsPath, type Peering, type Quota, type SecondaryCidr, type Vpc, type Who } from "../api.ts";
import { regionalCommandLine, type Call, type Option } from "../calls.tsx";
import { reached } from "../choice.ts";
import { overlap } from "../cidr.ts";
import { Cidr, Id } from "../copy.tsx";
import { isolated, t, time } from "../i18n.ts";
import { to } from "../route.ts";
import { isAgreed, isLive, isRequestToAnswer, otherEnd } from "../rules.ts";
import { isCurrent, peeringsNow, useContent, useLoaded } from "../store.ts";
import { Dialog } from "../dialog.tsx";
import { carryOut } from "../told.tsx";
import { Empty, Field, Found, Heading, RowButton, Select, Show, sortHeads, Table, useFound } from "../ui.tsx";

function Make({ who, onClose }: { who: Who; onClose: () => void }) {
  const [region, setRegion] = useState(who.regions[0] ?? "");
  const [name, setName] = useState("");
  const [cidr, setCidr] = useState("");
  const [ipv6, setIpv6] = useState(false);
  const [description, setDescription] = useState("");
  const vpcSpec = { name, cidr: cidr.trim(), description: description || undefined, enableIpv6: ipv6 ? "yes" : "no" };
  const call: Call = {
    method: "PUT", path: vpcsPath(region), body: { vpcSpec },
    cli: regionalCommandLine(region, "vpc create", [], [["--name", name], ["--cidr", vpcSpec.cidr],
      ...(description ? [["--description", description] as Option] : []), ...(ipv6 ? [["--ipv6"] as Option] : [])]),
  };
  const make = async () => void (await carryOut(call, t("vpcs.made", { name })));
  return (
    <Dialog title={t("vpcs.create")} onConfirm={make} onClose={onClose} calls={[call]}>
      <Field label={t("common.name")} entries={["name"]} needed>
        {(its) => <input {...its} maxLength={60} autocomplete="off" value={name} onInput={(event) => setName(event.currentTarget.value)} />}
      </Field>
      <Field label={t("common.region")} needed>
        {(its) => <Select {...its} value={region} onPick={setRegion} options={who.regions.map((id) => [id, id])} />}
      </Field>
      <Field label={t("vpcs.cidr")} hint={t("vpcs.cidrHint")} entries={["cidr", "cidrs"]} needed>
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

const peeringsOf = (vpc: Vpc) => peeringsNow().filter((it) => otherEnd(it, vpc.vpcId));

/** The peerings that need a VPC. Requests of others do not: they are rejected when it is deleted. */
const holding = (vpc: Vpc) => peeringsOf(vpc).filter((it) => isLive(it) && !isRequestToAnswer(it));

const cli = (vpc: Vpc, command: string, given: string[] = [], options: Option[] = []) =>
  regionalCommandLine(vpc.region, `vpc ${command}`, [vpc.vpcId, ...given], options);

function Cidrs({ vpc, onClose }: { vpc: Vpc; onClose: () => void }) {
  const path = `${cidrsPath(vpc.region)}?vpcId=${encodeURIComponent(vpc.vpcId)}`;
  const loaded = useLoaded(path, (background) => get<{ secondaryCidrs: SecondaryCidr[] }>(path, background), undefined, vpc.cidrs.join());
  const [cidr, setCidr] = useState("");
  const [removing, setRemoving] = useState<SecondaryCidr>();
  const call: Call = {
    method: "PUT", path: cidrsPath(vpc.region), body: { secondaryCidrSpec: { vpcId: vpc.vpcId, cidr: cidr.trim() } }, cli: cli(vpc, "add-cidr", [cidr.trim()]),
  };
  const add = async () => {
    await carryOut(call, t("vpcs.cidrAdded"));
    setCidr("");
    return "stay" as const;
  };
  if (removing) return <RemoveCidr vpc={vpc} cidr={removing} key="remove" onClose={() => setRemoving(undefined)} />;
  return (
    <Dialog title={`${t("vpcs.manage")} · ${isolated(vpc.name)}`} confirm={t("vpcs.addCidr")} disabled={!cidr.trim()} onConfirm={add} onClose={onClose}
      dismiss={t("common.close")} calls={[call]} key="list">
      <Show loaded={loaded}>
        {({ secondaryCidrs }) => (
          <ul class="lines">
            <li><Cidr cidr={vpc.cidrs[0] ?? ""} /> <span class="quiet">{t("vpcs.first")}</span></li>
            {secondaryCidrs.map((it) => (
              <li key={it.secondaryCidrId}>
                <Cidr cidr={it.cidr} />
                <RowButton words={t("common.remove")} name={it.cidr} onPress={() => setRemoving(it)} />
              </li>
            ))}
          </ul>
        )}
      </Show>
      <Field label={t("vpcs.newCidr")} hint={t("vpcs.addCidrHint")} entries={["cidr", "cidrs"]}>
        {(its) => <input {...its} autocomplete="off" value={cidr} onInput={(event) => setCidr(event.currentTarget.value)} />}
      </Field>
    </Dialog>
  );
}

/** Removing a CIDR takes traffic away from the peers, which are named in advance. */
function RemoveCidr({ vpc, cidr, onClose }: { vpc: Vpc; cidr: SecondaryCidr; onClose: () => void }) {
  const isReached = (peering: Peering) => [peering.vpcInfo, peering.remoteVpcInfo].some((side) =>
    side.vpcId === vpc.vpcId && reached(side).some((prefix) => overlap(prefix, cidr.cidr)));
  const hit = peeringsOf(vpc).filter(isAgreed).filter(isReached);
  const call: Call = {
    method: "DELETE", path: `${cidrsPath(vpc.region)}/${encodeURIComponent(cidr.secondaryCidrId)}`, cli: cli(vpc, "remove-cidr", [cidr.cidr]),
  };
  const remove = async () => void (await carryOut(call, t("vpcs.cidrRemoved")));
  return (
    <Dialog title={t("vpcs.removeCidr", { cidr: cidr.cidr })} confirm={t("common.remove")} danger onConfirm={remove} onClose={onClose} calls={[call]}>
      {!isCurrent() && <p class="note warn">{t("vpcs.removeCidrUnknown")}</p>}
      {hit.length === 0 ? isCurrent() && <p>{t("vpcs.removeCidrFree")}</p> : (
        <>
          <p class="note warn">{t("vpcs.removeCidrHits", { count: hit.length, cidr: cidr.cidr })}</p>
          <ul class="names">{hit.map((it) => <li key={it.vpcPeeringId}><bdi>{it.vpcPeeringName}</bdi> <span class="id">{it.vpcPeeringId}</span></li>)}</ul>
        </>
      )}
    </Dialog>
  );
}

function Remove({ vpc, onClose }: { vpc: Vpc; onClose: () => void }) {
  const call: Call = { method: "DELETE", path: vpcPath(vpc), cli: cli(vpc, "delete") };
  const remove = async () => void (await carryOut(call, t("vpcs.deleted")));
  return (
    <Dialog title={t("vpcs.delete")} confirm={t("common.delete")} danger onConfirm={remove} onClose={onClose} calls={[call]}>
      <p>{t("vpcs.deleteText", { name: vpc.name })}</p>
    </Dialog>
  );
}

function Rename({ vpc, onClose }: { vpc: Vpc; onClose: () => void }) {
  const [name, setName] = useState(vpc.name);
  const [description, setDescription] = useState(vpc.description);
  const call: Call = { method: "POST", path: vpcPath(vpc), body: { name, description }, cli: cli(vpc, "rename", [name], [["--description", description]]) };
  const rename = async () => void (await carryOut(call, t("rename.done")));
  return (
    <Dialog title={t("rename.title")} confirm={t("common.save")} onConfirm={rename} onClose={onClose} calls={[call]}>
      <Field label={t("common.name")} entries={["name"]} needed>
        {(its) => <input {...its} maxLength={60} value={name} onInput={(event) => setName(event.currentTarget.value)} />}
      </Field>
      <Field label={t("common.description")} entries={["description"]}>
        {(its) => <textarea {...its} maxLength={256} rows={3} value={description} onInput={(event) => setDescription(event.currentTarget.value)} />}
      </Field>
    </Dialog>
  );
}

function Protect({ vpc, onClose }: { vpc: Vpc; onClose: () => void }) {
  const on = !vpc.deletionProtection;
  const call: Call = { method: "POST", path: vpcPath(vpc), body: { deletionProtection: on }, cli: cli(vpc, "protect", on ? [] : ["off"]) };
  const protect = async () => void (await carryOut(call, t("rename.done")));
  return (
    <Dialog title={t(on ? "protect.on" : "protect.off")} onConfirm={protect} onClose={onClose} calls={[call]}>
      <p class="about"><strong><bdi>{vpc.name}</bdi></strong> <span class="id">{vpc.vpcId}</span></p>
      <p>{t(on ? "vpcs.protectOn" : "vpcs.protectOff")}</p>
    </Dialog>
  );
}

/** Quotas by region, and their use. */
function QuotaTable({ who }: { who: Who }) {
  const loaded = useLoaded("quotas", (background) => Promise.all(who.regions.map((region) => Promise.all(
    QUOTAS.map((kind) => get<{ quota: Quota }>(quotaPath(region, kind), background).then(({ quota }) => quota))))));
  return (
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
  );
}

/** Loaded when they are shown. */
function Quotas({ who }: { who: Who }) {
  const [open, setOpen] = useState(false);
  return (
    <details onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>{t("quota.title")}</summary>
      {open && <QuotaTable who={who} />}
    </details>
  );
}

type Doing = "cidrs" | "rename" | "protect" | "remove";
const DIALOGS = { cidrs: Cidrs, rename: Rename, protect: Protect, remove: Remove };

export function Vpcs({ who }: { who: Who }) {
  const content = useContent();
  const [making, setMaking] = useState(false);
  const [doing, setDoing] = useState<{ what: Doing; vpc: Vpc }>();
  const found = useFound(content.value?.vpcs ?? [], {
    text: (vpc) => [vpc.name, vpc.vpcId, vpc.description, vpc.region, ...vpc.cidrs].join(" "),
    filters: { region: (vpc, value) => vpc.region === value },
    sorts: {
      name: (one, other) => one.name.localeCompare(other.name) || one.vpcId.localeCompare(other.vpcId),
      region: (one, other) => one.region.localeCompare(other.region) || one.name.localeCompare(other.name),
      created: (one, other) => one.createTime.localeCompare(other.createTime),
    },
    first: "name",
  });
  const head = sortHeads(found);
  const row = (vpc: Vpc) => {
    const live = holding(vpc).length;
    const link = (what: Doing, words: string) => <RowButton words={words} name={vpc.name} onPress={() => setDoing({ what, vpc })} />;
    return (
      <tr key={vpc.vpcId}>
        <th scope="row"><span class="cut" title={vpc.name}><bdi>{vpc.name}</bdi></span><Id id={vpc.vpcId} /></th>
        <td class="nowrap">{vpc.region}</td>
        <td>{vpc.cidrs.map((cidr) => <div key={cidr}><Cidr cidr={cidr} /></div>)}</td>
        <td class="number">{live === 0 ? 0 : <a href={`${to("peerings")}?search=${encodeURIComponent(vpc.vpcId)}`}>{live}</a>}</td>
        <td><span class="cut" title={vpc.description}><bdi>{vpc.description || t("common.none")}</bdi></span></td>
        <td class="small nowrap">{time(vpc.createTime)}</td>
        <td>
          <div class="links">
            {link("cidrs", t("vpcs.manage"))}
            {link("rename", t("action.rename"))}
            {link("protect", t(vpc.deletionProtection ? "protect.off" : "protect.on"))}
            {vpc.deletionProtection ? <span class="quiet small">{t("why.protected")}</span>
              : live === 0 ? link("remove", t("common.delete"))
              : <span class="quiet small">{t("vpcs.hasPeerings")}</span>}
          </div>
        </td>
      </tr>
    );
  };
  const Chosen = doing && DIALOGS[doing.what];
  return (
    <>
      <Heading title={t("nav.vpcs")} intro={t("vpcs.intro")}>
        <button type="button" class="button primary" onClick={() => setMaking(true)}>{t("vpcs.create")}</button>
      </Heading>
      <Show loaded={content}>
        {({ vpcs }) => vpcs.length === 0 ? <Empty title={t("vpcs.empty")} hint={t("vpcs.emptyHint")} /> : (
          <Found found={found} hint={t("vpcs.searchHint")} none={t("vpcs.noMatch")}
            filters={[{ name: "region", words: t("common.region"), options: who.regions.map((id) => [id, id]) }]}>
            {(shown) => (
              <Table caption={t("vpcs.caption")} heads={[head("name", t("list.nameId")), head("region", t("common.region")), t("vpcs.cidrs"),
                t("vpcs.peerings"), t("common.description"), head("created", t("common.created")), t("common.actions")]}>
                {shown.map(row)}
              </Table>
            )}
          </Found>
        )}
      </Show>
      <Quotas who={who} />
      {making && <Make who={who} onClose={() => setMaking(false)} />}
      {doing && Chosen && <Chosen vpc={content.value?.vpcs.find((it) => it.vpcId === doing.vpc.vpcId) ?? doing.vpc} onClose={() => setDoing(undefined)} />}
    </>
  );
}
