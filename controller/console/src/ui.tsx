// What pages are made of.

import type { ComponentChildren } from "preact";
import { useEffect, useId, useRef, useState } from "preact/hooks";
import { Refused, type Peering, type Vpc } from "./api.ts";
import { t, tOr, type Key } from "./i18n.ts";
import type { Loaded } from "./store.ts";

/** What went wrong, in the reader's language as far as the controller says it in a word, and in the controller's own words. */
export function Wrong({ error }: { error: Error }) {
  if (!(error instanceof Refused)) {
    return <div class="note bad" role="alert"><p>{t("error.unreachable")}</p></div>;
  }
  const known = error.details.map((detail) => tOr(`reason.${detail.reason}`, "")).filter((words) => words !== "");
  const said = error.details.length > 0 ? error.details.map((detail) => `${detail.entry}: ${detail.rule}`) : [error.message];
  return (
    <div class="note bad" role="alert">
      {[...new Set(known.length > 0 ? known : [t("reason.other")])].map((words) => <p key={words}>{words}</p>)}
      {said.map((words) => <p class="said" lang="en" key={words}>{words}</p>)}
    </div>
  );
}

/** What was loaded; before that, and when it failed, what there is to say instead. */
export function Show<T>({ loaded, children }: { loaded: Loaded<T>; children: (value: T) => ComponentChildren }) {
  const { value, error, reload } = loaded;
  return (
    <>
      {error && (
        <div class="stack">
          <Wrong error={error} />
          <div><button type="button" class="button" onClick={reload}>{t("common.retry")}</button></div>
        </div>
      )}
      {value === undefined && !error && (
        <div class="loading" role="status"><span class="spinner" aria-hidden="true" />{t("common.loading")}</div>
      )}
      {value !== undefined && children(value)}
    </>
  );
}

export function Empty({ title, hint, children }: { title: string; hint?: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <svg viewBox="0 0 64 40" width="72" height="45" aria-hidden="true">
        <path d="M22 20h20" class="line" /><circle cx="13" cy="20" r="9" /><circle cx="51" cy="20" r="9" />
      </svg>
      <p class="title">{title}</p>
      {hint && <p class="quiet">{hint}</p>}
      {children}
    </div>
  );
}

let entered = false;

/** A page's heading, which is read out when the page is entered. */
export function Heading({ title, intro, children }: { title: string; intro?: string; children?: ComponentChildren }) {
  const heading = useRef<HTMLHeadingElement>(null);
  useEffect(() => {
    document.title = `${title} · ${t("app.service")}`;
  }, [title]);
  useEffect(() => {
    // Not when the whole page was just opened: the browser reads it out from the top.
    if (entered) heading.current?.focus();
    entered = true;
  }, []);
  return (
    <header class="heading">
      <div>
        <h1 tabIndex={-1} ref={heading}><bdi>{title}</bdi></h1>
        {intro && <p class="quiet">{intro}</p>}
      </div>
      {children && <div class="row">{children}</div>}
    </header>
  );
}

/** A table that scrolls sideways by itself on narrow screens, and can be scrolled by keyboard. */
export function Table({ caption, heads, children }: { caption: string; heads: ComponentChildren[]; children: ComponentChildren }) {
  return (
    <div class="table" role="region" aria-label={caption} tabIndex={0}>
      <table>
        <caption class="unseen">{caption}</caption>
        <thead><tr>{heads.map((head, place) => <th scope="col" key={place}>{head}</th>)}</tr></thead>
        <tbody>{children}</tbody>
      </table>
    </div>
  );
}

const SHAPES: Record<string, string> = {
  pending: "M8 4v4l3 2", provisioning: "M4 8a4 4 0 1 1 4 4", active: "M4.5 8.5l2.5 2.5 4.5-5.5", suspended: "M6 5v6M10 5v6",
  draining: "M4 8h8", rejected: "M5 5l6 6M11 5l-6 6", expired: "M8 4v5M8 11.5v.5", peer_deleted: "M5 5l6 6M11 5l-6 6",
};

export const stateWord = (peering: Pick<Peering, "state" | "role">) =>
  t((peering.state === "pending" ? `state.pending.${peering.role}` : `state.${peering.state}`) as Key);

/** A state's own look: colour, shape and word. */
export function StateBadge({ peering }: { peering: Pick<Peering, "state" | "role"> }) {
  return (
    <span class={`badge ${peering.state}`} data-state={peering.state}>
      <svg viewBox="0 0 16 16" width="14" height="14" aria-hidden="true"><path d={SHAPES[peering.state]} /></svg>
      {stateWord(peering)}
    </span>
  );
}

