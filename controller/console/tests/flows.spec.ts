// The product's flows, as users go through them.

import type { Page } from "@playwright/test";
import { audit, expect, open, signIn, signInByToken, test } from "./world.ts";

const row = (page: Page, name: string) => page.getByRole("row").filter({ hasText: name });

// V4.
test("a newcomer makes two VPCs and peers them, all in the page", async ({ browser, controller }) => {
  const [account] = controller.told.accounts;
  const page = await open(browser, controller);
  await signIn(page, account);
  await expect(page.getByText("还没有对等连接")).toBeVisible();
  await page.getByRole("link", { name: "创建私有网络" }).click();
  for (const [name, cidr] of [["前端", "10.1.0.0/16"], ["后端", "10.2.0.0/16"]] as const) {
    await page.getByRole("button", { name: "创建私有网络" }).click();
    await page.getByRole("dialog").getByLabel("名称").fill(name);
    await page.getByRole("dialog").getByLabel("IPv4 网段").fill(cidr);
    await page.getByRole("dialog").getByRole("button", { name: "确定" }).click();
    await expect(row(page, name)).toContainText(cidr);
  }
  await page.getByRole("link", { name: "对等连接", exact: true }).click();
  await page.getByRole("link", { name: "创建对等连接" }).click();
  await page.getByLabel("名称").fill("前后互通");
  await page.getByLabel("本端私有网络").selectOption(await valueWith(page, "本端私有网络", "前端"));
  await page.getByLabel("对端私有网络").selectOption(await valueWith(page, "对端私有网络", "后端"));
  await expect(page.getByText("同地域不限制带宽，免费。")).toBeVisible();
  await expect(page.getByLabel("带宽上限")).toHaveCount(0);
  await expect(page.getByLabel("对端账号", { exact: true })).toHaveCount(0);
  await expect(page.getByText("检查通过")).toBeVisible();
  await expect(page.getByText("已用 0 / 50")).toBeVisible();
  await page.getByRole("button", { name: "确定" }).click();

  await expect(page.getByRole("heading", { level: 1, name: "前后互通" })).toBeVisible();
  await expect(page.getByText("已连接").first()).toBeVisible();
  // One IPv4 route policy in each direction; no host is concerned.
  const routes = page.getByRole("region", { name: "路由策略" });
  await expect(routes.getByRole("row")).toHaveCount(3);
  await expect(routes).toContainText("10.1.0.0/16");
  await expect(routes).toContainText("10.2.0.0/16");
  await expect(routes.getByText("没有主机接口")).toHaveCount(2);
  await expect(page.getByText("同地域对等连接免费。")).toBeVisible();
  await expect(page.getByText("同地域不限制带宽")).toBeVisible();
  await expect(page.getByRole("button", { name: "修改带宽" })).toHaveCount(0);

  await page.getByRole("button", { name: "修改名称" }).click();
  await page.getByRole("dialog").getByLabel("名称").fill("改名");
  await page.getByRole("dialog").getByRole("button", { name: "保存" }).click();
  await expect(page.getByRole("heading", { level: 1, name: "改名" })).toBeVisible();

  await page.getByRole("button", { name: "删除", exact: true }).click();
  await expect(page.getByRole("dialog")).toContainText("流量会立即中断");
  await page.getByRole("dialog").getByRole("button", { name: "删除" }).click();
  await expect(page.getByText("该对等连接已不存在")).toBeVisible();
  await page.getByRole("link", { name: "私有网络", exact: true }).click();
  await page.getByRole("button", { name: "管理网段 前端" }).click();
  await page.getByRole("dialog").getByLabel("新网段").fill("10.8.0.0/16");
  await page.getByRole("dialog").getByRole("button", { name: "添加网段" }).click();
  await page.getByRole("button", { name: "删除 10.8.0.0/16" }).click();
  await expect(page.getByRole("dialog")).toContainText("没有对等连接使用该网段");
  await page.getByRole("dialog").getByRole("button", { name: "删除", exact: true }).click();
  await expect(page.getByRole("dialog").getByText("10.8.0.0/16", { exact: true })).toHaveCount(0);
  await page.getByRole("dialog").getByRole("button", { name: "关闭" }).click();
  await page.getByRole("button", { name: "删除 前端" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "删除" }).click();
  await expect(row(page, "前端")).toHaveCount(0);
});

