// Every page in both languages and both themes, on wide and narrow screens: accessible, with screenshots
// of them.

import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { overlap } from "../src/cidr.ts";
import { csv } from "../src/csv.ts";
import { en } from "../src/words/en.ts";
import { zh } from "../src/words/zh.ts";
import { agent, countingAgent, report } from "./agents.ts";
import { audit, expect, fits, made, open, PICTURES, signIn, signInByToken, test, type Controller } from "./world.ts";

test("both languages say the same things", () => {
  expect(Object.keys(en).sort()).toEqual(Object.keys(zh).sort());
  const blanks = (text: string) => [...text.matchAll(/\{\w+\}/g)].map((match) => match[0]).sort();
  for (const [key, words] of Object.entries(zh)) {
    expect(words, key).not.toBe("");
    expect(blanks(en[key as keyof typeof zh]), key).toEqual(blanks(words));
  }
});

test("what shares an address is told, and what is none breaks nothing", () => {
  for (const [one, other] of [["10.1.0.0/16", "10.1.128.0/17"], ["10.1.2.3", "10.1.0.0/16"], ["0.0.0.0/0", "10.1.2.3"], ["fd00::/8", "fdab:1::5"],
    ["::/0", "2001:db8::1"], ["1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7::/112"]] as const) {
    expect(overlap(one, other) && overlap(other, one), `${one} ${other}`).toBe(true);
  }
  for (const [one, other] of [["10.1.0.0/16", "10.2.0.0/16"], ["10.1.0.0/17", "10.1.128.0/17"], ["0.0.0.0/0", "::/0"], ["fd00::/16", "fd01::/16"]] as const) {
    expect(overlap(one, other) || overlap(other, one), `${one} ${other}`).toBe(false);
  }
  for (const none of ["", "1", "10.1.", "10.1.2.3.4", "10.1.2.256", "10.1.2.-1", "10.1.2.3/33", "10.1.2.3/x", "10.1.2.3/1/2", "fd00:zz::", "1::2::3",
    "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7:8::", ":::", "::/129", "fd00::/-1", "1e1.1.1.1"]) {
    expect(overlap(none, "0.0.0.0/0") || overlap(none, "::/0"), none).toBe(false);
  }
});

test("spreadsheets take no text of a table for a formula, and no text for several", () => {
  expect(csv([["name", 5, null, 'a"b', "x,y\r\nz"], ["=1", "+1", "-1", "@x", "\t=1"], ["＝1", "＋1", "－1", "＠x", "1-1"]])).toBe(
    '\ufeff"name",5,"","a""b","x,y\r\nz"\r\n"\'=1","\'+1","\'-1","\'@x","\'\t=1"\r\n"\'＝1","\'＋1","\'－1","\'＠x","1-1"\r\n');
});

