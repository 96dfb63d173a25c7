// Operators' view of any peering, and messages of kernels and other servers on Chinese pages.

import { en } from "../src/words/en.ts";
import { zh } from "../src/words/zh.ts";
import { agent, countingAgent, report } from "./agents.ts";
import { audit, expect, fits, open, signIn, signInByToken, test } from "./world.ts";

for (const language of ["zh", "en"] as const) {
  test(`operators see both sides of a peering, its hosts and what differs there, and trace its path, in ${language}`, async ({ browser, controller }) => {
    const words = language === "zh" ? zh : en;
    const { admin_token, regions: [north, east], accounts: [one, two] } = controller.told;
    const near = await controller.vpc(one, north, "near", "10.1.0.0/16");
    const far = await controller.vpc(two, east, "far", "10.2.0.0/16");
    let problems: object[] = [];
    const [failing, fine] = [await agent(() => report("h1", { problems })), await countingAgent("h2")];
    await controller.ask(admin_token, "POST", "/admin/v1/apply", {
      hosts: [{ id: "h1", region: north, underlay: "192.0.2.1", agent: failing.url }, { id: "h2", region: east, underlay: "192.0.2.2", agent: fine.url }],
      ports: [{ host: "h1", interface: "eth1", vpc: near, gateways: ["10.1.200.1/24", "10.1.1.1/24"] }, { host: "h2", interface: "eth1", vpc: far, gateways: ["10.2.1.1/24"] }],
    });
    const id = await controller.peer(one, north, { vpcPeeringName: "held-up", vpcId: near, remoteVpcId: far, remoteRegionId: east,
      remoteAccountId: two.id, bandwidth: 20, exportPrefixes: ["10.1.0.0/17"] });
    await controller.ask(two.token, "POST", `/v1/regions/${east}/vpcPeerings/${id}:acceptVpcPeering`, { importPrefixes: ["10.1.0.0/18"] });
    const { vpcPeering } = await controller.ask<{ vpcPeering: { vpcInfo: { vni: number } } }>(admin_token, "GET", `/admin/v1/peerings/${id}`);
    const { vni } = vpcPeering.vpcInfo;
    problems = [
      { scope: { side: vni }, kind: "failed", object: "route 10.2.0.0/16 table 7", reason: "No buffer space available (os error 105)" },
      { scope: { vpc: near }, kind: "missing", object: "port eth1", reason: "there is no interface eth1" },
      { scope: { side: vni + 1000 }, kind: "conflict", object: "device of another", reason: "it is not ours" },
    ];
    const page = await open(browser, controller, { locale: language === "zh" ? "zh-CN" : "en-GB" });
    if (language === "zh") await signInByToken(page, admin_token);
    else {
      await page.getByRole("radio", { name: "Token" }).check();
      await page.getByRole("textbox", { name: "Token" }).fill(admin_token);
      await page.getByRole("button", { name: "Sign in" }).click();
    }
    await page.getByRole("navigation").getByRole("link", { name: words["nav.peerings"] }).click();
    await page.getByRole("link", { name: "held-up" }).click();
    await expect(page.getByRole("heading", { level: 1, name: "held-up" })).toBeVisible();
    const hosts = page.getByRole("region", { name: words["nav.hosts"] }).getByRole("row");
    await expect(hosts).toHaveCount(3);
    // Hosts that have not confirmed come first, with their problems that concern this peering.
    await expect(hosts.nth(1)).toContainText("h1");
    await expect(hosts.nth(1)).toContainText("near");
    await expect(hosts.nth(1)).toContainText(words["common.no"]);
    await expect(hosts.nth(1)).toContainText("route 10.2.0.0/16 table 7");
    await expect(hosts.nth(1)).toContainText("port eth1");
    await expect(hosts.nth(1)).not.toContainText("device of another");
    await expect(hosts.nth(2)).toContainText(`h2far${words["common.yes"]}`);
    if (language === "zh") {
      await expect(hosts.nth(1)).toContainText("内核缓冲区不足。原文：");
      await expect(hosts.nth(1)).toContainText("缺少依赖的对象");
    } else await expect(hosts.nth(1)).not.toContainText("Original");
    const main = page.getByRole("main");
    for (const text of ["10.1.0.0/17", "10.1.0.0/18", one.id, two.id, String(vni), words["charge.normal"], `20 ${language === "zh" ? "Mbps" : "Mbit/s"}`]) {
      await expect(main.getByText(text, { exact: true }).first(), text).toBeVisible();
    }
    await expect(page.getByRole("region", { name: words["detail.routes"] }).getByRole("row").filter({ hasText: "10.1.0.0/18" })).toContainText("far");
    for (const colorScheme of ["light", "dark"] as const) {
      await page.emulateMedia({ colorScheme });
      await audit(page);
    }
    await fits(page, `any-peering-${language}`);

    // L13: the prefixes of either side, with a preview.
    await page.getByRole("button", { name: words["action.prefixes"] }).click();
    const dialog = page.getByRole("dialog", { name: words["action.prefixes"] });
    await dialog.getByLabel(words["prefixes.side"]).selectOption({ index: 1 });
    const imported = dialog.getByRole("group", { name: words["prefixes.importOf"].replace("{vpc}", "near") });
    await imported.getByRole("textbox").fill("10.1.0.0/19");
    const marked = dialog.getByRole("group", { name: words["prefixes.reachable"] }).getByRole("listitem");
    await expect(marked.filter({ hasText: words["prefixes.removed"] })).toHaveText(`10.1.32.0/19 ${words["prefixes.removed"]}`);
    await expect(dialog).toContainText(words["prefixes.stops"]);
    await fits(page, `any-prefixes-${language}`);
    await dialog.getByText(words["calls.title"]).click();
    await expect(dialog.locator("pre").first()).toHaveText(`cps-peering peering set-prefixes ${id} --import-prefixes 10.1.0.0/19 --vpc ${far}`);
    // No counters yet: whether it carries traffic is unknown, or nothing does.
    const named = dialog.getByLabel(words["prefixes.typeName"].replace("{name}", "held-up"));
    const confirm = dialog.getByRole("button", { name: words["common.confirm"] });
    await expect(named.or(dialog.locator("button:enabled", { hasText: words["common.confirm"] })).first()).toBeVisible();
    if (await named.isVisible()) await named.fill("held-up");
    await confirm.click();
    await expect(dialog).toHaveCount(0);
    await expect(page.getByRole("region", { name: words["detail.routes"] }).getByRole("row").filter({ hasText: "10.1.0.0/19" })).toContainText("far");
    await controller.ask(admin_token, "PUT", `/admin/v1/peerings/${id}/prefixes`, { vpcId: far, importPrefixes: ["10.1.0.0/18"] });

    // From the host and back.
    await hosts.nth(1).getByRole("link", { name: "h1" }).click();
    await page.getByRole("link", { name: "held-up" }).click();
    await expect(page.getByRole("heading", { level: 1, name: "held-up" })).toBeVisible();
    // Of the gateways, one that the other side reaches.
    await page.getByRole("link", { name: "near → far" }).click();
    await expect(page.getByLabel(words["path.source"]).first()).toHaveValue("10.1.1.1");
    await expect(page.getByLabel(words["path.destination"])).toHaveValue("10.2.1.1");
    await expect(page.getByLabel(words["path.vpc"])).toHaveValue(near);
    await page.getByRole("link", { name: id }).click();
    await controller.ask(admin_token, "PUT", `/admin/v1/accounts/${one.id}/chargeStatus`, { chargeStatus: "arrear" });
    await expect(page.locator("[data-state=suspended]")).toBeVisible();
    await expect(main.getByText(words["charge.arrear"], { exact: true }).last()).toBeVisible();
    // Since when a host is unreachable, and why.
    await expect(hosts.nth(2).getByRole("cell").nth(3)).toContainText(/\d\d:\d\d/);
    await fine.stop();
    const silent = hosts.filter({ hasText: "h2" });
    await expect(silent).toContainText("Connection refused", { timeout: 60_000 });
    if (language === "zh") await expect(silent).toContainText("连接被拒绝。原文：");
    await page.goto(`${controller.told.url}/console/#/peerings/vpcpr-0000000000`);
    await expect(page.getByText(words["detail.gone"])).toBeVisible();
    await failing.stop();
  });
}

