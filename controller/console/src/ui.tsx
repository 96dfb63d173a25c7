// Building blocks of pages.

import type { ComponentChildren } from "preact";
import { useEffect, useId, useRef } from "preact/hooks";
import type { Peering, State, Vpc } from "./api.ts";
import { useFault, Wrong } from "./errors.tsx";
import { isolated, t, type Key } from "./i18n.ts";
import { useQuery } from "./route.ts";
import type { Loaded } from "./store.ts";

/** Loaded content; before that, and after an error, a message. */
export function Show<T>({ loaded, children }: { loaded: Loaded<T>; children: (value: T) => ComponentChildren }) {
  const { value, error, reload } = loaded;
  return (
    <>
      {error && (
        <div class="stack">
          <Wrong error={error} />
          <div><button type="button" class="button" onClick={reload}>{t("common.retry")}</button></div>
        </div>
      )}
      {value === undefined && !error && (
        <Skeleton />
      )}
      {value !== undefined && children(value)}
    </>
  );
}

/** A placeholder for content that is still loading. */
export function Skeleton() {
  return (
    <div class="skeleton" role="status">
      <span class="unseen">{t("common.loading")}</span>
      {[0, 1, 2, 3, 4].map((line) => <span class="bone" aria-hidden="true" key={line} />)}
    </div>
  );
}

export function Empty({ title, hint, children }: { title: string; hint?: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <svg viewBox="0 0 64 40" width="72" height="45" aria-hidden="true">
        <path d="M22 20h20" class="line" /><circle cx="13" cy="20" r="9" /><circle cx="51" cy="20" r="9" />
      </svg>
      <p class="title">{title}</p>
      {hint && <p class="quiet">{hint}</p>}
      {children}
    </div>
  );
}

let entered = false;

/** A page's heading, which is announced when the page is entered. */
export function Heading({ title, intro, children }: { title: string; intro?: string; children?: ComponentChildren }) {
  const heading = useRef<HTMLHeadingElement>(null);
  useEffect(() => {
    document.title = `${isolated(title)} · ${t("app.service")}`;
  }, [title]);
  useEffect(() => {
    // Not when the whole page was just opened: the browser announces it from the top.
    if (entered) heading.current?.focus();
    entered = true;
  }, []);
  return (
    <header class="heading">
      <div>
        <h1 tabIndex={-1} ref={heading}><bdi>{title}</bdi></h1>
        {intro && <p class="quiet">{intro}</p>}
      </div>
      {children && <div class="row">{children}</div>}
    </header>
  );
}

/** The heading of a column by which a table is or can be sorted. */
export interface SortHead { button: ComponentChildren; sorted: "ascending" | "descending" | undefined }

const isSortHead = (head: ComponentChildren | SortHead): head is SortHead => typeof head === "object" && head !== null && "button" in head;

/** A table that scrolls sideways on its own on narrow screens, and can be scrolled by keyboard. */
export function Table({ caption, heads, children }: { caption: string; heads: (ComponentChildren | SortHead)[]; children: ComponentChildren }) {
  return (
    <div class={heads.at(-1) === t("common.actions") ? "table acts" : "table"} role="region" aria-label={caption} tabIndex={0}>
      <table>
        <caption class="unseen">{caption}</caption>
        <thead><tr>{heads.map((head, place) => isSortHead(head)
          ? <th scope="col" key={place} aria-sort={head.sorted}>{head.button}</th>
          : <th scope="col" key={place}>{head}</th>)}</tr></thead>
        <tbody>{children}</tbody>
      </table>
    </div>
  );
}

/** The actions on a row. */
export function RowButton({ words, name, onPress }: { words: string; name: string; onPress: () => void }) {
  return <button type="button" class="link" aria-label={`${words} ${name}`} onClick={onPress}>{words}</button>;
}

