// Puts the page together: `npm ci && npm run build` here writes ../assets, which are committed.
import { copyFileSync, rmSync, mkdirSync } from "node:fs";
import { build } from "esbuild";

const assets = new URL("../assets/", import.meta.url).pathname;
rmSync(assets, { recursive: true, force: true });
mkdirSync(assets);
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
for (const name of ["index.html", "page.css"]) copyFileSync(`src/${name}`, `${assets}${name}`);
