// Webhooks, and their delivery status.

import { useState } from "preact/hooks";
import { get, perform, regional, type Who } from "../api.ts";
import { commandLine, regionalCommandLine, type Call, type Option } from "../calls.tsx";
import { Copy, Id } from "../copy.tsx";
import { Dialog } from "../dialog.tsx";
import { t, time, tOr, type Key } from "../i18n.ts";
import { Said } from "../said.tsx";
import { changed, useLoaded } from "../store.ts";
import { carryOut } from "../told.tsx";
import { Badge, Empty, Field, Found, Heading, RowButton, Select, Show, Table, useFound } from "../ui.tsx";

interface Webhook {
  webhookId: string; url: string; types: string[]; enabled: boolean; createdTime: string; state: string;
  lastDelivered: string | null; failures: number; lastError: string | null; nextAttempt: string | null; expired: number;
}
/** With the region it belongs to; operators' belong to none. */
interface Placed { region: string | null; webhook: Webhook }

const OF_PEERINGS = ["peering.requested", "peering.created", "peering.accepted", "peering.rejected", "peering.expired", "peering.active",
  "peering.outOfSync", "peering.inSync", "peering.bandwidthChanged", "peering.modified", "peering.cidrsChanged",
  "peering.prefixesChanged", "peering.suspended", "peering.resumed", "peering.deleted", "peering.drained", "peering.recordDeleted", "account.chargeStatusChanged"];
const OF_HOSTS = ["host.added", "host.removed", "host.drained", "host.uncordoned", "host.maintenanceBegun", "host.maintenanceEnded", "host.paused", "host.resumed", "host.outOfSync", "host.inSync",
  "rollout.stopped", "rollout.finished", "rollout.withdrawn"];

const pathOf = (region: string | null, id?: string) =>
  `${region === null ? "/admin/v1" : regional(region)}/webhooks${id === undefined ? "" : `/${encodeURIComponent(id)}`}`;
const cli = (region: string | null, command: string, given: string[], options: Option[] = []) =>
  region === null ? commandLine(`webhook ${command}`, given, options) : regionalCommandLine(region, `webhook ${command}`, given, options);
const typeOptions = (types: string[]) => types.map((type): Option => ["--type", type]);

/** An event type, with its object: its own words are those of a history. */
function typeWord(type: string): string {
  const kind = type.split(".")[0]!;
  return `${tOr(`webhooks.of.${kind}`, kind)} · ${tOr(`event.${type}`, type)}`;
}

function Types({ offered, chosen, onChoose }: { offered: string[]; chosen: string[]; onChoose: (types: string[]) => void }) {
  return (
    <fieldset class="types">
      <legend>{t("webhooks.types")}</legend>
      <p class="hint">{t("webhooks.typesHint")}</p>
      <div class="columns">
        {offered.map((type) => (
          <label class="check" key={type}>
            <input type="checkbox" checked={chosen.includes(type)}
              onChange={(event) => onChoose(event.currentTarget.checked ? [...chosen, type] : chosen.filter((it) => it !== type))} />
            <span>{typeWord(type)} <span class="id">{type}</span></span>
          </label>
        ))}
      </div>
    </fieldset>
  );
}

/** The secret is shown once. */
function Secret({ secret, onClose }: { secret: string; onClose: () => void }) {
  return (
    <Dialog title={t("webhooks.secret")} onClose={onClose}>
      <p class="note warn">{t("webhooks.secretOnce")}</p>
      <p class="row"><code class="secret">{secret}</code><Copy text={secret} /></p>
      <p class="quiet">{t("webhooks.signed")}</p>
    </Dialog>
  );
}

