// What the page shows and offers while something fails, hangs, or has changed under its user.

import type { Locator, Page } from "@playwright/test";
import { audit, Controller, expect, made, open, signIn, test } from "./world.ts";

const credentials = async (where: Page | Locator, { access_key, secret_key }: { access_key: string; secret_key: string }) => {
  await where.getByLabel("Access Key", { exact: true }).last().fill(access_key);
  await where.getByLabel("Secret Key", { exact: true }).fill(secret_key);
  await where.getByRole("button", { name: "登录", exact: true }).click();
};

test("who signs in after another is shown nothing of that one", async ({ browser, controller }) => {
  const [one, two] = controller.told.accounts;
  const [north] = controller.told.regions;
  const vpcId = await controller.vpc(one, north, "web", "10.1.0.0/16");
  const remoteVpcId = await controller.vpc(two, north, "data", "10.2.0.0/16");
  await controller.peer(two, north, { vpcPeeringName: "confidential", vpcId: remoteVpcId, remoteVpcId: vpcId, remoteAccountId: one.id });
  const page = await open(browser, controller);
  await signIn(page, one);
  await page.goto(`${controller.told.url}/console/#/peerings?search=confid`);
  await expect(page.getByText("confidential").first()).toBeVisible();
  await page.context().clearCookies();
  await page.getByRole("link", { name: "操作日志" }).click();
  const again = page.getByRole("dialog", { name: "会话已结束" });
  await expect(again).toContainText(`请以 ${one.id} 重新登录`);
  await page.goto(`${controller.told.url}/console/#/peerings?search=confid`);
  // The stream has sent nothing yet: only earlier data could be shown.
  await page.route("**/console/events", () => {});
  await credentials(again, two);
  await expect(page.getByText(two.id, { exact: true })).toBeVisible();
  await expect(page.getByText("confidential")).toHaveCount(0);
  await expect(page.locator(".count")).toHaveCount(0);
  expect(new URL(page.url()).hash).toBe("");
  await page.keyboard.press("Control+k");
  await expect(page.getByRole("combobox", { name: "搜索页面" })).toBeFocused();
  await page.keyboard.type("confidential");
  await expect(page.getByText("没有匹配的内容")).toBeVisible();
});

test("no address and no answer leaves the page blank", async ({ browser, controller }) => {
  const [one, two] = controller.told.accounts;
  const [north] = controller.told.regions;
  const vpcId = await controller.vpc(one, north, "web", "10.1.0.0/16");
  const foreign = await controller.vpc(two, north, "data", "10.2.0.0/16");
  await controller.peer(one, north, { vpcPeeringName: "to-data", vpcId, remoteVpcId: foreign, remoteAccountId: two.id });
  const page = await open(browser, controller);
  await signIn(page, one);
  const at = (hash: string) => page.goto(`${controller.told.url}/console/#/${hash}`);
  // The VPC in the middle is another account's, and nothing that matches the search leads to it.
  await at(`map?focus=${foreign}&search=nothing`);
  await expect(page.getByText("没有符合条件的对等连接")).toBeVisible();
  await expect(page.locator("svg .node")).toHaveCount(1);
  await audit(page);
  await page.reload();
  await expect(page.locator("svg .node")).toHaveCount(1);
  await at("%E0%A4%A");
  await expect(page.getByText("没有这个页面")).toBeVisible();
  made.push(/TypeError/);
  await page.route("**/v1/blockedAccounts", (route) => route.fulfill({ json: { requestId: "x", result: {} } }));
  await at("blocked");
  await expect(page.getByText("无法显示此页面。")).toBeVisible();
  await audit(page);
  await page.getByRole("link", { name: "私有网络", exact: true }).click();
  await expect(page.getByRole("rowheader", { name: "web" })).toBeVisible();
  await page.unroute("**/v1/blockedAccounts");
  await at("blocked");
  await expect(page.getByText("没有屏蔽任何账号")).toBeVisible();
});

