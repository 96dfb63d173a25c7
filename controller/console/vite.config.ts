import { defineConfig } from "vite";

// The names of files below `assets` contain a hash of their content, so that browsers keep them for good.
export default defineConfig({
  base: "/console/",
  build: {
    target: "es2022",
    modulePreload: false,
    // Nothing is inlined: the content security policy lets files of our own in, and nothing else.
    assetsInlineLimit: 0,
    reportCompressedSize: false,
  },
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
});
