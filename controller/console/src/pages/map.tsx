// Who reaches whom: the account's VPCs and their peers, by region.

import type { Peering, Vpc, Who } from "../api.ts";
import { t } from "../i18n.ts";
import { to } from "../route.ts";
import { once, useContent } from "../store.ts";
import { Empty, Heading, Show, StateBadge, stateWord, Table } from "../ui.tsx";
import { SideCell } from "./list.tsx";

interface Node { id: string; name: string; account: string | null; region: string; x: number; y: number }

const NODE_W = 190;
const NODE_H = 52;
const GAP_X = 110;
const GAP_Y = 26;
const PAD = 24;
const HEAD = 34;

/** Regions side by side, VPCs below each other; own ones first. */
function layOut(vpcs: Vpc[], peerings: Peering[], regions: string[]) {
  const nodes = new Map<string, Node>();
  const counts = new Map<string, number>();
  const columns = [...new Set([...regions, ...peerings.map((it) => it.remoteVpcInfo.regionId)])]
    .filter((region) => vpcs.some((it) => it.region === region) || peerings.some((it) => it.remoteVpcInfo.regionId === region));
  const add = (id: string, name: string, account: string | null, region: string) => {
    if (nodes.has(id)) return;
    const row = counts.get(region) ?? 0;
    counts.set(region, row + 1);
    const x = PAD + columns.indexOf(region) * (NODE_W + 2 * PAD + GAP_X) + PAD;
    nodes.set(id, { id, name, account, region, x, y: HEAD + PAD + row * (NODE_H + GAP_Y) });
  };
  for (const vpc of vpcs) add(vpc.vpcId, vpc.name, null, vpc.region);
  for (const { remoteVpcInfo: peer } of peerings) add(peer.vpcId, peer.vpcName, peer.accountId, peer.regionId);
  const rows = Math.max(1, ...counts.values());
  const width = columns.length * (NODE_W + 2 * PAD + GAP_X) - GAP_X + 2 * PAD;
  return { nodes, columns, width, height: HEAD + PAD + rows * (NODE_H + GAP_Y) + PAD };
}

function path(from: Node, to: Node): string {
  const y1 = from.y + NODE_H / 2;
  const y2 = to.y + NODE_H / 2;
  if (from.region === to.region) {
    const x = from.x + NODE_W;
    const out = x + 24 + Math.min(60, Math.abs(y2 - y1) / 4);
    return `M${x} ${y1}C${out} ${y1} ${out} ${y2} ${x} ${y2}`;
  }
  const [left, right] = from.x < to.x ? [from, to] : [to, from];
  const [x1, x2] = [left.x + NODE_W, right.x];
  const bend = (x2 - x1) / 2;
  return `M${x1} ${left.y + NODE_H / 2}C${x1 + bend} ${left.y + NODE_H / 2} ${x2 - bend} ${right.y + NODE_H / 2} ${x2} ${right.y + NODE_H / 2}`;
}

const short = (text: string, most = 22) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

function Picture({ vpcs, peerings, regions }: { vpcs: Vpc[]; peerings: Peering[]; regions: string[] }) {
  const { nodes, columns, width, height } = layOut(vpcs, peerings, regions);
  return (
    <div class="picture" role="region" aria-label={t("map.scroll")} tabIndex={0}>
      <svg viewBox={`0 0 ${width} ${height}`} width={width} height={height} role="img"
        aria-label={t("map.picture", { vpcs: nodes.size, peerings: peerings.length })}>
        {columns.map((region, index) => {
          const x = PAD + index * (NODE_W + 2 * PAD + GAP_X);
          return (
            <g key={region}>
              <rect class="region" x={x} y={8} width={NODE_W + 2 * PAD} height={height - 16} rx={10} />
              <text class="region" x={x + PAD} y={31}>{region}</text>
            </g>
          );
        })}
        {peerings.map((peering) => {
          const [from, to] = [nodes.get(peering.vpcInfo.vpcId), nodes.get(peering.remoteVpcInfo.vpcId)];
          if (!from || !to) return null;
          return (
            <path key={peering.vpcPeeringId} class={`edge ${peering.state}`} d={path(from, to)}>
              <title>{`\u2068${peering.vpcPeeringName}\u2069: ${stateWord(peering)}`}</title>
            </path>
          );
        })}
        {[...nodes.values()].map((node) => (
          <g key={node.id} class={node.account === null ? "node" : "node foreign"}>
            <rect x={node.x} y={node.y} width={NODE_W} height={NODE_H} rx={8} />
            <text x={node.x + 12} y={node.y + 22}>{short(node.name)}</text>
            <text x={node.x + 12} y={node.y + 40} class="small">
              {short(node.account ?? vpcs.find((it) => it.vpcId === node.id)?.cidrs[0] ?? "", 26)}
            </text>
          </g>
        ))}
      </svg>
    </div>
  );
}

export function NetworkMap({ who }: { who: Who }) {
  const content = useContent(who);
  return (
    <>
      <Heading title={t("nav.map")} intro={t("map.intro")} />
      <Show loaded={content}>
        {({ vpcs, peerings }) => {
          const shown = once(peerings).filter((it) => !["rejected", "expired", "peer_deleted"].includes(it.state));
          if (vpcs.length === 0) {
            return <Empty title={t("map.empty")} hint={t("vpcs.emptyHint")}><a class="button" href={to("vpcs")}>{t("vpcs.create")}</a></Empty>;
          }
          return (
            <div class="stack">
              <Picture vpcs={vpcs} peerings={shown} regions={who.regions} />
              <p class="legend" aria-label={t("map.legend")} role="group">
                {(["active", "provisioning", "pending", "suspended"] as const).map((state) => (
                  <span class={`key ${state}`} key={state}>{stateWord({ state, role: "initiator" })}</span>
                ))}
                <span class="key foreign">{t("map.foreign")}</span>
              </p>
              {shown.length > 0 && (
                <section class="stack">
                  <h2>{t("map.list")}</h2>
                  <Table caption={t("map.list")} heads={[t("list.nameId"), t("list.own"), t("list.peer"), t("list.state"), t("map.reaches")]}>
                    {shown.map((peering) => (
                      <tr key={peering.vpcPeeringId}>
                        <th scope="row"><a href={to("peerings", peering.vpcInfo.regionId, peering.vpcPeeringId)}><bdi>{peering.vpcPeeringName}</bdi></a></th>
                        <td><SideCell side={peering.vpcInfo} /></td>
                        <td><SideCell side={peering.remoteVpcInfo} /></td>
                        <td><StateBadge peering={peering} /></td>
                        <td>{t(peering.state === "active" ? "common.yes" : "common.no")}</td>
                      </tr>
                    ))}
                  </Table>
                </section>
              )}
            </div>
          );
        }}
      </Show>
    </>
  );
}
