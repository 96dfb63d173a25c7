// The path trace: why one address reaches another, or does not, by the model and the hosts at both ends.

import { useEffect, useState } from "preact/hooks";
import { perform, regional, type Path, type Step, type Who } from "../api.ts";
import { AsCall, commandLine, regionalCommandLine, type Call, type Option } from "../calls.tsx";
import { overlap } from "../cidr.ts";
import { Faulty, particulars, valuesIn, Wrong } from "../errors.tsx";
import { chosen, mbit, t, tOr } from "../i18n.ts";
import { to, useQuery } from "../route.ts";
import { Said } from "../said.tsx";
import { useContent } from "../store.ts";
import { Badge, Field, Heading, Select, Skeleton, Table, vpcOptions } from "../ui.tsx";

const PROTOCOLS = ["", "tcp", "udp", "icmp"];
const LOOKS = { ok: "good", differs: "warn", unknown: "warn", stops: "bad" } as const;

interface Query { region: string; source: string; destination: string; vpc: string; protocol: string; port: string }

const hasPort = (protocol: string) => protocol === "tcp" || protocol === "udp";

function callOf(operator: boolean, { region, source, destination, vpc, protocol, port }: Query): Call {
  const said = hasPort(protocol) && port !== "" ? { protocol, port: Number(port) } : { protocol: protocol || undefined };
  const service = protocol && (hasPort(protocol) && port !== "" ? `${protocol}/${port}` : protocol);
  const options: Option[] = [...(vpc ? [["--vpc", vpc] as Option] : []), ...(service ? [["--port", service] as Option] : [])];
  const given = [source, destination];
  return {
    method: "POST", path: `${operator ? "/admin/v1" : regional(region)}/paths`, body: { source, destination, vpcId: vpc || undefined, ...said },
    cli: operator ? commandLine("path", given, options) : regionalCommandLine(region, "path", given, options),
  };
}

/** The name of a step, in the reader's language. */
const titleOf = (step: Step) => tOr(`path.step.${step.step}`, step.title);

/** The problem of a step: in the controller's words or, in another language, by the step and a peering's state. */
function reasonOf({ step, verdict, observed, reason = "" }: Step): string {
  if (chosen() === "en" && reason !== "") return reason;
  if (verdict === "unknown" && step !== "host") return t("path.reason.unknown");
  return tOr(`path.reason.${step}.${observed ?? ""}`, tOr(`path.reason.${step}`, particulars(reason)));
}

/** What was examined, and what was found. In another language than the controller's, the values in its words; operators see their kernels' words. */
function foundOf({ step, object = "", observed = "" }: Step, operator: boolean): string {
  if (operator || chosen() === "en") return [object, observed].filter(Boolean).join(": ");
  if (step === "bandwidth") return mbit(Number(/\d+/.exec(object)?.[0] ?? 0) || null);
  return [object.includes(" ") ? valuesIn(object) : object, tOr(`state.${observed}`, "")].filter(Boolean).join("：");
}

/** Who can fix a step, as accounts and as operators call them. */
function fixerOf({ fixableBy, mend }: Step, operator: boolean): string {
  const who = fixableBy ?? mend ?? "";
  return who && (operator ? tOr(`path.told.${who}`, who) : tOr(`path.by.${who}`, who));
}

function Verdict({ path, operator }: { path: Path; operator: boolean }) {
  const { source, destination, reaches, firstWrong, steps } = path;
  const values = { source, destination };
  if (reaches && firstWrong === null) return <p class="note good" role="status">{t("path.reaches", { ...values, count: steps.length })}</p>;
  if (reaches) return <p class="note warn" role="status">{t("path.reachesBut", values)}</p>;
  const step = firstWrong === null ? undefined : steps[firstWrong];
  return (
    <div class={`note ${reaches === false ? "bad" : "warn"}`} role="status">
      <p>{t(reaches === false ? "path.stops" : "path.unknown", values)}</p>
      {step && <p>{reasonOf(step) ? t("path.because", { step: titleOf(step), why: reasonOf(step) }) : titleOf(step)}</p>}
      {step && fixerOf(step, operator) && <p>{t("path.fixableBy", { who: fixerOf(step, operator) })}</p>}
    </div>
  );
}

function Steps({ path, operator }: { path: Path; operator: boolean }) {
  const [query, setQuery] = useQuery();
  const all = query.get("steps") === "all" || path.firstWrong === null;
  const shown = path.steps.map((step, place) => ({ step, place })).filter(({ step }) => all || step.verdict !== "ok");
  return (
    <section class="stack">
      <div class="row between">
        <h2>{t("path.steps")}</h2>
        {path.firstWrong !== null && (
          <label class="check"><input type="checkbox" checked={all}
            onChange={(event) => setQuery({ steps: event.currentTarget.checked ? "all" : "" })} />{t("path.all", { count: path.steps.length })}</label>
        )}
      </div>
      <Table caption={t("path.steps")} heads={["#", t("path.verdict"), t("path.step"), t("path.direction"), t("path.side"),
        ...(operator ? [t("hosts.host")] : []), t("path.found"), t("path.fix")]}>
        {shown.map(({ step, place }) => (
          <tr key={place}>
            <td class="number">{place + 1}</td>
            <td><Badge look={LOOKS[step.verdict] ?? "plain"}>{tOr(`path.verdict.${step.verdict}`, step.verdict)}</Badge></td>
            <th scope="row">{titleOf(step)}</th>
            <td>{step.direction ? tOr(`path.direction.${step.direction}`, step.direction) : t("common.none")}</td>
            <td>{step.side ? tOr(`path.side.${step.side}`, step.side) : t("common.none")}</td>
            {operator && <td>{step.host ? <a href={to("hosts", step.host)}>{step.host}</a> : t("common.none")}</td>}
            <td class="said">
              {foundOf(step, operator) && <div><code><bdi>{foundOf(step, operator)}</bdi></code></div>}
              {step.verdict !== "ok" && <div><bdi>{reasonOf(step)}</bdi></div>}
              {step.verdict !== "ok" && operator && chosen() !== "en" && step.reason && <div><Said text={step.reason} /></div>}
              {step.expected && <div>{t("path.expected")} <code><bdi>{step.expected}</bdi></code></div>}
            </td>
            <td>{fixerOf(step, operator) || t("common.none")}</td>
          </tr>
        ))}
      </Table>
    </section>
  );
}