test("each word is used", () => {
  const sources = fileURLToPath(new URL("../src/", import.meta.url));
  const text = readdirSync(sources, { recursive: true, encoding: "utf8" })
    .filter((path) => /\.tsx?$/.test(path) && !path.startsWith("words/")).map((path) => readFileSync(sources + path, "utf8")).join("\n");
  // Keys are literal, or composed of a prefix and something else.
  const whole = new Set([...text.matchAll(/"([a-zA-Z]+(?:\.[\w.]+)+)"/g)].map(([, key]) => key!));
  const beginnings = [...text.matchAll(/`((?:[a-zA-Z]+\.)+)\$\{/g)].map(([, beginning]) => beginning!);
  expect(beginnings).toContain("host.");
  expect(Object.keys(zh).filter((key) => !whole.has(key) && !beginnings.some((it) => key.startsWith(it)))).toEqual([]);
});

test("whatever the audit trail and events can say has words", () => {
  const sources = fileURLToPath(new URL("../../src/", import.meta.url));
  const read = (path: string) => readFileSync(sources + path, "utf8");
  const found = (text: string, pattern: RegExp) => [...text.matchAll(pattern)].map((match) => match[1]!);
  const all = readdirSync(sources, { recursive: true, encoding: "utf8" }).filter((path) => path.endsWith(".rs")).map(read);
  const [, names] = read("audit.rs").split("fn name(command: &Command)");
  const commands = found(names!.split("\n}\n")[0]!, /=> "(\w+)"/g).filter((it) => it !== "Tick" && it !== "RecordSignature");
  const others = all.flatMap((text) => found(text, /(?:of_system\(|action: )"(\w+)"/g));
  const types = found(read("model/event_types.rs").split("pub const TYPES")[1]!.split("];")[0]!, /\("([\w.]+)",/g);
  expect(commands.length).toBeGreaterThan(30);
  expect(others).toContain("ClockLeapt");
  expect(types).toContain("host.drained");
  const needed = [...[...commands, ...others].map((it) => `did.${it}`), ...types.map((it) => `event.${it}`)];
  expect(needed.filter((key) => !(key in zh))).toEqual([]);
  // Each can be selected for a webhook.
  const webhooks = readFileSync(fileURLToPath(new URL("../src/pages/webhooks.tsx", import.meta.url)), "utf8");
  expect(types.filter((type) => !webhooks.includes(`"${type}"`))).toEqual([]);
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
    await fits(page, `sign-in-${language}`);
    await signIn(page, one, language);
    for (const [hash, key] of empty) {
      await page.goto(`${controller.told.url}/console/#/${hash}`);
      await expect(page.getByText(words[key as keyof typeof zh], { exact: true })).toBeVisible();
      await audit(page);
    }
    const { id } = await furnish(controller);
    // A chart needs an hour of traffic, as hosts would count it.
    await page.route("**/traffic*", async (route) => {
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
      ["create", "peerings/create", () => expect(page.locator("fieldset")).toHaveCount(3)],
      ["detail", `peerings/${north}/${id}`, async () => {
        await expect(page.getByText("10.3.0.0/16").nth(1)).toBeVisible();
        await expect(page.locator("svg.chart")).toBeVisible();
      }],
      ["vpcs", "vpcs", () => expect(page.getByRole("row")).toHaveCount(4)],
      ["map", "map", () => expect(page.locator("svg .edge")).toHaveCount(4)],
      ["billing", "billing", () => expect(page.getByRole("row")).toHaveCount(2)],
      ["audit", "audit", () => expect(page.getByRole("row").nth(4)).toBeVisible()],
      ...["path", "webhooks", "blocked"].map((hash): [string, string, () => Promise<void>] =>
        [hash, hash, () => expect(page.getByRole("heading", { level: 1 })).toBeVisible()]),
    ];
    for (const [name, hash, there] of pages) {
      await page.goto(`${controller.told.url}/console/#/${hash}`);
      await there();
      if (name === "peerings") {
        const act = (await page.getByRole("button", { name: `${words["action.bandwidth"]} data-backup` }).boundingBox())!;
        const table = (await page.getByRole("region", { name: words["list.caption"] }).boundingBox())!;
        expect(act.x + act.width, "what can be done with a row is in sight").toBeLessThanOrEqual(table.x + table.width);
      }
      for (const theme of themes) {
        await page.emulateMedia({ colorScheme: theme });
        await audit(page);
        await page.screenshot({ path: `${PICTURES}${name}-${language}-${theme}.png` });
      }
      await fits(page, `${name}-${language}`);
    }
  });
}

for (const language of ["zh", "en"] as const) {
  test(`every dialog is usable by all, in ${language}`, async ({ browser, controller }) => {
    test.slow();
    const [one, two] = controller.told.accounts;
    const [north] = controller.told.regions;
    const words = language === "zh" ? zh : en;
    const { id } = await furnish(controller);
    await controller.vpc(one, north, "spare", "10.9.0.0/16");
    await controller.ask(one.token, "PUT", `/v1/blockedAccounts/${two.id}`);
    const page = await open(browser, controller, { locale: language === "zh" ? "zh-CN" : "en-GB" });
    await signIn(page, one, language);
    const dialogs: [string, string, string][] = [
      ["peerings", `${words["action.accept"]} from-client`, words["accept.title"]],
      ["peerings", `${words["action.reject"]} from-client`, words["reject.title"]],
      ["peerings", `${words["action.bandwidth"]} data-backup`, words["bandwidth.title"]],
      [`peerings/${north}/${id}`, words["action.rename"], words["rename.title"]],
      [`peerings/${north}/${id}`, words["action.prefixes"], words["action.prefixes"]],
      ["peerings", `${words["action.delete"]} to-partner`, words["delete.title"]],
      ["vpcs", words["vpcs.create"], words["vpcs.create"]],
      ["vpcs", `${words["vpcs.manage"]} web`, `${words["vpcs.manage"]} · web`],
      ["vpcs", `${words["common.delete"]} spare`, words["vpcs.delete"]],
      ["blocked", words["blocked.add"], words["blocked.add"]],
      ["blocked", `${words["blocked.remove"]} ${two.id}`, words["blocked.remove"]],
    ];
    for (const [hash, button, title] of dialogs) {
      await page.goto(`${controller.told.url}/console/#/${hash}`);
      await page.getByRole("button", { name: button }).first().click();
      const dialog = page.getByRole("dialog", { name: title });
      await expect(dialog).toBeVisible();
      for (const theme of themes) {
        await page.emulateMedia({ colorScheme: theme });
        await audit(page);
      }
      await fits(page);
      await page.keyboard.press("Escape");
      await expect(dialog).toHaveCount(0);
    }
    // With violations in it.
    await page.goto(`${controller.told.url}/console/#/vpcs`);
    await page.getByRole("button", { name: words["vpcs.create"] }).click();
    await page.getByRole("dialog").getByLabel(words["common.name"]).fill("crooked");
    await page.getByRole("dialog").getByLabel(words["vpcs.cidr"], { exact: false }).fill("10.1.0.1/16");
    await page.getByRole("dialog").getByRole("button", { name: words["common.confirm"] }).click();
    await expect(page.getByRole("dialog").getByRole("alert")).toBeVisible();
    await audit(page);
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

test("what hosts have counted is drawn beside the cap", async ({ browser, controller }) => {
  const { admin_token, regions: [north, east], accounts: [one] } = controller.told;
  const near = await controller.vpc(one, north, "near", "10.1.0.0/16");
  const far = await controller.vpc(one, east, "far", "10.2.0.0/16");
  const [here, there] = [await countingAgent("h1"), await countingAgent("h2")];
  await controller.ask(admin_token, "POST", "/admin/v1/apply", {
    hosts: [
      { id: "h1", region: north, underlay: "192.0.2.1", agent: here.url },
      { id: "h2", region: east, underlay: "192.0.2.2", agent: there.url },
    ],
    ports: [
      { host: "h1", interface: "eth1", vpc: near, gateways: ["10.1.1.1/24"] },
      { host: "h2", interface: "eth1", vpc: far, gateways: ["10.2.1.1/24"] },
    ],
  });
  const id = await controller.peer(one, north,
    { vpcPeeringName: "counted", vpcId: near, remoteVpcId: far, remoteRegionId: east, bandwidth: 20 });
  const page = await open(browser, controller);
  await signIn(page, one);
  await page.goto(`${controller.told.url}/console/#/peerings/${north}/${id}`);
  await expect(page.locator("[data-state=active]").first()).toBeVisible();
  await expect(page.getByText("暂无流量数据")).toBeVisible();
  // The controller takes a sample every 20 s, and the page reloads every 10 s.
  const chart = page.getByRole("img", { name: "上限 20 Mbps" });
  await expect(chart).toBeVisible({ timeout: 60_000 });
  const said = (await chart.getAttribute("aria-label")) ?? "";
  const [sent, received] = [...said.matchAll(/([\d.]+) Mbps/g)].map((found) => Number(found[1]));
  // 1 MB/s and 0.25 MB/s, as exactly as a busy machine's timers allow.
  expect(received, said).toBeGreaterThan(0);
  expect(sent! / received!, said).toBeGreaterThan(2);
  expect(sent! / received!, said).toBeLessThan(8);
  await expect(page.getByText(/^累计出方向 [1-9].* MB/)).toBeVisible();
  await audit(page);
  await here.stop();
  await there.stop();
});

test("latency and loss of a peering are said, and when nobody knows them", async ({ browser, controller }) => {
  const { admin_token, regions: [north], accounts: [one] } = controller.told;
  const near = await controller.vpc(one, north, "near", "10.1.0.0/16");
  const far = await controller.vpc(one, north, "far", "10.2.0.0/16");
  let said: object | undefined;
  const [here, there] = [await countingAgent("h1", () => said), await countingAgent("h2")];
  await controller.ask(admin_token, "POST", "/admin/v1/apply", {
    hosts: [{ id: "h1", region: north, underlay: "192.0.2.1", agent: here.url }, { id: "h2", region: north, underlay: "192.0.2.2", agent: there.url }],
    ports: [{ host: "h1", interface: "eth1", vpc: near, gateways: ["10.1.1.1/24"] }, { host: "h2", interface: "eth1", vpc: far, gateways: ["10.2.1.1/24"] }],
  });
  const id = await controller.peer(one, north, { vpcPeeringName: "probed", vpcId: near, remoteVpcId: far });
  const page = await open(browser, controller);
  await signIn(page, one);
  await page.goto(`${controller.told.url}/console/#/peerings/${north}/${id}`);
  await expect(page.locator("[data-state=active]").first()).toBeVisible();
  // The controller polls every 5 s, and the page every 10 s.
  const patience = { timeout: 60_000 };
  const path = page.getByRole("definition").filter({ hasText: / ms \/ |无应答|暂无采样|No reply/ });
  await expect(path).toContainText("暂无采样");
  said = { sent: 20, lost: 1, round_trip_us: 1234, mtu_black_hole: false, age_ms: 1000 };
  await expect(path).toContainText("1.23 ms / 5 %", patience);
  await expect(path).toContainText(/存在丢包.*采样于 /);
  await expect(path).not.toContainText("黑洞");
  await audit(page);
  said = { sent: 20, lost: 20, mtu_black_hole: true, age_ms: 1000 };
  await expect(path).toContainText("无应答 / 100 %", patience);
  await expect(path).toContainText("MTU 黑洞");
  await audit(page);
  await page.getByRole("combobox", { name: "语言" }).selectOption("en");
  await expect(path).toContainText(/No reply \/ 100 %.*Packets are lost.*MTU black hole.*sampled /);
  const operator = await open(browser, controller);
  await signInByToken(operator, admin_token);
  const row = operator.getByRole("region", { name: "对等连接" }).getByRole("row").filter({ hasText: "probed" });
  await operator.goto(`${controller.told.url}/console/#/hosts/h1`);
  await expect(row).toContainText("无应答 / 100 %");
  await audit(operator);
  await operator.goto(`${controller.told.url}/console/#/hosts/h2`);
  await expect(row).toContainText("暂无采样");
  // What a host no longer reports is unknown.
  said = undefined;
  await expect(page.getByText("No sample (")).toBeVisible(patience);
  await here.stop();
  await there.stop();
});

test("operators see which host is not in sync, and why, and everybody's peerings", async ({ browser, controller }) => {
  const { admin_token, regions: [north], accounts: [one] } = controller.told;
  await furnish(controller);
  const failing = await agent(() => report("h1", {
    problems: [{ scope: "host", kind: "failed", object: "route 10.2.0.0/24 table 1124073482", reason: "No buffer space available (os error 105)" }],
  }));
  await controller.ask(admin_token, "POST", "/admin/v1/apply", {
    hosts: [
      { id: "h1", region: north, underlay: "192.0.2.1", agent: failing.url },
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
  for (const [name, link] of [["hosts", "主机"], ["all-peerings", "对等连接"], ["accounts", "账号"], ["operator-audit", "操作日志"]] as const) {
    await page.getByRole("navigation").getByRole("link", { name: link }).click();
    await expect(page.getByRole("row").nth(1)).toBeVisible();
    for (const theme of themes) {
      await page.emulateMedia({ colorScheme: theme });
      await audit(page);
    }
    await page.emulateMedia({ colorScheme: "light" });
    await page.screenshot({ path: `${PICTURES}${name}-zh-light.png` });
    await fits(page, name);
  }
  await page.getByRole("navigation").getByRole("link", { name: "账号" }).click();
  await expect(page.getByRole("row").filter({ hasText: one.id })).toContainText(one.access_key);
  await failing.stop();
});

test("operators find a host among many, see what it has and since when it differs, and take it out of use", async ({ browser, controller }) => {
  const { admin_token, regions: [north, east], accounts: [one] } = controller.told;
  const near = await controller.vpc(one, north, "near", "10.1.0.0/16");
  const far = await controller.vpc(one, east, "far", "10.2.0.0/16");
  const [failing, fine] = [await agent(() => report("h1", {
    problems: [{ scope: "host", kind: "failed", object: "route 10.2.0.0/24 table 1124073482", reason: "No buffer space available (os error 105)" }],
  })), await countingAgent("h2")];
  const others = Array.from({ length: 21 }, (_, index) =>
    ({ id: `spare-${index + 10}`, region: east, underlay: `192.0.2.${index + 10}`, agent: "http://127.0.0.1:1" }));
  await controller.ask(admin_token, "POST", "/admin/v1/apply", {
    hosts: [
      { id: "h1", region: north, underlay: "192.0.2.1", agent: failing.url },
      { id: "h2", region: east, underlay: "192.0.2.2", agent: fine.url }, ...others,
    ],
    ports: [{ host: "h1", interface: "eth1", vpc: near, gateways: ["10.1.1.1/24"] }, { host: "h2", interface: "eth1", vpc: far, gateways: ["10.2.1.1/24"] }],
  });
  await controller.peer(one, north, { vpcPeeringName: "held-up", vpcId: near, remoteVpcId: far, remoteRegionId: east, bandwidth: 20 });
  const page = await open(browser, controller);
  await signInByToken(page, admin_token);
  const rows = page.getByRole("region", { name: "主机列表" }).getByRole("row");
  await expect(rows).toHaveCount(21);
  await expect(page.getByText("共 23 条")).toBeVisible();
  await page.getByRole("button", { name: "下一页" }).click();
  await expect(rows).toHaveCount(4);
  await page.reload();
  await expect(rows).toHaveCount(4);
  await page.getByRole("combobox", { name: "同步" }).selectOption("inSync");
  await expect(rows).toHaveCount(2);
  await expect(rows.nth(1)).toContainText("h2");
  await page.getByRole("combobox", { name: "同步" }).selectOption("maintenance");
  await expect(page.getByText("没有符合条件的主机")).toBeVisible();
  await page.getByRole("button", { name: "清除条件" }).click();
  await page.getByRole("searchbox", { name: "搜索" }).fill(`No buffer ${north}`);
  await expect(rows).toHaveCount(2);

  await page.getByRole("link", { name: "h1", exact: true }).click();
  await expect(page.getByRole("heading", { level: 1, name: "h1" })).toBeVisible();
  await expect(page.getByText("route 10.2.0.0/24 table 1124073482")).toBeVisible();
  await expect(page.getByRole("region", { name: "端口" }).getByRole("row").nth(1)).toContainText("10.1.1.1/24");
  await expect(page.getByRole("region", { name: "对等连接" }).getByRole("row").nth(1)).toContainText(/held-up.*否/);
  // With confirmation: nothing is done until then.
  const standing = async () => {
    const { hosts } = await controller.ask<{ hosts: { host: string; drained: boolean; paused: boolean }[] }>(admin_token, "GET", "/admin/v1/hosts");
    const { drained, paused } = hosts.find((it) => it.host === "h1")!;
    return { drained, paused };
  };
  const act = async (words: string) => {
    await page.getByRole("button", { name: words, exact: true }).click();
    await page.getByRole("dialog").getByRole("button", { name: words, exact: true }).click();
    await expect(page.getByRole("dialog")).toHaveCount(0);
  };
  await page.getByRole("button", { name: "排空", exact: true }).click();
  await page.getByRole("dialog").getByText("显示为命令行 / API 调用").click();
  await expect(page.getByRole("dialog").locator("pre").first()).toHaveText("cps-peering host drain h1");
  await audit(page);
  await page.getByRole("dialog").getByRole("button", { name: "取消" }).click();
  expect(await standing()).toEqual({ drained: false, paused: false });
  await act("排空");
  await expect(page.getByRole("listitem").filter({ hasText: "已排空" })).toBeVisible();
  expect(await standing()).toEqual({ drained: true, paused: false });
  await act("暂停下发");
  await expect(page.getByRole("button", { name: "恢复下发" })).toBeVisible();
  expect(await standing()).toEqual({ drained: true, paused: true });
  for (const theme of themes) {
    await page.emulateMedia({ colorScheme: theme });
    await audit(page);
  }
  await fits(page, "hosts");
  await page.goto(`${controller.told.url}/console/#/hosts?standing=maintenance`);
  await expect(rows).toHaveCount(2);
  await page.getByRole("link", { name: "h1", exact: true }).click();
  await act("恢复调度");
  await act("恢复下发");
  await expect(page.getByRole("button", { name: "暂停下发" })).toBeVisible();
  expect(await standing()).toEqual({ drained: false, paused: false });

  // The controller waits for a while before it calls a host out of sync.
  await page.route("**/admin/v1/events?*", (route) => {
    const event = { id: "1.1.1", type: "host.outOfSync", time: "2026-01-02T03:04:00Z", host: "h1" };
    const events = route.request().url().includes("after=") ? [] : [event, { ...event, id: "1.2.1", time: "2026-02-02T03:04:00Z", host: "h2" }];
    return route.fulfill({ json: { requestId: "x", result: { events, nextAfter: "1.3.1" } } });
  });
  await page.reload();
  await expect(page.getByText("自 2026年1月2日 03:04 起不一致")).toBeVisible();
  // This controller uses no TLS with agents.
  await page.route("**/admin/v1/hosts", async (route) => {
    const answer = await (await route.fetch()).json() as { result: { hosts: object[] } };
    const hosts = answer.result.hosts.map((host) => ({ ...host, certificateExpires: "2026-02-03T00:00:00Z", certificateNotRenewed: "agent_refused" }));
    return route.fulfill({ json: { ...answer, result: { hosts } } });
  });
  await page.reload();
  await expect(page.getByRole("definition").filter({ hasText: "2026年2月3日" })).toContainText("未能续签：其代理程序拒绝");
  await fits(page, "host");
  await page.goto(`${controller.told.url}/console/#/hosts/nobody`);
  await expect(page.getByText("没有这台主机。")).toBeVisible();
  await failing.stop();
  await fine.stop();
});

test("operators set the charge status and the quotas of an account", async ({ browser, controller }) => {
  const { admin_token, regions: [north], accounts: [one, two] } = controller.told;
  const page = await open(browser, controller);
  await signInByToken(page, admin_token);
  await expect(page.getByText("cps-peering apply -f")).toBeVisible();
  await page.getByRole("navigation").getByRole("link", { name: "账号" }).click();
  const row = (id: string) => page.getByRole("row").filter({ has: page.getByRole("rowheader", { name: id }) });
  await page.getByRole("button", { name: `修改计费状态 ${one.id}` }).click();
  await page.getByRole("dialog").getByRole("combobox").selectOption("arrear");
  await expect(page.getByRole("dialog")).toContainText("立即停服");
  await page.getByRole("dialog").getByText("显示为命令行 / API 调用").click();
  await expect(page.getByRole("dialog").locator("pre").first()).toHaveText(`cps-peering admin account charge ${one.id} arrear`);
  await audit(page);
  await page.getByRole("dialog").getByRole("button", { name: "保存" }).click();
  await expect(row(one.id)).toContainText("欠费停服");
  await page.getByRole("combobox", { name: "计费状态" }).selectOption("arrear");
  await expect(row(two.id)).toHaveCount(0);
  const quota = async (limit: string) => {
    await page.getByRole("button", { name: `修改配额 ${one.id}` }).click();
    const dialog = page.getByRole("dialog");
    // Only quotas of an account can be set for one.
    await expect(dialog.getByLabel("资源").locator("option")).toHaveCount(7);
    await dialog.getByLabel("资源").selectOption("vpc");
    await dialog.getByLabel("地域").selectOption(north);
    const before = await dialog.getByLabel("上限").inputValue();
    await dialog.getByLabel("上限").fill(limit);
    await dialog.getByText("显示为命令行 / API 调用").click();
    await expect(dialog.locator("pre").first()).toContainText(`cps-peering admin account quota ${limit ? "set" : "reset"} ${one.id} ${north} `);
    await audit(page);
    await dialog.getByRole("button", { name: "保存" }).click();
    await expect(dialog).toHaveCount(0);
    return before;
  };
  expect(await quota("7")).toBe("");
  await expect(row(one.id)).toContainText(`私有网络 ${north}: 7`);
  expect(await quota("")).toBe("7");
  await expect(row(one.id)).toContainText("默认");
  const { account } = await controller.ask<{ account: { limits: object; chargeStatus: string } }>(admin_token, "GET", `/admin/v1/accounts/${one.id}`);
  expect(account).toMatchObject({ limits: {}, chargeStatus: "arrear" });
});

test("another period of bills begins on its first page, and what is kept as CSV is of that period", async ({ browser, controller }) => {
  const [one] = controller.told.accounts;
  const page = await open(browser, controller);
  await signIn(page, one);
  let release = () => {};
  const held = new Promise<void>((resolve) => { release = resolve; });
  await page.route("**/v1/metering?*", async (route) => {
    await held;
    const line = { vpcPeeringId: "vpcpr-x", regionId: "a", remoteRegionId: "b", bandwidth: 5, to: "2026-02-02T00:00:00Z", seconds: "3600", amount: "1", open: false };
    const lines = Array.from({ length: 25 }, (_, index) => ({ ...line, from: `2026-01-${String(index + 1).padStart(2, "0")}T00:00:00Z` }));
    await route.fulfill({ json: { requestId: "x", result: { currency: "CNY", total: "25", lines } } });
  });
  await page.getByRole("link", { name: "费用账单" }).click();
  await expect(page.getByText("正在加载")).toBeVisible();
  await expect(page.getByRole("link", { name: "下载 CSV" })).toHaveCount(0);
  release();
  await expect(page.getByRole("link", { name: "下载 CSV" })).toHaveAttribute("href", /from=.*&format=csv$/);
  await page.getByRole("button", { name: "下一页" }).click();
  await expect(page.getByText("第 2 / 2 页")).toBeVisible();
  await page.getByRole("combobox", { name: "账期" }).selectOption("everything");
  await expect(page.getByText("第 1 / 2 页")).toBeVisible();
  await expect(page.getByRole("link", { name: "下载 CSV" })).toHaveAttribute("href", "/v1/metering?format=csv");
  await page.goBack();
  await expect(page.getByText("第 2 / 2 页")).toBeVisible();
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
