// Traffic over time, with the bandwidth cap.

import { useEffect, useState } from "preact/hooks";
import type { Traffic } from "./api.ts";
import { bytes, clock, mbit, number, t, unit } from "./i18n.ts";

/** The width of a chart: on a large screen it fills its card without becoming higher. */
const WIDTH = { normal: 720, large: 1440 };
const LARGE = "(min-width: 1500px)";
const HEIGHT = 200;
const LEFT = 56;
const BOTTOM = 22;
const TOP = 10;
const HOUR_MS = 60 * 60 * 1000;
export const RANGES = { "1h": HOUR_MS, "24h": 24 * HOUR_MS, "7d": 168 * HOUR_MS, "30d": 720 * HOUR_MS } as const;
export type Range = keyof typeof RANGES;

const percent = (part: number) => `${number(part * 100, part < 0.1 ? 1 : 0)} %`;

/** A label of the time axis: the time of day, or the day if the axis has several. */
const moment = (at: number, range: Range) =>
  new Intl.DateTimeFormat(undefined, range === "1h" || range === "24h" ? { hour: "2-digit", minute: "2-digit", hour12: false } : { month: "numeric", day: "numeric" }).format(at);

function useLarge(): boolean {
  const [large, setLarge] = useState(() => matchMedia(LARGE).matches);
  useEffect(() => {
    const query = matchMedia(LARGE);
    const changed = () => setLarge(query.matches);
    query.addEventListener("change", changed);
    return () => query.removeEventListener("change", changed);
  }, []);
  return large;
}

export function Chart({ traffic, cap, range }: { traffic: Traffic | null; cap: number | null; range: Range }) {
  const width = useLarge() ? WIDTH.large : WIDTH.normal;
  if (!traffic || traffic.samples.length === 0) return <p class="quiet">{t("traffic.none")}</p>;
  const rate = (count: number) => (count * 8) / traffic.interval / 1e6;
  const points = traffic.samples.map((sample) =>
    ({ at: Date.parse(sample.time), out: rate(sample.outBytes), in: rate(sample.inBytes) }));
  const last = points.at(-1)!.at;
  const span = RANGES[range];
  const most = Math.max(cap ?? 0, ...points.map((point) => Math.max(point.out, point.in)), 0.001) * 1.1;
  const x = (at: number) => LEFT + (1 - (last - at) / span) * (width - LEFT - 8);
  const y = (value: number) => TOP + (1 - value / most) * (HEIGHT - TOP - BOTTOM);
  const line = (which: "out" | "in") =>
    points.map((point, index) => `${index === 0 ? "M" : "L"}${x(point.at).toFixed(1)} ${y(point[which]).toFixed(1)}`).join("");
  const peak = (which: "out" | "in") => mbit(Math.max(...points.map((point) => point[which])));
  const drops = traffic.samples.reduce((sum, sample) => sum + sample.outDrops, 0);
  const summary = t("traffic.summary", { out: peak("out"), in: peak("in"), cap: mbit(cap) });
  return (
    <figure>
      <svg viewBox={`0 0 ${width} ${HEIGHT}`} class="chart" role="img" aria-label={summary}>
        {[0, 0.25, 0.5, 0.75, 1].map((part) => {
          const value = (most / 1.1) * part;
          return (
            <g key={part}>
              <line x1={LEFT} x2={width - 8} y1={y(value)} y2={y(value)} class="grid" />
              <text x={LEFT - 6} y={y(value) + 4} text-anchor="end">{number(value, most < 10 ? 2 : 0)}</text>
            </g>
          );
        })}
        {[1, 0.75, 0.5, 0.25, 0].map((part) => (
          <text key={part} x={x(last - part * span)} y={HEIGHT - 6} text-anchor={part === 0 ? "end" : part === 1 ? "start" : "middle"}>
            {moment(last - part * span, range)}
          </text>
        ))}
        {points.map((point, index) => (
          <rect key={point.at} x={x(index > 0 ? points[index - 1]!.at : point.at - traffic.interval * 1000)} y={TOP}
            width={Math.max(1, x(point.at) - x(point.at - traffic.interval * 1000))} height={HEIGHT - TOP - BOTTOM} class="hover">
            <title>{`${clock(new Date(point.at).toISOString())}: ${t("traffic.out")} ${mbit(point.out)}, ${t("traffic.in")} ${mbit(point.in)}`}</title>
          </rect>
        ))}
        {cap !== null && <line x1={LEFT} x2={width - 8} y1={y(cap)} y2={y(cap)} class="cap" />}
        <path d={line("in")} class="in" />
        <path d={line("out")} class="out" />
      </svg>
      <figcaption>
        <span class="key out">{t("traffic.out")}</span>
        <span class="key in">{t("traffic.in")}</span>
        {cap !== null && <span class="quiet">{t("traffic.use", { out: percent(points.at(-1)!.out / cap), in: percent(points.at(-1)!.in / cap) })}</span>}
        {cap !== null && <span class="key cap">{t("traffic.cap")} {mbit(cap)}</span>}
        <span class="quiet">{unit()} · {summary}</span>
        <span class="quiet">{t("traffic.total", { out: bytes(traffic.total.outBytes), in: bytes(traffic.total.inBytes) })}</span>
        {drops > 0 && <span class="quiet">{t("traffic.drops", { count: number(drops) })}</span>}
      </figcaption>
    </figure>
  );
}
