// Peerings of parts of two VPCs (rules C9, L13): creating, accepting and changing them, and previews.

import { canonical, difference, hasHostBits, within } from "../src/cidr.ts";
import { en } from "../src/words/en.ts";
import { zh } from "../src/words/zh.ts";
import { audit, expect, fits, made, open, signIn, test, type Account, type Controller } from "./world.ts";

test("prefixes are told from what is none, and what of some is not in others is said with as few as that takes", () => {
  for (const [text, is] of [["10.1.2.3/16", "10.1.0.0/16"], ["FD00:0:0:1::/64", "fd00:0:0:1::/64"], ["1:0:0:2:0:0:0:3/128", "1:0:0:2::3/128"],
    ["::/0", "::/0"], ["1:2:3:4:5:6:7:0/112", "1:2:3:4:5:6:7:0/112"], ["0.0.0.0/0", "0.0.0.0/0"]] as const) {
    expect(canonical(text), text).toBe(is);
  }
  for (const none of ["10.1.0.0", "10.1.0.0/33", "10.01.0.0/16", "x/8", "10.1.0.0/", "fd00::1::/64"]) expect(canonical(none), none).toBeUndefined();
  expect([hasHostBits("10.1.0.1/16"), hasHostBits("10.1.0.0/16"), hasHostBits("fd00::1/64")]).toEqual([true, false, true]);
  expect([within("10.1.2.0/24", "10.1.0.0/16"), within("10.1.0.0/16", "10.1.2.0/24"), within("10.1.0.0/16", "::/0")]).toEqual([true, false, false]);
  expect(difference(["10.1.0.0/22", "fd00::/16"], ["10.1.1.0/24"])).toEqual(["10.1.0.0/24", "10.1.2.0/23", "fd00::/16"]);
  expect(difference(["10.1.0.0/24"], ["10.0.0.0/8"])).toEqual([]);
  expect(difference(["::/0"], ["8000::/1"])).toEqual(["::/1"]);
  expect(difference(["10.2.0.0/16", "10.1.0.0/16"], [])).toEqual(["10.1.0.0/16", "10.2.0.0/16"]);
});

const addCidr = (controller: Controller, account: Account, region: string, vpcId: string, cidr: string) =>
  controller.ask(account.token, "PUT", `/v1/regions/${region}/secondaryCidrs`, { secondaryCidrSpec: { vpcId, cidr } });

