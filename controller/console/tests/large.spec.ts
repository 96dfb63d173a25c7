// Many VPCs and peerings; and webhooks.

import { audit, expect, open, signIn, signInByToken, test } from "./world.ts";

test("a network of many VPCs is looked at one VPC at a time, and leads to its peerings", async ({ browser, controller }) => {
  const [one] = controller.told.accounts;
  const [north, east] = controller.told.regions;
  await Promise.all([north, east].map((region) =>
    controller.ask(controller.told.admin_token, "PUT", `/admin/v1/accounts/${one.id}/quotas/${region}`, { maxLimit: 300 })));
  const hub = await controller.vpc(one, north, "hub", "10.200.0.0/16");
  const vpcs = await Promise.all(Array.from({ length: 59 }, (_, index) =>
    controller.vpc(one, index % 2 ? east : north, `v${String(index).padStart(2, "0")}`, `10.${index}.0.0/16`)));
  const regionOf = (index: number) => (index % 2 ? east : north);
  const peer = (vpcPeeringName: string, vpcId: string, region: string, other: number) => controller.peer(one, region, {
    vpcPeeringName, vpcId, remoteVpcId: vpcs[other], ...(region === regionOf(other) ? {} : { remoteRegionId: regionOf(other), bandwidth: 5 }),
  });
  // 300: the hub's, and others, each VPC with some of those that follow it.
  await Promise.all(Array.from({ length: 22 }, (_, index) => peer(`hub-${index}`, hub, north, index)));
  const others = [1, 2, 3, 4, 5].flatMap((distance) => vpcs.map((_, index) => [index, (index + distance) % vpcs.length] as const)).slice(0, 278);
  for (let at = 0; at < others.length; at += 20) {
    await Promise.all(others.slice(at, at + 20).map(([from, to]) =>
      peer(from === 24 && to === 26 ? "apart" : `p${from}-${to}`, vpcs[from]!, regionOf(from), to)));
  }
  const page = await open(browser, controller, { viewport: { width: 1440, height: 900 } });
  await signIn(page, one);
  await page.goto(`${controller.told.url}/console/#/map`);
  // It begins with the busiest; unrelated VPCs are not drawn.
  await expect(page.locator("svg .edge")).toHaveCount(22);
  await expect(page.locator("svg .node")).toHaveCount(23);
  const rows = page.getByRole("region", { name: "连接一览" }).getByRole("row");
  await expect(rows).toHaveCount(21);
  await expect(page.getByText("共 22 条")).toBeVisible();
  await audit(page);
  const cut = () => page.locator("svg[role=group]").evaluate((svg) => {
    const { width, height } = (svg as SVGSVGElement).viewBox.baseVal;
    return [...svg.querySelectorAll<SVGGraphicsElement>(".edge, .node rect")].filter((shape) => {
      const box = shape.getBBox();
      return box.x < 0 || box.y < 0 || box.x + box.width > width || box.y + box.height > height;
    }).length;
  });
  expect(await cut()).toBe(0);
  await page.getByRole("button", { name: "聚焦 v04" }).click();
  await expect(page.locator("svg .edge")).toHaveCount(1 + others.filter((ends) => ends.includes(4)).length);
  await expect(page).toHaveURL(/focus=/);
  await page.goBack();
  await expect(page.locator("svg .edge")).toHaveCount(22);
  await page.getByRole("button", { name: "缩小" }).click();
  await expect(page).toHaveURL(/zoom=0.75/);
  await page.getByRole("combobox", { name: "聚焦私有网络" }).selectOption("");
  await expect(page.locator("svg .edge")).toHaveCount(300);
  await expect(page.locator("svg .node")).toHaveCount(60);
  expect(await cut()).toBe(0);
  await page.getByRole("searchbox", { name: "搜索" }).fill("apart");
  await expect(page.locator("svg .edge")).toHaveCount(1);
  const middle = await page.locator("svg .edge").evaluate((shape) => {
    const path = shape as SVGPathElement;
    path.scrollIntoView();
    const { x, y } = path.getPointAtLength(path.getTotalLength() / 2).matrixTransform(path.getScreenCTM()!);
    return { x, y };
  });
  await page.mouse.click(middle.x, middle.y);
  await expect(page.getByRole("heading", { level: 1, name: "apart" })).toBeVisible();
});

test("webhooks are created with a secret that is shown once, changed, stopped and deleted", async ({ browser, controller }) => {
  const [one] = controller.told.accounts;
  const [north] = controller.told.regions;
  const page = await open(browser, controller);
  await signIn(page, one);
  await page.getByRole("navigation").getByRole("link", { name: "Webhook" }).click();
  await expect(page.getByText("还没有 Webhook")).toBeVisible();
  await audit(page);
  await page.getByRole("button", { name: "创建 Webhook" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("地域").selectOption(north);
  await dialog.getByLabel("URL").fill("https://127.0.0.1/hook");
  await dialog.getByRole("button", { name: "确定" }).click();
  await expect(dialog.getByRole("alert")).toContainText("URL 不正确");
  await audit(page);
  await dialog.getByLabel("URL").fill("https://hooks.example.com/peerings");
  await dialog.getByRole("checkbox", { name: /peering\.requested/ }).check();
  await dialog.getByRole("button", { name: "确定" }).click();
  await expect(page.getByRole("dialog", { name: "签名密钥" })).toContainText("whsec_");
  await audit(page);
  await page.getByRole("dialog").getByRole("button", { name: "关闭" }).click();
  const row = page.getByRole("row").nth(1);
  await expect(row).toContainText("对等连接 · 已申请");
  await expect(row).toContainText("正常");
  await expect(page.getByText("whsec_")).toHaveCount(0);
  await row.getByRole("button", { name: /^停用/ }).click();
  await page.getByRole("dialog").getByRole("button", { name: "确定" }).click();
  await expect(row).toContainText("已停用");
  await row.getByRole("button", { name: /^修改/ }).click();
  await page.getByRole("dialog").getByRole("checkbox", { name: /peering\.requested/ }).uncheck();
  await page.getByRole("dialog").getByRole("button", { name: "保存" }).click();
  await expect(row).toContainText("全部");
  const { webhooks } = await controller.ask<{ webhooks: object[] }>(one.token, "GET", `/v1/regions/${north}/webhooks`);
  expect(webhooks).toMatchObject([{ url: "https://hooks.example.com/peerings", types: [], enabled: false }]);
  await row.getByRole("button", { name: /^删除/ }).click();
  await page.getByRole("dialog").getByRole("button", { name: "删除" }).click();
  await expect(page.getByText("还没有 Webhook")).toBeVisible();
  const operator = await open(browser, controller);
  await signInByToken(operator, controller.told.admin_token);
  await operator.getByRole("navigation").getByRole("link", { name: "Webhook" }).click();
  await operator.getByRole("button", { name: "创建 Webhook" }).click();
  await expect(operator.getByRole("checkbox", { name: /host\.outOfSync/ })).toBeVisible();
});
