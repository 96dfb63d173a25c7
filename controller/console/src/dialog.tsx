// Modal dialogs.

import type { ComponentChildren } from "preact";
import { useEffect, useId, useRef, useState } from "preact/hooks";
import { AsCall, type Call } from "./calls.tsx";
import { Faulty, sentenceOf, Wrong } from "./errors.tsx";
import { t } from "./i18n.ts";
import { tell } from "./told.tsx";

interface DialogProps {
  title: string; onClose: () => void; children: ComponentChildren; confirm?: string; danger?: boolean; disabled?: boolean; wide?: boolean;
  /** The word for leaving it, where that is not to cancel. */
  dismiss?: string;
  /** What confirming does; the dialog closes when it is done, unless it says `stay`, and shows what went wrong otherwise. */
  onConfirm?: () => Promise<void | "stay">;
  /** What programs would ask for instead. */
  calls?: Call[];
}

/** The browser keeps the focus within, and Escape closes it, but not while an action runs that closing would not stop. */
export function Dialog({ title, onClose, children, confirm, danger, disabled, wide, dismiss, onConfirm, calls }: DialogProps) {
  const dialog = useRef<HTMLDialogElement>(null);
  const open = useRef(true);
  const running = useRef(false);
  const id = useId();
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<Error>();
  useEffect(() => {
    const opener = document.activeElement;
    dialog.current?.showModal();
    open.current = true;
    return () => {
      open.current = false;
      if (opener instanceof HTMLElement && opener.isConnected) opener.focus();
    };
  }, []);
  const run = (is: boolean) => {
    running.current = is;
    setBusy(is);
  };
  const submit = async (event: Event) => {
    event.preventDefault();
    if (!onConfirm || running.current) return;
    run(true);
    setError(undefined);
    try {
      if ((await onConfirm()) === "stay") run(false);
      else onClose();
    } catch (error) {
      // A user who has gone to another page meanwhile is told there.
      if (!open.current) tell(t("error.failed", { what: title, why: sentenceOf(error as Error) }));
      setError(error as Error);
      run(false);
    }
  };
  // Browsers close a dialog at the second Escape whatever the page does with the first.
  const closed = () => (running.current ? dialog.current?.showModal() : onClose());
  return (
    <dialog ref={dialog} class={wide ? "wide" : ""} aria-labelledby={id} onClose={closed}
      onCancel={(event) => { if (running.current) event.preventDefault(); }}>
      <form onSubmit={submit} class="stack" aria-busy={busy}>
        <h2 id={id}><bdi>{title}</bdi></h2>
        <Faulty error={error}>
          {children}
          {error && <Wrong error={error} />}
        </Faulty>
        {calls && <AsCall calls={calls} />}
        <div class="row end">
          {busy && <span class="quiet row" role="status"><span class="spinner" aria-hidden="true" />{t("common.working")}</span>}
          <button type="button" class="button" disabled={busy} onClick={onClose}>{dismiss ?? t(onConfirm ? "common.cancel" : "common.close")}</button>
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