/** The value of the option with a text. */
async function valueWith(page: Page, label: string, text: string): Promise<string> {
  return (await page.getByLabel(label).locator("option").filter({ hasText: text }).getAttribute("value")) ?? "";
}

// V4.
test("a request between accounts and regions is accepted, changed, and ended, each side seeing its own", async ({ browser, controller }) => {
  const [one, two] = controller.told.accounts;
  const [north, east] = controller.told.regions;
  await controller.vpc(one, north, "web", "10.1.0.0/16");
  const theirs = await controller.vpc(two, east, "data", "10.2.0.0/16");
  const asker = await open(browser, controller);
  const asked = await open(browser, controller);
  await signIn(asker, one);
  await signIn(asked, two);
  await expect(asked.getByText("还没有对等连接")).toBeVisible();

  await asker.getByRole("link", { name: "创建", exact: true }).or(asker.getByRole("link", { name: "创建对等连接" })).first().click();
  await asker.getByLabel("名称").fill("to-data");
  await asker.getByLabel("本端私有网络").selectOption({ index: 1 });
  await asker.getByRole("radio", { name: "跨账号" }).check();
  await asker.getByLabel("对端账号", { exact: true }).fill(two.id);
  await asker.getByLabel("对端地域").selectOption(east);
  await asker.getByLabel("对端私有网络").fill(theirs);
  await asker.getByLabel("带宽上限").fill("200");
  await expect(asker.getByText("对端账号接受后才会连通")).toBeVisible();
  await asker.getByRole("button", { name: "确定" }).click();
  await expect(asker.getByText("待对端接受").first()).toBeVisible();
  await expect(asker.getByText("只有接收端可以接受或拒绝").first()).toBeVisible();

  // The receiver's page has not been touched: it updates itself.
  await expect(asked.getByText("1 个申请等待您接受")).toBeVisible();
  await expect(row(asked, "to-data")).toContainText("接收端");
  await asked.getByRole("button", { name: "接受 to-data" }).click();
  await expect(asked.getByRole("dialog")).toContainText("请勿接受未知账号的对等连接申请，此类用户可能会给您的网络带来风险。");
  await asked.getByRole("dialog").getByRole("button", { name: "接受" }).click();
  await expect(row(asked, "to-data")).toContainText("已连接");
  await expect(asker.locator("[data-state=active]").first()).toBeVisible();
  await expect(asked.getByRole("button", { name: "修改带宽 to-data" })).toHaveCount(0);

  await expect(asker.getByText("暂无流量数据")).toBeVisible();
  await expect(asker.getByText("按配置计费")).toBeVisible();
  await asker.getByRole("button", { name: "修改带宽" }).click();
  await asker.getByRole("dialog").getByLabel("带宽上限").fill("350");
  await asker.getByRole("dialog").getByRole("button", { name: "确定" }).click();
  await expect(asker.getByText("350 Mbps").first()).toBeVisible();
  await expect(row(asked, "to-data")).toContainText("350 Mbps");

  await asker.getByRole("link", { name: "费用" }).click();
  await expect(asker.getByText("计费中")).toBeVisible();
  await asker.getByRole("link", { name: "操作日志" }).click();
  await expect(asker.getByRole("row").filter({ hasText: two.id })).toContainText("接受");

  await asked.getByRole("button", { name: "删除 to-data" }).click();
  await expect(asked.getByRole("dialog")).toContainText("对端账号会看到“对端已删除”。");
  await asked.getByRole("dialog").getByRole("button", { name: "删除" }).click();
  await expect(asked.getByText("还没有对等连接")).toBeVisible();
  await asker.getByRole("link", { name: "对等连接", exact: true }).click();
  await expect(row(asker, "to-data")).toContainText("对端已删除");
  await asker.getByRole("button", { name: "删除 to-data" }).click();
  await expect(asker.getByRole("dialog")).toContainText("只删除这条记录");
  await asker.getByRole("dialog").getByRole("button", { name: "删除" }).click();
  await expect(asker.getByText("还没有对等连接")).toBeVisible();
});

