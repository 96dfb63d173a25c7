// Every page in both languages and both themes, on wide and narrow screens: usable with assistive technology, and pictures
// of them.

import { mkdirSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { en } from "../src/words/en.ts";
import { zh } from "../src/words/zh.ts";
import { audit, expect, made, open, signIn, signInByToken, test, type Controller } from "./world.ts";

const PICTURES = new URL("../../../target/console/screenshots/", import.meta.url).pathname;
mkdirSync(PICTURES, { recursive: true });

test("both languages say the same things", () => {
  expect(Object.keys(en).sort()).toEqual(Object.keys(zh).sort());
  const blanks = (text: string) => [...text.matchAll(/\{\w+\}/g)].map((match) => match[0]).sort();
  for (const [key, words] of Object.entries(zh)) {
    expect(words, key).not.toBe("");
    expect(blanks(en[key as keyof typeof zh]), key).toEqual(blanks(words));
  }
});

/** Some of everything: peerings in several states, between regions and accounts. */
async function furnish(controller: Controller): Promise<{ id: string }> {
  const [one, two] = controller.told.accounts;
  const [north, east] = controller.told.regions;
  const web = await controller.vpc(one, north, "web", "10.1.0.0/16");
  const data = await controller.vpc(one, north, "data", "10.2.0.0/16");
  const backup = await controller.vpc(one, east, "backup", "10.3.0.0/16");
  const partner = await controller.vpc(two, east, "partner", "10.4.0.0/16");
  const client = await controller.vpc(two, north, "client", "10.5.0.0/16");
  await controller.peer(one, north, { vpcPeeringName: "web-data", vpcId: web, remoteVpcId: data });
  const id = await controller.peer(one, north,
    { vpcPeeringName: "data-backup", vpcId: data, remoteVpcId: backup, remoteRegionId: east, bandwidth: 200, description: "每日备份" });
  await controller.peer(one, north,
    { vpcPeeringName: "to-partner", vpcId: web, remoteVpcId: partner, remoteRegionId: east, remoteAccountId: two.id, bandwidth: 100 });
  await controller.peer(two, north, { vpcPeeringName: "from-client", vpcId: client, remoteVpcId: web, remoteAccountId: one.id });
  return { id };
}

const themes = ["light", "dark"] as const;

for (const language of ["zh", "en"] as const) {
  test(`every page of an account is usable by all, in ${language}`, async ({ browser, controller }) => {
    test.slow();
    const [one] = controller.told.accounts;
    const [north] = controller.told.regions;
    const page = await open(browser, controller, { locale: language === "zh" ? "zh-CN" : "en-GB" });
    const empty: [string, string][] = [["vpcs", "vpcs.empty"], ["map", "map.empty"], ["billing", "billing.empty"], ["blocked", "blocked.empty"], ["peerings", "list.empty"]];
    const words = language === "zh" ? zh : en;
    for (const theme of themes) {
      await page.emulateMedia({ colorScheme: theme });
      await audit(page);
      if (language === "zh") await page.screenshot({ path: `${PICTURES}sign-in-${theme}.png` });
    }
    await signIn(page, one, language);
    for (const [hash, key] of empty) {
      await page.goto(`${controller.told.url}/console/#/${hash}`);
      await expect(page.getByText(words[key as keyof typeof zh], { exact: true })).toBeVisible();
      await audit(page);
    }
    const { id } = await furnish(controller);
    // A chart needs an hour of traffic, which hosts would count.
    await page.route("**/traffic", async (route) => {
      const samples = Array.from({ length: 360 }, (_, index) => ({
        time: new Date(Date.UTC(2026, 0, 1, 12) + index * 10_000).toISOString().replace(".000", ""),
        outBytes: Math.round(1e8 * (1 + Math.sin(index / 25))), inBytes: Math.round(3e7 * (1 + Math.cos(index / 40))), outDrops: index === 100 ? 7 : 0,
      }));
      const traffic = { vpcPeeringId: id, bandwidth: 200, interval: 10, samples,
        total: { outBytes: 4e10, outPackets: 3e7, inBytes: 1e10, inPackets: 8e6, outDrops: 7 } };
      await route.fulfill({ json: { requestId: "x", result: { traffic } } });
    });
    const pages: [string, string, () => Promise<void>][] = [
      ["peerings", "peerings", () => expect(page.getByRole("row")).toHaveCount(5)],
      ["create", "peerings/create", () => expect(page.getByRole("group")).toHaveCount(3)],
      ["detail", `peerings/${north}/${id}`, async () => {
        await expect(page.getByText("10.3.0.0/16").nth(1)).toBeVisible();
        await expect(page.locator("svg.chart")).toBeVisible();
      }],
      ["vpcs", "vpcs", () => expect(page.getByRole("row")).toHaveCount(4)],
      ["map", "map", () => expect(page.locator("svg .edge")).toHaveCount(4)],
      ["billing", "billing", () => expect(page.getByRole("row")).toHaveCount(2)],
      ["audit", "audit", () => expect(page.getByRole("row").nth(4)).toBeVisible()],
    ];
    for (const [name, hash, there] of pages) {
      await page.goto(`${controller.told.url}/console/#/${hash}`);
      await there();
      for (const theme of themes) {
        await page.emulateMedia({ colorScheme: theme });
        await audit(page);
        await page.screenshot({ path: `${PICTURES}${name}-${language}-${theme}.png` });
      }
      await page.setViewportSize({ width: 380, height: 760 });
      const width = await page.evaluate(() => document.documentElement.scrollWidth);
      expect(width, `${name} is wider than a narrow screen`).toBeLessThanOrEqual(380);
      await audit(page);
      if (name === "peerings") await page.screenshot({ path: `${PICTURES}narrow-${language}.png` });
      await page.setViewportSize({ width: 1280, height: 800 });
    }
    await page.goto(`${controller.told.url}/console/#/peerings`);
    await page.getByRole("button", { name: new RegExp(`^${words["action.accept"]} from-client`) }).click();
    for (const theme of themes) {
      await page.emulateMedia({ colorScheme: theme });
      await audit(page);
    }
  });
}

test("the language and the appearance are switched, and stay", async ({ browser, controller }) => {
  const [one] = controller.told.accounts;
  const page = await open(browser, controller);
  await signIn(page, one);
  await page.getByRole("combobox", { name: "语言" }).selectOption("en");
  await expect(page.getByRole("heading", { level: 1, name: "VPC peering" })).toBeVisible();
  await page.getByRole("combobox", { name: "Appearance" }).selectOption("dark");
  await page.reload();
  await expect(page.getByText("No peerings yet")).toBeVisible();
  await expect(page.locator("html")).toHaveAttribute("lang", "en");
  await expect(page.locator("html")).toHaveCSS("color-scheme", "dark");
});

/** An agent whose kernel refuses a route. Kernels that do so on demand are hard to come by. */
async function failingAgent(): Promise<Server> {
  const report = {
    version: "0", host: "h1", desired: null, applied: null, last_pass: null,
    problems: [{ scope: "host", kind: "failed", object: "route 10.2.0.0/24 table 1124073482", reason: "No buffer space available (os error 105)" }],
    counters: { passes: 1, operations: 0, failures: 1, drift_repaired: 3 },
  };
  const server = createServer((request, response) => {
    request.resume().on("end", () => {
      response.writeHead(200, { "content-type": "application/json" });
      response.end(JSON.stringify(report));
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return server;
}

test("operators see which host is not in sync, and why, and everybody's peerings", async ({ browser, controller }) => {
  const { admin_token, regions: [north], accounts: [one] } = controller.told;
  await furnish(controller);
  const agent = await failingAgent();
  const { port } = agent.address() as { port: number };
  await controller.ask(admin_token, "POST", "/admin/v1/apply", {
    hosts: [
      { id: "h1", region: north, underlay: "192.0.2.1", agent: `http://127.0.0.1:${port}` },
      { id: "h2", region: north, underlay: "192.0.2.2", agent: "http://127.0.0.1:1" },
    ],
  });
  const page = await open(browser, controller);
  await signInByToken(page, admin_token);
  await expect(page.getByRole("heading", { level: 1, name: "主机" })).toBeVisible();
  await expect(page.getByText("0 / 2 台一致")).toBeVisible();
  const host = (id: string) => page.getByRole("row").filter({ has: page.getByRole("rowheader", { name: id }) });
  await expect(host("h1")).toContainText("不一致");
  await expect(host("h1")).toContainText("route 10.2.0.0/24 table 1124073482");
  await expect(host("h1")).toContainText("No buffer space available (os error 105)");
  await expect(host("h2")).toContainText("无法连接");
  for (const [name, link] of [["hosts", "主机"], ["all-peerings", "对等连接"], ["accounts", "账号"], ["operator-audit", "操作记录"]] as const) {
    await page.getByRole("navigation").getByRole("link", { name: link }).click();
    await expect(page.getByRole("row").nth(1)).toBeVisible();
    for (const theme of themes) {
      await page.emulateMedia({ colorScheme: theme });
      await audit(page);
    }
    await page.emulateMedia({ colorScheme: "light" });
    await page.screenshot({ path: `${PICTURES}${name}-zh-light.png` });
  }
  await page.getByRole("navigation").getByRole("link", { name: "账号" }).click();
  await expect(page.getByRole("row").filter({ hasText: one.id })).toContainText(one.access_key);
  agent.closeAllConnections();
  await new Promise((resolve) => agent.close(resolve));
});

test("while the controller is away the page says so, keeps what it had, and comes back", async ({ browser, controller }) => {
  const [one] = controller.told.accounts;
  await controller.vpc(one, controller.told.regions[0], "web", "10.1.0.0/16");
  const page = await open(browser, controller);
  await signIn(page, one);
  await page.getByRole("link", { name: "私有网络", exact: true }).click();
  await expect(page.getByRole("rowheader", { name: "web" })).toBeVisible();
  made.push(/status of 503/);
  await page.route("**/v1/**", (route) => route.fulfill({ status: 503, body: "away" }));
  await page.getByRole("link", { name: "费用" }).click();
  await expect(page.getByRole("alert")).toContainText("无法连接控制器");
  await audit(page);
  await page.unroute("**/v1/**");
  await page.getByRole("button", { name: "重试" }).click();
  await expect(page.getByText("该账期没有费用")).toBeVisible();
});
