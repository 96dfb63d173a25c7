// The console: sign-in, the frame around the pages, and routing.

import { render } from "preact";
import { useEffect, useReducer, useRef, useState } from "preact/hooks";
import { ask, isSessionEnd, onSessionEnd, type Who } from "./api.ts";
import { Boundary } from "./boundary.tsx";
import { choose, chosen, t, tell as tellLanguage, type Key, type Language } from "./i18n.ts";
import { Create } from "./pages/create.tsx";
import { Accounts } from "./pages/accounts.tsx";
import { Audit, Billing, Blocked } from "./pages/account.tsx";
import { Detail } from "./pages/detail.tsx";
import { HostDetail } from "./pages/host.tsx";
import { List } from "./pages/list.tsx";
import { NetworkMap } from "./pages/map.tsx";
import { AllPeerings, Hosts } from "./pages/operator.tsx";
import { PathTrace } from "./pages/path.tsx";
import { AnyPeering } from "./pages/peering.tsx";
import { SignIn, SignInAgain } from "./pages/signin.tsx";
import { Vpcs } from "./pages/vpcs.tsx";
import { Webhooks } from "./pages/webhooks.tsx";
import { to, useRoute } from "./route.ts";
import { Lost } from "./lost.tsx";
import { Palette } from "./palette.tsx";
import { changed, connectionLost, forget, idOf, listen, onAccount, own, requests, useChanges, whoami } from "./store.ts";
import { onOtherTab, tellTabs } from "./tabs.ts";
import { tell, Told } from "./told.tsx";
import { Empty, Heading, Select, Skeleton } from "./ui.tsx";
import "./style.css";

/** How long the page waits before it checks the session again, in milliseconds. */
const AGAIN = 3000;

const THEMES = ["auto", "light", "dark"] as const;
type Theme = (typeof THEMES)[number];

const storedTheme = (): Theme => THEMES.find((it) => it === localStorage.getItem("theme")) ?? "auto";

function show(theme: Theme): void {
  localStorage.setItem("theme", theme);
  document.documentElement.dataset.theme = theme;
}

const TENANT: [string, Key][] = [["peerings", "nav.peerings"], ["vpcs", "nav.vpcs"], ["map", "nav.map"], ["path", "nav.path"],
  ["billing", "nav.billing"], ["audit", "nav.audit"], ["webhooks", "nav.webhooks"], ["blocked", "nav.blocked"]];
const OPERATOR: [string, Key][] = [["hosts", "nav.hosts"], ["peerings", "nav.peerings"], ["path", "nav.path"], ["accounts", "nav.accounts"], ["webhooks", "nav.webhooks"], ["audit", "nav.audit"]];

function Page({ who, route }: { who: Who; route: string[] }) {
  const [page, region, id] = route;
  if (who.role === "operator") {
    switch (page ?? "hosts") {
      case "hosts": return region ? <HostDetail key={region} id={region} /> : <Hosts />;
      case "peerings": return region ? <AnyPeering key={region} id={region} /> : <AllPeerings />;
      case "path": return <PathTrace who={who} />;
      case "accounts": return <Accounts who={who} />;
      case "webhooks": return <Webhooks who={who} />;
      case "audit": return <Audit operator />;
    }
  } else {
    switch (page ?? "peerings") {
      case "peerings":
        if (region === "create") return <Create who={who} />;
        return region && id ? <Detail key={`${region} ${id}`} region={region} id={id} /> : <List who={who} />;
      case "vpcs": return <Vpcs who={who} />;
      case "map": return <NetworkMap who={who} />;
      case "path": return <PathTrace who={who} />;
      case "billing": return <Billing />;
      case "audit": return <Audit operator={false} />;
      case "webhooks": return <Webhooks who={who} />;
      case "blocked": return <Blocked />;
    }
  }
  return <><Heading title={t("app.peerings")} /><Empty title={t("common.notFound")} /></>;
}

