// `tests/demo --keep`: real hosts, often in a kernel of their own, and the console in this machine's browser.

import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { expect, open, signInByToken, test } from "./world.ts";

const DEMO = fileURLToPath(new URL("../../../tests/demo", import.meta.url));

test("the demo that is kept shows real hosts to this machine's browser", async ({ browser }) => {
  test.setTimeout(240_000);
  // Its input stays open: it ends with its input.
  const demo = spawn(DEMO, ["--keep"], { stdio: ["pipe", "pipe", "pipe"] });
  const ended = new Promise((resolve) => demo.once("exit", resolve));
  try {
    const told = new Map<string, string>();
    const [story, logs]: [string[], string[]] = [[], []];
    await new Promise<void>((resolve, reject) => {
      // After all its output was read. The reason comes first: reports cut long texts.
      demo.once("close", (code) => {
        const why = story.filter((line) => /✗|failed/.test(line));
        reject(new Error([`it ended with ${code}`, ...why, ...story.slice(-12), ...logs.slice(-12)].join("\n").slice(0, 4000)));
      });
      for (const [output, said] of [[demo.stdout, story], [demo.stderr, logs]] as const) {
        createInterface({ input: output }).on("line", (line) => {
          said.push(line);
          const [, url] = /The console: (\S+)\/console\//.exec(line) ?? [];
          if (url) told.set("url", url);
          const [, who, token] = /^\W*(account \w+|operators):\s+(\S+)/.exec(line) ?? [];
          if (who && token) told.set(who, token);
          if (told.has("operators")) resolve();
        });
      }
    });
    expect([...told.keys()].sort()).toEqual(["account acme", "account globex", "operators", "url"]);
    const controller = { told: { url: told.get("url")! } };

    const tenant = await open(browser, controller);
    await signInByToken(tenant, told.get("account acme")!);
    await expect(tenant.locator("[data-state=active]").first()).toBeVisible();
    await tenant.getByRole("row").filter({ has: tenant.locator("[data-state=active]") }).first().getByRole("link").first().click();
    await expect(tenant.getByRole("region", { name: "路由策略" }).getByText("已下发").first()).toBeVisible();

    const operator = await open(browser, controller);
    await signInByToken(operator, told.get("operators")!);
    await expect(operator.getByText("3 / 3 台一致")).toBeVisible();
    await tenant.context().close();
    await operator.context().close();
  } finally {
    if (demo.exitCode === null) demo.kill("SIGTERM");
    await ended;
  }
});