// V4.
test("a request is rejected, its account blocked, and unblocked", async ({ browser, controller }) => {
  const [one, two] = controller.told.accounts;
  const [north] = controller.told.regions;
  const vpcId = await controller.vpc(one, north, "web", "10.1.0.0/16");
  const remoteVpcId = await controller.vpc(two, north, "data", "10.2.0.0/16");
  const wish = { vpcPeeringName: "please", vpcId, remoteVpcId, remoteAccountId: two.id };
  await controller.peer(one, north, wish);
  const asker = await open(browser, controller);
  const asked = await open(browser, controller);
  await signIn(asker, one);
  await signIn(asked, two);
  await asked.getByRole("link", { name: "please" }).first().click();
  await asked.getByRole("button", { name: "拒绝" }).click();
  await expect(asked.getByRole("dialog")).toContainText("该条记录消失，且发起端状态变为“对端已拒绝”");
  await asked.getByRole("dialog").getByRole("checkbox").check();
  await asked.getByRole("dialog").getByRole("button", { name: "拒绝" }).click();
  await expect(asked.getByText("该对等连接已不存在")).toBeVisible();
  await expect(row(asker, "please")).toContainText("对端已拒绝");
  await asked.getByRole("link", { name: "账号黑名单" }).click();
  await expect(asked.getByText(one.id, { exact: true })).toBeVisible();
  await expect(controller.peer(one, north, { ...wish, vpcPeeringName: "again" })).rejects.toThrow("NOT_FOUND");
  await asked.getByRole("button", { name: `取消屏蔽 ${one.id}` }).click();
  await asked.getByRole("dialog").getByText("显示为命令行 / API 调用").click();
  await expect(asked.getByRole("dialog").locator("pre").first()).toHaveText(`cps-peering unblock ${one.id}`);
  await asked.getByRole("dialog").getByRole("button", { name: "确定" }).click();
  await expect(asked.getByText("没有屏蔽任何账号")).toBeVisible();
});

test("what would be refused is told before, and when it is asked for", async ({ browser, controller }) => {
  const [one] = controller.told.accounts;
  const [north] = controller.told.regions;
  await controller.vpc(one, north, "web", "10.1.0.0/16");
  await controller.vpc(one, north, "twin", "10.1.128.0/17");
  await controller.vpc(one, north, "free", "10.2.0.0/16");
  await controller.ask(controller.told.admin_token, "PUT", `/admin/v1/accounts/${one.id}/quotas/${north}`, { maxLimit: 0 });
  const page = await open(browser, controller);
  await signIn(page, one);
  await page.getByRole("link", { name: "创建对等连接" }).click();
  await expect(page.getByText("配额已用完（0 / 0）")).toBeVisible();
  await page.getByLabel("名称").fill("overlap");
  await page.getByLabel("本端私有网络").selectOption(await valueWith(page, "本端私有网络", "web"));
  await page.getByLabel("对端私有网络").selectOption(await valueWith(page, "对端私有网络", "free"));
  await expect(page.getByRole("alert")).toContainText("配额");
  await controller.ask(controller.told.admin_token, "DELETE", `/admin/v1/accounts/${one.id}/quotas/${north}`);
  await page.getByLabel("对端私有网络").selectOption(await valueWith(page, "对端私有网络", "twin"));
  await expect(page.getByRole("alert")).toContainText("CIDR 重叠");
  await expect(page.getByRole("alert")).toContainText("10.1.128.0/17");
  await page.getByRole("button", { name: "确定" }).click();
  await expect(page.getByRole("alert")).toContainText("CIDR 重叠");
  await expect(page).toHaveURL(/create$/);
});