function Make({ who, onClose }: { who: Who; onClose: () => void }) {
  const operator = who.role === "operator";
  const [region, setRegion] = useState(operator ? null : who.regions[0] ?? "");
  const [url, setUrl] = useState("https://");
  const [types, setTypes] = useState<string[]>([]);
  const [secret, setSecret] = useState<string>();
  const call: Call = {
    method: "POST", path: pathOf(region), body: { url: url.trim(), types }, cli: cli(region, "create", [url.trim()], typeOptions(types)),
  };
  const make = async () => {
    const made = await perform<{ secret: string }>(call);
    changed();
    setSecret(made.secret);
    return "stay" as const;
  };
  if (secret !== undefined) return <Secret key="secret" secret={secret} onClose={onClose} />;
  return (
    <Dialog key="make" wide title={t("webhooks.create")} onConfirm={make} onClose={onClose} calls={[call]}>
      {region !== null && (
        <Field label={t("common.region")} needed>
          {(its) => <Select {...its} value={region} onPick={setRegion} options={who.regions.map((id) => [id, id])} />}
        </Field>
      )}
      <Field label="URL" hint={t("webhooks.urlHint")} entries={["url"]} needed>
        {(its) => <input {...its} type="url" maxLength={512} autocomplete="off" value={url} onInput={(event) => setUrl(event.currentTarget.value)} />}
      </Field>
      <Types offered={operator ? [...OF_PEERINGS, ...OF_HOSTS] : OF_PEERINGS} chosen={types} onChoose={setTypes} />
    </Dialog>
  );
}

function Change({ of: { region, webhook }, onClose }: { of: Placed; onClose: () => void }) {
  const [url, setUrl] = useState(webhook.url);
  const [types, setTypes] = useState(webhook.types);
  const call: Call = {
    method: "PUT", path: pathOf(region, webhook.webhookId), body: { url: url.trim(), types },
    cli: cli(region, "modify", [webhook.webhookId],
      [["--url", url.trim()], ...(types.length === 0 ? [["--all-types"] as Option] : typeOptions(types))]),
  };
  const change = async () => void (await carryOut(call, t("rename.done")));
  return (
    <Dialog wide title={t("webhooks.change")} confirm={t("common.save")} onConfirm={change} onClose={onClose} calls={[call]}>
      <p class="id">{webhook.webhookId}</p>
      <Field label="URL" hint={t("webhooks.urlHint")} entries={["url"]} needed>
        {(its) => <input {...its} type="url" maxLength={512} autocomplete="off" value={url} onInput={(event) => setUrl(event.currentTarget.value)} />}
      </Field>
      <Types offered={region === null ? [...OF_PEERINGS, ...OF_HOSTS] : OF_PEERINGS} chosen={types} onChoose={setTypes} />
    </Dialog>
  );
}

function Toggle({ of: { region, webhook }, onClose }: { of: Placed; onClose: () => void }) {
  const on = !webhook.enabled;
  const call: Call = {
    method: "PUT", path: pathOf(region, webhook.webhookId), body: { enabled: on }, cli: cli(region, on ? "enable" : "disable", [webhook.webhookId]),
  };
  const toggle = async () => void (await carryOut(call, t("rename.done")));
  return (
    <Dialog title={t(on ? "webhooks.enable" : "webhooks.disable")} onConfirm={toggle} onClose={onClose} calls={[call]}>
      <p class="about"><bdi>{webhook.url}</bdi></p>
      <p>{t(on ? "webhooks.enableText" : "webhooks.disableText")}</p>
    </Dialog>
  );
}

function Remove({ of: { region, webhook }, onClose }: { of: Placed; onClose: () => void }) {
  const call: Call = { method: "DELETE", path: pathOf(region, webhook.webhookId), cli: cli(region, "delete", [webhook.webhookId]) };
  const remove = async () => void (await carryOut(call, t("webhooks.deleted")));
  return (
    <Dialog title={t("webhooks.delete")} confirm={t("common.delete")} danger onConfirm={remove} onClose={onClose} calls={[call]}>
      <p class="about"><bdi>{webhook.url}</bdi></p>
      <p>{t("webhooks.deleteText")}</p>
    </Dialog>
  );
}