test("without the stream, dialogs say what is true, or that they cannot tell", async ({ browser, controller }) => {
  const [one, two] = controller.told.accounts;
  const [north] = controller.told.regions;
  const vpcId = await controller.vpc(one, north, "web", "10.1.0.0/16");
  const data = await controller.vpc(one, north, "data", "10.2.0.0/16");
  await controller.peer(one, north, { vpcPeeringName: "web-data", vpcId, remoteVpcId: data });
  await controller.ask(one.token, "PUT", `/v1/regions/${north}/secondaryCidrs`, { secondaryCidrSpec: { vpcId, cidr: "10.9.0.0/16" } });
  const theirs = await controller.vpc(two, north, "theirs", "10.2.128.0/17");
  await controller.peer(two, north, { vpcPeeringName: "please", vpcId: theirs, remoteVpcId: vpcId, remoteAccountId: one.id });
  const page = await open(browser, controller);
  made.push(/ERR_FAILED/, /status of 503/);
  await page.route("**/console/events", (route) => route.abort());
  await signIn(page, one);
  await expect(page.getByText("与控制器的连接已中断。")).toBeVisible();
  await expect(page.getByRole("article").filter({ hasText: "please" })).toContainText("10.2.128.0/17 与 data 的网段重叠");
  const hits = async () => {
    await page.getByRole("link", { name: "私有网络", exact: true }).click();
    await page.getByRole("button", { name: "管理网段 web" }).click();
    await page.getByRole("button", { name: "删除 10.9.0.0/16" }).click();
    return page.getByRole("dialog", { name: "删除网段 10.9.0.0/16" });
  };
  const dialog = await hits();
  await expect(dialog).toContainText("web-data");
  await expect(dialog).not.toContainText("没有对等连接使用该网段");
  // Later changes are loaded, too.
  const more = await controller.vpc(one, north, "more", "10.4.0.0/16");
  await controller.peer(one, north, { vpcPeeringName: "web-more", vpcId, remoteVpcId: more });
  await expect(dialog).toContainText("web-more");
  await dialog.getByRole("button", { name: "取消" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "关闭" }).click();
  await page.route(/\/v1\/regions\/.*\/(vpcs|vpcPeerings)\//, (route) => route.fulfill({ status: 503, body: "away" }));
  await page.route(/\/v1\/regions\/.*\/vpcs\?/, (route) => route.fulfill({ status: 503, body: "away" }));
  await page.getByRole("button", { name: "立即重试" }).click();
  await expect(await hits()).toContainText("暂时无法得知目前有哪些对等连接使用该网段");
  await expect(dialog).toContainText("web-more");
  await audit(page);
});

test("what may carry traffic is deleted only with its name, also while that cannot be told", async ({ browser, controller }) => {
  const [one] = controller.told.accounts;
  const [north] = controller.told.regions;
  const vpcId = await controller.vpc(one, north, "web", "10.1.0.0/16");
  for (const [index, name] of ["first", "second", "third"].entries()) {
    const remoteVpcId = await controller.vpc(one, north, `v${index}`, `10.${index + 2}.0.0/16`);
    await controller.peer(one, north, { vpcPeeringName: name, vpcId, remoteVpcId });
  }
  const page = await open(browser, controller);
  await signIn(page, one);
  made.push(/ERR_FAILED/);
  let answer = () => {};
  const held = new Promise<void>((resolve) => { answer = resolve; });
  await page.route("**/traffic**", async (route) => {
    await held;
    await route.abort();
  });
  const dialog = page.getByRole("dialog");
  const remove = dialog.getByRole("button", { name: "删除" });
  await page.getByRole("button", { name: "删除 first" }).click();
  await expect(dialog.getByText("正在检查流量…")).toBeVisible();
  await expect(remove).toBeDisabled();
  answer();
  await expect(dialog.getByText("目前无法得知")).toBeVisible();
  await expect(remove).toBeDisabled();
  await audit(page);
  await dialog.getByLabel("请输入名称 first").fill("first");
  await remove.click();
  await expect(page.getByRole("button", { name: "删除 first" })).toHaveCount(0);
  for (const name of ["second", "third"]) await page.getByRole("checkbox", { name: `选择 ${name}` }).check();
  await page.getByRole("button", { name: "删除（2）" }).click();
  await expect(dialog.getByText("目前无法得知")).toBeVisible();
  await expect(remove).toBeDisabled();
  await dialog.getByLabel("请输入数量").fill("2");
  await remove.click();
  await expect(page.getByText("还没有对等连接")).toBeVisible();
});

test("to reject and block can be finished after one half of it has failed", async ({ browser, controller }) => {
  const [one, two] = controller.told.accounts;
  const [north] = controller.told.regions;
  const vpcId = await controller.vpc(one, north, "web", "10.1.0.0/16");
  const remoteVpcId = await controller.vpc(two, north, "data", "10.2.0.0/16");
  await controller.peer(one, north, { vpcPeeringName: "please", vpcId, remoteVpcId, remoteAccountId: two.id });
  const page = await open(browser, controller);
  await signIn(page, two);
  made.push(/status of 503/);
  const dialog = page.getByRole("dialog");
  const reject = dialog.getByRole("button", { name: "拒绝" });
  await page.getByRole("button", { name: "拒绝并屏蔽账号 please" }).click();
  for (const path of ["**/v1/blockedAccounts/*", "**:rejectVpcPeering"]) {
    await page.route(path, (route) => route.fulfill({ status: 503, body: "away" }));
    await reject.click();
    await expect(dialog.getByRole("alert")).toContainText("无法连接控制器");
    await page.unroute(path);
  }
  await reject.click();
  await expect(dialog).toHaveCount(0);
  await expect(page.getByText("还没有对等连接")).toBeVisible();
  expect(await controller.ask(two.token, "GET", "/v1/blockedAccounts")).toMatchObject({ blockedAccounts: [one.id] });
});

test("to confirm again what was not answered makes no second peering, and a refusal goes with what it was about", async ({ browser, controller }) => {
  const [one] = controller.told.accounts;
  const [north] = controller.told.regions;
  await controller.vpc(one, north, "data", "10.2.0.0/16");
  await controller.vpc(one, north, "web", "10.1.0.0/16");
  const page = await open(browser, controller);
  await signIn(page, one);
  await page.goto(`${controller.told.url}/console/#/peerings/create`);
  await page.getByLabel("名称").fill("once");
  await page.getByLabel("本端私有网络").selectOption({ index: 1 });
  await page.getByLabel("对端私有网络").selectOption({ index: 1 });
  await expect(page.getByText("检查通过")).toBeVisible();
  made.push(/ERR_FAILED/);
  const confirm = page.getByRole("button", { name: "确定" });
  await page.route("**/vpcPeerings/", async (route) => {
    if (route.request().method() === "POST") await route.fetch();
    await route.abort();
  });
  await confirm.click();
  await expect(page.getByRole("alert")).toContainText("无法连接控制器");
  await page.unroute("**/vpcPeerings/");
  await confirm.click();
  await expect(page.getByRole("heading", { level: 1, name: "once" })).toBeVisible();
  const { vpcPeerings } = await controller.ask<{ vpcPeerings: object[] }>(one.token, "GET", `/v1/regions/${north}/vpcPeerings/`);
  expect(vpcPeerings).toHaveLength(1);

  await page.goto(`${controller.told.url}/console/#/peerings/create`);
  await page.getByLabel("本端私有网络").selectOption({ index: 1 });
  await page.getByLabel("对端私有网络").selectOption({ index: 1 });
  await expect(page.getByText("这两个私有网络之间已有对等连接。")).toBeVisible();
  await page.getByLabel("名称").fill("twice");
  // A violation is also shown if its field is no longer there.
  await page.getByRole("radio", { name: "跨账号" }).check();
  await expect(page.getByLabel("对端账号", { exact: true })).toBeVisible();
  await page.getByRole("radio", { name: "同账号" }).check();
  await page.getByLabel("对端私有网络").selectOption({ index: 1 });
  await page.route("**/vpcPeerings/", (route) => route.request().postData()?.includes("dryRun") ? route.continue() : route.fulfill({
    status: 400,
    json: { requestId: "x", error: { code: 400, message: "no", details: [{ entry: "remoteAccountId", rule: "no", reason: "InvalidAccount" }] } },
  }));
  await confirm.click();
  await expect(page.getByText("账号不正确。")).toBeVisible();
  await page.getByLabel("名称").fill("thrice");
  await expect(page.getByText("账号不正确。")).toHaveCount(0);
});

test("a controller that hangs is noticed, and the age of what is shown is that of its last word", async ({ browser }) => {
  const controller = await Controller.start();
  const [one] = controller.told.accounts;
  await controller.vpc(one, controller.told.regions[0], "web", "10.1.0.0/16");
  const page = await open(browser, controller);
  await page.clock.install();
  await page.reload();
  await signIn(page, one);
  await page.getByRole("link", { name: "私有网络", exact: true }).click();
  await expect(page.getByRole("rowheader", { name: "web" })).toBeVisible();
  made.push(/ERR_|status of 5/);
  controller.freeze();
  await page.clock.fastForward(45_000);
  await expect(page.getByText("与控制器的连接已中断。")).toBeVisible();
  await expect(page.getByText(/（(4[5-9]|[5-9]\d|1\d\d) 秒前|分钟前）/)).toBeVisible();
  await expect(page.getByRole("rowheader", { name: "web" })).toBeVisible();
  await page.context().close();
  await controller.stop("SIGKILL");
});

test("who cannot be signed out, or shown in, is told so", async ({ browser, controller }) => {
  const [one] = controller.told.accounts;
  const page = await open(browser, controller);
  made.push(/ERR_FAILED/, /status of 503/);
  await page.route("**/v1/whoami", (route) => route.fulfill({ status: 503, body: "away" }));
  await credentials(page, one);
  await expect(page.getByRole("alert")).toContainText("无法连接控制器");
  await expect(page.getByRole("button", { name: "登录" })).toBeEnabled();
  await page.unroute("**/v1/whoami");
  await page.getByRole("button", { name: "登录" }).click();
  await expect(page.getByText("还没有对等连接")).toBeVisible();
  await page.route("**/console/session", (route) => route.abort());
  await page.getByRole("button", { name: "退出登录" }).click();
  await expect(page.getByText("尚未退出登录")).toBeVisible();
  await expect(page.getByText(one.id, { exact: true })).toBeVisible();
  await audit(page);
  await page.unroute("**/console/session");

  // A response from before a sign-out undoes nothing.
  const other = await page.context().newPage();
  await other.goto(`${controller.told.url}/console/`);
  await expect(other.getByText("还没有对等连接")).toBeVisible();
  let asked = () => {};
  let release = () => {};
  const [isAsked, held] = [new Promise<void>((resolve) => { asked = resolve; }), new Promise<void>((resolve) => { release = resolve; })];
  await other.route("**/v1/whoami", async (route) => {
    const response = await route.fetch();
    asked();
    await held;
    await route.fulfill({ response });
  });
  const answered = other.waitForResponse("**/v1/whoami");
  await page.evaluate(() => new BroadcastChannel("cps-peering-session").postMessage("in"));
  await isAsked;
  await page.getByRole("button", { name: "退出登录" }).click();
  await expect(other.getByRole("button", { name: "登录" })).toBeVisible();
  release();
  await (await answered).finished();
  await expect(other.getByRole("button", { name: "登录" })).toBeVisible();
  await expect(other.getByText(one.id, { exact: true })).toHaveCount(0);
});

test("on a slow line a page says that it is loading, and then has everything", async ({ browser, controller }) => {
  const [one] = controller.told.accounts;
  const [north] = controller.told.regions;
  const hub = await controller.vpc(one, north, "hub", "10.0.0.0/16");
  await Promise.all(Array.from({ length: 30 }, async (_, index) => {
    const remoteVpcId = await controller.vpc(one, north, `v${index}`, `10.${index + 1}.0.0/16`);
    await controller.peer(one, north, { vpcPeeringName: `p${index}`, vpcId: hub, remoteVpcId });
  }));
  const page = await open(browser, controller);
  const line = await page.context().newCDPSession(page);
  await line.send("Network.emulateNetworkConditions", { offline: false, latency: 400, downloadThroughput: 20_000, uploadThroughput: 20_000 });
  // It may be over before it is observed.
  await page.evaluate(() => new MutationObserver(() => {
    if (document.body.textContent.includes("正在加载")) document.documentElement.dataset.loading = "seen";
  }).observe(document.body, { childList: true, subtree: true }));
  await signIn(page, one);
  await expect(page.getByText("共 30 条")).toBeVisible();
  await expect(page.locator("html")).toHaveAttribute("data-loading", "seen");
  await expect(page.getByText("与控制器的连接已中断。")).toHaveCount(0);
  await page.getByRole("link", { name: "费用账单" }).click();
  await expect(page.getByText("该账期没有费用")).toBeVisible();
});

test("a browser with too many pages is told that, instead of a lost connection", async ({ browser, controller }) => {
  const [one] = controller.told.accounts;
  const leave = new AbortController();
  for (let stream = 0; stream < 32; stream++) {
    const response = await fetch(`${controller.told.url}/console/events`, { headers: { authorization: `Bearer ${one.token}` }, signal: leave.signal });
    expect(response.status).toBe(200);
  }
  const page = await open(browser, controller);
  await signIn(page, one);
  await expect(page.getByText("本账号打开的页面过多，请关闭一些页面。")).toBeVisible();
  await expect(page.getByText("还没有对等连接")).toBeVisible();
  await expect(page.getByText("与控制器的连接已中断。")).toHaveCount(0);
  leave.abort();
  await expect(page.getByText("打开的页面过多")).toHaveCount(0);
});

test("dialogs and pages show a peering as it is, and not as it was when they were opened", async ({ browser, controller }) => {
  const [one, two] = controller.told.accounts;
  const [north] = controller.told.regions;
  const vpcId = await controller.vpc(one, north, "web", "10.1.0.0/16");
  const remoteVpcId = await controller.vpc(two, north, "data", "10.2.0.0/16");
  const id = await controller.peer(one, north, { vpcPeeringName: "before", vpcId, remoteVpcId, remoteAccountId: two.id, message: "hello" });
  const path = `/v1/regions/${north}/vpcPeerings/${id}`;
  const rename = (vpcPeeringName: string) => controller.ask(one.token, "PUT", path, { vpcPeeringName });
  const page = await open(browser, controller);
  await page.clock.install();
  await page.reload();
  await signIn(page, two);
  // A request keeps nobody's VPC from being deleted, and loses nothing with a CIDR.
  await controller.ask(two.token, "PUT", `/v1/regions/${north}/secondaryCidrs`, { secondaryCidrSpec: { vpcId: remoteVpcId, cidr: "10.8.0.0/16" } });
  await page.getByRole("link", { name: "私有网络", exact: true }).click();
  await expect(page.getByRole("button", { name: "删除 data" })).toBeVisible();
  await page.getByRole("button", { name: "管理网段 data" }).click();
  await page.getByRole("button", { name: "删除 10.8.0.0/16" }).click();
  await expect(page.getByRole("dialog")).toContainText("没有对等连接使用该网段");
  await page.getByRole("dialog").getByRole("button", { name: "取消" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "关闭" }).click();

  await page.goto(`${controller.told.url}/console/#/peerings?sort=name`);
  await page.getByRole("button", { name: "接受 before" }).click();
  const dialog = page.getByRole("dialog");
  await expect(dialog).toContainText("before");
  await rename("after");
  await expect(dialog).toContainText("after");
  await dialog.getByRole("button", { name: "取消" }).click();
  // From a request's page the way back leads to the list as it was.
  await page.getByRole("article").getByRole("link", { name: "after" }).click();
  await expect(page.getByRole("heading", { level: 1, name: "after" })).toBeVisible();
  await expect(page.getByText("对端留言")).toBeVisible();
  await expect(page.getByRole("link", { name: "返回列表" })).toHaveAttribute("href", /sort=name$/);
  // The stream takes precedence over an older response.
  await expect(page.getByText("对等连接未连通，没有路由策略。")).toBeVisible();
  const own = `**/vpcPeerings/${id}`;
  await page.route(own, () => {});
  await rename("last");
  await expect(page.getByRole("heading", { level: 1, name: "last" })).toBeVisible();
  await page.unroute(own);
  // What the stream does not contain is reloaded now and then.
  const asked = [page.waitForRequest(own), page.waitForRequest(`${own}/routes`)];
  await page.clock.fastForward(61_000);
  await Promise.all(asked);
});

test("who goes elsewhere while something runs is told there that it has failed", async ({ browser, controller }) => {
  const [one, two] = controller.told.accounts;
  const [north] = controller.told.regions;
  const remoteVpcId = await controller.vpc(two, north, "data", "10.2.0.0/16");
  for (const [index, vpcPeeringName] of ["first", "second"].entries()) {
    const vpcId = await controller.vpc(one, north, `v${index}`, `10.1${index}.0.0/16`);
    await controller.peer(one, north, { vpcPeeringName, vpcId, remoteVpcId, remoteAccountId: two.id });
  }
  const page = await open(browser, controller);
  await signIn(page, two);
  made.push(/status of 503/);
  const failing = async () => {
    let release = () => {};
    const held = new Promise<void>((resolve) => { release = resolve; });
    await page.unroute("**:rejectVpcPeering");
    await page.route("**:rejectVpcPeering", async (route) => {
      await held;
      await route.fulfill({ status: 503, body: "away" });
    });
    return release;
  };
  const elsewhere = async () => {
    await expect(page.getByRole("dialog").getByText("正在执行")).toBeVisible();
    await page.evaluate(() => { location.hash = "#/vpcs"; });
    await expect(page.getByRole("heading", { level: 1, name: "私有网络" })).toBeVisible();
  };
  let release = await failing();
  await page.getByRole("button", { name: "拒绝 first" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "拒绝" }).click();
  await elsewhere();
  release();
  await expect(page.getByText("拒绝对等连接：操作失败。无法连接控制器。")).toBeVisible();
  await page.goBack();
  release = await failing();
  for (const name of ["first", "second"]) await page.getByRole("checkbox", { name: `选择 ${name}` }).check();
  await page.getByRole("button", { name: "拒绝（2）" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "拒绝" }).click();
  await elsewhere();
  release();
  await expect(page.getByText(/失败 2 个（(first, second|second, first)）/)).toBeVisible();
});

test("names of any script and length stay within their places", async ({ browser, controller }) => {
  const { admin_token, accounts: [one, two], regions: [north] } = controller.told;
  const rtl = "שלום (1)";
  const accountId = `partner-${"x".repeat(50)}`;
  await controller.ask(admin_token, "POST", "/admin/v1/accounts", { accountId });
  const { token } = await controller.ask<{ token: string }>(admin_token, "POST", `/admin/v1/accounts/${accountId}/tokens`, {});
  const partner = { ...one, id: accountId, token };
  const remoteVpcId = await controller.vpc(two, north, rtl, "10.2.0.0/16");
  const vpcId = await controller.vpc(partner, north, "web", "10.1.0.0/16");
  await controller.peer(partner, north, { vpcPeeringName: rtl, vpcId, remoteVpcId, remoteAccountId: two.id });
  const page = await open(browser, controller, { viewport: { width: 1440, height: 900 } });
  // As if a page may not use the clipboard.
  await page.addInitScript(() => {
    navigator.clipboard.writeText = () => Promise.reject(new Error("refused"));
    document.execCommand = () => false;
  });
  await page.reload();
  await signIn(page, two);
  const list = page.getByRole("region", { name: "对等连接列表" });
  await expect(list.getByRole("row")).toHaveCount(2);
  expect(await list.evaluate((table) => table.scrollWidth - table.clientWidth)).toBeLessThanOrEqual(0);
  await audit(page);
  await list.getByRole("link", { name: rtl }).click();
  await expect(page).toHaveTitle(`\u2068${rtl}\u2069 · 云物理服务器`);
  await page.getByRole("link", { name: "返回列表" }).click();
  await page.getByRole("button", { name: `接受 ${rtl}` }).click();
  await expect(page.getByRole("dialog")).toContainText(`您的 \u2068${rtl}\u2069，`);
  await page.getByRole("dialog").getByRole("button", { name: "取消" }).click();
  await expect(page.getByRole("checkbox", { name: `选择 \u2068${rtl}\u2069` })).toBeVisible();
  const copy = list.getByRole("button", { name: /^复制 vpcpr-/ });
  await copy.focus();
  await page.keyboard.press("Enter");
  await expect(list.getByRole("button", { name: /^复制失败 vpcpr-/ })).toBeFocused();
  await page.getByRole("link", { name: "私有网络", exact: true }).click();
  await page.getByRole("button", { name: `管理网段 ${rtl}` }).click();
  await expect(page.getByRole("dialog").getByRole("heading")).toHaveText(`管理网段 · \u2068${rtl}\u2069`);
});