for (const language of ["zh", "en"] as const) {
  test(`VPCs whose rest overlaps are peered by parts, and the parts are changed with a preview, in ${language}`, async ({ browser, controller }) => {
    test.slow();
    const words = language === "zh" ? zh : en;
    const legend = (of: "exportOf" | "importOf", vpc: string) => words[`prefixes.${of}`].replace("{vpc}", vpc);
    const [one] = controller.told.accounts;
    const [north] = controller.told.regions;
    const web = await controller.vpc(one, north, "web", "10.1.0.0/16");
    const data = await controller.vpc(one, north, "data", "10.2.0.0/16");
    for (const vpc of [web, data]) await addCidr(controller, one, north, vpc, "10.9.0.0/16");
    const page = await open(browser, controller, { locale: language === "zh" ? "zh-CN" : "en-GB", colorScheme: language === "zh" ? "light" : "dark" });
    await signIn(page, one, language);
    await page.goto(`${controller.told.url}/console/#/peerings/create`);
    await page.getByLabel(words["create.name"], { exact: true }).fill("parts");
    await page.getByLabel(words["create.ownVpc"]).selectOption(web);
    await page.getByLabel(words["create.peerVpc"]).selectOption(data);
    await expect(page.getByRole("alert")).toContainText(words["reason.VpcPeerCidrConflict"]);
    await page.getByText(words["prefixes.limit"], { exact: true }).click();
    const exported = page.getByRole("group", { name: legend("exportOf", "web") });
    const imported = page.getByRole("group", { name: legend("importOf", "data") });
    await exported.getByLabel(words["prefixes.some"]).check();
    await imported.getByLabel(words["prefixes.some"]).check();
    await exported.getByLabel("10.1.0.0/16").check();
    const typed = imported.getByRole("textbox");
    for (const [text, fault] of [["10.2", "noPrefix"], ["10.2.0.1/24", "hostBits"], ["10.2.0.0/24 10.2.0.0/24", "twice"], ["10.2.0.0/24,10.2.0.0/25", "inside"]] as const) {
      await typed.fill(text);
      await expect(imported.getByRole("alert")).toHaveText(words[`prefixes.${fault}`]
        .replace("{text}", text).replace("{prefix}", fault === "hostBits" || fault === "twice" ? "10.2.0.0/24" : "10.2.0.0/25").replace("{wider}", "10.2.0.0/24"));
      await expect(typed).toHaveAttribute("aria-invalid", "true");
    }
    await audit(page);
    await typed.fill("10.2.0.0/24");
    await exported.getByRole("textbox").fill("10.7.0.0/24");
    await expect(exported.getByRole("alert")).toHaveText(words["prefixes.outside"].replace("{prefix}", "10.7.0.0/24"));
    await exported.getByRole("textbox").fill("");
    const preview = page.getByRole("group", { name: words["prefixes.reachable"] });
    await expect(preview.getByRole("listitem")).toHaveText(["10.1.0.0/16", "10.2.0.0/24"]);
    await page.getByText(words["calls.title"]).click();
    await expect(page.locator("pre").first()).toContainText("--export-prefixes 10.1.0.0/16 --import-prefixes 10.2.0.0/24");
    await fits(page);
    await page.getByRole("button", { name: words["common.confirm"] }).click();
    await expect(page.getByRole("heading", { level: 1, name: "parts" })).toBeVisible();
    const card = page.locator("section").filter({ has: page.getByRole("heading", { name: words["prefixes.title"], exact: true }) });
    await expect(card.getByRole("definition").filter({ hasText: "10." })).toHaveText(["10.1.0.0/16", "10.2.0.0/24", "10.1.0.0/16", "10.2.0.0/24"]);
    await fits(page);

    // What becomes reachable, and what no longer is, is shown in advance.
    await page.route("**/traffic?range=1h", (route) => route.fulfill({ json: { requestId: "x", result: { traffic: { bandwidth: null, interval: 20,
      samples: [{ time: "2026-01-01T00:00:00Z", outBytes: 5, inBytes: 0, outDrops: 0 }], total: { outBytes: 5, outPackets: 1, inBytes: 0, inPackets: 0, outDrops: 0 } } } } }));
    const change = page.getByRole("button", { name: words["action.prefixes"] });
    await change.click();
    const dialog = page.getByRole("dialog", { name: words["action.prefixes"] });
    const confirm = dialog.getByRole("button", { name: words["common.confirm"] });
    await expect(confirm).toBeDisabled();
    const ours = dialog.getByRole("group", { name: legend("importOf", "data") });
    await expect(ours.getByRole("textbox")).toHaveValue("10.2.0.0/24");
    await ours.getByRole("textbox").fill("10.2.0.0/23");
    const marked = dialog.getByRole("group", { name: words["prefixes.reachable"] }).getByRole("listitem");
    await expect(marked).toHaveText(["10.1.0.0/16", "10.2.0.0/24", `10.2.1.0/24 ${words["prefixes.added"]}`]);
    await expect(confirm).toBeEnabled();
    await ours.getByRole("textbox").fill("10.2.1.0/24");
    await expect(marked).toHaveText(["10.1.0.0/16", `10.2.1.0/24 ${words["prefixes.added"]}`, `10.2.0.0/24 ${words["prefixes.removed"]}`]);
    await expect(dialog).toContainText(words["prefixes.stops"]);
    await expect(dialog).toContainText(words["delete.busy"]);
    await expect(confirm).toBeDisabled();
    await audit(page);
    await fits(page);
    // A list that excludes everything stops all traffic.
    await ours.getByRole("textbox").fill("192.168.0.0/16");
    await expect(dialog).toContainText(words["prefixes.stopsAll"]);
    // Refusals are shown beside the fields.
    await ours.getByRole("textbox").fill("10.2.0.0/24 10.9.0.0/24");
    await expect(dialog.getByRole("alert")).toContainText(words["reason.VpcPeerCidrConflict"]);
    await expect(confirm).toBeDisabled();
    await ours.getByRole("textbox").fill("10.2.1.0/24");
    await dialog.getByText(words["calls.title"]).click();
    await expect(dialog.locator("pre").first()).toHaveText(new RegExp(`peering set-prefixes vpcpr-\\w+ --import-prefixes 10.2.1.0/24 --vpc ${web}$`));
    await dialog.getByLabel(words["prefixes.typeName"].replace("{name}", "parts")).fill("parts");
    await confirm.click();
    await expect(dialog).toHaveCount(0);
    await expect(card).toContainText("10.2.1.0/24");
    await expect(card).not.toContainText("10.2.0.0/24");
    // The other side's lists are the account's, too.
    await change.click();
    await dialog.getByLabel(words["prefixes.side"]).selectOption({ index: 1 });
    await dialog.getByRole("group", { name: legend("exportOf", "data") }).getByLabel(words["prefixes.some"]).check();
    await dialog.getByRole("group", { name: legend("exportOf", "data") }).getByRole("textbox").fill("10.2.1.0/24");
    await expect(marked).toHaveText(["10.1.0.0/16", "10.2.1.0/24"]);
    await confirm.click();
    await expect(dialog).toHaveCount(0);
    await expect(card.getByRole("definition").filter({ hasText: "10.2.1.0/24" })).toHaveCount(3);
  });

  test(`a receiver sees what a request exports, and accepts a part of it, in ${language}`, async ({ browser, controller }) => {
    const words = language === "zh" ? zh : en;
    const legend = (of: "exportOf" | "importOf", vpc: string) => words[`prefixes.${of}`].replace("{vpc}", vpc);
    const [one, two] = controller.told.accounts;
    const [north] = controller.told.regions;
    const web = await controller.vpc(one, north, "web", "10.1.0.0/16");
    const data = await controller.vpc(two, north, "data", "10.2.0.0/16");
    const id = await controller.peer(one, north, { vpcPeeringName: "offer", vpcId: web, remoteVpcId: data, remoteAccountId: two.id,
      exportPrefixes: ["10.1.2.0/24", "10.1.4.0/24"], importPrefixes: ["10.2.8.0/24"] });
    const page = await open(browser, controller, { locale: language === "zh" ? "zh-CN" : "en-GB" });
    await signIn(page, two, language);
    const request = page.getByRole("article").filter({ hasText: "offer" });
    await expect(request).toContainText("10.1.2.0/24");
    await expect(request).not.toContainText("10.1.0.0/16");
    await expect(request).toContainText(words["requests.takes"].replace("{cidrs}", "10.2.8.0/24"));
    await page.goto(`${controller.told.url}/console/#/peerings/${north}/${id}`);
    // Before acceptance there are no other actions.
    await expect(page.getByText(words["why.whenAccepting"])).toBeVisible();
    await page.getByRole("button", { name: words["action.accept"], exact: true }).click();
    const dialog = page.getByRole("dialog");
    const reach = dialog.getByRole("group", { name: words["prefixes.reachable"] }).getByRole("listitem");
    await expect(reach).toHaveText(["10.2.8.0/24", "10.1.2.0/24", "10.1.4.0/24"]);
    await dialog.getByText(words["prefixes.limit"], { exact: true }).click();
    const imported = dialog.getByRole("group", { name: legend("importOf", "web") });
    await imported.getByLabel(words["prefixes.some"]).check();
    await expect(dialog.getByRole("button", { name: words["action.accept"] })).toBeDisabled();
    await imported.getByLabel("10.1.4.0/24").check();
    await expect(reach).toHaveText(["10.2.8.0/24", "10.1.4.0/24"]);
    await audit(page);
    await fits(page);
    await dialog.getByText(words["calls.title"]).click();
    await expect(dialog.locator("pre").first()).toHaveText(/peering accept vpcpr-\w+ --yes --import-prefixes 10.1.4.0\/24$/);
    await dialog.getByRole("button", { name: words["action.accept"], exact: true }).click();
    await expect(page.locator("[data-state=active]")).toBeVisible();
    const card = page.locator("section").filter({ has: page.getByRole("heading", { name: words["prefixes.title"], exact: true }) });
    // The other account's imports are not disclosed; their effect is.
    await expect(card).toContainText(words["prefixes.notTold"]);
    await expect(card.getByRole("definition").filter({ hasText: "10." })).toHaveText(["10.1.4.0/24", "10.2.8.0/24", "10.1.2.0/2410.1.4.0/24", "10.1.4.0/24"]);
    await audit(page);
  });
}