export function PathTrace({ who }: { who: Who }) {
  const operator = who.role === "operator";
  const { value: content } = useContent();
  const [query, setQuery] = useQuery();
  const of = (name: string) => query.get(name) ?? "";
  const asked: Query = { region: of("region"), source: of("source"), destination: of("destination"),
    vpc: of("vpc"), protocol: PROTOCOLS.find((it) => it === of("protocol")) ?? "", port: of("port") };
  const [form, setForm] = useState(asked);
  const [again, setAgain] = useState(0);
  const [found, setFound] = useState<{ key: string; path?: Path; error?: Error }>();
  // Until another one is chosen: the region of a VPC with the source, or any with a VPC.
  const vpcs = content?.vpcs ?? [];
  const likely = vpcs.find((vpc) => vpc.cidrs.some((cidr) => overlap(cidr, form.source.trim()))) ?? vpcs[0];
  const region = form.region || (likely?.region ?? who.regions[0] ?? "");
  const change = (change: Partial<Query>) => setForm((old) => ({ ...old, ...change }));
  const complete = asked.source !== "" && asked.destination !== "" && (operator || asked.region !== "");
  const key = JSON.stringify([asked, again]);
  // The query is in the address, so that links contain it.
  useEffect(() => {
    setForm(asked);
    if (!complete) return;
    let stale = false;
    perform<{ path: Path }>(callOf(operator, asked)).then(
      ({ path }) => stale || setFound({ key, path }), (error: Error) => stale || setFound({ key, error }));
    return () => { stale = true; };
  }, [key, who]);
  const now = found?.key === key ? found : undefined;
  const submit = (event: Event) => {
    event.preventDefault();
    setQuery({ ...form, region: operator ? "" : region, source: form.source.trim(), destination: form.destination.trim(), vpc: form.vpc.trim(), port: hasPort(form.protocol) ? form.port : "" }, "step");
    setAgain((count) => count + 1);
  };
  const text = (name: "source" | "destination" | "vpc") => ({
    autocomplete: "off", spellcheck: false, value: form[name], onInput: (event: { currentTarget: HTMLInputElement }) => change({ [name]: event.currentTarget.value }),
  });
  return (
    <>
      <Heading title={t("nav.path")} intro={t("path.intro")} />
      <div class="stack">
      <Faulty error={now?.error}>
        <form class="card stack form" onSubmit={submit}>
          {!operator && who.regions.length > 1 && (
            <Field label={t("create.ownRegion")} needed entries={["regionId"]}>
              {(its) => <Select {...its} value={region} onPick={(region) => change({ region, vpc: "" })} options={who.regions.map((id) => [id, id])} />}
            </Field>
          )}
          <Field label={t("path.source")} hint={t("path.sourceHint")} needed entries={["source"]}>{(its) => <input {...its} {...text("source")} />}</Field>
          <Field label={t("path.destination")} hint={t("path.destinationHint")} needed entries={["destination"]}>
            {(its) => <input {...its} {...text("destination")} />}
          </Field>
          <Field label={t("path.vpc")} hint={t("path.vpcHint")} entries={["vpcId"]}>
            {(its) => operator ? <input {...its} {...text("vpc")} /> : (
              <Select {...its} value={form.vpc} onPick={(vpc) => change({ vpc })}
                options={[["", t("path.any")], ...vpcOptions(vpcs.filter((it) => it.region === region))]} />
            )}
          </Field>
          <Field label={t("path.protocol")} entries={["protocol"]}>
            {(its) => <Select {...its} value={form.protocol} onPick={(protocol) => change({ protocol })}
              options={PROTOCOLS.map((it) => [it, it === "" ? t("path.any") : it.toUpperCase()])} />}
          </Field>
          {hasPort(form.protocol) && (
            <Field label={t("path.port")} entries={["port"]}>
              {(its) => <input {...its} type="number" min={1} max={65535} step={1} value={form.port} onInput={(event) => change({ port: event.currentTarget.value })} />}
            </Field>
          )}
          {now?.error && <Wrong error={now.error} />}
          <AsCall calls={[callOf(operator, { ...form, region })]} />
          <div class="row end"><button type="submit" class="button primary">{t("path.trace")}</button></div>
        </form>
      </Faulty>
      {complete && !now && <Skeleton />}
      {now?.path && <Verdict path={now.path} operator={operator} />}
      {now?.path?.vpcPeeringId && <p>{t("billing.peering")}:{" "}
        <a class="id" href={operator ? to("peerings", now.path.vpcPeeringId) : to("peerings", asked.region, now.path.vpcPeeringId)}>{now.path.vpcPeeringId}</a></p>}
      {now?.path && <Steps path={now.path} operator={operator} />}
      </div>
    </>
  );
}
