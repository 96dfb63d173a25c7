// What passed in the last hour beside what may pass.

import type { Traffic } from "./api.ts";
import { bytes, mbit, number, t, time } from "./i18n.ts";

const WIDTH = 720;
const HEIGHT = 200;
const LEFT = 56;
const BOTTOM = 22;
const TOP = 10;
const HOUR_MS = 60 * 60 * 1000;

export function Chart({ traffic, cap }: { traffic: Traffic | null; cap: number | null }) {
  if (!traffic || traffic.samples.length === 0) return <p class="quiet">{t("traffic.none")}</p>;
  const rate = (count: number) => (count * 8) / traffic.interval / 1e6;
  const points = traffic.samples.map((sample) =>
    ({ at: Date.parse(sample.time), out: rate(sample.outBytes), in: rate(sample.inBytes) }));
  const last = points.at(-1)!.at;
  const most = Math.max(cap ?? 0, ...points.map((point) => Math.max(point.out, point.in)), 0.001) * 1.1;
  const x = (at: number) => LEFT + (1 - (last - at) / HOUR_MS) * (WIDTH - LEFT - 8);
  const y = (value: number) => TOP + (1 - value / most) * (HEIGHT - TOP - BOTTOM);
  const line = (which: "out" | "in") =>
    points.map((point, index) => `${index === 0 ? "M" : "L"}${x(point.at).toFixed(1)} ${y(point[which]).toFixed(1)}`).join("");
  const peak = (which: "out" | "in") => mbit(Math.max(...points.map((point) => point[which])));
  const drops = traffic.samples.reduce((sum, sample) => sum + sample.outDrops, 0);
  const summary = t("traffic.summary", { out: peak("out"), in: peak("in"), cap: mbit(cap) });
  return (
    <figure>
      <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} class="chart" role="img" aria-label={summary}>
        {[0, 0.25, 0.5, 0.75, 1].map((part) => {
          const value = (most / 1.1) * part;
          return (
            <g key={part}>
              <line x1={LEFT} x2={WIDTH - 8} y1={y(value)} y2={y(value)} class="grid" />
              <text x={LEFT - 6} y={y(value) + 4} text-anchor="end">{number(value, most < 10 ? 2 : 0)}</text>
            </g>
          );
        })}
        {[60, 45, 30, 15, 0].map((minutes) => (
          <text key={minutes} x={x(last - minutes * 60_000)} y={HEIGHT - 6} text-anchor={minutes === 0 ? "end" : minutes === 60 ? "start" : "middle"}>
            {time(new Date(last - minutes * 60_000).toISOString()).split(/[ ,，]+/).at(-1)}
          </text>
        ))}
        {cap !== null && <line x1={LEFT} x2={WIDTH - 8} y1={y(cap)} y2={y(cap)} class="cap" />}
        <path d={line("in")} class="in" />
        <path d={line("out")} class="out" />
      </svg>
      <figcaption>
        <span class="key out">{t("traffic.out")}</span>
        <span class="key in">{t("traffic.in")}</span>
        {cap !== null && <span class="key cap">{t("traffic.cap")} {mbit(cap)}</span>}
        <span class="quiet">Mbit/s · {summary}</span>
        <span class="quiet">{t("traffic.total", { out: bytes(traffic.total.outBytes), in: bytes(traffic.total.inBytes) })}</span>
        {drops > 0 && <span class="quiet">{t("traffic.drops", { count: number(drops) })}</span>}
      </figcaption>
    </figure>
  );
}
