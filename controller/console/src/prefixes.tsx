// Choosing the prefixes that a peering connects, with a preview of what becomes reachable.

import type { ComponentChildren } from "preact";
import { useEffect, useId, useState } from "preact/hooks";
import { isSessionEnd, perform, Refused, type Reachable, type Side } from "./api.ts";
import type { Call, Option } from "./calls.tsx";
import { faultOf, isUnfinished, listOf, type Choice, type Choices } from "./choice.ts";
import { difference } from "./cidr.ts";
import { Faulty, Wrong } from "./errors.tsx";
import { t } from "./i18n.ts";
import { timesSignedIn, useChanges } from "./store.ts";
import { Field } from "./ui.tsx";

/** The pause in typing after which input is checked, in milliseconds. */
const PAUSE = 350;
/** How long a check may take, in milliseconds. */
const PATIENCE = 15_000;
/** How long after a failed check the next one is made, in milliseconds; twice as long after each further one. */
const AGAIN = 3000;
/** How many times the same is checked: towards another account the controller may have counted checks whose responses were lost. */
const TRIES = 4;
/** How many prefixes of a kind the preview shows. */
const SHOWN = 12;

interface OneProps { legend: string; known: string[]; choice: Choice; onChoose: (choice: Choice) => void; entry: string; wrong: string | undefined; onTyping: ((is: boolean) => void) | undefined }

function One({ legend, known, choice, onChoose, entry, wrong, onTyping }: OneProps) {
  const name = useId();
  // A selected CIDR that was then removed from the VPC can be deselected.
  const shown = [...new Set([...known, ...choice.picked])];
  const change = (change: Partial<Choice>) => onChoose({ ...choice, ...change });
  const pick = (cidr: string, is: boolean) => change({ picked: is ? [...choice.picked, cidr] : choice.picked.filter((it) => it !== cidr) });
  return (
    <fieldset class="types">
      <legend>{legend}</legend>
      {[false, true].map((limited) => (
        <label class="check" key={String(limited)}>
          <input type="radio" name={name} checked={choice.limited === limited} onChange={() => change({ limited })} />
          {t(limited ? "prefixes.some" : "prefixes.all")}
        </label>
      ))}
      {choice.limited && (
        <div class="stack within">
          {shown.length > 0 && (
            <div class="picks">
              {shown.map((cidr) => (
                <label class="check" key={cidr}>
                  <input type="checkbox" checked={choice.picked.includes(cidr)} onChange={(event) => pick(cidr, event.currentTarget.checked)} />
                  <code>{cidr}</code>
                </label>
              ))}
            </div>
          )}
          <Field label={t(shown.length > 0 ? "prefixes.more" : "prefixes.list")} hint={t("prefixes.hint")} wrong={wrong} entries={[entry]}
            needed={choice.picked.length === 0}>
            {(its) => <textarea {...its} rows={2} spellcheck={false} autocomplete="off" value={choice.typed}
              onFocus={() => onTyping?.(true)} onBlur={() => onTyping?.(false)}
              onInput={(event) => change({ typed: event.currentTarget.value })} />}
          </Field>
        </div>
      )}
    </fieldset>
  );
}

interface PickerProps {
  choices: Choices; onChoose: (choices: Choices) => void;
  /** What the VPCs are called: the one whose side it is, and the other one. */
  names: [string, string];
  /** CIDRs of theirs to pick from. */
  own: string[]; peer: string[];
  /** Told when somebody begins and ends to type. */
  onTyping?: (is: boolean) => void;
  /** Lists that are there already: what was exported before may be so again, wherever it lies. */
  side?: Side;
}

/** What is wrong with each of the lists. */
export function faultsOf({ choices, own, side }: Pick<PickerProps, "choices" | "own" | "side">) {
  const stays = listOf(choices.export).join() === side?.exportPrefixes?.join();
  return { export: stays ? undefined : faultOf(choices.export, own), import: faultOf(choices.import) };
}

/** Whether lists can be sent as they are. */
export function areReady(its: Pick<PickerProps, "choices" | "own" | "side">): boolean {
  const faults = faultsOf(its);
  const { choices } = its;
  return faults.export === undefined && faults.import === undefined && !isUnfinished(choices.export) && !isUnfinished(choices.import);
}

export function Picker(its: PickerProps) {
  const { choices, onChoose, names, own, peer, onTyping } = its;
  const faults = faultsOf(its);
  return (
    <>
      <One legend={t("prefixes.exportOf", { vpc: names[0] })} known={own} choice={choices.export} entry="exportPrefixes" wrong={faults.export} onTyping={onTyping}
        onChoose={(choice) => onChoose({ ...choices, export: choice })} />
      <One legend={t("prefixes.importOf", { vpc: names[1] })} known={peer} choice={choices.import} entry="importPrefixes" wrong={faults.import} onTyping={onTyping}
        onChoose={(choice) => onChoose({ ...choices, import: choice })} />
    </>
  );
}

