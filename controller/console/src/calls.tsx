// What the console is about to do, as a command line and as a call of the API.

import { useState } from "preact/hooks";
import { Copy } from "./copy.tsx";
import { t } from "./i18n.ts";

export interface Call { method: string; path: string; body?: unknown; cli?: string }

/** A word quoted for a shell. A `=` at the beginning has a meaning in zsh. */
const word = (text: string) => (/^[\w./:@%+,-][\w./:@%+,=-]*$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

const startsLikeAnOption = (text: string) => text.startsWith("-");

/** An option's name and its value, if it has one. */
export type Option = [name: string, value?: string];

/** A command line: a command, its arguments, and its options. Arguments that look like options follow `--`. */
export function commandLine(command: string, given: string[] = [], options: Option[] = []): string {
  const told = options.map(([name, value]) =>
    value === undefined ? name : startsLikeAnOption(value) ? `${name}=${word(value)}` : `${name} ${word(value)}`);
  const words = given.map(word);
  return ["cps-peering", command, ...(given.some(startsLikeAnOption) ? [...told, "--", ...words] : [...words, ...told])].join(" ");
}

/** The same in a region. */
export const regionalCommandLine = (region: string, command: string, given: string[] = [], options: Option[] = []) =>
  commandLine(`--region ${word(region)} ${command}`, given, options);

/** As a request with `curl`, whose token is in the environment. */
function curl({ method, path, body }: Call): string {
  const data = body === undefined ? "" : ` \\\n  --json ${word(JSON.stringify(body))}`;
  return `curl -X ${method} ${word(location.origin + path)} \\\n  -H "Authorization: Bearer $CPS_PEERING_TOKEN"${data}`;
}

export function AsCall({ calls }: { calls: Call[] }) {
  const [open, setOpen] = useState(false);
  const lines = [["CLI", calls.map((call) => call.cli).filter(Boolean).join("\n")], ["API", calls.map(curl).join("\n")]] as const;
  return (
    <details class="calls" onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>{t("calls.title")}</summary>
      {open && lines.filter(([, text]) => text !== "").map(([name, text]) => (
        <div key={name} class="row between">
          <span class="quiet small">{name}</span><Copy text={text} />
          <pre tabIndex={0} aria-label={name}>{text}</pre>
        </div>
      ))}
    </details>
  );
}
