// The command palette: pages, peerings and VPCs by name, with the keyboard.

import { useEffect, useRef, useState } from "preact/hooks";
import { t } from "./i18n.ts";
import { to } from "./route.ts";
import { contentNow, peeringsNow } from "./store.ts";
import { stateWord } from "./ui.tsx";

interface Entry { words: string; about: string; href: string; text: string }

/** How many results are shown; typing more finds others. */
const MOST = 12;

function entries(pages: [string, string][], tenant: boolean): Entry[] {
  const all: Entry[] = pages.map(([page, words]) => ({ words, about: t("palette.page"), href: to(page), text: `${words} ${page}` }));
  if (!tenant) return all;
  all.push({ words: t("create.title"), about: t("common.actions"), href: to("peerings", "create"), text: t("create.title") });
  for (const it of peeringsNow()) {
    all.push({
      words: it.vpcPeeringName, about: `${it.vpcPeeringId} · ${stateWord(it)}`, href: to("peerings", it.vpcInfo.regionId, it.vpcPeeringId),
      text: [it.vpcPeeringName, it.vpcPeeringId, it.vpcInfo.vpcName, it.remoteVpcInfo.vpcName, it.remoteVpcInfo.accountId].join(" "),
    });
  }
  for (const it of contentNow()?.vpcs ?? []) {
    all.push({
      words: it.name, about: `${it.vpcId} · ${it.cidrs.join(", ")}`, href: `${to("vpcs")}?search=${encodeURIComponent(it.vpcId)}`,
      text: [it.name, it.vpcId, ...it.cidrs].join(" "),
    });
  }
  return all;
}

function Panel({ pages, tenant, onClose }: { pages: [string, string][]; tenant: boolean; onClose: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [search, setSearch] = useState("");
  const [at, setAt] = useState(0);
  useEffect(() => dialog.current?.showModal(), []);
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  const found = entries(pages, tenant).filter(({ text }) => words.every((word) => text.toLowerCase().includes(word))).slice(0, MOST);
  const chosen = Math.min(at, found.length - 1);
  const open = (entry: Entry | undefined) => {
    if (!entry) return;
    onClose();
    location.hash = entry.href;
  };
  const press = (event: KeyboardEvent) => {
    if (event.key === "ArrowDown") setAt((chosen + 1) % Math.max(1, found.length));
    else if (event.key === "ArrowUp") setAt((chosen - 1 + found.length) % Math.max(1, found.length));
    else if (event.key === "Enter" && !event.isComposing) open(found[chosen]);
    else return;
    event.preventDefault();
  };
  return (
    <dialog ref={dialog} class="palette" aria-label={t("palette.title")} onClose={onClose}>
      <input type="search" role="combobox" list={undefined} aria-expanded={found.length > 0 ? "true" : "false"} aria-controls="palette" aria-autocomplete="list"
        aria-activedescendant={found.length > 0 ? `palette-${chosen}` : ""} aria-label={t("palette.title")} placeholder={t("palette.hint")}
        value={search} onKeyDown={press} onInput={(event) => { setSearch(event.currentTarget.value); setAt(0); }} />
      {found.length === 0 && <p class="quiet" role="status">{t("palette.none")}</p>}
      <ul role="listbox" id="palette" aria-label={t("palette.title")} hidden={found.length === 0}>
        {found.map((entry, place) => (
          <li role="option" id={`palette-${place}`} key={entry.href + entry.words} aria-selected={place === chosen ? "true" : "false"}
            onMouseEnter={() => setAt(place)} onClick={() => open(entry)}>
            <bdi class="cut">{entry.words}</bdi> <span class="quiet small cut">{entry.about}</span>
          </li>
        ))}
      </ul>
    </dialog>
  );
}

/** The button, and the keys, that open it: Ctrl+K, or ⌘K. */
export function Palette({ pages, tenant }: { pages: [string, string][]; tenant: boolean }) {
  const [open, setOpen] = useState(false);
  useEffect(() => {
    const press = (event: KeyboardEvent) => {
      // Not above a dialog that waits for a decision.
      if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "k" || document.querySelector("dialog[open]")) return;
      event.preventDefault();
      setOpen(true);
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  }, []);
  return (
    <>
      <button type="button" class="button find" aria-keyshortcuts="Control+K Meta+K" onClick={() => setOpen(true)}>{t("common.search")} <kbd>{/Mac/.test(navigator.userAgent) ? "⌘K" : "Ctrl K"}</kbd></button>
      {open && <Panel pages={pages} tenant={tenant} onClose={() => setOpen(false)} />}
    </>
  );
}
