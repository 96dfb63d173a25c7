// The API document: linters find no fault with it, and signed-in users can read it.

import { execFile } from "node:child_process";
import { isAsWide, open, expect, test, signIn } from "./world.ts";

/** Runs a program of node_modules without network access. Fails with its output. */
const lint = (program: string, ...options: string[]) => new Promise<string>((resolve) => {
  const env = { ...process.env, REDOCLY_TELEMETRY: "off", REDOCLY_SUPPRESS_UPDATE_NOTICE: "true" };
  execFile("npx", ["--no-install", program, "lint", "../openapi.json", ...options], { env }, (error, stdout, stderr) =>
    resolve(error ? `${error.message}\n${stdout}${stderr}` : ""));
});

test("Redocly finds no fault with the OpenAPI document", async () => {
  test.slow();
  expect(await lint("redocly", "--config", "tests/redocly.yaml", "--format", "stylish")).toBe("");
});

test("Spectral finds no fault with the OpenAPI document", async () => {
  test.slow();
  expect(await lint("spectral", "--ruleset", "tests/spectral.yaml", "--fail-severity", "warn")).toBe("");
});

test("the description of the API is shown to those who have signed in, with nothing from elsewhere", async ({ browser, controller }) => {
  const page = await open(browser, controller);
  await page.goto(`${controller.told.url}/console/api.html`);
  await page.getByRole("link", { name: "请先登录" }).click();
  await signIn(page, controller.told.accounts[0]);
  const [reader] = await Promise.all([page.waitForEvent("popup"), page.getByRole("link", { name: "API" }).click()]);
  await expect(reader.getByRole("heading", { name: "cps-peering" })).toBeVisible();
  await expect(reader.getByText("/v1/regions/{regionId}/vpcPeerings/").first()).toBeAttached();
  await isAsWide(reader, (width) => reader.screenshot({ path: `../../target/console/screenshots/api-${width}.png` }).then(() => undefined));
  await reader.screenshot({ path: "../../target/console/screenshots/api.png" });
});