function App() {
  // Not known yet; the controller did not answer.
  const [who, setWho] = useState<Who | null | undefined>();
  const [ended, setEnded] = useState(false);
  const [theme, setTheme] = useState(storedTheme);
  const [, again] = useReducer((count: number) => count + 1, 0);
  const route = useRoute();
  const version = useChanges();
  // Of several attempts the last counts: an earlier one must not undo a sign-out.
  const attempt = useRef(0);
  /** Shows who is signed in. If that fails, the user is told, and it is retried. */
  const enter = async (): Promise<void> => {
    const mine = ++attempt.current;
    try {
      const who = await whoami();
      if (mine !== attempt.current) return;
      own(who);
      setWho(who);
      setEnded(false);
      changed();
    } catch (error) {
      // The end of the session is handled by onSessionEnd.
      if (mine === attempt.current && !isSessionEnd(error)) setTimeout(() => { if (mine === attempt.current) enterUnasked(); }, AGAIN);
      throw error;
    }
  };
  const enterUnasked = () => void enter().catch(() => {});
  const forgetAll = () => {
    attempt.current++;
    forget();
    setWho(null);
    setEnded(false);
  };
  useEffect(() => {
    show(theme);
    tellLanguage();
  }, []);
  useEffect(() => {
    // The page stays, hidden, until the user has signed in again.
    onSessionEnd(() => setWho((old) => { if (old) setEnded(true); return old ?? null; }));
    enterUnasked();
    return onOtherTab((what) => { if (what === "in") enterUnasked(); else forgetAll(); });
  }, []);
  // The account's charge status and the regions can change, too. For operators nothing of that does.
  useEffect(() => {
    onAccount((account) => setWho((old) => {
      const same = !old || (old.chargeStatus === account.chargeStatus && old.regions.join() === account.regions.join());
      return same ? old : { ...old, ...account };
    }));
  }, []);
  // A session that has ended shows at the next request.
  useEffect(() => {
    if (connectionLost() && !ended) void whoami().catch(() => {});
  }, [version, ended]);
  const id = who && idOf(who);
  useEffect(() => (id && !ended ? listen() : undefined), [id, ended]);

  const leave = async () => {
    try {
      await ask("DELETE", "/console/session");
    } catch (error) {
      // A session that has ended need not be closed.
      if (!ended && !isSessionEnd(error)) {
        tell(t("session.notLeft"));
        return;
      }
    }
    tellTabs("out");
    forgetAll();
    location.hash = "";
  };
  const entries = who?.role === "operator" ? OPERATOR : TENANT;
  const here = route[0] ?? entries[0]![0];
  return (
    <div class="frame">
      <a class="skip" href="#main" onClick={(event) => { event.preventDefault(); document.getElementById("main")?.focus(); }}>{t("app.skip")}</a>
      <header class="top">
        <a class="brand" href={to()} aria-label={t("app.service")}>
          <svg viewBox="0 0 32 32" width="26" height="26" aria-hidden="true">
            <rect width="32" height="32" rx="7" class="mark" /><path d="M10 16h12" class="stroke" /><circle cx="9" cy="16" r="4" class="dot" /><circle cx="23" cy="16" r="4" class="dot" />
          </svg>
          <span>{t("app.service")}</span>
        </a>
        <div class="row tools">
          {who && !ended && <Palette tenant={who.role === "account"} pages={entries.map(([page, key]) => [page, t(key)])} />}
          <Select aria-label={t("app.language")} value={chosen()} onPick={(it) => { choose(it as Language); again(undefined as never); }}
            options={[["zh", "中文"], ["en", "English"]]} />
          <Select aria-label={t("app.theme")} value={theme} onPick={(it) => { setTheme(it as Theme); show(it as Theme); }}
            options={THEMES.map((it) => [it, t(`theme.${it}`)])} />
          {who && <a class="quiet" href="/console/api.html" target="_blank" rel="noreferrer">API</a>}
          {who && <span class="who">{who.role === "operator" ? t("session.operator") : who.accountId}</span>}
          {who && <button type="button" class="button" onClick={() => void leave()}>{t("session.signOut")}</button>}
        </div>
      </header>
      {who && (
        <nav class="side" aria-label={t("nav.main")}>
          <ul>
            {entries.map(([page, key]) => (
              <li key={page}><a href={to(page)} aria-current={here === page ? "page" : undefined}>{t(key)}
                {page === "peerings" && who.role === "account" && requests() > 0 && (
                  <span class="count" aria-hidden="true" title={t("list.pendingForYou", { count: requests() })}>{requests()}</span>
                )}</a></li>
            ))}
          </ul>
        </nav>
      )}
      <main id="main" tabIndex={-1} class={who ? (ended ? "away" : "") : "alone"}>
        {who?.chargeStatus === "arrear" && <p class="note bad" role="alert">{t("arrear.banner")}</p>}
        {who && !ended && <Lost />}
        {who === undefined && <Skeleton />}
        {who === null && <SignIn onIn={enter} />}
        {who && <Boundary at={`${id} ${route.join("/")}`}><Page who={who} route={route} key={`${id} ${here}`} /></Boundary>}
      </main>
      {ended && <SignInAgain account={who ? who.accountId ?? t("session.operator") : ""} onIn={enter} onLeave={() => void leave()} />}
      <Told />
    </div>
  );
}

render(<Boundary at=""><App /></Boundary>, document.getElementById("app")!);
