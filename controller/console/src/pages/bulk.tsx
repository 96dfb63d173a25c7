// One action on several peerings.

import { useEffect, useState } from "preact/hooks";
import { acceptCall, deleteCall, rejectCall } from "../actions.tsx";
import { perform, type Peering } from "../api.ts";
import { Dialog } from "../dialog.tsx";
import { Wrong } from "../errors.tsx";
import { isolated, t } from "../i18n.ts";
import { passedOf, type Passed } from "../peering.tsx";
import { whyNot } from "../rules.ts";
import { changed } from "../store.ts";
import { tell } from "../told.tsx";
import { Field } from "../ui.tsx";

export type BulkAction = "accept" | "reject" | "delete";
export const BULK: BulkAction[] = ["accept", "reject", "delete"];
const CALLS = { accept: acceptCall, reject: rejectCall, delete: deleteCall };

/** The peerings that allow an action. */
export const possible = (action: BulkAction, peerings: Peering[]) => peerings.filter((peering) => whyNot(action, peering) === undefined);

/** How many failed ones a message names. */
const NAMED = 5;

interface Failed { peering: Peering; error: Error }

export function Bulk({ action, peerings, onClose }: { action: BulkAction; peerings: Peering[]; onClose: () => void }) {
  // The selection does not change under the dialog.
  const [those] = useState(() => possible(action, peerings));
  const [done, setDone] = useState(0);
  const [failed, setFailed] = useState<Failed[]>();
  const [passed, setPassed] = useState<Passed | undefined>(action === "delete" ? undefined : "nothing");
  const [typed, setTyped] = useState("");
  useEffect(() => {
    if (action !== "delete") return;
    void Promise.all(those.map((peering) => passedOf(peering))).then((found) =>
      setPassed((["something", "unknown"] as const).find((it) => found.includes(it)) ?? "nothing"));
  }, []);
  const toType = passed === "something" || passed === "unknown";
  const answer = async () => {
    const failures: Failed[] = [];
    for (const peering of those) {
      try {
        await perform(CALLS[action](peering));
      } catch (error) {
        failures.push({ peering, error: error as Error });
      }
      setDone((count) => count + 1);
    }
    changed();
    const done = t("bulk.done", { done: those.length - failures.length, count: those.length });
    if (failures.length === 0) {
      tell(done);
      return undefined;
    }
    // Also for users who have gone to another page meanwhile.
    const names = failures.slice(0, NAMED).map(({ peering }) => isolated(peering.vpcPeeringName)).join(", ");
    tell(`${done} ${t("bulk.failedAre", { count: failures.length, names: failures.length > NAMED ? `${names}, …` : names })}`);
    setFailed(failures);
    return "stay" as const;
  };
  const words = t(`action.${action}`);
  if (failed) {
    return (
      <Dialog key="failed" title={t("bulk.failed", { count: failed.length })} onClose={onClose}>
        {failed.map(({ peering, error }) => (
          <div key={peering.vpcPeeringId}><strong><bdi>{peering.vpcPeeringName}</bdi></strong><Wrong error={error} /></div>
        ))}
      </Dialog>
    );
  }
  return (
    <Dialog title={t("bulk.title", { action: words, count: those.length })} confirm={words} danger={action !== "accept"}
      disabled={those.length === 0 || passed === undefined || (toType && typed.trim() !== String(those.length))} onConfirm={answer} onClose={onClose} calls={those.map((it) => CALLS[action](it))}>
      <ul class="names">{those.map((peering) => <li key={peering.vpcPeeringId}><bdi>{peering.vpcPeeringName}</bdi></li>)}</ul>
      {those.length < peerings.length && <p class="quiet">{t("bulk.skipped", { count: peerings.length - those.length })}</p>}
      {action === "accept" && <p class="note warn">{t("accept.warning")}</p>}
      {action === "reject" && <p>{t("reject.text")}</p>}
      {action === "delete" && <p>{t("bulk.deleteText")}</p>}
      {passed === undefined && <p class="quiet" role="status">{t("delete.looking")}</p>}
      {toType && <p class="note warn">{t(passed === "something" ? "bulk.busy" : "bulk.unknown")}</p>}
      {toType && (
        <Field label={t("bulk.typeCount", { count: those.length })} needed>
          {(its) => <input {...its} inputMode="numeric" autocomplete="off" value={typed} onInput={(event) => setTyped(event.currentTarget.value)} />}
        </Field>
      )}
      {done > 0 && <progress max={those.length} value={done} aria-label={t("bulk.progress", { done, count: those.length })} />}
    </Dialog>
  );
}
