/**
 * Bundles the program into dist/, so that a command starts in a third of the time: one file to read for each verb instead
 * of a hundred to translate. `make setup` runs it; scripts/start.cjs takes the bundle while no source is newer.
 */
import { rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { describeBuild } from '../src/base/page/script.ts';
import { SERVER_SCRIPT } from '../src/inference/server/page/page.ts';
import { REPORT_SCRIPTS } from '../src/results/report-page/build.ts';

process.chdir(fileURLToPath(new URL('..', import.meta.url)));
rmSync('dist', { recursive: true, force: true });
await build({
  entryPoints: ['src/cli.ts'],
  outdir: 'dist',
  outExtension: { '.js': '.mjs' },
  bundle: true,
  splitting: true, // a verb loads its own part only
  format: 'esm',
  platform: 'node',
  target: 'node20',
  // The one finds its Python files from its own place, the other its program; of the server's packages only `serve` reads
  // anything, and they look for files of theirs, too.
  external: ['pythonia', 'esbuild', 'fastify', '@fastify/*', 'prom-client'],
  // Packages written for CommonJS call require; a module has none.
  banner: { js: "import { createRequire as makeRequire } from 'node:module'; const require = makeRequire(import.meta.url);" },
  sourcemap: true,
  logLevel: 'warning',
});
for (const script of [...REPORT_SCRIPTS, SERVER_SCRIPT])
  await build({ ...describeBuild(script), outfile: `dist/${script.name}` });
