// What can be done with a peering, each as a dialog that says what will happen.

import { useEffect, useState } from "preact/hooks";
import { blockedPath, get, peeringPath, Refused, type Peering, type Traffic } from "./api.ts";
import { commandLine, regionalCommandLine, type Call, type Option } from "./calls.tsx";
import { Compared } from "./compared.tsx";
import { Dialog } from "./dialog.tsx";
import { bare, mbit, t } from "./i18n.ts";
import { Price } from "./price.tsx";
import { isCrossAccount, type Action } from "./rules.ts";
import { carryOut } from "./told.tsx";
import { Field } from "./ui.tsx";

const path = (peering: Peering) => peeringPath(peering.vpcInfo.regionId, peering.vpcPeeringId);
const cli = (peering: Peering, command: string, given: string[] = [], options: Option[] = []) =>
  regionalCommandLine(peering.vpcInfo.regionId, `peering ${command}`, [peering.vpcPeeringId, ...given], options);

export const acceptCall = (peering: Peering): Call =>
  ({ method: "POST", path: `${path(peering)}:acceptVpcPeering`, body: {}, cli: cli(peering, "accept", [], [["--yes"]]) });
export const rejectCall = (peering: Peering): Call =>
  ({ method: "POST", path: `${path(peering)}:rejectVpcPeering`, body: {}, cli: cli(peering, "reject") });
export const deleteCall = (peering: Peering): Call => ({ method: "DELETE", path: path(peering), cli: cli(peering, "delete") });
export const blockCall = (account: string): Call => ({ method: "PUT", path: blockedPath(account), cli: commandLine("block", [account]) });

/** Whether something passed within the last hour. */
export type Passed = "nothing" | "something" | "unknown";

/** How long it is waited for whether something passed, in milliseconds; then it cannot be told. */
const LOOKING = 10_000;

export function passedOf(peering: Peering): Promise<Passed> {
  const asked = get<{ traffic: Traffic }>(`${path(peering)}/traffic?range=1h`, true).then(
    ({ traffic }): Passed => (traffic.samples.some((sample) => sample.outBytes + sample.inBytes > 0) ? "something" : "nothing"),
    (error: Error): Passed => (error instanceof Refused && error.code === 404 ? "nothing" : "unknown"));
  return Promise.race([asked, new Promise<Passed>((resolve) => setTimeout(() => resolve("unknown"), LOOKING))]);
}

const summary = (peering: Peering) => (
  <p class="about"><strong><bdi>{peering.vpcPeeringName}</bdi></strong> <span class="id">{peering.vpcPeeringId}</span></p>
);

interface Props { peering: Peering; onClose: () => void; block?: boolean }

function Accept({ peering, onClose }: Props) {
  const { remoteVpcInfo: peer, vpcInfo: own } = peering;
  const call = acceptCall(peering);
  const accept = async () => void (await carryOut(call, t("accept.done")));
  return (
    <Dialog title={t("accept.title")} confirm={t("action.accept")} onConfirm={accept} onClose={onClose} calls={[call]}>
      {summary(peering)}
      <p>{t("accept.text", { account: peer.accountId, cidrs: peer.addressPrefix.join(", "), vpc: own.vpcName })}</p>
      <Compared peering={peering} />
      {peering.message && <p class="note plain">{t("requests.message")}: <bdi>{peering.message}</bdi></p>}
      <p class="note warn">{t("accept.warning")}</p>
    </Dialog>
  );
}

function Reject({ peering, onClose, block: preset = false }: Props) {
  const [block, setBlock] = useState(preset);
  const account = peering.remoteVpcInfo.accountId;
  // What fails after the first can be tried again: to block twice is to block once.
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
    method: "PUT", path: `${path(peering)}:modifyVpcPeeringBandwidth`, body: { bandwidth: Number(bandwidth) },
    cli: cli(peering, "set-bandwidth", [bandwidth]),
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
  // What carries traffic, as far as anybody knows, is not deleted by a slip.
  const [passed, setPassed] = useState<Passed>();
  const [typed, setTyped] = useState("");
  useEffect(() => void passedOf(peering).then(setPassed), [peering.vpcPeeringId]);
  const toType = passed === "something" || passed === "unknown";
  return (
    <Dialog title={t("delete.title")} confirm={t("action.delete")} danger onConfirm={remove} onClose={onClose} calls={[call]}
      disabled={passed === undefined || (toType && bare(typed) !== bare(peering.vpcPeeringName))}>
      {summary(peering)}
      {consequences(peering).map((words) => <p key={words}>{words}</p>)}
      {passed === undefined && <p class="quiet" role="status">{t("delete.looking")}</p>}
      {toType && <p class="note warn">{t(passed === "something" ? "delete.busy" : "delete.unknown")}</p>}
      {toType && (
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
  const call: Call = {
    method: "PUT", path: path(peering), body: { vpcPeeringName: name, description },
    cli: cli(peering, "rename", [name], [["--description", description]]),
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
    method: "PUT", path: path(peering), body: { deletionProtection: on }, cli: cli(peering, "protect", on ? [] : ["off"]),
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
  }
}
