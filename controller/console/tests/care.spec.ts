// Protection of users' work, and shortcuts.

import { readFileSync } from "node:fs";
import { audit, Controller, expect, made, open, signIn, test } from "./world.ts";

test("what runs cannot be closed as if it were cancelled", async ({ browser, controller }) => {
  const [one, two] = controller.told.accounts;
  const [north] = controller.told.regions;
  const vpcId = await controller.vpc(one, north, "web", "10.1.0.0/16");
  const remoteVpcId = await controller.vpc(two, north, "data", "10.2.0.0/16");
  await controller.peer(one, north, { vpcPeeringName: "slow", vpcId, remoteVpcId, remoteAccountId: two.id });
  const page = await open(browser, controller);
  await signIn(page, two);
  let release = () => {};
  const held = new Promise<void>((resolve) => { release = resolve; });
  await page.route("**:acceptVpcPeering", async (route) => {
    await held;
    await route.continue();
  });
  await page.getByRole("button", { name: "接受 slow" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByText("显示为命令行 / API 调用").click();
  await expect(dialog.locator("pre").first()).toContainText(`cps-peering --region ${north} peering accept`);
  await expect(dialog.locator("pre").last()).toContainText(":acceptVpcPeering");
  await audit(page);
  await dialog.getByRole("button", { name: "接受" }).click();
  await expect(dialog.getByText("正在执行")).toBeVisible();
  await expect(dialog.getByRole("button", { name: "取消" })).toBeDisabled();
  for (let time = 0; time < 3; time++) await page.keyboard.press("Escape");
  await expect(dialog).toBeVisible();
  release();
  await expect(dialog).toHaveCount(0);
  await expect(page.locator("[data-state=active]")).toBeVisible();
});

test("a half-filled form outlives the session, and one tab signs in the others", async ({ browser, controller }) => {
  const [one, two] = controller.told.accounts;
  const [north] = controller.told.regions;
  await controller.vpc(one, north, "web", "10.1.0.0/16");
  const page = await open(browser, controller);
  await signIn(page, one);
  const other = await page.context().newPage();
  await other.goto(`${controller.told.url}/console/#/vpcs`);
  await expect(other.getByRole("rowheader", { name: "web" })).toBeVisible();
  await page.getByRole("link", { name: "创建对等连接" }).click();
  await page.getByLabel("名称").fill("half done");
  await page.getByLabel("描述").fill("not lost");
  await page.context().clearCookies();
  await page.getByLabel("本端私有网络").selectOption({ index: 1 });
  await page.getByRole("radio", { name: "跨账号" }).check();
  await page.getByLabel("对端账号", { exact: true }).fill(two.id);
  await page.getByLabel("对端私有网络").fill("vpc-unknown1");
  const again = page.getByRole("dialog", { name: "会话已结束" });
  await expect(again).toBeVisible();
  await expect(page.getByLabel("名称")).toBeHidden();
  await page.keyboard.press("Escape");
  await expect(again).toBeVisible();
  await audit(page);
  await again.getByLabel("Access Key", { exact: true }).last().fill(one.access_key);
  await again.getByLabel("Secret Key", { exact: true }).fill(one.secret_key);
  await again.getByRole("button", { name: "登录", exact: true }).click();
  await expect(again).toHaveCount(0);
  await expect(page.getByLabel("名称")).toHaveValue("half done");
  // What could not be checked without a session is checked now.
  await expect(page.getByRole("alert")).toContainText("没有可用的这个私有网络");
  await expect(page.getByText("会话已结束")).toHaveCount(0);
  await expect(page.getByLabel("描述")).toHaveValue("not lost");
  // The other tab may have noticed meanwhile that there was no session: it needs no sign-in of its own.
  await other.bringToFront();
  await expect(other.getByRole("rowheader", { name: "web" })).toBeVisible();
  await expect(other.getByRole("dialog")).toHaveCount(0);
  await page.getByRole("button", { name: "退出登录" }).click();
  await expect(other.getByRole("button", { name: "登录" })).toBeVisible();
  await expect(other.getByText("web")).toHaveCount(0);
});

test("a controller that is gone is said, with the age of what is shown and the next try", async ({ browser }) => {
  const controller = await Controller.start();
  const [one] = controller.told.accounts;
  await controller.vpc(one, controller.told.regions[0], "web", "10.1.0.0/16");
  const page = await open(browser, controller);
  await signIn(page, one);
  await page.getByRole("link", { name: "私有网络", exact: true }).click();
  await expect(page.getByRole("rowheader", { name: "web" })).toBeVisible();
  made.push(/ERR_CONNECTION|ERR_INCOMPLETE|ERR_EMPTY/);
  await controller.stop();
  await expect(page.getByText("与控制器的连接已中断。")).toBeVisible();
  await expect(page.getByText(/秒前|分钟前/)).toBeVisible();
  await expect(page.getByText(/秒后重试|正在重试/)).toBeVisible();
  await expect(page.getByRole("rowheader", { name: "web" })).toBeVisible();
  await audit(page);
  await page.context().close();
});

test("the page hears the controller again when it is back, or at once when asked to", async ({ browser, controller }) => {
  const [one] = controller.told.accounts;
  await controller.vpc(one, controller.told.regions[0], "web", "10.1.0.0/16");
  const page = await open(browser, controller);
  made.push(/ERR_FAILED/);
  // The page's own attempts fail: only what follows a click on the button gets through.
  const clicked = () => page.evaluate(() => document.documentElement.dataset.clicked === "yes");
  await page.route("**/console/events", async (route) => (await clicked()) ? route.continue() : route.abort());
  await signIn(page, one);
  await expect(page.getByText("与控制器的连接已中断。")).toBeVisible();
  await page.getByRole("link", { name: "私有网络", exact: true }).click();
  await expect(page.getByRole("rowheader", { name: "web" })).toBeVisible();
  await page.evaluate(() => document.addEventListener("click", () => { document.documentElement.dataset.clicked = "yes"; }, { capture: true }));
  await page.getByRole("button", { name: "立即重试" }).click();
  await expect(page.getByText("与控制器的连接已中断")).toHaveCount(0);
});

test("removing a CIDR names the peerings that it hits", async ({ browser, controller }) => {
  const [one] = controller.told.accounts;
  const [north] = controller.told.regions;
  const vpcId = await controller.vpc(one, north, "web", "10.1.0.0/16");
  const remoteVpcId = await controller.vpc(one, north, "data", "10.2.0.0/16");
  await controller.peer(one, north, { vpcPeeringName: "web-data", vpcId, remoteVpcId });
  await controller.ask(one.token, "PUT", `/v1/regions/${north}/secondaryCidrs`, { secondaryCidrSpec: { vpcId, cidr: "10.9.0.0/16" } });
  const page = await open(browser, controller);
  await signIn(page, one);
  await page.getByRole("link", { name: "私有网络", exact: true }).click();
  await page.getByRole("button", { name: "管理网段 web" }).click();
  await page.getByRole("button", { name: "删除 10.9.0.0/16" }).click();
  const dialog = page.getByRole("dialog", { name: "删除网段 10.9.0.0/16" });
  await expect(dialog).toContainText("以下 1 个对等连接");
  await expect(dialog).toContainText("web-data");
  await audit(page);
  await dialog.getByRole("button", { name: "取消" }).click();
  await expect(page.getByRole("dialog", { name: "管理网段" }).getByText("10.9.0.0/16", { exact: true })).toBeVisible();
  // Errors are shown beside their fields, in the reader's language only.
  await page.getByLabel("新网段").fill("10.2.128.0/17");
  await page.getByRole("button", { name: "添加网段" }).click();
  const fault = page.getByRole("dialog").getByRole("alert");
  await expect(fault).toContainText("CIDR 重叠");
  await expect(fault).toContainText("10.2.128.0/17");
  await expect(fault).not.toContainText(/overlaps|another/);
  await expect(page.getByLabel("新网段")).toHaveAttribute("aria-invalid", "true");
  await audit(page);
  // VPCs are protected, too.
  await page.getByRole("dialog").getByRole("button", { name: "关闭" }).click();
  await page.getByRole("button", { name: "开启删除保护 data" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "确定" }).click();
  await expect(page.getByRole("button", { name: "关闭删除保护 data" })).toBeVisible();
  await page.getByRole("button", { name: "修改名称 web" }).click();
  await page.getByRole("dialog").getByLabel("名称").fill("front");
  await page.getByRole("dialog").getByRole("button", { name: "保存" }).click();
  await expect(page.getByRole("rowheader", { name: "front" })).toBeVisible();
});

test("requests stand first, with their CIDRs beside one's own; several are answered at once and kept as CSV", async ({ browser, controller }) => {
  const [one, two] = controller.told.accounts;
  const [north, east] = controller.told.regions;
  const remoteVpcId = await controller.vpc(two, north, "data", "10.2.0.0/16");
  const long = "a".repeat(57);
  for (let number = 1; number <= 3; number++) {
    const vpcId = await controller.vpc(one, east, `${long}${number}`, `10.1${number}.0.0/16`);
    await controller.peer(one, east, { vpcPeeringName: `r${number}`, vpcId, remoteVpcId, remoteRegionId: north, remoteAccountId: two.id, bandwidth: 5 });
  }
  const clash = await controller.vpc(one, north, "clash", "10.21.0.0/16");
  const id = await controller.peer(one, north, { vpcPeeringName: "bad", vpcId: clash, remoteVpcId, remoteAccountId: two.id });
  const mine = await controller.vpc(two, north, "mine", "10.21.128.0/17");
  await controller.peer(two, north, { vpcPeeringName: "=own", vpcId: mine, remoteVpcId });
  const page = await open(browser, controller, { viewport: { width: 1440, height: 900 }, permissions: ["clipboard-read", "clipboard-write"] });
  await signIn(page, two);
  await expect(page.getByText("4 个申请等待您接受")).toBeVisible();
  const request = page.getByRole("article").filter({ hasText: "bad" });
  await expect(request).toContainText("10.21.0.0/16 与 mine 的网段重叠，限定网段后才能接受。");
  await expect(page.getByRole("article").filter({ hasText: "r1" })).toContainText("网段不重叠");
  // Names of any length leave every column on the screen.
  const overflow = await page.getByRole("region", { name: "对等连接列表" }).evaluate((table) => table.scrollWidth - table.clientWidth);
  expect(overflow).toBeLessThanOrEqual(0);
  const heights = await page.getByRole("row").evaluateAll((rows) => rows.map((row) => row.getBoundingClientRect().height));
  expect(Math.max(...heights)).toBeLessThan(70);
  await audit(page);
  const download = page.waitForEvent("download");
  await page.getByRole("button", { name: "下载 CSV" }).click();
  const text = readFileSync(await (await download).path(), "utf8");
  expect(text.split("\r\n")).toHaveLength(7);
  expect(text).toContain("\r\n\"'=own\",");
  expect(text).toMatch(/^\ufeff"name","id",/);
  expect(text).toContain(',5,"');
  for (const name of ["r1", "r2", "r3", "=own"]) await page.getByRole("checkbox", { name: `选择 ${name}` }).check();
  await page.getByRole("button", { name: "接受（3）" }).click();
  await expect(page.getByRole("dialog")).toContainText("另外 1 个");
  await audit(page);
  await page.getByRole("dialog").getByRole("button", { name: "接受" }).click();
  await expect(page.getByRole("dialog")).toHaveCount(0);
  await expect(page.locator("[data-state=active]")).toHaveCount(4);
  // A link to the other side's view leads to one's own, and ids are copied.
  await page.goto(`${controller.told.url}/console/#/peerings?search=r2&sort=name`);
  await page.getByRole("row").nth(1).getByRole("link").first().click();
  await expect(page.getByRole("heading", { level: 1, name: "r2" })).toBeVisible();
  const own = page.url();
  await page.getByRole("button", { name: /^复制 vpcpr-/ }).first().click();
  await expect.poll(() => page.evaluate(() => navigator.clipboard.readText())).toBe(own.split("/").at(-1));
  await page.getByRole("link", { name: "返回列表" }).click();
  await expect(page).toHaveURL(/search=r2&sort=name$/);
  await page.goto(own.replace(`/${north}/`, `/${east}/`));
  await expect(page).toHaveURL(own);
  await expect(page.getByRole("heading", { level: 1, name: "r2" })).toBeVisible();
  await page.goto(`${controller.told.url}/console/#/peerings/${north}/${id}`);
  await page.getByRole("button", { name: "接受", exact: true }).click();
  await page.getByRole("dialog").getByRole("button", { name: "接受" }).click();
  await expect(page.getByRole("dialog").getByRole("alert")).toContainText("CIDR 重叠");
  await expect(page.getByRole("dialog").getByRole("alert")).not.toContainText("overlaps");
});

test("everything is found by its name, with the keyboard", async ({ browser, controller }) => {
  const [one] = controller.told.accounts;
  const [north] = controller.told.regions;
  const vpcId = await controller.vpc(one, north, "web", "10.1.0.0/16");
  const remoteVpcId = await controller.vpc(one, north, "data", "10.2.0.0/16");
  await controller.peer(one, north, { vpcPeeringName: "web-data", vpcId, remoteVpcId });
  const page = await open(browser, controller);
  await signIn(page, one);
  await expect(page.locator("[data-state=active]")).toBeVisible();
  await page.keyboard.press("Control+k");
  const search = page.getByRole("combobox", { name: "搜索页面" });
  await expect(search).toBeFocused();
  await audit(page);
  await page.keyboard.type("web-d");
  await expect(page.getByRole("listbox").getByRole("option")).toHaveCount(1);
  await page.keyboard.press("Enter");
  await expect(page.getByRole("heading", { level: 1, name: "web-data" })).toBeVisible();
  await page.keyboard.press("Control+k");
  await expect(search).toBeFocused();
  await page.keyboard.type("10.2.0");
  await page.keyboard.press("Enter");
  await expect(page.getByRole("rowheader", { name: "data" })).toBeVisible();
  await expect(page.getByRole("rowheader")).toHaveCount(1);
  await page.getByRole("button", { name: "搜索 Ctrl K" }).click();
  await expect(search).toBeFocused();
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Enter");
  await expect(page.getByRole("heading", { level: 1, name: "网络拓扑" })).toBeVisible();
  // On a narrow screen the actions stay in sight.
  await page.goto(`${controller.told.url}/console/#/peerings`);
  await page.setViewportSize({ width: 360, height: 740 });
  const remove = page.getByRole("button", { name: "删除 web-data" });
  await remove.scrollIntoViewIfNeeded();
  const box = (await remove.boundingBox())!;
  expect(box.x).toBeGreaterThan(0);
  expect(box.x + box.width).toBeLessThanOrEqual(360);
  expect(await page.getByRole("region", { name: "对等连接列表" }).evaluate((table) => table.scrollLeft)).toBe(0);
  expect((await page.locator("header.top").boundingBox())!.height).toBeLessThan(60);
  await audit(page);
});