function Standing({ webhook }: { webhook: Webhook }) {
  const look = webhook.state === "working" ? "good" : webhook.state === "failing" ? "bad" : "plain";
  return (
    <>
      <Badge look={look}>{tOr(`webhooks.state.${webhook.state}`, webhook.state)}</Badge>
      {webhook.state === "failing" && (
        <div class="small">
          {t("webhooks.failures", { count: webhook.failures })}
          {webhook.nextAttempt && <> · {t("webhooks.next", { time: time(webhook.nextAttempt) })}</>}
          {webhook.lastError && <div class="said"><Said text={webhook.lastError} /></div>}
        </div>
      )}
      {webhook.expired > 0 && <div class="small">{t("webhooks.expired", { count: webhook.expired })}</div>}
    </>
  );
}

const DIALOGS = { change: Change, toggle: Toggle, remove: Remove };
/** How often the delivery status is reloaded, in milliseconds. */
const LOOKED_AT = 15_000;

export function Webhooks({ who }: { who: Who }) {
  const places = who.role === "operator" ? [null] : who.regions;
  const loaded = useLoaded(`webhooks ${places.join()}`, async (background) => {
    const all = await Promise.all(places.map((region) => get<{ webhooks: Webhook[] }>(pathOf(region), background)));
    return all.flatMap(({ webhooks }, place) => webhooks.map((webhook): Placed => ({ region: places[place]!, webhook })));
  }, LOOKED_AT);
  const [making, setMaking] = useState(false);
  const [doing, setDoing] = useState<{ what: keyof typeof DIALOGS; of: Placed }>();
  const found = useFound(loaded.value ?? [], {
    text: ({ region, webhook }) => [webhook.url, webhook.webhookId, region, ...webhook.types].join(" "),
    filters: { state: ({ webhook }, value) => webhook.state === value },
  });
  const Chosen = doing && DIALOGS[doing.what];
  const link = (what: keyof typeof DIALOGS, words: string, of: Placed) =>
    <RowButton words={words} name={of.webhook.webhookId} onPress={() => setDoing({ what, of })} />;
  return (
    <>
      <Heading title={t("nav.webhooks")} intro={t("webhooks.intro")}>
        <button type="button" class="button primary" onClick={() => setMaking(true)}>{t("webhooks.create")}</button>
      </Heading>
      <Show loaded={loaded}>
        {(all) => all.length === 0 ? <Empty title={t("webhooks.empty")} hint={t("webhooks.emptyHint")} /> : (
          <Found found={found} hint={t("webhooks.searchHint")} none={t("webhooks.noMatch")} filters={[{ name: "state", words: t("list.state"),
            options: ["working", "failing", "disabled"].map((it) => [it, t(`webhooks.state.${it}` as Key)]) }]}>
            {(shown) => (
              <Table caption={t("nav.webhooks")} heads={["URL / ID", t("common.region"), t("webhooks.types"), t("list.state"), t("webhooks.lastDelivered"), t("common.actions")]}>
                {shown.map((it) => (
                  <tr key={it.webhook.webhookId}>
                    <th scope="row"><span class="cut" title={it.webhook.url}><bdi>{it.webhook.url}</bdi></span><Id id={it.webhook.webhookId} /></th>
                    <td>{it.region ?? t("webhooks.everything")}</td>
                    <td class="small">{it.webhook.types.length === 0 ? t("common.all") : it.webhook.types.map((type) => <div key={type}>{typeWord(type)}</div>)}</td>
                    <td><Standing webhook={it.webhook} /></td>
                    <td class="small">{time(it.webhook.lastDelivered)}</td>
                    <td>
                      <div class="links">
                        {link("change", t("common.change"), it)}
                        {link("toggle", t(it.webhook.enabled ? "webhooks.disable" : "webhooks.enable"), it)}
                        {link("remove", t("common.delete"), it)}
                      </div>
                    </td>
                  </tr>
                ))}
              </Table>
            )}
          </Found>
        )}
      </Show>
      {making && <Make who={who} onClose={() => setMaking(false)} />}
      {doing && Chosen && <Chosen of={doing.of} onClose={() => setDoing(undefined)} />}
    </>
  );
}
