// Signing in, with an access key and its secret key or with a token.

import { useState } from "preact/hooks";
import { ask, Refused } from "../api.ts";
import { t } from "../i18n.ts";
import { Field, Heading, Wrong } from "../ui.tsx";

export function SignIn({ onIn, ended }: { onIn: () => void; ended: boolean }) {
  const [withToken, setWithToken] = useState(false);
  const [accessKey, setAccessKey] = useState("");
  const [secretKey, setSecretKey] = useState("");
  const [token, setToken] = useState("");
  const [error, setError] = useState<Error>();
  const [busy, setBusy] = useState(false);
  const submit = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    setError(undefined);
    try {
      await ask("POST", "/console/session", withToken ? { token } : { accessKey, secretKey });
      onIn();
    } catch (error) {
      setError(error as Error);
      setBusy(false);
    }
  };
  return (
    <div class="signin">
      <Heading title={t("app.peerings")} intro={t("session.intro")} />
      {ended && !error && <p class="note info" role="status">{t("session.ended")}</p>}
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
        {error && (error instanceof Refused && error.code === 401
          ? <p class="note bad" role="alert">{t("session.wrong")}</p>
          : <Wrong error={error} />)}
        <button type="submit" class="button primary" disabled={busy} aria-busy={busy}>{t("session.signIn")}</button>
      </form>
    </div>
  );
}