export function Badge({ look, children }: { look: "good" | "bad" | "warn" | "plain"; children: ComponentChildren }) {
  return <span class={`badge ${look}`}>{children}</span>;
}

interface FieldProps {
  label: string; hint?: string | undefined; needed?: boolean;
  children: (its: { id: string; "aria-describedby"?: string; required?: boolean }) => ComponentChildren;
}

export function Field({ label, hint, needed, children }: FieldProps) {
  const id = useId();
  const its: { id: string; "aria-describedby"?: string; required?: boolean } = { id };
  if (hint) its["aria-describedby"] = `${id}-hint`;
  if (needed) its.required = true;
  return (
    <div class="field">
      <label for={id}>{label}{!needed && <span class="quiet"> ({t("common.optional")})</span>}</label>
      {children(its)}
      {hint && <p class="hint" id={`${id}-hint`}>{hint}</p>}
    </div>
  );
}

export function Select(
  { value, onPick, options, ...rest }:
  { value: string; onPick: (value: string) => void; options: [string, string][] }
    & { id?: string; required?: boolean; "aria-label"?: string; "aria-describedby"?: string },
) {
  return (
    <select {...rest} value={value} onChange={(event) => onPick(event.currentTarget.value)}>
      {options.map(([value, words]) => <option value={value} key={value}>{words}</option>)}
    </select>
  );
}

export const vpcOptions = (vpcs: Vpc[]): [string, string][] =>
  [...vpcs].sort((one, other) => one.name.localeCompare(other.name)).map((vpc) => [vpc.vpcId, `${vpc.name} · ${vpc.cidrs.join(", ")} · ${vpc.vpcId}`]);

interface DialogProps {
  title: string; onClose: () => void; children: ComponentChildren; confirm?: string; danger?: boolean; disabled?: boolean;
  /** What confirming does; the dialog closes when it is done, and shows what went wrong otherwise. */
  onConfirm?: () => Promise<void>;
}

/** Something to decide before anything else. The browser keeps the focus within, and Escape closes it. */
export function Dialog({ title, onClose, children, confirm, danger, disabled, onConfirm }: DialogProps) {
  const dialog = useRef<HTMLDialogElement>(null);
  const id = useId();
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<Error>();
  useEffect(() => {
    const opener = document.activeElement;
    dialog.current?.showModal();
    return () => { if (opener instanceof HTMLElement && opener.isConnected) opener.focus(); };
  }, []);
  const submit = async (event: Event) => {
    event.preventDefault();
    if (!onConfirm || busy) return;
    setBusy(true);
    setError(undefined);
    try {
      await onConfirm();
      onClose();
    } catch (error) {
      setError(error as Error);
      setBusy(false);
    }
  };
  return (
    <dialog ref={dialog} aria-labelledby={id} onClose={onClose}>
      <form onSubmit={submit} class="stack">
        <h2 id={id}>{title}</h2>
        {children}
        {error && <Wrong error={error} />}
        <div class="row end">
          <button type="button" class="button" onClick={onClose}>{t(onConfirm ? "common.cancel" : "common.close")}</button>
          {onConfirm && (
            <button type="submit" class={`button ${danger ? "danger" : "primary"}`} disabled={busy || disabled} aria-busy={busy}>
              {confirm ?? t("common.confirm")}
            </button>
          )}
        </div>
      </form>
    </dialog>
  );
}

let say: (words: string) => void = () => {};

/** Tells what was done, also to screen readers. */
export const tell = (words: string) => say(words);

export function Told() {
  const [words, setWords] = useState("");
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout>;
    say = (words) => {
      clearTimeout(timer);
      setWords(words);
      timer = setTimeout(() => setWords(""), 6000);
    };
    return () => clearTimeout(timer);
  }, []);
  return <div class="told" role="status" aria-live="polite">{words && <p>{words}</p>}</div>;
}

/** Some of many, and the way to the others. */
export function Pager({ page, pages, count, onTurn }: { page: number; pages: number; count: number; onTurn: (page: number) => void }) {
  return (
    <div class="row between pager">
      <span class="quiet">{t("common.total", { count })}</span>
      {pages > 1 && (
        <div class="row">
          <button type="button" class="button" disabled={page <= 1} onClick={() => onTurn(page - 1)}>{t("common.previous")}</button>
          <span>{t("common.page", { page, pages })}</span>
          <button type="button" class="button" disabled={page >= pages} onClick={() => onTurn(page + 1)}>{t("common.next")}</button>
        </div>
      )}
    </div>
  );
}