test("on Chinese pages what other servers say has its reason in Chinese, and what has none is an original that says so", async ({ browser, controller }) => {
  const [one] = controller.told.accounts;
  const said = ["it answered 500 Internal Server Error", "it answered 302 Found, and redirects are not followed",
    "error sending request: client error (Connect): tcp connect error: Connection refused (os error 111)", "something <b>odd</b>"];
  const page = await open(browser, controller);
  await page.route("**/webhooks", (route) => route.fulfill({ json: { requestId: "x", result: { webhooks: said.map((lastError, place) => ({
    webhookId: `wh-${place}`, url: `https://example.com/${place}`, types: [], enabled: true, createdTime: "2026-01-01T00:00:00Z", state: "failing",
    lastDelivered: null, failures: 3, lastError, nextAttempt: null, expired: 0,
  })) } } }));
  await signIn(page, one);
  await page.getByRole("navigation").getByRole("link", { name: "Webhook" }).click();
  const row = (place: number) => page.getByRole("row").filter({ hasText: `https://example.com/${place}` }).first();
  await expect(row(0)).toContainText("对方返回 500 Internal Server Error。");
  await expect(row(0)).not.toContainText("原文");
  await expect(row(1)).toContainText("对方返回 302 Found，不跟随重定向。");
  await expect(row(2)).toContainText("连接被拒绝。原文：error sending request");
  await expect(row(3)).toContainText("原文：something <b>odd</b>");
  await expect(row(3).locator("q")).toHaveAttribute("lang", "en");
  await audit(page);
  await page.getByRole("combobox", { name: "语言" }).selectOption("en");
  await expect(row(0)).toContainText("it answered 500 Internal Server Error");
});
