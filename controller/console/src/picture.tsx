// The drawing of VPCs and peerings: all of them by region, or one VPC between its neighbours.

import { useState } from "preact/hooks";
import type { Peering, Vpc } from "./api.ts";
import { isolated, t } from "./i18n.ts";
import { rememberList, to } from "./route.ts";
import { short, stateWord } from "./ui.tsx";

interface Node { id: string; name: string; account: string | null; region: string; cidr: string; x: number; y: number }
interface Box { title: string; x: number; width: number }
interface Plan { nodes: Map<string, Node>; boxes: Box[]; width: number; height: number }

const NODE_W = 190;
const NODE_H = 52;
const GAP_X = 150;
const GAP_Y = 18;
const PAD = 24;
const HEAD = 34;
/** Room on the right, for curves between VPCs of the last column. */
const CURVE = 110;
const COLUMN = NODE_W + 2 * PAD + GAP_X;

/** Everything to draw, without positions yet. */
function known(vpcs: Vpc[], peerings: Peering[]): Map<string, Omit<Node, "x" | "y">> {
  const found = new Map<string, Omit<Node, "x" | "y">>();
  for (const vpc of vpcs) found.set(vpc.vpcId, { id: vpc.vpcId, name: vpc.name, account: null, region: vpc.region, cidr: vpc.cidrs[0] ?? "" });
  for (const { remoteVpcInfo: peer } of peerings) {
    if (found.has(peer.vpcId)) continue;
    found.set(peer.vpcId, { id: peer.vpcId, name: peer.vpcName, account: peer.accountId, region: peer.regionId, cidr: peer.addressPrefix[0] ?? "" });
  }
  return found;
}

function inColumns(columns: [string, Omit<Node, "x" | "y">[]][]): Plan {
  const nodes = new Map<string, Node>();
  const rows = Math.max(1, ...columns.map(([, those]) => those.length));
  const height = HEAD + PAD + rows * (NODE_H + GAP_Y) + PAD;
  const boxes = columns.map(([title, those], column) => {
    const x = PAD + column * COLUMN;
    // A short column is centred beside a long one.
    const first = HEAD + PAD + ((rows - those.length) * (NODE_H + GAP_Y)) / 2;
    those.forEach((node, row) => nodes.set(node.id, { ...node, x: x + PAD, y: first + row * (NODE_H + GAP_Y) }));
    return { title, x, width: NODE_W + 2 * PAD };
  });
  return { nodes, boxes, height, width: PAD + Math.max(1, columns.length) * COLUMN - GAP_X + CURVE };
}

/** Regions side by side, VPCs below each other; own ones first. */
function ofAll(vpcs: Vpc[], peerings: Peering[], regions: string[]): Plan {
  const all = [...known(vpcs, peerings).values()];
  const names = [...new Set([...regions, ...all.map((node) => node.region)])];
  const columns = names.map((region): [string, typeof all] => [region, all.filter((node) => node.region === region)]);
  return inColumns(columns.filter(([, those]) => those.length > 0));
}

/** A VPC, its peers in its region to the left, and those elsewhere to the right; of all peerings, those that match the search. */
function around(focus: string, vpcs: Vpc[], peerings: Peering[], everything: Peering[]): Plan {
  const all = known(vpcs, everything);
  const centre = all.get(focus);
  if (!centre) return inColumns([]);
  const ids = new Set(peerings.flatMap((it) => [it.vpcInfo.vpcId, it.remoteVpcInfo.vpcId]).filter((id) => id !== focus));
  const others = [...ids].flatMap((id) => all.get(id) ?? []).sort((one, other) => one.region.localeCompare(other.region) || one.name.localeCompare(other.name));
  const columns: [string, typeof others][] = [
    [t("map.sameRegion"), others.filter((it) => it.region === centre.region)], [centre.region, [centre]],
    [t("map.otherRegions"), others.filter((it) => it.region !== centre.region)],
  ];
  return inColumns(columns.filter(([, those]) => those.length > 0));
}

