// What can be done with a peering, each as a dialog that says what will happen.

import { useEffect, useState } from "preact/hooks";
import { ask, get, peeringPath, type Peering, type Traffic } from "./api.ts";
import { Price } from "./price.tsx";
import { mbit, t } from "./i18n.ts";
import type { Action } from "./rules.ts";
import { changed, isCrossAccount } from "./store.ts";
import { Dialog, Field, tell } from "./ui.tsx";

const path = (peering: Peering) => peeringPath(peering.vpcInfo.regionId, peering.vpcPeeringId);

const summary = (peering: Peering) => (
  <p class="about"><strong><bdi>{peering.vpcPeeringName}</bdi></strong> <span class="id">{peering.vpcPeeringId}</span></p>
);

interface Props { peering: Peering; onClose: () => void }

function Accept({ peering, onClose }: Props) {
  const { remoteVpcInfo: peer, vpcInfo: own } = peering;
  const accept = async () => {
    await ask("POST", `${path(peering)}:acceptVpcPeering`, {});
    tell(t("accept.done"));
    changed();
  };
  return (
    <Dialog title={t("accept.title")} confirm={t("action.accept")} onConfirm={accept} onClose={onClose}>
      {summary(peering)}
      <p>{t("accept.text", { account: peer.accountId, cidrs: peer.addressPrefix.join(", "), vpc: own.vpcName })}</p>
      {peering.message && <p class="note plain">{t("create.message")}: <bdi>{peering.message}</bdi></p>}
      <p class="note warn">{t("accept.warning")}</p>
    </Dialog>
  );
}

function Reject({ peering, onClose }: Props) {
  const [block, setBlock] = useState(false);
  const account = peering.remoteVpcInfo.accountId;
  const reject = async () => {
    await ask("POST", `${path(peering)}:rejectVpcPeering`, {});
    if (block) await ask("PUT", `/v1/blockedAccounts/${encodeURIComponent(account)}`);
    tell(t("reject.done"));
    changed();
  };
  return (
    <Dialog title={t("reject.title")} confirm={t("action.reject")} danger onConfirm={reject} onClose={onClose}>
      {summary(peering)}
      <p>{t("reject.text")}</p>
      <label class="check">
        <input type="checkbox" checked={block} onChange={(event) => setBlock(event.currentTarget.checked)} />
        {t("reject.block", { account })}
      </label>
    </Dialog>
  );
}

function Bandwidth({ peering, onClose }: Props) {
  const [bandwidth, setBandwidth] = useState(String(peering.bandwidth ?? ""));
  const change = async () => {
    await ask("PUT", `${path(peering)}:modifyVpcPeeringBandwidth`, { bandwidth: Number(bandwidth) });
    tell(t("bandwidth.done", { bandwidth: mbit(Number(bandwidth)) }));
    changed();
  };
  return (
    <Dialog title={t("bandwidth.title")} onConfirm={change} onClose={onClose}>
      {summary(peering)}
      <p>{t("bandwidth.text")}</p>
      <Field label={t("create.limit")} hint={t("create.limitUnit")} needed>
        {(its) => <input {...its} type="number" min={1} step={1} value={bandwidth}
          onInput={(event) => setBandwidth(event.currentTarget.value)} />}
      </Field>
      <Price regions={[peering.vpcInfo.regionId, peering.remoteVpcInfo.regionId]} bandwidth={Number(bandwidth)} />
    </Dialog>
  );
}

/** What deleting does in this state, in words. */
function consequences(peering: Peering): string[] {
  const crossAccount = isCrossAccount(peering);
  switch (peering.state) {
    case "pending":
      return [t(peering.role === "initiator" ? "delete.withdraw" : "delete.decline")];
    case "rejected":
    case "expired":
    case "peer_deleted":
      return [t("delete.record")];
    default: {
      const first = t(peering.state === "suspended" ? "delete.suspended" : "delete.connected");
      return [first, t(crossAccount ? "delete.peerSees" : "delete.both")];
    }
  }
}

function Delete({ peering, onClose }: Props) {
  const remove = async () => {
    const { hostsMissing } = await ask<{ hostsMissing: number }>("DELETE", path(peering));
    tell(hostsMissing > 0 ? t("delete.draining", { count: hostsMissing }) : t("delete.done"));
    changed();
  };
  // What carries traffic is not deleted by a slip.
  const [busy, setBusy] = useState(false);
  const [typed, setTyped] = useState("");
  useEffect(() => {
    get<{ traffic: Traffic }>(`${path(peering)}/traffic?range=1h`, true).then(
      ({ traffic }) => setBusy(traffic.samples.some((sample) => sample.outBytes + sample.inBytes > 0)), () => {});
  }, [peering.vpcPeeringId]);
  return (
    <Dialog title={t("delete.title")} confirm={t("action.delete")} danger onConfirm={remove} onClose={onClose}
      disabled={busy && typed !== peering.vpcPeeringName}>
      {summary(peering)}
      {consequences(peering).map((words) => <p key={words}>{words}</p>)}
      {busy && <p class="note warn">{t("delete.busy")}</p>}
      {busy && (
        <Field label={t("delete.typeName", { name: peering.vpcPeeringName })} needed>
          {(its) => <input {...its} autocomplete="off" value={typed} onInput={(event) => setTyped(event.currentTarget.value)} />}
        </Field>
      )}
    </Dialog>
  );
}

function Rename({ peering, onClose }: Props) {
  const [name, setName] = useState(peering.vpcPeeringName);
  const [description, setDescription] = useState(peering.description);
  const rename = async () => {
    await ask("PUT", path(peering), { vpcPeeringName: name, description });
    tell(t("rename.done"));
    changed();
  };
  return (
    <Dialog title={t("rename.title")} confirm={t("common.save")} onConfirm={rename} onClose={onClose}>
      <Field label={t("create.name")} hint={t("create.nameHint")} needed>
        {(its) => <input {...its} maxLength={32} value={name} onInput={(event) => setName(event.currentTarget.value)} />}
      </Field>
      <Field label={t("common.description")}>
        {(its) => <textarea {...its} maxLength={256} rows={3} value={description}
          onInput={(event) => setDescription(event.currentTarget.value)} />}
      </Field>
    </Dialog>
  );
}

function Protect({ peering, onClose }: Props) {
  const on = !peering.deletionProtection;
  const protect = async () => {
    await ask("PUT", path(peering), { deletionProtection: on });
    tell(t("rename.done"));
    changed();
  };
  return (
    <Dialog title={t(on ? "protect.on" : "protect.off")} onConfirm={protect} onClose={onClose}>
      {summary(peering)}
      <p>{t(on ? "protect.onText" : "protect.offText")}</p>
    </Dialog>
  );
}

/** The dialog of an action. */
export function Act({ action, ...its }: Props & { action: Action }) {
  switch (action) {
    case "accept": return <Accept {...its} />;
    case "reject": return <Reject {...its} />;
    case "bandwidth": return <Bandwidth {...its} />;
    case "delete": return <Delete {...its} />;
    case "rename": return <Rename {...its} />;
    case "protect": return <Protect {...its} />;
  }
}