test("only what decides whether CIDRs overlap is checked again: typing a name, a description or a message is not", async ({ browser, controller }) => {
  const [one, two] = controller.told.accounts;
  const [north, east] = controller.told.regions;
  await controller.vpc(one, north, "web", "10.1.0.0/16");
  const theirs = await controller.vpc(two, east, "data", "10.2.0.0/16");
  const page = await open(browser, controller);
  await signIn(page, one);
  const dryRuns: string[] = [];
  page.on("request", (request) => {
    if (request.method() === "POST" && request.postData()?.includes('"dryRun":true')) dryRuns.push(request.postData()!);
  });
  const checked = (count: number) => expect.poll(() => dryRuns.length).toBe(count);
  const confirmed = page.getByText("检查通过");
  await page.getByRole("link", { name: "创建对等连接" }).click();
  await page.getByLabel("本端私有网络").selectOption({ index: 1 });
  await page.getByRole("radio", { name: "跨账号" }).check();
  await page.getByLabel("对端账号", { exact: true }).fill(two.id);
  await page.getByLabel("对端地域").selectOption(east);
  await page.getByLabel("对端私有网络").fill(theirs);
  await expect(confirmed).toBeVisible();
  await checked(1);
  for (const [label, text] of [["名称", "to-data"], ["描述", "why"], ["留言", "please accept"]] as const) {
    // Slower than the pause after which input is checked, so that each letter would be.
    await page.getByLabel(label).pressSequentially(text.slice(0, 4), { delay: 450 });
    await page.getByLabel(label).fill(text);
    await expect(confirmed).toBeVisible();
  }
  // Had anything been checked, this would not be the second.
  await page.getByLabel("带宽上限").fill("200");
  await checked(2);
  await expect(confirmed).toBeVisible();
  const asked = page.waitForRequest((request) => request.method() === "POST" && !request.postData()!.includes("dryRun"));
  await page.getByRole("button", { name: "确定" }).click();
  expect((await asked).postDataJSON()).toMatchObject({ vpcPeeringName: "to-data", description: "why", message: "please accept", bandwidth: 200 });
  await expect(page.getByRole("heading", { level: 1, name: "to-data" })).toBeVisible();
  expect(dryRuns).toHaveLength(2);
  await page.goto(`${controller.told.url}/console/#/peerings/create`);
  await page.getByLabel("名称").fill("to-data");
  await expect(page.getByText("该名称已被本账号该地域内的另一个对等连接使用。")).toBeVisible();
});

test("a peering is made with the keyboard alone", async ({ browser, controller }) => {
  const [one] = controller.told.accounts;
  const [north] = controller.told.regions;
  await controller.vpc(one, north, "web", "10.1.0.0/16");
  await controller.vpc(one, north, "data", "10.2.0.0/16");
  const page = await open(browser, controller, { locale: "en-GB" });
  const at = async (label: string) => {
    for (let step = 0; step < 40; step++) {
      const here = await page.evaluate(() => {
        const element = document.activeElement as HTMLInputElement | null;
        return element?.getAttribute("aria-label") ?? element?.labels?.[0]?.textContent ?? element?.textContent ?? "";
      });
      if (here.startsWith(label)) return;
      await page.keyboard.press("Tab");
    }
    throw new Error(`Tab does not lead to ${label}`);
  };
  await at("Access key");
  await page.keyboard.press("Tab");
  await page.keyboard.type(one.access_key);
  await at("Secret key");
  await page.keyboard.type(one.secret_key);
  await page.keyboard.press("Enter");
  await expect(page.getByText("No peerings yet")).toBeVisible();
  await at("Create a peering");
  await page.keyboard.press("Enter");
  await expect(page.getByRole("heading", { level: 1, name: "Create a peering" })).toBeFocused();
  await at("Name");
  await page.keyboard.type("by-keyboard");
  await at("Local VPC");
  await page.keyboard.press("ArrowDown");
  await at("Peer VPC");
  await page.keyboard.press("ArrowDown");
  await at("Confirm");
  await page.keyboard.press("Enter");
  await expect(page.getByRole("heading", { level: 1, name: "by-keyboard" })).toBeVisible();
  await at("Delete");
  await page.keyboard.press("Enter");
  await expect(page.getByRole("dialog")).toBeVisible();
  await page.keyboard.press("Escape");
  await expect(page.getByRole("dialog")).toHaveCount(0);
  await expect(page.getByRole("button", { name: "Delete" })).toBeFocused();
});