const SHAPES: Record<string, string> = {
  pending: "M8 4v4l3 2", provisioning: "M4 8a4 4 0 1 1 4 4", active: "M4.5 8.5l2.5 2.5 4.5-5.5", suspended: "M6 5v6M10 5v6",
  draining: "M4 8h8", rejected: "M5 5l6 6M11 5l-6 6", expired: "M8 4v5M8 11.5v.5", peer_deleted: "M5 5l6 6M11 5l-6 6",
};

export const stateWord = (peering: Pick<Peering, "state" | "role">) =>
  t((peering.state === "pending" ? `state.pending.${peering.role}` : `state.${peering.state}`) as Key);

/** States to choose from, as one side calls them. */
export const stateOptions = (states: State[], role: Peering["role"]): [string, string][] => states.map((state) => [state, stateWord({ state, role })]);

/** A state's appearance: colour, shape and word. */
export function StateBadge({ peering }: { peering: Pick<Peering, "state" | "role"> }) {
  return (
    <span class={`badge ${peering.state}`} data-state={peering.state}>
      <svg viewBox="0 0 16 16" width="14" height="14" aria-hidden="true"><path d={SHAPES[peering.state]} /></svg>
      {stateWord(peering)}
    </span>
  );
}

export function Badge({ look, children }: { look: "good" | "bad" | "warn" | "plain"; children: ComponentChildren }) {
  return <span class={`badge ${look}`}>{children}</span>;
}

interface FieldProps {
  label: string; hint?: string | undefined; needed?: boolean;
  /** The names that the controller has for it, by which a fault is shown beside it. */
  entries?: string[];
  /** What the page itself finds wrong with it. */
  wrong?: string | undefined;
  children: (its: Its) => ComponentChildren;
}

export interface Its { id: string; "aria-describedby"?: string; "aria-invalid"?: "true"; required?: boolean }

const NO_ENTRIES: string[] = [];

export function Field({ label, hint, needed, entries = NO_ENTRIES, wrong, children }: FieldProps) {
  const id = useId();
  const refused = useFault(entries);
  const fault = wrong ?? refused;
  const its: Its = { id };
  const described = [hint && `${id}-hint`, fault && `${id}-fault`].filter(Boolean).join(" ");
  if (described) its["aria-describedby"] = described;
  if (fault) its["aria-invalid"] = "true";
  if (needed) its.required = true;
  return (
    <div class="field">
      <label for={id}>{label}{!needed && <span class="quiet"> ({t("common.optional")})</span>}</label>
      {children(its)}
      {fault && <p class="fault" id={`${id}-fault`} role="alert">{fault}</p>}
      {hint && <p class="hint" id={`${id}-hint`}>{hint}</p>}
    </div>
  );
}

export function Select(
  { value, onPick, options, ...rest }:
  { value: string; onPick: (value: string) => void; options: [string, string][] }
    & Partial<Its> & { "aria-label"?: string },
) {
  return (
    <select {...rest} value={value} onChange={(event) => onPick(event.currentTarget.value)}>
      {options.map(([value, words]) => <option value={value} key={value}>{words}</option>)}
    </select>
  );
}

const WIDE = /[\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe4f\uff00-\uff60]/;

/** A text cut to this many columns, of which characters of East Asian scripts take two. */
export function short(text: string, most: number): string {
  let columns = 0;
  let kept = "";
  for (const character of text) {
    columns += WIDE.test(character) ? 2 : 1;
    if (columns > most) return `${kept}…`;
    kept += character;
  }
  return text;
}

export const vpcOptions = (vpcs: Vpc[]): [string, string][] =>
  [...vpcs].sort((one, other) => one.name.localeCompare(other.name)).map((vpc) => [vpc.vpcId, `${isolated(short(vpc.name, 40))} · ${vpc.cidrs.join(", ")} · ${vpc.vpcId}`]);

/** Some of many, and a way to the others. */
export function Pager({ page, pages, count, onTurn }: { page: number; pages: number; count: number; onTurn: (page: number) => void }) {
  return (
    <div class="row between pager">
      <span class="quiet">{t("common.total", { count })}</span>
      {pages > 1 && (
        <div class="row">
          <button type="button" class="button" disabled={page <= 1} onClick={() => onTurn(page - 1)}>{t("common.previous")}</button>
          <span>{t("common.page", { page, pages })}</span>
          <button type="button" class="button" disabled={page >= pages} onClick={() => onTurn(page + 1)}>{t("common.next")}</button>
        </div>
      )}
    </div>
  );
}

