// A real controller for each test, and pages in which no error may go unnoticed.

import { spawn, type ChildProcess } from "node:child_process";
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { test as base, expect, type Browser, type BrowserContext, type Page } from "@playwright/test";

export { expect };

export interface Account { id: string; access_key: string; secret_key: string; token: string }
export interface Told { url: string; admin_token: string; accounts: [Account, Account]; regions: [string, string] }

export class Controller {
  private constructor(private readonly child: ChildProcess, readonly told: Told) {}

  static async start(): Promise<Controller> {
    const program = process.env.CPS_PEERING_CONTROLLER;
    if (!program) throw new Error("CPS_PEERING_CONTROLLER names no program: run tests/console/run");
    const child = spawn(program, ["--dev"], { stdio: ["ignore", "pipe", "ignore"] });
    for await (const line of createInterface({ input: child.stdout! })) {
      return new Controller(child, JSON.parse(line) as Told);
    }
    throw new Error("the controller has ended");
  }

  async stop(signal: "SIGTERM" | "SIGKILL" = "SIGTERM"): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const over = new Promise((resolve) => this.child.once("exit", resolve));
    this.child.kill(signal);
    await over;
  }

  /** Stops it, so that it neither answers nor ends, like a machine that hangs. */
  freeze(): void {
    this.child.kill("SIGSTOP");
  }

  /** Calls it as a program does, to set up what a test is not about. */
  async ask<T = Record<string, unknown>>(token: string, method: string, path: string, body?: unknown): Promise<T> {
    const response = await fetch(this.told.url + path, {
      method, headers: { authorization: `Bearer ${token}` }, body: body === undefined ? null : JSON.stringify(body),
    });
    const answer = (await response.json()) as { result?: T; error?: unknown };
    if (answer.error) throw new Error(`${method} ${path}: ${JSON.stringify(answer.error)}`);
    return answer.result as T;
  }

  async vpc(account: Account, region: string, name: string, cidr: string): Promise<string> {
    const vpcSpec = { name, cidr };
    const { vpcId } = await this.ask<{ vpcId: string }>(account.token, "PUT", `/v1/regions/${region}/vpcs`, { vpcSpec });
    return vpcId;
  }

  async peer(account: Account, region: string, body: Record<string, unknown>): Promise<string> {
    const { vpcPeering } = await this.ask<{ vpcPeering: { vpcPeeringId: string } }>(
      account.token, "POST", `/v1/regions/${region}/vpcPeerings/`, body);
    return vpcPeering.vpcPeeringId;
  }
}

/** Problems that a page must not have: errors in its console, violations of its policy, requests to other hosts. */
const problems: string[] = [];

/** With CONSOLE_DIST, that folder's bundle replaces the one in the controller's program, which then need not be rebuilt. */
async function servedFrom(folder: string, context: BrowserContext): Promise<void> {
  await context.route("**/console/{,*.html,*.svg,assets/*}", async (route) => {
    const path = new URL(route.request().url()).pathname.replace(/^\/console\//, "") || "index.html";
    await route.fulfill({ path: `${folder}/${path}` });
  });
}

/** Faults that a test injects. Each test begins with none. */
export const made: RegExp[] = [];

export async function open(browser: Browser, controller: { told: Pick<Told, "url"> }, options: Parameters<Browser["newContext"]>[0] = {}): Promise<Page> {
  const context = await browser.newContext(options);
  if (process.env.CONSOLE_DIST) await servedFrom(process.env.CONSOLE_DIST, context);
  // Browsers also write refusals of the controller to the console.
  context.on("console", (message) => {
    const said = message.text();
    if (["error", "warning"].includes(message.type()) && ![/status of 4\d\d/, ...made].some((it) => it.test(said))) problems.push(said);
  });
  context.on("weberror", (error) => problems.push(String(error.error())));
  context.on("request", (request) => {
    if (!request.url().startsWith(`${controller.told.url}/`)) problems.push(`asked for ${request.url()}`);
  });
  await context.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
  });
  const page = await context.newPage();
  // A redirection would bypass what is served instead.
  await page.goto(process.env.CONSOLE_DIST ? `${controller.told.url}/console/` : controller.told.url);
  return page;
}

