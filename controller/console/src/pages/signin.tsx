// Signing in, with an access key and its secret key or with a token.

import { ask, isSessionEnd } from "../api.ts";
import { useEffect, useRef, useState } from "preact/hooks";
import { t, type Key } from "../i18n.ts";
import { tellTabs } from "../tabs.ts";
import { Wrong } from "../errors.tsx";
import { Field, Heading } from "../ui.tsx";

/** The credential. */
function Form({ onIn }: { onIn: () => Promise<void> }) {
  const [withToken, setWithToken] = useState(false);
  const [accessKey, setAccessKey] = useState("");
  const [secretKey, setSecretKey] = useState("");
  const [token, setToken] = useState("");
  const [error, setError] = useState<Error>();
  const [wrong, setWrong] = useState<Key>();
  const [busy, setBusy] = useState(false);
  const submit = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    setError(undefined);
    try {
      await ask("POST", "/console/session", withToken ? { token } : { accessKey, secretKey });
    } catch (error) {
      setWrong(isSessionEnd(error) ? "session.wrong" : undefined);
      setError(error as Error);
      setBusy(false);
      return;
    }
    tellTabs("in");
    try {
      await onIn();
    } catch (error) {
      // A user who has just signed in without a session has a browser that does not keep it.
      setWrong(isSessionEnd(error) ? "session.notKept" : undefined);
      setError(error as Error);
    }
    setBusy(false);
  };
  return (
      <form class="card stack" onSubmit={submit}>
        <div class="tabs" role="radiogroup" aria-label={t("session.how")}>
          {[false, true].map((it) => (
            <label key={String(it)} class={withToken === it ? "on" : ""}>
              <input type="radio" name="how" checked={withToken === it} onChange={() => setWithToken(it)} />
              {t(it ? "session.withToken" : "session.withKey")}
            </label>
          ))}
        </div>
        {withToken
          ? (
            <Field label={t("session.token")} needed>
              {(its) => <input {...its} type="password" autocomplete="current-password" value={token}
                onInput={(event) => setToken(event.currentTarget.value)} />}
            </Field>
          )
          : (
            <>
              <Field label={t("session.accessKey")} needed>
                {(its) => <input {...its} autocomplete="username" spellcheck={false} value={accessKey}
                  onInput={(event) => setAccessKey(event.currentTarget.value)} />}
              </Field>
              <Field label={t("session.secretKey")} needed>
                {(its) => <input {...its} type="password" autocomplete="current-password" value={secretKey}
                  onInput={(event) => setSecretKey(event.currentTarget.value)} />}
              </Field>
            </>
          )}
        {error && (wrong ? <p class="note bad" role="alert">{t(wrong)}</p> : <Wrong error={error} />)}
        <button type="submit" class="button primary" disabled={busy} aria-busy={busy}>{t("session.signIn")}</button>
      </form>
  );
}

/** The sign-in page. */
export function SignIn({ onIn }: { onIn: () => Promise<void> }) {
  return (
    <div class="signin">
      <Heading title={t("app.peerings")} intro={t("session.intro")} />
      <Form onIn={onIn} />
    </div>
  );
}

/** Sign-in after the session has ended, above the page, which is shown again afterwards. */
export function SignInAgain({ account, onIn, onLeave }: { account: string; onIn: () => Promise<void>; onLeave: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const show = () => { if (dialog.current && !dialog.current.open) dialog.current.showModal(); };
  useEffect(show, []);
  return (
    <dialog ref={dialog} class="signin-again" aria-labelledby="signin-again" onCancel={(event) => event.preventDefault()} onClose={show}>
      <div class="stack">
        <h2 id="signin-again">{t("session.ended")}</h2>
        <p class="quiet">{t("session.kept", { account })}</p>
        <Form onIn={onIn} />
        <div class="row end"><button type="button" class="button" onClick={onLeave}>{t("session.signOut")}</button></div>
      </div>
    </dialog>
  );
}