test("prefixes towards another account are checked once they are typed, not while they are", async ({ browser, controller }) => {
  const [one, two] = controller.told.accounts;
  const [north] = controller.told.regions;
  const web = await controller.vpc(one, north, "web", "10.1.0.0/16");
  const theirs = await controller.vpc(two, north, "data", "10.2.0.0/16");
  const page = await open(browser, controller);
  await signIn(page, one);
  const dryRuns: object[] = [];
  page.on("request", (request) => {
    if (request.method() === "POST" && request.postData()?.includes('"dryRun":true')) dryRuns.push(request.postDataJSON());
  });
  await page.goto(`${controller.told.url}/console/#/peerings/create`);
  await page.getByLabel("本端私有网络").selectOption(web);
  await page.getByRole("radio", { name: "跨账号" }).check();
  await page.getByLabel("对端账号", { exact: true }).fill(two.id);
  await page.getByLabel("对端私有网络").fill(theirs);
  await expect(page.getByText("检查通过")).toBeVisible();
  expect(dryRuns).toHaveLength(1);
  await page.getByText("限定网段", { exact: true }).click();
  const exported = page.getByRole("group", { name: "导出网段（web）" });
  await exported.getByLabel("仅限").check();
  // The first could be sent before the second is typed, which is slower than the pause after which input is checked.
  await exported.getByRole("textbox").fill("10.1.0.0/24");
  await exported.getByRole("textbox").pressSequentially(" 10.1.1.0/24", { delay: 450 });
  await exported.getByRole("textbox").blur();
  const preview = page.getByRole("group", { name: "互通网段预览" });
  await expect(preview).toContainText("10.1.1.0/24");
  // What is reached of the other VPC is not disclosed before acceptance.
  await expect(preview).toContainText("对端接受后可见");
  expect(dryRuns).toHaveLength(2);
  expect(dryRuns[1]).toMatchObject({ exportPrefixes: ["10.1.0.0/24", "10.1.1.0/24"] });
});