export const test = base.extend<{ controller: Controller; watched: void }>({
  controller: async ({ browser }, use) => {
    const controller = await Controller.start();
    await use(controller);
    for (const context of browser.contexts()) await context.close();
    await controller.stop();
  },
  watched: [async ({}, use) => {
    problems.length = 0;
    made.length = 0;
    await use();
    expect(problems).toEqual([]);
  }, { auto: true }],
});

const word = { zh: { in: "登录", ak: "Access Key", sk: "Secret Key", token: "令牌", peerings: "对等连接" },
  en: { in: "Sign in", ak: "Access key", sk: "Secret key", token: "Token", peerings: "VPC peering" } };

export async function signIn(page: Page, account: Account, language: "zh" | "en" = "zh"): Promise<void> {
  const said = word[language];
  await page.getByLabel(said.ak, { exact: true }).last().fill(account.access_key);
  await page.getByLabel(said.sk, { exact: true }).fill(account.secret_key);
  await page.getByRole("button", { name: said.in }).click();
  await expect(page.getByRole("heading", { level: 1, name: said.peerings })).toBeVisible();
  await expect(page.getByText(account.id, { exact: true }).first()).toBeVisible();
}

export async function signInByToken(page: Page, token: string): Promise<void> {
  await page.getByRole("radio", { name: "令牌" }).check();
  await page.getByRole("textbox", { name: "令牌" }).fill(token);
  await page.getByRole("button", { name: "登录" }).click();
}

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** The folder for screenshots. */
export const PICTURES = fileURLToPath(new URL("../../../target/console/screenshots/", import.meta.url));
mkdirSync(PICTURES, { recursive: true });

/** The longest readable line of text, in pixels: some 100 letters. */
const LONGEST_LINE = 800;

const SCREENS = [{ width: 360, height: 740 }, { width: 1920, height: 1080 }];

/** A page fits a telephone and a large screen, and its lines are readable there. Leaves the window as wide as it was. */
export async function isAsWide(page: Page, then: (width: number) => Promise<void> = async () => undefined): Promise<void> {
  const before = page.viewportSize()!;
  for (const size of SCREENS) {
    await page.setViewportSize(size);
    const { wide, line } = await page.evaluate(() => ({
      wide: document.documentElement.scrollWidth,
      // Lines of text, whatever element they are in; those of code may be longer.
      line: Math.max(0, ...[...document.querySelectorAll("main, dialog")].flatMap((part) => {
        const texts = document.createTreeWalker(part, NodeFilter.SHOW_TEXT);
        const lines: number[] = [];
        while (texts.nextNode()) {
          if (texts.currentNode.parentElement!.closest("pre, code, svg")) continue;
          const text = document.createRange();
          text.selectNodeContents(texts.currentNode);
          lines.push(...[...text.getClientRects()].map((line) => line.width));
        }
        return lines;
      })),
    }));
    expect(wide, `${page.url()} on a screen of ${size.width}`).toBeLessThanOrEqual(size.width);
    expect(line, `the longest line on ${page.url()}`).toBeLessThanOrEqual(LONGEST_LINE);
    await then(size.width);
  }
  await page.setViewportSize(before);
}

/** The same, and it is accessible. With a name, screenshots are taken. */
export const fits = (page: Page, name?: string): Promise<void> => isAsWide(page, async (width) => {
  await audit(page);
  if (name) await page.screenshot({ path: `${PICTURES}${name}-${width}.png` });
});

/** What axe finds on the page, with all rules that it has for WCAG 2.2 AA and good practice. */
export async function audit(page: Page): Promise<void> {
  await page.evaluate(axe);
  const found = await page.evaluate(async () => {
    const { violations } = await (window as unknown as { axe: { run: () => Promise<{ violations: { id: string; nodes: { html: string; failureSummary: string }[] }[] }> } }).axe.run();
    return violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => `${node.html} ${node.failureSummary}`).join(" | ")}`);
  });
  expect(found, `on ${page.url()}`).toEqual([]);
}
