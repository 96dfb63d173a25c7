import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { defineConfig, type Plugin } from "vite";

/** Below this many bytes compression is not worth it. */
const SMALL = 1000;

/** Adds a compressed copy beside each file, which the controller serves to browsers that accept it. */
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

/** An image that Redoc would load from its makers' server: the content security policy forbids that. */
const ELSEWHERE = "https://cdn.redoc.ly/redoc/logo-mini.svg";
const NO_IMAGE = "data:image/svg+xml,%3Csvg xmlns=%22http://www.w3.org/2000/svg%22/%3E";

function nothingFromElsewhere(): Plugin {
  return {
    name: "nothing-from-elsewhere",
    generateBundle: (_, bundle) => {
      const script = Object.values(bundle).find((it) => it.fileName.includes("redoc.standalone"));
      if (script?.type !== "asset") throw new Error("Redoc's script is not where it was");
      const text = typeof script.source === "string" ? script.source : new TextDecoder().decode(script.source);
      if (!text.includes(ELSEWHERE)) throw new Error(`Redoc asks for ${ELSEWHERE} no more`);
      script.source = text.replaceAll(ELSEWHERE, NO_IMAGE);
    },
  };
}

// The names of files below `assets` contain a hash of their content, so that browsers cache them indefinitely.
export default defineConfig({
  base: "/console/",
  plugins: [nothingFromElsewhere(), compressed()],
  build: {
    target: "es2022",
    modulePreload: false,
    // Nothing is inlined: the content security policy allows our own files, and nothing else.
    assetsInlineLimit: 0,
    reportCompressedSize: false,
    rollupOptions: { input: ["index.html", "api.html"] },
  },
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
});
