import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { defineConfig, type Plugin } from "vite";

/** Below so many bytes compression saves nothing that counts. */
const SMALL = 1000;

/** Puts a compressed file beside each one, which the controller hands out to browsers that take it. */
function compressed(): Plugin {
  let folder = "";
  return {
    name: "compressed",
    configResolved: (config) => { folder = config.build.outDir; },
    closeBundle: () => {
      for (const name of readdirSync(folder, { recursive: true, encoding: "utf8" })) {
        const file = join(folder, name);
        if (!statSync(file).isFile() || name.endsWith(".gz") || statSync(file).size < SMALL) continue;
        writeFileSync(`${file}.gz`, gzipSync(readFileSync(file), { level: 9 }));
      }
    },
  };
}

// The names of files below `assets` contain a hash of their content, so that browsers keep them for good.
export default defineConfig({
  base: "/console/",
  plugins: [compressed()],
  build: {
    target: "es2022",
    modulePreload: false,
    // Nothing is inlined: the content security policy lets files of our own in, and nothing else.
    assetsInlineLimit: 0,
    reportCompressedSize: false,
  },
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
});