/** The same where it is rarely needed: hidden until the user opens it. */
export function Limit(its: PickerProps) {
  const [open, setOpen] = useState(false);
  const limited = its.choices.export.limited || its.choices.import.limited;
  // Errors that keep the form from being sent are shown.
  const ready = areReady(its);
  return (
    <details class="limit" open={open || !ready} onToggle={(event) => {
      if (!ready) event.currentTarget.open = true;
      setOpen(event.currentTarget.open);
    }}>
      <summary>{t("prefixes.limit")}{limited && <span class="quiet"> · {t("prefixes.limited")}</span>}</summary>
      {(open || !ready) && <div class="stack"><p class="hint">{t("prefixes.text")}</p><Picker {...its} /></div>}
    </details>
  );
}

/** Lists in a request body; those that mean all are left out. */
export function bodyOf({ export: exported, import: imported }: Choices): { exportPrefixes?: string[]; importPrefixes?: string[] } {
  return { ...(exported.limited ? { exportPrefixes: listOf(exported) } : {}), ...(imported.limited ? { importPrefixes: listOf(imported) } : {}) };
}

/** The same as options of a command line. */
export const optionsOf = ({ exportPrefixes, importPrefixes }: { exportPrefixes?: string[]; importPrefixes?: string[] }): Option[] =>
  ([["--export-prefixes", exportPrefixes], ["--import-prefixes", importPrefixes]] as const)
    .flatMap(([name, list]) => (list ? [[name, list.join(",") || "all"] as Option] : []));

export interface Preview { reachable?: Reachable; error?: Error }

/** The result of a dry run, once the call is ready and the user has stopped typing; again when `of` changes, or somebody has signed in. */
export function usePreview({ method, path, body }: Call, ready: boolean, of = ""): Preview | undefined {
  useChanges();
  const key = JSON.stringify([path, body, of]);
  const [known, setKnown] = useState<Preview & { key: string }>();
  const [tried, setTried] = useState({ key, count: 0 });
  const count = tried.key === key ? tried.count : 0;
  useEffect(() => {
    if (!ready) return;
    let stale = false;
    let again: ReturnType<typeof setTimeout> | undefined;
    const timer = setTimeout(() => {
      perform<{ reachable?: Reachable }>({ method, path, body: { ...(body as object), dryRun: true } }, PATIENCE).then(
        ({ reachable }) => stale || setKnown({ key, ...(reachable ? { reachable } : {}) }),
        // After the end of a session the user signs in, and then it is checked again.
        (error: Error) => {
          if (stale || isSessionEnd(error)) return;
          setKnown({ key, error });
          // A refusal is final; a check without a response is retried, with back-off.
          const failed = !(error instanceof Refused) || error.code >= 500;
          if (failed && count + 1 < TRIES) again = setTimeout(() => setTried({ key, count: count + 1 }), AGAIN * 2 ** count);
        });
    }, PAUSE);
    return () => {
      stale = true;
      clearTimeout(timer);
      clearTimeout(again);
    };
  }, [key, ready, timesSignedIn(), count]);
  return ready && known?.key === key ? known : undefined;
}

const LOOKS = { stays: "", added: "good", removed: "bad" } as const;

function Prefixes({ title, before, after }: { title: string; before: string[] | undefined; after: string[] | null }) {
  const added = before && after ? difference(after, before) : [];
  const kinds = {
    stays: added.length > 0 ? difference(after ?? [], added) : after ?? [],
    added, removed: before && after ? difference(before, after) : [],
  };
  return (
    <div>
      <div class="quiet small">{title}</div>
      {after === null ? <p class="small">{t("prefixes.unknown")}</p> : (
        <ul class="reach">
          {after.length === 0 && <li>{t("prefixes.nothing")}</li>}
          {(["stays", "added", "removed"] as const).map((kind) => (
            <>
              {kinds[kind].slice(0, SHOWN).map((prefix) => (
                <li key={`${kind} ${prefix}`} class={LOOKS[kind]}>
                  <code>{kind === "removed" ? <del>{prefix}</del> : prefix}</code>
                  {kind !== "stays" && <span class="small"> {t(`prefixes.${kind}`)}</span>}
                </li>
              ))}
              {kinds[kind].length > SHOWN && (
                <li key={kind} class={`small ${LOOKS[kind]}`}>{t("prefixes.others", { count: kinds[kind].length - SHOWN })}{kind !== "stays" && ` ${t(`prefixes.${kind}`)}`}</li>
              )}
            </>
          ))}
        </ul>
      )}
    </div>
  );
}

/** What each side reaches of the other, with what is added and removed compared with before. */
export function Reach({ own, peer, before, after }: { own: string; peer: string; before?: Reachable; after: Reachable }) {
  return (
    <div class="compared" role="group" aria-label={t("prefixes.reachable")}>
      <Prefixes title={t("prefixes.reaches", { vpc: own, from: peer })} before={before?.ownPrefixes} after={after.ownPrefixes} />
      <Prefixes title={t("prefixes.reaches", { vpc: peer, from: own })} before={before?.remotePrefixes ?? undefined} after={after.remotePrefixes} />
    </div>
  );
}

/** A form's lists, with their errors, including those that the controller reports for a dry run. */
export function Checked({ preview, busy, children }: { preview: Preview | undefined; busy: boolean; children: ComponentChildren }) {
  return (
    <Faulty error={preview?.error}>
      {children}
      {preview?.error && <Wrong error={preview.error} />}
      <div class="verdict" aria-live="polite">{busy && !preview && <p class="quiet">{t("create.checking")}</p>}</div>
    </Faulty>
  );
}
