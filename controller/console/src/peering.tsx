// Shared parts of the dialogs about a peering.

import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import { get, peeringPath, Refused, type Peering, type Traffic } from "./api.ts";
import { regionalCommandLine, type Option } from "./calls.tsx";
import { bare, t, type Key } from "./i18n.ts";
import { Field } from "./ui.tsx";

export const pathOf = (peering: Peering) => peeringPath(peering.vpcInfo.regionId, peering.vpcPeeringId);
export const cliOf = (peering: Peering, command: string, given: string[] = [], options: Option[] = []) =>
  regionalCommandLine(peering.vpcInfo.regionId, `peering ${command}`, [peering.vpcPeeringId, ...given], options);

export const summary = (peering: Peering) => (
  <p class="about"><strong><bdi>{peering.vpcPeeringName}</bdi></strong> <span class="id">{peering.vpcPeeringId}</span></p>
);

/** The viewer of a peering: an account that has a side of it, or an operator. */
export type Viewer = "account" | "operator";

/** The path of a peering for operators. */
export const operatorPath = (id: string) => `/admin/v1/peerings/${encodeURIComponent(id)}`;

/** Whether there was traffic within the last hour. */
export type Passed = "nothing" | "something" | "unknown";

/** How long the check for traffic may take, in milliseconds; after that it is unknown. */
const LOOKING = 10_000;

export function passedOf(peering: Peering, viewer: Viewer = "account"): Promise<Passed> {
  // Operators see both sides; what one sends the other receives.
  const sampled = viewer === "operator"
    ? get<{ initiator: Traffic }>(`${operatorPath(peering.vpcPeeringId)}/traffic?range=1h`, true).then(({ initiator }) => initiator)
    : get<{ traffic: Traffic }>(`${pathOf(peering)}/traffic?range=1h`, true).then(({ traffic }) => traffic);
  const asked = sampled.then(
    (traffic): Passed => (traffic.samples.some((sample) => sample.outBytes + sample.inBytes > 0) ? "something" : "nothing"),
    (error: Error): Passed => (error instanceof Refused && error.code === 404 ? "nothing" : "unknown"));
  return Promise.race([asked, new Promise<Passed>((resolve) => setTimeout(() => resolve("unknown"), LOOKING))]);
}

/**
 * A peering that carries traffic, as far as known, is not deleted by accident: its name must be typed, in the words of `ask`. Returns whether that
 * is done, and what to show for it.
 */
export function useCare(peering: Peering, ask: Key, needed = true, viewer: Viewer = "account"): { ready: boolean; field: ComponentChildren } {
  const [passed, setPassed] = useState<Passed>();
  const [typed, setTyped] = useState("");
  useEffect(() => void (needed && passedOf(peering, viewer).then(setPassed)), [peering.vpcPeeringId, needed]);
  if (!needed) return { ready: true, field: null };
  if (passed === undefined) return { ready: false, field: <p class="quiet" role="status">{t("delete.looking")}</p> };
  if (passed === "nothing") return { ready: true, field: null };
  return {
    ready: bare(typed) === bare(peering.vpcPeeringName),
    field: (
      <>
        <p class="note warn">{t(passed === "something" ? "delete.busy" : "delete.unknown")}</p>
        <Field label={t(ask, { name: peering.vpcPeeringName })} needed>
          {(its) => <input {...its} autocomplete="off" value={typed} onInput={(event) => setTyped(event.currentTarget.value)} />}
        </Field>
      </>
    ),
  };
}