/** How many rows of a list are on a page. */
export const ON_A_PAGE = 20;

interface Search<T> {
  /** What is searched of an item. */
  text: (item: T) => string;
  /** Whether an item passes a filter, by the filter's name in the address. */
  filters: Record<string, (item: T, value: string) => boolean>;
  /** What items are sorted by, by the name in the address; the first is how they stand where nothing else is chosen. */
  sorts?: Record<string, (one: T, other: T) => number>;
  first?: string;
}

export interface Findings<T> {
  shown: T[]; all: T[]; count: number; sort: string; page: number; pages: number; of: (name: string) => string; set: (values: Record<string, string>, as?: "place" | "step") => void;
  clear: () => void;
}

/** The search, the filters and the page of a list. All are in the address. */
export function useFound<T>(items: T[], { text, filters, sorts = {}, first = "" }: Search<T>): Findings<T> {
  const [query, set] = useQuery();
  const of = (name: string) => query.get(name) ?? "";
  const words = of("search").toLowerCase().split(/\s+/).filter(Boolean);
  const found = items
    .filter((item) => Object.entries(filters).every(([name, passes]) => of(name) === "" || passes(item, of(name))))
    .filter((item) => words.every((word) => text(item).toLowerCase().includes(word)));
  const sort = of("sort") || first;
  const order = sorts[sort.replace(/^-/, "")];
  if (order) found.sort((one, other) => (sort.startsWith("-") ? -order(one, other) : order(one, other)));
  const pages = Math.max(1, Math.ceil(found.length / ON_A_PAGE));
  const page = Math.min(Math.max(1, Math.floor(Number(of("page"))) || 1), pages);
  const clear = () => set(Object.fromEntries(["search", "page", ...Object.keys(filters)].map((name) => [name, ""])));
  return { shown: found.slice((page - 1) * ON_A_PAGE, page * ON_A_PAGE), all: found, count: found.length, sort, page, pages, of, set, clear };
}

/** Headings of columns by which a list can be sorted. */
export const sortHeads = <T,>({ sort, set }: Findings<T>) => (by: string, words: string): SortHead => ({
  sorted: sort === by ? "ascending" : sort === `-${by}` ? "descending" : undefined,
  button: (
    <button type="button" class="sort" onClick={() => set({ sort: sort === by ? `-${by}` : by, page: "" }, "step")}>
      {words}{sort === by ? " ↑" : sort === `-${by}` ? " ↓" : ""}
    </button>
  ),
});

/** A list with its search, its filters and its pages. */
export function Found<T>({ found, hint, none, filters, tools, children }: {
  found: Findings<T>; hint: string; none: string; filters: { name: string; words: string; options: [string, string][] }[];
  /** What can be done with the list, at its head. */
  tools?: ComponentChildren;
  children: (shown: T[]) => ComponentChildren;
}) {
  return (
    <div class="stack">
      <form class="filters" role="search" onSubmit={(event) => event.preventDefault()}>
        <input type="search" aria-label={t("common.search")} placeholder={hint} value={found.of("search")}
          onInput={(event) => found.set({ search: event.currentTarget.value, page: "" })} />
        {filters.map(({ name, words, options }) => (
          <Select key={name} aria-label={words} value={found.of(name)} onPick={(value) => found.set({ [name]: value, page: "" })}
            options={[["", `${words}: ${t("common.all")}`], ...options]} />
        ))}
        {tools}
      </form>
      {found.count === 0
        ? <Empty title={none}><button type="button" class="button" onClick={found.clear}>{t("common.clear")}</button></Empty>
        : children(found.shown)}
      <Pager page={found.page} pages={found.pages} count={found.count} onTurn={(page) => found.set({ page: page > 1 ? String(page) : "" }, "step")} />
    </div>
  );
}
