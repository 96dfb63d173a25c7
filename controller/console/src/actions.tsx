// The actions on a peering, each as a dialog that says what will happen.

import { useState } from "preact/hooks";
import { blockedPath, type Peering } from "./api.ts";
import { commandLine, type Call } from "./calls.tsx";
import { EVERYTHING, isScoped, type Choices } from "./choice.ts";
import { Compared } from "./compared.tsx";
import { Dialog } from "./dialog.tsx";
import { mbit, t } from "./i18n.ts";
import { cliOf, pathOf, summary, useCare } from "./peering.tsx";
import { areReady, bodyOf, Checked, Limit, optionsOf, Reach, usePreview } from "./prefixes.tsx";
import { Price } from "./price.tsx";
import { isCrossAccount, type Action } from "./rules.ts";
import { ChangePrefixes, reachableOf } from "./scope.tsx";
import { carryOut } from "./told.tsx";
import { Field } from "./ui.tsx";

export function acceptCall(peering: Peering, choices: Choices = EVERYTHING): Call {
  const body = bodyOf(choices);
  return { method: "POST", path: `${pathOf(peering)}:acceptVpcPeering`, body, cli: cliOf(peering, "accept", [], [["--yes"], ...optionsOf(body)]) };
}
export const rejectCall = (peering: Peering): Call =>
  ({ method: "POST", path: `${pathOf(peering)}:rejectVpcPeering`, body: {}, cli: cliOf(peering, "reject") });
export const deleteCall = (peering: Peering): Call => ({ method: "DELETE", path: pathOf(peering), cli: cliOf(peering, "delete") });
export const blockCall = (account: string): Call => ({ method: "PUT", path: blockedPath(account), cli: commandLine("block", [account]) });

interface Props { peering: Peering; onClose: () => void; block?: boolean }

function Accept({ peering, onClose }: Props) {
  const { remoteVpcInfo: peer, vpcInfo: own } = peering;
  const [choices, setChoices] = useState(EVERYTHING);
  const [typing, setTyping] = useState(false);
  const call = acceptCall(peering, choices);
  const accept = async () => void (await carryOut(call, t("accept.done")));
  const picker = { choices, names: [own.vpcName, peer.vpcName] as [string, string], own: own.addressPrefix, peer: peer.addressPrefix };
  const [ready, limited] = [areReady(picker), choices.export.limited || choices.import.limited];
  // Checks that disclose something about another account's network are limited per day.
  const toCheck = ready && limited && !(isCrossAccount(peering) && typing);
  const preview = usePreview(call, toCheck, JSON.stringify(reachableOf(peering)));
  const after = limited ? preview?.reachable : isScoped(peering) ? reachableOf(peering) : undefined;
  return (
    <Dialog title={t("accept.title")} confirm={t("action.accept")} disabled={!ready} onConfirm={accept} onClose={onClose} calls={[call]}>
      {summary(peering)}
      <p>{t("accept.text", { account: peer.accountId, cidrs: peer.addressPrefix.join(", "), vpc: own.vpcName })}</p>
      <Compared peering={peering} />
      <Checked preview={preview} busy={toCheck}><Limit {...picker} onChoose={setChoices} onTyping={setTyping} /></Checked>
      {after && <Reach own={own.vpcName} peer={peer.vpcName} after={after} />}
      {peering.message && <p class="note plain">{t("requests.message")}: <bdi>{peering.message}</bdi></p>}
      <p class="note warn">{t("accept.warning")}</p>
    </Dialog>
  );
}

function Reject({ peering, onClose, block: preset = false }: Props) {
  const [block, setBlock] = useState(preset);
  const account = peering.remoteVpcInfo.accountId;
  // What fails after the first call can be retried: blocking twice has no further effect.
  const calls = [...(block ? [blockCall(account)] : []), rejectCall(peering)];
  const reject = async () => void (await carryOut(calls, t("reject.done")));
  return (
    <Dialog title={t("reject.title")} confirm={t("action.reject")} danger onConfirm={reject} onClose={onClose} calls={calls}>
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
  const call: Call = {
    method: "PUT", path: `${pathOf(peering)}:modifyVpcPeeringBandwidth`, body: { bandwidth: Number(bandwidth) },
    cli: cliOf(peering, "set-bandwidth", [bandwidth]),
  };
  const change = async () => void (await carryOut(call, t("bandwidth.done", { bandwidth: mbit(Number(bandwidth)) })));
  return (
    <Dialog title={t("bandwidth.title")} onConfirm={change} onClose={onClose} calls={[call]}>
      {summary(peering)}
      <p>{t("bandwidth.text")}</p>
      <Field label={t("create.limit")} hint={t("create.limitUnit")} entries={["bandwidth"]} needed>
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
  const call = deleteCall(peering);
  const remove = async () => void (await carryOut<{ hostsMissing: number }>(call, ({ hostsMissing }) =>
    hostsMissing > 0 ? t("delete.draining", { count: hostsMissing }) : t("delete.done")));
  const care = useCare(peering, "delete.typeName");
  return (
    <Dialog title={t("delete.title")} confirm={t("action.delete")} danger onConfirm={remove} onClose={onClose} calls={[call]}
      disabled={!care.ready}>
      {summary(peering)}
      {consequences(peering).map((words) => <p key={words}>{words}</p>)}
      {care.field}
    </Dialog>
  );
}

function Rename({ peering, onClose }: Props) {
  const [name, setName] = useState(peering.vpcPeeringName);
  const [description, setDescription] = useState(peering.description);
  const call: Call = {
    method: "PUT", path: pathOf(peering), body: { vpcPeeringName: name, description },
    cli: cliOf(peering, "rename", [name], [["--description", description]]),
  };
  const rename = async () => void (await carryOut(call, t("rename.done")));
  return (
    <Dialog title={t("rename.title")} confirm={t("common.save")} onConfirm={rename} onClose={onClose} calls={[call]}>
      <Field label={t("create.name")} hint={t("create.nameHint")} entries={["vpcPeeringName"]} needed>
        {(its) => <input {...its} maxLength={32} value={name} onInput={(event) => setName(event.currentTarget.value)} />}
      </Field>
      <Field label={t("common.description")} entries={["description"]}>
        {(its) => <textarea {...its} maxLength={256} rows={3} value={description}
          onInput={(event) => setDescription(event.currentTarget.value)} />}
      </Field>
    </Dialog>
  );
}

function Protect({ peering, onClose }: Props) {
  const on = !peering.deletionProtection;
  const call: Call = {
    method: "PUT", path: pathOf(peering), body: { deletionProtection: on }, cli: cliOf(peering, "protect", on ? [] : ["off"]),
  };
  const protect = async () => void (await carryOut(call, t("rename.done")));
  return (
    <Dialog title={t(on ? "protect.on" : "protect.off")} onConfirm={protect} onClose={onClose} calls={[call]}>
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
    case "prefixes": return <ChangePrefixes {...its} />;
  }
}
