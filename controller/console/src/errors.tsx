// The controller's refusals in the reader's language: by their reason codes, and the values in their messages.

import { createContext, type ComponentChildren } from "preact";
import { useContext, useLayoutEffect, useReducer, useRef } from "preact/hooks";
import { isSessionEnd, Refused, type Detail } from "./api.ts";
import { chosen, t, tOr } from "./i18n.ts";

/** CIDRs and addresses, and ids of the product's own resources. */
const VALUES = /[0-9a-f:.]*[:.][0-9a-f:.]*\/\d{1,3}|\b(?:vpcpr|vpc|subnet|scidr|wh)-[0-9a-z]+|"[^"]{1,64}"/gi;
/** The range of a number or a length. */
const RANGE = /expected (?:\D* )?(\d+) to (\d+)/;

/** The values in a message of the controller. */
export const valuesIn = (sentence: string) => [...new Set(sentence.match(VALUES) ?? [])].join("、");

/** The explanation of a violation, and details: in Chinese the values in the message, in English the message itself. */
export function explain({ reason, rule }: Pick<Detail, "reason" | "rule">): { words: string; said: string } {
  const words = tOr(`reason.${reason ?? ""}`, "");
  if (chosen() === "en") return words ? { words, said: rule } : { words: rule, said: "" };
  const values = valuesIn(rule);
  const [, from, to] = RANGE.exec(rule) ?? [];
  const range = from && to ? t("error.range", { from, to }) : "";
  return { words: words || t("reason.other"), said: (values && t("error.concerns", { values })) + range };
}

/** The words for an error without details, by its HTTP status. */
function byStatus({ code, message }: Refused): string {
  const key = `status.${code}`;
  return chosen() === "en" && code < 500 ? message : tOr(key, t(code < 500 ? "reason.other" : "status.500"));
}

/** An error in a sentence. */
export function sentenceOf(error: Error): string {
  if (!(error instanceof Refused)) return t("error.unreachable");
  return error.details.length > 0 ? [...new Set(error.details.map((detail) => explain(detail).words))].join(" ") : byStatus(error);
}

/** A form's last refusal: each field shows its own violations, and [`Wrong`] the others. */
interface Known { details: Detail[]; fields: Map<string, number>; onFields: () => void }
const Faults = createContext<Known | undefined>(undefined);

/** The field of a violation: the last part of its path, without a list index. */
const fieldOf = (detail: Detail) => detail.entry.split(".").at(-1)?.replace(/\[\d+\]$/, "") ?? "";

/** A form whose fields show violations. */
export function Faulty({ error, children }: { error: Error | undefined; children: ComponentChildren }) {
  const fields = useRef(new Map<string, number>());
  const [, again] = useReducer((count: number) => count + 1, 0);
  const details = error instanceof Refused ? error.details : [];
  const shown = useRef(details);
  shown.current = details;
  const value = { details, fields: fields.current, onFields: () => { if (shown.current.length > 0) again(undefined as never); } };
  return <Faults.Provider value={value}>{children}</Faults.Provider>;
}

/** The violations of the fields with these names. */
export function useFault(entries: string[]): string | undefined {
  const known = useContext(Faults);
  useLayoutEffect(() => {
    if (!known) return;
    const { fields, onFields } = known;
    const count = (by: number) => {
      for (const entry of entries) fields.set(entry, (fields.get(entry) ?? 0) + by);
      onFields();
    };
    count(1);
    // Violations of a field that is no longer shown are shown with the others.
    return () => count(-1);
  }, [known?.fields, entries.join()]);
  const found = known?.details.filter((detail) => entries.includes(fieldOf(detail))) ?? [];
  if (found.length === 0) return undefined;
  return found.map(explain).map(({ words, said }) => (said ? `${words} ${said}` : words)).join(" ");
}

/** An error, except what is shown beside a field already. */
export function Wrong({ error }: { error: Error }) {
  const fields = useContext(Faults)?.fields;
  // The end of the session is shown above everything.
  if (isSessionEnd(error)) return null;
  if (!(error instanceof Refused)) return <div class="note bad" role="alert"><p>{t("error.unreachable")}</p></div>;
  const details = error.details.filter((detail) => !fields?.get(fieldOf(detail)));
  if (error.details.length > 0 && details.length === 0) return null;
  const told = details.length > 0 ? details.map(explain) : [{ words: byStatus(error), said: "" }];
  return (
    <div class="note bad" role="alert">
      {[...new Set(told.map(({ words }) => words))].map((words) => <p key={words}>{words}</p>)}
      {told.filter(({ said }) => said !== "").map(({ said }) => <p class="said" key={said}><bdi>{said}</bdi></p>)}
      {error.code >= 500 && error.requestId && <p class="said">{t("error.requestId", { id: error.requestId })}</p>}
    </div>
  );
}

/** The details of a message of the controller without a reason code: in Chinese the values in it. */
export function particulars(sentence: string): string {
  if (chosen() === "en") return sentence;
  return explain({ reason: null, rule: sentence }).said;
}
