// Ids and CIDRs, with a button that copies them.

import { useState } from "preact/hooks";
import { t } from "./i18n.ts";

/** Copies a text, and says whether it succeeded. If a page has no access to the clipboard, as without TLS, the selected text can be copied. */
async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const before = document.activeElement;
    const area = document.createElement("textarea");
    area.value = text;
    (document.querySelector("dialog[open]") ?? document.body).append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    if (before instanceof HTMLElement) before.focus();
    return done;
  }
}

export function Copy({ text }: { text: string }) {
  const [done, setDone] = useState<boolean>();
  const press = async () => {
    setDone(await copy(text));
    setTimeout(() => setDone(undefined), 1500);
  };
  const words = t(done === undefined ? "common.copy" : done ? "common.copied" : "common.notCopied");
  return (
    <button type="button" class={done ? "copy done" : "copy"} title={words} aria-label={`${words} ${text}`} onClick={() => void press()}>
      <svg viewBox="0 0 16 16" width="14" height="14" aria-hidden="true">
        <path d={done ? "M3 8.5l3.2 3.2L13 5" : done === false ? "M4 4l8 8M12 4l-8 8" : "M6 6h7v7H6zM10 6V3H3v7h3"} />
      </svg>
    </button>
  );
}

export const Id = ({ id }: { id: string }) => <span class="id nowrap">{id}<Copy text={id} /></span>;

export const Cidr = ({ cidr, clash }: { cidr: string; clash?: boolean }) =>
  <span class={clash ? "cidr clash" : "cidr"}><code>{cidr}</code>{clash && <span class="small"> {t("requests.overlaps")}</span>}<Copy text={cidr} /></span>;
