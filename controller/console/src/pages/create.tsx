// A new peering: 本端信息, 对端信息, 带宽. Refusals are shown in advance.

import { useEffect, useRef, useState } from "preact/hooks";
import { ask, get, peeringsPath, quotaPath, Refused, type Peering, type Quota, type Who } from "../api.ts";
import { EVERYTHING } from "../choice.ts";
import { t } from "../i18n.ts";
import { areReady, bodyOf, Limit, optionsOf, Reach, usePreview } from "../prefixes.tsx";
import { Price } from "../price.tsx";
import { go, to } from "../route.ts";
import { changed, useContent, useLoaded } from "../store.ts";
import { AsCall, regionalCommandLine, type Call, type Option } from "../calls.tsx";
import { Faulty, Wrong } from "../errors.tsx";
import { tell } from "../told.tsx";
import { Field, Heading, Select, Show, vpcOptions } from "../ui.tsx";

const made = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

export function Create({ who }: { who: Who }) {
  const content = useContent();
  const [name, setName] = useState("");
  const [description, setDescription] = useState("");
  const [message, setMessage] = useState("");
  const [ownRegion, setRegion] = useState<string>();
  const [vpc, setVpc] = useState("");
  const [other, setOther] = useState(false);
  const [account, setAccount] = useState("");
  const [otherRegion, setPeerRegion] = useState<string>();
  const [peerVpc, setPeerVpc] = useState("");
  const [bandwidth, setBandwidth] = useState("100");
  const [choices, setChoices] = useState(EVERYTHING);
  const [typing, setTyping] = useState(false);
  const [error, setError] = useState<Error>();
  const [busy, setBusy] = useState(false);
  // Confirming twice creates one peering, also if the first response was lost.
  const attempt = useRef({ key: "", token: "" });
  /** An unused name, for checks only. */
  const unused = useRef(made());
  // Until another one is chosen: the first region with a VPC.
  const filled = who.regions.find((id) => content.value?.vpcs.some((it) => it.region === id));
  const region = ownRegion ?? filled ?? who.regions[0] ?? "";
  const peerRegion = otherRegion ?? region;
  const quota = useLoaded(`quota ${region}`, (background) => get<{ quota: Quota }>(quotaPath(region), background),
    undefined, String(content.value?.peerings.length));

  const crossRegion = region !== peerRegion;
  const ownVpc = content.value?.vpcs.find((it) => it.vpcId === vpc);
  // Another account's VPC is unknown here.
  const peersVpc = other ? undefined : content.value?.vpcs.find((it) => it.vpcId === peerVpc);
  const names: [string, string] = [ownVpc?.name ?? t("create.ownVpc"), peersVpc?.name ?? t("create.peerVpc")];
  const picker = { choices, names, own: ownVpc?.cidrs ?? [], peer: peersVpc?.cidrs ?? [] };
  const limits = bodyOf(choices);
  const complete = areReady(picker) && vpc !== "" && peerVpc.trim() !== "" && (!other || account.trim() !== "")
    && (!crossRegion || Number(bandwidth) > 0);
  const ends = {
    vpcId: vpc, remoteVpcId: peerVpc.trim(), remoteRegionId: peerRegion, remoteAccountId: other ? account.trim() : undefined,
    bandwidth: crossRegion ? Number(bandwidth) : undefined, ...limits,
  };
  const wish = { ...ends, vpcPeeringName: name, description: description || undefined, message: other ? message || undefined : undefined };
  // Dry runs towards another account are limited to a few a day, so only what can overlap is checked, and not while the user types. Names are checked here.
  const check: Call = { method: "POST", path: peeringsPath(region), body: { ...ends, vpcPeeringName: unused.current } };
  const toCheck = complete && !(other && typing);
  const verdict = usePreview(check, toCheck);
  const nameTaken = content.value?.peerings.some((it) =>
    it.role === "initiator" && it.vpcInfo.regionId === region && it.vpcPeeringName === name) ?? false;

  const wishKey = JSON.stringify([region, wish]);
  // A refusal does not apply to changed fields.
  useEffect(() => setError(undefined), [wishKey]);

  const submit = async (event: Event) => {
    event.preventDefault();
    if (busy || !areReady(picker)) return;
    setBusy(true);
    setError(undefined);
    if (attempt.current.key !== wishKey) attempt.current = { key: wishKey, token: made() };
    try {
      const { vpcPeering } = await ask<{ vpcPeering: Peering }>(
        "POST", peeringsPath(region), { ...wish, clientToken: attempt.current.token });
      tell(t("create.done", { name }));
      changed();
      go("peerings", region, vpcPeering.vpcPeeringId);
    } catch (error) {
      // A refusal is final. A request without a response may have been executed: repeating it with the same token creates no second peering.
      if (error instanceof Refused && error.code < 500) attempt.current = { key: "", token: "" };
      setError(error as Error);
      setBusy(false);
    }
  };

  const options: [string, string | number | undefined][] = [["--name", name], ["--vpc", vpc], ["--peer-vpc", ends.remoteVpcId],
    ["--peer-region", crossRegion ? peerRegion : undefined], ["--peer-account", ends.remoteAccountId], ["--bandwidth", ends.bandwidth],
    ["--description", wish.description], ["--message", wish.message]];
  const call: Call = {
    method: "POST", path: peeringsPath(region), body: wish,
    cli: regionalCommandLine(region, "peering create", [], options.flatMap(([option, value]) => (value ? [[option, String(value)] as Option] : [])).concat(optionsOf(limits))),
  };
  const regions = who.regions.map((id): [string, string] => [id, id]);
  const used = quota.value?.quota;
  const pickVpc = (id: string) => {
    setVpc(id);
    setChoices((old) => ({ ...old, export: EVERYTHING.export }));
  };
  const pickPeer = (id: string) => {
    setPeerVpc(id);
    setChoices((old) => ({ ...old, import: EVERYTHING.import }));
  };
  return (
    <>
      <Heading title={t("create.title")}>
        <a class="button" href={to("peerings")}>{t("detail.back")}</a>
      </Heading>
      <Show loaded={content}>
        {({ vpcs }) => {
          const own = vpcs.filter((it) => it.region === region);
          const peers = vpcs.filter((it) => it.region === peerRegion && it.vpcId !== vpc);
          return (
            <Faulty error={error ?? verdict?.error}>
            <form class="stack form" onSubmit={submit} aria-busy={busy}>
              <fieldset class="card">
                <legend>{t("create.own")}</legend>
                <Field label={t("create.name")} hint={t("create.nameHint")} needed entries={["vpcPeeringName"]}>
                  {(its) => <input {...its} maxLength={32} autocomplete="off" value={name}
                    onInput={(event) => setName(event.currentTarget.value)} />}
                </Field>
                {nameTaken && <p class="note warn" role="status">{t("reason.VpcPeerNameExist")}</p>}
                <Field label={t("common.description")} entries={["description"]}>
                  {(its) => <input {...its} maxLength={256} autocomplete="off" value={description}
                    onInput={(event) => setDescription(event.currentTarget.value)} />}
                </Field>
                <Field label={t("create.ownRegion")} needed entries={["regionId"]}
                  hint={used && t(used.count < used.maxLimit ? "create.quota" : "create.quotaFull",
                    { region, count: used.count, limit: used.maxLimit })}>
                  {(its) => <Select {...its} value={region} options={regions}
                    onPick={(id) => { setRegion(id); pickVpc(""); }} />}
                </Field>
                <Field label={t("create.ownVpc")} needed entries={["vpcId"]}>
                  {(its) => <Select {...its} value={vpc} onPick={pickVpc}
                    options={[["", t("create.choose")], ...vpcOptions(own)]} />}
                </Field>
                {own.length === 0 && <p class="note info">{t("create.noVpc")} <a href={to("vpcs")}>{t("create.makeVpc")}</a></p>}
              </fieldset>
              <fieldset class="card">
                <legend>{t("create.peer")}</legend>
                <div class="field" role="radiogroup" aria-label={t("create.accountType")}>
                  <span class="label">{t("create.accountType")}</span>
                  <div class="row">
                    {[false, true].map((it) => (
                      <label class="check" key={String(it)}>
                        <input type="radio" name="account-type" checked={other === it}
                          onChange={() => { setOther(it); pickPeer(""); }} />
                        {t(it ? "create.otherAccount" : "create.sameAccount")}
                      </label>
                    ))}
                  </div>
                </div>
                {other && (
                  <Field label={t("create.peerAccount")} hint={t("create.accountHint")} needed entries={["remoteAccountId"]}>
                    {(its) => <input {...its} autocomplete="off" value={account}
                      onInput={(event) => setAccount(event.currentTarget.value)} />}
                  </Field>
                )}
                {other && (
                  <Field label={t("create.message")} hint={t("create.messageHint")} entries={["message"]}>
                    {(its) => <input {...its} maxLength={256} autocomplete="off" value={message}
                      onInput={(event) => setMessage(event.currentTarget.value)} />}
                  </Field>
                )}
                <Field label={t("create.peerRegion")} needed entries={["remoteRegionId"]}>
                  {(its) => <Select {...its} value={peerRegion} options={regions}
                    onPick={(id) => { setPeerRegion(id); if (!other) pickPeer(""); }} />}
                </Field>
                {other
                  ? (
                    <Field label={t("create.peerVpc")} hint={t("create.peerVpcHint")} needed entries={["remoteVpcId"]}>
                      {(its) => <input {...its} autocomplete="off" value={peerVpc}
                        onInput={(event) => setPeerVpc(event.currentTarget.value)} />}
                    </Field>
                  )
                  : (
                    <Field label={t("create.peerVpc")} needed entries={["remoteVpcId"]}>
                      {(its) => <Select {...its} value={peerVpc} onPick={pickPeer}
                        options={[["", t("create.choose")], ...vpcOptions(peers)]} />}
                    </Field>
                  )}
              </fieldset>
              <fieldset class="card">
                <legend>{t("create.bandwidth")}</legend>
                {crossRegion
                  ? (
                    <>
                      <Field label={t("create.limit")} hint={t("create.limitUnit")} needed entries={["bandwidth"]}>
                        {(its) => <input {...its} type="number" min={1} step={1} value={bandwidth}
                          onInput={(event) => setBandwidth(event.currentTarget.value)} />}
                      </Field>
                      <p class="quiet">{t("create.limitPaid")}</p>
                      <Price regions={[region, peerRegion]} bandwidth={Number(bandwidth)} />
                    </>
                  )
                  : <p class="quiet">{t("create.limitFree")}</p>}
              </fieldset>
              <div class="card"><Limit {...picker} onChoose={setChoices} onTyping={setTyping} /></div>
              <div class="verdict stack" aria-live="polite">
                {toCheck && !verdict && !error && <p class="quiet">{t("create.checking")}</p>}
                {verdict && !verdict.error && <p class="note good">{t("create.ok")} {t(other ? "create.willAsk" : "create.willConnect")}</p>}
                {verdict?.reachable && Object.keys(limits).length > 0 && (
                  <Reach own={names[0]} peer={names[1]} after={verdict.reachable} />
                )}
              </div>
              {error ? <Wrong error={error} /> : verdict?.error && <Wrong error={verdict.error} />}
              <AsCall calls={[call]} />
              <div class="row end">
                {!busy && <a class="button" href={to("peerings")}>{t("common.cancel")}</a>}
                <button type="submit" class="button primary" disabled={busy} aria-busy={busy}>{t("common.confirm")}</button>
              </div>
            </form>
            </Faulty>
          );
        }}
      </Show>
    </>
  );
}
