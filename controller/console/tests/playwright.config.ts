import { defineConfig } from "@playwright/test";

// Debian's Chromium; nothing is downloaded. The timeout is for a machine that is busy with other things.
export default defineConfig({
  testDir: ".",
  outputDir: "../../../target/console/results",
  timeout: 90_000,
  expect: { timeout: 20_000 },
  workers: 2,
  fullyParallel: true,
  forbidOnly: true,
  // Tests that fail once and then pass are reported as flaky at the end.
  retries: 1,
  reporter: [["list"]],
  use: {
    actionTimeout: 20_000,
    launchOptions: { executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] },
    locale: "zh-CN",
    timezoneId: "UTC",
    viewport: { width: 1280, height: 800 },
    trace: "retain-on-failure",
  },
});
