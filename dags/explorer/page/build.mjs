// Puts the page's scripts together: `npm ci && npm run build` here writes them beside the page and
// its style in ../assets, where they are committed.
import { readdirSync, rmSync } from "node:fs";
import { build } from "esbuild";

const assets = new URL("../assets/", import.meta.url).pathname;
for (const name of readdirSync(assets)) if (name.endsWith(".js")) rmSync(assets + name);
await build({
  // Charts apart from what draws them: no file is over 500 kB.
  entryPoints: ["src/page.js", "src/plot.js"],
  bundle: true,
  splitting: true,
  minify: true,
  format: "esm",
  target: "es2022",
  outdir: assets,
  // Fixed names, as every build of the same sources writes the same bytes.
  chunkNames: "shared-[hash]",
  legalComments: "none",
  // The database is the server's: the one for browsers, 34 MB, is left out.
  alias: { "@duckdb/duckdb-wasm": "./src/no_wasm.js" },
});