test("peerings are found by filter, search and page", async ({ browser, controller }) => {
  const [one] = controller.told.accounts;
  const [north, east] = controller.told.regions;
  const hub = await controller.vpc(one, north, "hub", "10.0.0.0/16");
  for (let number = 1; number <= 22; number++) {
    const spoke = await controller.vpc(one, north, `spoke-${number}`, `10.${number}.0.0/16`);
    await controller.peer(one, north, { vpcPeeringName: `p${number}`, vpcId: hub, remoteVpcId: spoke });
  }
  const far = await controller.vpc(one, east, "far", "10.99.0.0/16");
  await controller.peer(one, north, { vpcPeeringName: "far-away", vpcId: hub, remoteVpcId: far, remoteRegionId: east, bandwidth: 50 });
  const page = await open(browser, controller);
  await signIn(page, one);
  await expect(page.getByText("共 23 条")).toBeVisible();
  await expect(page.getByRole("row")).toHaveCount(21);
  await page.getByRole("button", { name: "下一页" }).click();
  await expect(page.getByRole("row")).toHaveCount(4);
  // The search is in the address: it is there again after a reload.
  await page.reload();
  await expect(page.getByRole("row")).toHaveCount(4);
  await page.getByRole("searchbox", { name: "搜索" }).fill("far");
  await expect(page.getByText("共 1 条")).toBeVisible();
  await page.getByRole("combobox", { name: "地域" }).selectOption(east);
  await expect(row(page, "far-away")).toContainText("接收端");
  await page.getByRole("combobox", { name: "状态" }).selectOption("expired");
  await expect(page.getByText("没有符合条件的对等连接")).toBeVisible();
  await page.getByRole("button", { name: "清除条件" }).click();
  await expect(page.getByText("共 23 条")).toBeVisible();
  const byName = page.getByRole("columnheader", { name: "名称/ID" });
  await byName.getByRole("button").click();
  await expect(byName).toHaveAttribute("aria-sort", "ascending");
  for (const [index, name] of ["far-away", "p1", "p10", "p11"].entries()) await expect(page.getByRole("row").nth(index + 1)).toContainText(name);
  await byName.getByRole("button").click();
  await expect(byName).toHaveAttribute("aria-sort", "descending");
  for (const [index, name] of ["p9", "p8", "p7", "p6"].entries()) await expect(page.getByRole("row").nth(index + 1)).toContainText(name);
  await expect(page.getByRole("columnheader", { name: "创建时间" })).not.toHaveAttribute("aria-sort", /./);
  // Arguments that look like options are no options.
  await page.getByRole("row").nth(1).getByRole("link").click();
  await page.getByRole("button", { name: "修改名称" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("名称").fill("-x y");
  await dialog.getByLabel("描述").fill("--yes");
  await dialog.getByText("显示为命令行 / API 调用").click();
  await expect(dialog.locator("pre").first()).toHaveText(/^cps-peering --region \S+ peering rename --description=--yes -- vpcpr-\w+ '-x y'$/);
});

test("pages that nobody touches ask for nothing when something changes", async ({ browser, controller }) => {
  const [one] = controller.told.accounts;
  const [north] = controller.told.regions;
  const page = await open(browser, controller);
  await signIn(page, one);
  await expect(page.getByText("还没有对等连接")).toBeVisible();
  let asked = 0;
  page.on("request", (request) => { if (new URL(request.url()).pathname.startsWith("/v1/")) asked++; });
  const hub = await controller.vpc(one, north, "hub", "10.0.0.0/16");
  for (let number = 1; number <= 10; number++) {
    const spoke = await controller.vpc(one, north, `spoke-${number}`, `10.${number}.0.0/16`);
    await controller.peer(one, north, { vpcPeeringName: `p${number}`, vpcId: hub, remoteVpcId: spoke });
    await expect(row(page, `p${number}`).first()).toBeVisible();
  }
  expect(asked).toBe(0);
});

test("what is protected is deleted after the protection has ended", async ({ browser, controller }) => {
  const [one] = controller.told.accounts;
  const [north, east] = controller.told.regions;
  const a = await controller.vpc(one, north, "a", "10.1.0.0/16");
  const b = await controller.vpc(one, east, "b", "10.2.0.0/16");
  const id = await controller.peer(one, north, { vpcPeeringName: "kept", vpcId: a, remoteVpcId: b, remoteRegionId: east, bandwidth: 5 });
  const page = await open(browser, controller);
  await signIn(page, one);
  await page.goto(`${controller.told.url}/console/#/peerings/${north}/${id}`);
  await page.getByRole("button", { name: "删除保护" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "确定" }).click();
  await expect(page.getByText("已开启删除保护，请先关闭")).toBeVisible();
  await expect(page.getByRole("button", { name: "删除", exact: true })).toHaveCount(0);
  await page.getByRole("button", { name: "修改带宽" }).click();
  await expect(page.getByRole("dialog")).toContainText("未定价");
  await page.getByRole("dialog").getByRole("button", { name: "取消" }).click();
  await page.getByRole("button", { name: "删除保护" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "确定" }).click();
  await page.getByRole("button", { name: "删除", exact: true }).click();
  await page.getByRole("dialog").getByRole("button", { name: "删除" }).click();
  await expect(page.getByText("该对等连接已不存在")).toBeVisible();
});

// B5, V4.
test("an account in arrears sees what is suspended, and that only deleting is possible", async ({ browser, controller }) => {
  const [one] = controller.told.accounts;
  const [north, east] = controller.told.regions;
  const near = await controller.vpc(one, north, "near", "10.1.0.0/16");
  const far = await controller.vpc(one, east, "far", "10.2.0.0/16");
  await controller.peer(one, north, { vpcPeeringName: "paid", vpcId: near, remoteVpcId: far, remoteRegionId: east, bandwidth: 50 });
  const page = await open(browser, controller);
  await signIn(page, one);
  await expect(row(page, "paid")).toContainText("已连接");
  const charge = (chargeStatus: string) =>
    controller.ask(controller.told.admin_token, "PUT", `/admin/v1/accounts/${one.id}/chargeStatus`, { chargeStatus });
  await charge("arrear");
  await expect(row(page, "paid")).toContainText("欠费停服");
  await expect(page.getByText("账号已欠费：")).toBeVisible();
  await page.getByRole("link", { name: "paid" }).click();
  await expect(page.getByText("欠费停服期间只能删除").first()).toBeVisible();
  await expect(page.getByRole("button", { name: "修改带宽" })).toHaveCount(0);
  await audit(page);
  await charge("normal");
  await expect(page.locator("[data-state=active]")).toBeVisible();
});

test("a session ends when its user leaves, and when its key is taken away", async ({ browser, controller }) => {
  const [one, two] = controller.told.accounts;
  const page = await open(browser, controller);
  await page.getByLabel("Access Key", { exact: true }).fill(one.access_key);
  await page.getByLabel("Secret Key", { exact: true }).fill("WRONG");
  await page.getByRole("button", { name: "登录" }).click();
  await expect(page.getByRole("alert")).toContainText("不正确");
  await signIn(page, one);
  expect(await page.evaluate(() => document.cookie)).toBe("");
  const [cookie] = await page.context().cookies();
  expect(cookie).toMatchObject({ httpOnly: true, sameSite: "Strict", path: "/" });
  await page.reload();
  await expect(page.getByText(one.id, { exact: true }).first()).toBeVisible();
  await page.getByRole("button", { name: "退出登录" }).click();
  await expect(page.getByRole("button", { name: "登录" })).toBeVisible();
  await page.reload();
  await expect(page.getByRole("button", { name: "登录" })).toBeVisible();
  await signInByToken(page, two.token);
  await expect(page.getByText(two.id, { exact: true }).first()).toBeVisible();
  await controller.ask(controller.told.admin_token, "DELETE", `/admin/v1/accounts/${two.id}/tokens/${two.id}-dev`);
  // No request is made: the controller ends the stream, which it checks every 15 s.
  await expect(page.getByText("会话已结束，请重新登录。")).toBeVisible({ timeout: 60_000 });
});
