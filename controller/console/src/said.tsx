// Messages of kernels, agents and other servers, which are in English whatever the page's language: the reason in the reader's language if it is known,
// and then the original, marked as such.

import { chosen, t, tOr, type Key } from "./i18n.ts";

/** Messages of the controller itself, with complete translations. */
const WHOLE: [RegExp, Key][] = [
  [/^its last report is older than (?<seconds>\d+) s$/, "said.reportOld"],
  [/^it answered (?<status>\d{3}[^,]*), and redirects are not followed$/, "said.redirects"],
  [/^it answered (?<status>\d{3}.*)$/, "said.answered"],
  [/^its name leads to no address that webhooks may reach$/, "said.address"],
];
/** Messages of others, of which only the reason is translated. */
const REASONS: [RegExp, Key][] = [
  [/timed out|deadline has elapsed/i, "said.timeout"],
  [/dns error|failed to lookup/i, "said.dns"],
  [/invalid peer certificate|certificate (verify|has expired|is not yet valid|unknown)/i, "said.certificate"],
  [/connection refused/i, "said.refused"],
];

/** The translated reason of a message, and whether it is complete. */
function worded(text: string): { words: string; whole: boolean } {
  for (const [pattern, key] of WHOLE) {
    const found = pattern.exec(text);
    if (found) return { words: t(key, found.groups), whole: true };
  }
  const key = REASONS.find(([pattern]) => pattern.test(text))?.[1];
  const [, errno = ""] = /\(os error (\d+)\)/.exec(text) ?? [];
  return { words: key ? t(key) : tOr(`errno.${errno}`, ""), whole: false };
}

export function Said({ text }: { text: string }) {
  if (chosen() === "en") return <bdi>{text}</bdi>;
  const { words, whole } = worded(text);
  return (
    <>
      {words}
      {!whole && <div><span class="quiet">{t("said.original")}：</span><q lang="en"><bdi>{text}</bdi></q></div>}
    </>
  );
}