test("what somebody else changes while prefixes are chosen is not taken back, and a preview that nobody answered is tried again", async ({ browser, controller }) => {
  const [one] = controller.told.accounts;
  const [north] = controller.told.regions;
  const web = await controller.vpc(one, north, "web", "10.1.0.0/16");
  const data = await controller.vpc(one, north, "data", "10.2.0.0/16");
  const id = await controller.peer(one, north, { vpcPeeringName: "shared", vpcId: web, remoteVpcId: data });
  const path = `/v1/regions/${north}/vpcPeerings/${id}`;
  const page = await open(browser, controller, { locale: "en-GB" });
  await signIn(page, one, "en");
  await page.goto(`${controller.told.url}/console/#/peerings/${north}/${id}`);
  made.push(/ERR_FAILED/);
  let unanswered = 1;
  await page.route("**:modifyVpcPeeringPrefixes", (route) => (unanswered-- > 0 ? route.abort() : route.continue()));
  await page.getByRole("button", { name: en["action.prefixes"] }).click();
  const dialog = page.getByRole("dialog", { name: en["action.prefixes"] });
  const imported = dialog.getByRole("group", { name: en["prefixes.importOf"].replace("{vpc}", "data") });
  await imported.getByLabel(en["prefixes.some"]).check();
  await imported.getByRole("textbox").fill("10.2.0.0/24");
  await expect(dialog.getByRole("button", { name: en["common.confirm"] })).toBeEnabled();
  expect(unanswered, "the first check was not answered").toBeLessThan(0);
  await controller.ask(one.token, "PUT", `${path}:modifyVpcPeeringPrefixes`, { vpcId: web, exportPrefixes: ["10.1.0.0/24"] });
  await expect(dialog).toContainText(en["prefixes.changedMeanwhile"]);
  await expect(dialog.getByRole("button", { name: en["common.confirm"] })).toBeEnabled();
  await dialog.getByRole("button", { name: en["common.confirm"] }).click();
  await expect(dialog).toHaveCount(0);
  const { vpcPeering } = await controller.ask<{ vpcPeering: { vpcInfo: { exportPrefixes: string[]; importPrefixes: string[] } } }>(one.token, "GET", path);
  expect([vpcPeering.vpcInfo.exportPrefixes, vpcPeering.vpcInfo.importPrefixes]).toEqual([["10.1.0.0/24"], ["10.2.0.0/24"]]);
});

