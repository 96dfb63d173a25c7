// The console: who has signed in, the frame around the pages, and the way to them.

import { render } from "preact";
import { useEffect, useReducer, useState } from "preact/hooks";
import { ask, onSessionEnd, Refused, type Who } from "./api.ts";
import { choose, chosen, clock, t, tell as tellLanguage, type Key, type Language } from "./i18n.ts";
import { Create } from "./pages/create.tsx";
import { Audit, Billing, Blocked } from "./pages/account.tsx";
import { Detail } from "./pages/detail.tsx";
import { List } from "./pages/list.tsx";
import { NetworkMap } from "./pages/map.tsx";
import { Accounts, AllPeerings, Hosts } from "./pages/operator.tsx";
import { SignIn } from "./pages/signin.tsx";
import { Vpcs } from "./pages/vpcs.tsx";
import { to, useRoute } from "./route.ts";
import { connectionLost, listen, onAccount, requests, useChanges, whoami } from "./store.ts";
import { Empty, Heading, Select, Told } from "./ui.tsx";
import "./style.css";

const THEMES = ["auto", "light", "dark"] as const;
type Theme = (typeof THEMES)[number];

const storedTheme = (): Theme => THEMES.find((it) => it === localStorage.getItem("theme")) ?? "auto";

function show(theme: Theme): void {
  localStorage.setItem("theme", theme);
  document.documentElement.dataset.theme = theme;
}

const TENANT: [string, Key][] = [["peerings", "nav.peerings"], ["vpcs", "nav.vpcs"], ["map", "nav.map"],
  ["billing", "nav.billing"], ["audit", "nav.audit"], ["blocked", "nav.blocked"]];
const OPERATOR: [string, Key][] = [["hosts", "nav.hosts"], ["peerings", "nav.peerings"], ["accounts", "nav.accounts"], ["audit", "nav.audit"]];

function Page({ who, route }: { who: Who; route: string[] }) {
  const [page, region, id] = route;
  if (who.role === "operator") {
    switch (page ?? "hosts") {
      case "hosts": return <Hosts />;
      case "peerings": return <AllPeerings />;
      case "accounts": return <Accounts />;
      case "audit": return <Audit operator />;
    }
  } else {
    switch (page ?? "peerings") {
      case "peerings":
        if (region === "create") return <Create who={who} />;
        return region && id ? <Detail key={`${region} ${id}`} region={region} id={id} /> : <List who={who} />;
      case "vpcs": return <Vpcs who={who} />;
      case "map": return <NetworkMap who={who} />;
      case "billing": return <Billing who={who} />;
      case "audit": return <Audit operator={false} />;
      case "blocked": return <Blocked />;
    }
  }
  return <><Heading title={t("app.peerings")} /><Empty title={t("common.notFound")} /></>;
}

function App() {
  // Nobody yet; the controller could not say.
  const [who, setWho] = useState<Who | null | undefined>();
  const [ended, setEnded] = useState(false);
  const [theme, setTheme] = useState(storedTheme);
  const [, again] = useReducer((count: number) => count + 1, 0);
  const route = useRoute();
  const version = useChanges();
  const enter = () => whoami().then(
    (who) => { setWho(who); setEnded(false); },
    (error: Error) => {
      if (error instanceof Refused) setWho(null);
      else setTimeout(enter, 3000);
    },
  );
  useEffect(() => {
    show(theme);
    tellLanguage();
  }, []);
  useEffect(() => {
    onSessionEnd(() => setWho((old) => { if (old) setEnded(true); return null; }));
    void enter();
  }, []);
  // How the account stands, and which regions there are, may change, too. Of operators nothing of that does.
  useEffect(() => {
    onAccount((account) => setWho((old) => {
      const same = !old || (old.chargeStatus === account.chargeStatus && old.regions.join() === account.regions.join());
      return same ? old : { ...old, ...account };
    }));
  }, []);
  // A session that has ended says so when it is asked for something.
  useEffect(() => {
    if (connectionLost() > 0) void whoami().catch(() => {});
  }, [version]);
  const id = who && `${who.role} ${who.accountId}`;
  useEffect(() => (id ? listen() : undefined), [id]);

  const leave = async () => {
    await ask("DELETE", "/console/session").catch(() => {});
    setWho(null);
    setEnded(false);
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
          <Select aria-label={t("app.language")} value={chosen()} onPick={(it) => { choose(it as Language); again(undefined as never); }}
            options={[["zh", "中文"], ["en", "English"]]} />
          <Select aria-label={t("app.theme")} value={theme} onPick={(it) => { setTheme(it as Theme); show(it as Theme); }}
            options={THEMES.map((it) => [it, t(`theme.${it}`)])} />
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
                  <span class="count" aria-hidden="true" title={t("list.pendingForYou", { count: requests() })}> {requests()}</span>
                )}</a></li>
            ))}
          </ul>
        </nav>
      )}
      <main id="main" tabIndex={-1} class={who ? "" : "alone"}>
        {who?.chargeStatus === "arrear" && <p class="note bad" role="alert">{t("arrear.banner")}</p>}
        {who && connectionLost() > 0 && (
          <p class="note warn" role="status">{t("error.lost", { time: clock(new Date(connectionLost()).toISOString()) })}</p>
        )}
        {who === undefined && <div class="loading" role="status"><span class="spinner" aria-hidden="true" />{t("common.loading")}</div>}
        {who === null && <SignIn ended={ended} onIn={() => void enter()} />}
        {who && <Page who={who} route={route} key={here} />}
      </main>
      <Told />
    </div>
  );
}

render(<App />, document.getElementById("app")!);
