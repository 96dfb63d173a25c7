// Agents that need no kernel.

import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import type { Revision } from "../src/api.ts";

/** An agent whose responses `says` computes from a path and a body; a real one needs a kernel. */
export async function agent(says: (path: string, body: string) => unknown): Promise<{ url: string; stop: () => Promise<void> }> {
  const server = createServer(async (request, response) => {
    let body = "";
    for await (const part of request) body += part;
    response.writeHead(200, { "content-type": "application/json" });
    response.end(JSON.stringify(says(request.url!, body)));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const stop = () => {
    server.closeAllConnections();
    return new Promise<void>((resolve) => server.close(() => resolve()));
  };
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, stop };
}

export const report = (host: string, more: object) => ({
  version: "0", host, desired: null, applied: null, last_pass: null, problems: [],
  counters: { passes: 1, operations: 0, failures: 0, drift_repaired: 3 }, knows_scoped_sides: true, ...more,
});

interface Config { revision: Revision; sides: Record<string, { peering: string } | null> }

/** An agent that confirms every configuration, counts 1 MB/s sent and 0.25 MB/s received for each side, and reports for each what `probed` returns. */
export function countingAgent(host: string, probed: () => object | undefined = () => undefined) {
  const began = Date.now();
  let revision: Revision | null = null;
  const peerings = new Map<string, string>();
  return agent((path, body) => {
    const now = (Date.now() - began) / 1000;
    if (path === "/v1/traffic" || path === "/v1/shares") {
      const count = (rate: number) => ({ bytes: Math.round(rate * now), packets: Math.round((rate / 1000) * now) });
      const sides = [...peerings].map(([vni, peering]) =>
        [vni, { peering, sent: count(1e6), dropped: 0, received: count(0.25e6), backlog: 0, share: null }]);
      return { host, sides: Object.fromEntries(sides) };
    }
    if (path === "/v1/probes") {
      const said = probed();
      return { interval_s: 5, sides: said ? Object.fromEntries([...peerings].map(([vni, peering]) => [vni, { peering, ...said }])) : {} };
    }
    if (body !== "") {
      const config = JSON.parse(body) as Config;
      ({ revision } = config);
      for (const [vni, side] of Object.entries(config.sides ?? {})) {
        if (side) peerings.set(vni, side.peering);
        else peerings.delete(vni);
      }
    }
    return report(host, { desired: revision, applied: revision });
  });
}
