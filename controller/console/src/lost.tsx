// The banner while the controller cannot be reached.

import { useEffect, useReducer } from "preact/hooks";
import { clock, t } from "./i18n.ts";
import { connectionLost, lastHeard, nextAttempt, streamRefusal, tryNow, useChanges } from "./store.ts";

export function Lost() {
  useChanges();
  const [, tick] = useReducer((count: number) => count + 1, 0);
  const lost = connectionLost();
  useEffect(() => {
    if (!lost) return;
    const timer = setInterval(() => tick(undefined as never), 1000);
    return () => clearInterval(timer);
  }, [lost]);
  if (!lost) return null;
  const seconds = Math.max(0, Math.round((nextAttempt() - Date.now()) / 1000));
  const since = lastHeard();
  const age = Math.max(0, Math.round((Date.now() - since) / 1000));
  return (
    <div class="note warn row between">
      <div>
        <span role="status">{t(streamRefusal()?.code === 429 ? "error.tooManyPages" : "error.lost")} {t("error.shownFrom", { time: clock(new Date(since).toISOString()) })}</span>
        {/* Not read out each second. */}
        <span aria-live="off"> {t("error.lostAge", { age: age < 120 ? t("error.seconds", { count: age }) : t("error.minutes", { count: Math.floor(age / 60) }) })}
          {" "}{nextAttempt() > 0 && seconds > 0 ? t("error.nextTry", { count: seconds }) : t("error.trying")}</span>
      </div>
      <button type="button" class="button" onClick={tryNow}>{t("error.tryNow")}</button>
    </div>
  );
}
