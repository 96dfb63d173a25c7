// The prefixes that a peering connects: the lists of each side, and changing them.

import { useState } from "preact/hooks";
import type { Peering, Reachable, Side } from "./api.ts";
import { commandLine, type Call, type Option } from "./calls.tsx";
import { choicesOf, isSame, isScoped, listOf, reached } from "./choice.ts";
import { difference } from "./cidr.ts";
import { Cidr } from "./copy.tsx";
import { Dialog } from "./dialog.tsx";
import { t } from "./i18n.ts";
import { cliOf, operatorPath, pathOf, summary, useCare, type Viewer } from "./peering.tsx";
import { areReady, Checked, optionsOf, Picker, Reach, usePreview } from "./prefixes.tsx";
import { isAgreed, isCrossAccount } from "./rules.ts";
import { carryOut } from "./told.tsx";
import { Field, Select } from "./ui.tsx";

/** What is reachable now, as far as the viewer may know. */
export const reachableOf = ({ vpcInfo: own, remoteVpcInfo: peer }: Peering): Reachable =>
  ({ ownPrefixes: reached(own), remotePrefixes: peer.addressPrefix.length > 0 ? reached(peer) : null });

const removedOf = (before: Reachable, after: Reachable) =>
  [...difference(before.ownPrefixes, after.ownPrefixes), ...difference(before.remotePrefixes ?? [], after.remotePrefixes ?? before.remotePrefixes ?? [])];

/** For operators, of either side; for accounts of their own one, or of both. */
export function ChangePrefixes({ peering, viewer = "account", onClose }: { peering: Peering; viewer?: Viewer; onClose: () => void }) {
  const ends = [peering.vpcInfo, peering.remoteVpcInfo];
  const [place, setPlace] = useState(0);
  const [side, other] = place === 0 ? [ends[0]!, ends[1]!] : [ends[1]!, ends[0]!];
  const [choices, setChoices] = useState(() => choicesOf(side, other));
  // Concurrent changes of others are not reverted: only lists that differ from their initial values are sent.
  const [first, setFirst] = useState({ side });
  const lists = { exportPrefixes: listOf(choices.export), importPrefixes: listOf(choices.import) };
  // A list that is not named stays.
  const changes = {
    ...(isSame(lists.exportPrefixes, first.side.exportPrefixes ?? []) ? {} : { exportPrefixes: lists.exportPrefixes }),
    ...(isSame(lists.importPrefixes, first.side.importPrefixes ?? []) ? {} : { importPrefixes: lists.importPrefixes }),
  };
  const either = viewer === "operator" || !isCrossAccount(peering);
  const which = either ? { vpcId: side.vpcId } : {};
  const options = [...optionsOf(changes), ...(which.vpcId ? [["--vpc", which.vpcId] as Option] : [])];
  const call: Call = viewer === "operator" ? {
    method: "PUT", path: `${operatorPath(peering.vpcPeeringId)}/prefixes`, body: { ...which, ...changes },
    cli: commandLine("peering set-prefixes", [peering.vpcPeeringId], options),
  } : {
    method: "PUT", path: `${pathOf(peering)}:modifyVpcPeeringPrefixes`, body: { ...which, ...changes },
    cli: cliOf(peering, "set-prefixes", [], options),
  };
  const picker = { choices, names: [side.vpcName, other.vpcName] as [string, string], own: side.addressPrefix, peer: other.addressPrefix, side: first.side };
  const others = !isSame(first.side.exportPrefixes ?? [], side.exportPrefixes ?? []) || !isSame(first.side.importPrefixes ?? [], side.importPrefixes ?? []);
  // A list that both have changed is sent as it is here.
  const replaced = (["exportPrefixes", "importPrefixes"] as const).filter((list) =>
    list in changes && !isSame(first.side[list] ?? [], side[list] ?? []) && !isSame(lists[list], side[list] ?? []));
  // Checks that disclose something about another account's network are limited per day.
  const [typing, setTyping] = useState(false);
  const ready = areReady(picker) && Object.keys(changes).length > 0 && (either || !typing);
  const before = reachableOf(peering);
  const preview = usePreview(call, ready, JSON.stringify(before));
  const after = preview?.reachable;
  const cuts = after !== undefined && isAgreed(peering) && removedOf(before, after).length > 0;
  const care = useCare(peering, "prefixes.typeName", cuts, viewer);
  const change = async () => void (await carryOut(call, t("prefixes.done")));
  const turn = (to: number) => {
    setPlace(to);
    setChoices(choicesOf(ends[to]!, ends[1 - to]!));
    setFirst({ side: ends[to]! });
  };
  return (
    <Dialog wide title={t("action.prefixes")} danger={cuts} disabled={!after || !care.ready} onConfirm={change} onClose={onClose} calls={[call]}>
      {summary(peering)}
      <p>{t("prefixes.text")}</p>
      {either && (
        <Field label={t("prefixes.side")} needed>
          {(its) => <Select {...its} value={String(place)} onPick={(to) => turn(Number(to))} options={ends.map((end, at) => [String(at), `${end.vpcName} · ${end.vpcId}`])} />}
        </Field>
      )}
      <Checked preview={preview} busy={ready}>
        <Picker {...picker} onChoose={setChoices} onTyping={setTyping} />
      </Checked>
      {others && <p class="note warn">{t("prefixes.changedMeanwhile")}{replaced.map((list) => <> {t(`prefixes.replaced.${list}`)}</>)}</p>}
      {after && <Reach own={peering.vpcInfo.vpcName} peer={peering.remoteVpcInfo.vpcName} before={before} after={after} />}
      {cuts && <p class="note warn">{t(after.ownPrefixes.length === 0 || after.remotePrefixes?.length === 0 ? "prefixes.stopsAll" : "prefixes.stops")}</p>}
      {care.field}
    </Dialog>
  );
}

const cidrs = (list: string[]) => list.map((cidr) => <Cidr key={cidr} cidr={cidr} />);

function Lists({ title, side }: { title: string; side: Side }) {
  const listed = (list: string[] | undefined) => (list === undefined ? t("prefixes.notTold") : list.length === 0 ? t("prefixes.all") : cidrs(list));
  // Another account's exports are shown by their effect.
  const hidden = side.exportPrefixes === undefined && side.addressPrefix.length === 0;
  return (
    <div>
      <h3>{title}</h3>
      {hidden ? <p class="quiet">{t("prefixes.unknown")}</p> : (
        <dl>
          <div><dt>{t("prefixes.exported")}</dt><dd>{side.exportPrefixes === undefined ? cidrs(side.addressPrefix) : listed(side.exportPrefixes)}</dd></div>
          <div><dt>{t("prefixes.imported")}</dt><dd>{listed(side.importPrefixes)}</dd></div>
          <div><dt>{t("prefixes.effective")}</dt><dd>{reached(side).length === 0 ? t("prefixes.nothing") : cidrs(reached(side))}</dd></div>
        </dl>
      )}
    </div>
  );
}

/** How much of two VPCs a peering connects. */
export function PrefixCard({ peering, titles }: { peering: Peering; titles: [string, string] }) {
  return (
    <section class="card wide">
      <h2>{t("prefixes.title")}</h2>
      {!isScoped(peering) ? <p class="quiet">{t("prefixes.unlimited")}</p> : (
        <>
          <p class="quiet">{t("prefixes.about")}</p>
          <div class="cards">
            <Lists title={titles[0]} side={peering.vpcInfo} />
            <Lists title={titles[1]} side={peering.remoteVpcInfo} />
          </div>
        </>
      )}
    </section>
  );
}