function curve(from: Node, to: Node): string {
  const [y1, y2] = [from.y + NODE_H / 2, to.y + NODE_H / 2];
  if (from.x === to.x) {
    const x = from.x + NODE_W;
    const out = x + 24 + Math.min(CURVE - 30, Math.abs(y2 - y1) / 4);
    return `M${x} ${y1}C${out} ${y1} ${out} ${y2} ${x} ${y2}`;
  }
  const [left, right] = from.x < to.x ? [from, to] : [to, from];
  const [x1, x2] = [left.x + NODE_W, right.x];
  const bend = (x2 - x1) / 2;
  return `M${x1} ${left.y + NODE_H / 2}C${x1 + bend} ${left.y + NODE_H / 2} ${x2 - bend} ${right.y + NODE_H / 2} ${x2} ${right.y + NODE_H / 2}`;
}

export function Picture({ vpcs, peerings, all, regions, focus, zoom, onFocus }: {
  /** The peerings that are drawn, and the total. */
  vpcs: Vpc[]; peerings: Peering[]; all: Peering[]; regions: string[]; focus: string; zoom: number; onFocus: (id: string) => void;
}) {
  const [over, setOver] = useState<string>();
  const { nodes, boxes, width, height } = focus ? around(focus, vpcs, peerings, all) : ofAll(vpcs, peerings, regions);
  const touches = (peering: Peering) => over === undefined || [peering.vpcInfo.vpcId, peering.remoteVpcInfo.vpcId].includes(over);
  return (
    <div class="picture" role="region" aria-label={t("map.scroll")} tabIndex={0}>
      <svg viewBox={`0 0 ${width} ${height}`} width={width * zoom} height={height * zoom} role="group"
        aria-label={t("map.picture", { vpcs: nodes.size, peerings: peerings.length })}>
        {boxes.map(({ title, x, width }) => (
          <g key={title}>
            <rect class="region" x={x} y={8} width={width} height={height - 16} rx={10} />
            <text class="region" x={x + PAD} y={31}>{title}</text>
          </g>
        ))}
        {peerings.map((peering) => {
          const [from, end] = [nodes.get(peering.vpcInfo.vpcId), nodes.get(peering.remoteVpcInfo.vpcId)];
          if (!from || !end) return null;
          const words = `${isolated(peering.vpcPeeringName)}: ${stateWord(peering)}`;
          return (
            // The table below has the same links for the keyboard.
            <a key={peering.vpcPeeringId} href={to("peerings", peering.vpcInfo.regionId, peering.vpcPeeringId)} tabIndex={-1} aria-label={words} onClick={rememberList}>
              <path class="reach" d={curve(from, end)} />
              <path class={`edge ${peering.state} ${touches(peering) ? "" : "dim"}`} d={curve(from, end)}><title>{words}</title></path>
            </a>
          );
        })}
        {[...nodes.values()].map((node) => (
          <g key={node.id} class={`node ${node.account === null ? "" : "foreign"} ${node.id === focus ? "focus" : ""}`}>
            <title>{`${isolated(node.name)} ${node.id} ${node.cidr}`}</title>
            <rect x={node.x} y={node.y} width={NODE_W} height={NODE_H} rx={8}
              role="button" tabIndex={0} aria-pressed={node.id === focus ? "true" : "false"} aria-label={t("map.focusOn", { name: node.name })}
              onMouseEnter={() => setOver(node.id)} onMouseLeave={() => setOver(undefined)}
              onClick={() => onFocus(node.id === focus ? "" : node.id)}
              onKeyDown={(event) => {
                if (event.key !== "Enter" && event.key !== " ") return;
                event.preventDefault();
                onFocus(node.id === focus ? "" : node.id);
              }} />
            <text x={node.x + 12} y={node.y + 22}>{short(node.name, 22)}</text>
            <text x={node.x + 12} y={node.y + 40} class="small">{short(node.account ?? node.cidr, 26)}</text>
          </g>
        ))}
      </svg>
    </div>
  );
}