test("lists that are not finished stay in sight", async ({ browser, controller }) => {
  const [one] = controller.told.accounts;
  const page = await open(browser, controller, { locale: "en-GB" });
  await signIn(page, one, "en");
  await page.goto(`${controller.told.url}/console/#/peerings/create`);
  const limit = page.locator("summary").filter({ hasText: en["prefixes.limit"] });
  await limit.click();
  const some = page.getByLabel(en["prefixes.some"]).first();
  await some.check();
  await limit.click();
  await expect(some, "what keeps the form from being sent").toBeVisible();
});

const shared = async (controller: Controller) => {
  const [one] = controller.told.accounts;
  const [north] = controller.told.regions;
  const web = await controller.vpc(one, north, "web", "10.1.0.0/16");
  const data = await controller.vpc(one, north, "data", "10.2.0.0/16");
  const id = await controller.peer(one, north, { vpcPeeringName: "shared", vpcId: web, remoteVpcId: data });
  return { one, north, web, id };
};

test("a preview that is never answered is tried a few times and less and less often, and one that hangs is given up", async ({ browser, controller }) => {
  const { one, north, id } = await shared(controller);
  const page = await open(browser, controller, { locale: "en-GB" });
  // Nobody waits for a whole timeout here.
  await page.addInitScript(() => {
    const timeout = AbortSignal.timeout.bind(AbortSignal);
    AbortSignal.timeout = (ms) => timeout(ms === 15_000 ? 50 : ms);
  });
  await page.clock.install();
  await page.goto(`${controller.told.url}/console/`);
  await signIn(page, one, "en");
  await page.goto(`${controller.told.url}/console/#/peerings/${north}/${id}`);
  made.push(/ERR_FAILED/);
  let asked = 0;
  // The first is not answered at all, the others fail.
  await page.route("**:modifyVpcPeeringPrefixes", (route) => (asked++ === 0 ? undefined : route.abort()));
  await page.getByRole("button", { name: en["action.prefixes"] }).click();
  const dialog = page.getByRole("dialog", { name: en["action.prefixes"] });
  const imported = dialog.getByRole("group", { name: en["prefixes.importOf"].replace("{vpc}", "data") });
  await imported.getByLabel(en["prefixes.some"]).check();
  await imported.getByRole("textbox").fill("10.2.0.0/24");
  for (const [count, wait] of [[1, 400], [2, 3_000], [3, 6_000], [4, 12_000]] as const) {
    await page.clock.runFor(wait);
    await expect.poll(() => asked).toBe(count);
    await expect(dialog.getByRole("alert")).toContainText(en["error.unreachable"]);
  }
  await page.clock.runFor(600_000);
  expect(asked, "the same is asked no more").toBe(4);
  // A change starts a new check.
  await imported.getByRole("textbox").fill("10.2.0.0/23");
  await page.clock.runFor(400);
  await expect.poll(() => asked).toBe(5);
});

test("a list that both change is named, and CIDRs that are added while the dialog is open can be picked", async ({ browser, controller }) => {
  const { one, north, web, id } = await shared(controller);
  const page = await open(browser, controller, { locale: "en-GB" });
  await signIn(page, one, "en");
  await page.goto(`${controller.told.url}/console/#/peerings/${north}/${id}`);
  await page.getByRole("button", { name: en["action.prefixes"] }).click();
  const dialog = page.getByRole("dialog", { name: en["action.prefixes"] });
  const exported = dialog.getByRole("group", { name: en["prefixes.exportOf"].replace("{vpc}", "web") });
  await exported.getByLabel(en["prefixes.some"]).check();
  await exported.getByRole("textbox").fill("10.1.0.0/24");
  await addCidr(controller, one, north, web, "10.8.0.0/16");
  await exported.getByLabel("10.8.0.0/16").check();
  await controller.ask(one.token, "PUT", `/v1/regions/${north}/vpcPeerings/${id}:modifyVpcPeeringPrefixes`, { vpcId: web, exportPrefixes: ["10.1.7.0/24"] });
  await expect(dialog).toContainText(en["prefixes.replaced.exportPrefixes"]);
  await expect(dialog).not.toContainText(en["prefixes.replaced.importPrefixes"]);
  await audit(page);
  await fits(page);
});
