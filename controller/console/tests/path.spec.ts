// The path trace: which step stops packets between two addresses, and who can fix it.

import { audit, expect, fits, open, signIn, signInByToken, test } from "./world.ts";

for (const language of ["zh", "en"] as const) {
  test(`the first step that stops packets is named, with who can fix it, in ${language}`, async ({ browser, controller }) => {
    const { admin_token, accounts: [one, two], regions: [north] } = controller.told;
    const web = await controller.vpc(one, north, "web", "10.1.0.0/16");
    const twin = await controller.vpc(one, north, "twin", "10.1.0.0/16");
    const data = await controller.vpc(two, north, "data", "10.2.0.0/16");
    const asks = { vpcPeeringName: "please", vpcId: data, remoteVpcId: web, remoteAccountId: one.id };
    const id = await controller.peer(two, north, asks);
    // No agent answers for the host.
    await controller.ask(admin_token, "POST", "/admin/v1/apply", {
      hosts: [{ id: "h1", region: north, underlay: "192.0.2.1", agent: "http://127.0.0.1:1" }, { id: "h2", region: north, underlay: "192.0.2.2", agent: "http://127.0.0.1:1" }],
      ports: [{ host: "h1", interface: "eth1", vpc: web, gateways: ["10.1.1.1/24"] }, { host: "h2", interface: "eth1", vpc: data, gateways: ["10.2.1.1/24"] }],
    });
    const zh = language === "zh";
    const page = await open(browser, controller, { locale: zh ? "zh-CN" : "en-GB" });
    await signIn(page, one, language);
    await page.getByRole("navigation").getByRole("link", { name: zh ? "路径诊断" : "Path trace" }).click();
    await audit(page);
    const source = page.getByLabel(zh ? "源地址" : "Source address").first();
    const destination = page.getByLabel(zh ? "目的地址" : "Destination address");
    const trace = page.getByRole("button", { name: zh ? "诊断" : "Trace", exact: true });
    const verdict = page.getByRole("status").filter({ hasText: "10." });
    await source.fill("fd00:typing");
    await source.fill("10.1.1.5");
    await destination.fill("nowhere");
    await trace.click();
    await expect(destination).toHaveAttribute("aria-invalid", "true");
    await audit(page);
    await destination.fill("10.2.1.5");
    await trace.click();
    await expect(verdict).toContainText(zh ? "10.1.1.5 不能访问 10.2.1.5。" : "10.1.1.5 does not reach 10.2.1.5.");
    await expect(verdict).toContainText(zh ? "对等连接：申请尚未被接受。" : /Peering: .*has not accepted it yet/);
    await expect(verdict).toContainText(zh ? "处理方：本账号" : "To be fixed by: this account");
    await expect(page.getByRole("link", { name: id })).toBeVisible();
    const steps = page.getByRole("region", { name: zh ? "步骤" : "Steps" }).getByRole("row");
    await expect(steps).toHaveCount(2);
    await audit(page);
    // The query is in the address.
    await page.getByLabel(zh ? /显示全部/ : /Show all/).check();
    const count = await steps.count();
    expect(count).toBeGreaterThan(3);
    // On Chinese pages there is nothing in English.
    if (zh) expect((await page.getByRole("region", { name: "步骤" }).innerText()).replaceAll(/vpc(pr)?-\w+/g, "")).not.toMatch(/[a-z]{4}/i);
    await page.reload();
    await expect(steps).toHaveCount(count);
    await expect(source).toHaveValue("10.1.1.5");
    await page.getByLabel(zh ? "协议" : "Protocol").selectOption("tcp");
    await page.getByLabel(zh ? "目的端口" : "Destination port").fill("443");
    await page.getByLabel(zh ? "源地址所在的私有网络" : "VPC of the source").selectOption(twin);
    await page.getByText(zh ? "显示为命令行" : "Show as CLI").click();
    await expect(page.locator("pre").first()).toHaveText(`cps-peering --region ${north} path 10.1.1.5 10.2.1.5 --vpc ${twin} --port tcp/443`);
    await trace.click();
    await expect(verdict).toContainText(zh ? "源端口" : "Source port");
    await expect(verdict).toContainText(zh ? "处理方：运维人员" : "To be fixed by: the operators");
    await page.goBack();
    await expect(verdict).toContainText(zh ? "申请尚未被接受" : "has not accepted it yet");
    // Hosts that do not answer are a step of their own, rather than one without problems.
    await controller.ask(one.token, "POST", `/v1/regions/${north}/vpcPeerings/${id}:acceptVpcPeering`, {});
    await trace.click();
    await expect(verdict).toContainText(zh ? "无法得知 10.1.1.5 能否访问 10.2.1.5。" : "Whether 10.1.1.5 reaches 10.2.1.5 is unknown.");
    await expect(page.getByText("h1")).toHaveCount(0);
    const peers = steps.filter({ hasText: zh ? "对端" : "Peer side" }).first();
    await expect(peers).toContainText(zh ? "目前无法得知这一步的状态。" : "it is unknown whether the peer's side lets packets pass");
    await fits(page, `path-${language}`);

    const operator = await open(browser, controller, { locale: zh ? "zh-CN" : "en-GB", colorScheme: "dark" });
    if (zh) await signInByToken(operator, admin_token);
    else {
      await operator.getByRole("radio", { name: "Token" }).check();
      await operator.getByRole("textbox", { name: "Token" }).fill(admin_token);
      await operator.getByRole("button", { name: "Sign in" }).click();
    }
    await operator.getByRole("navigation").getByRole("link", { name: zh ? "路径诊断" : "Path trace" }).click();
    await operator.getByLabel(zh ? "源地址" : "Source address").first().fill("10.1.1.5");
    await operator.getByLabel(zh ? "目的地址" : "Destination address").fill("10.2.1.5");
    await operator.getByRole("button", { name: zh ? "诊断" : "Trace", exact: true }).click();
    await expect(operator.getByRole("link", { name: "h1" }).first()).toBeVisible();
    await expect(operator.getByText("does not answer").first()).toBeVisible();
    await expect(operator.getByRole("cell", { name: zh ? "运维人员" : "operators", exact: true }).first()).toBeVisible();
    await audit(operator);
  });
}
