/** `weights fetch`, `weights inspect`. */

import type { Argv } from 'yargs';
import { Report } from '../../base/printer.ts';
import { begin, name, number, type Parsed, text } from '../options.ts';

export const weights = (parser: Argv) =>
  parser.command('weights', 'backbone weights: fetch public files, or see what a file is', weightsCommands);

const weightsCommands = (command: Argv) =>
  begin(command, 'weights')
    .command('fetch [name]', 'download weights, verified; goes on where it stopped', fetchOptions, runFetch)
    .command('inspect <file>', 'format, sizes and the configuration for a weights file', inspectOptions, runInspect);

const fetchOptions = (command: Argv) =>
  begin(command, 'weights fetch')
    .positional('name', { type: 'string', describe: 'ViT-B/16, ViT-L/14, ViT-L/14@336px or ViT-B/32' })
    .option('to', text('to', 'folder', { default: 'weights' }))
    .option('url', text('url', 'a mirror, or any other file', {}))
    .option('sha256', text('sha256', 'of another file, 64 hex digits', {}))
    .option('timeout', {
      ...number('timeout', 'seconds without a byte', { least: 0.001, most: 86_400, isWhole: false }),
      default: 30,
    });

async function runFetch(args: Parsed<typeof fetchOptions>): Promise<void> {
  const report = new Report({ json: args.json });
  const { name, to: folder, url, sha256, timeout: stallSeconds } = args;
  report.enableProgress();
  const { fetchWeights } = await import('../../weights/weights.ts');
  await fetchWeights({ name, url, sha256, folder, stallSeconds }, report);
}

const inspectOptions = (command: Argv) =>
  begin(command, 'weights inspect').positional('file', name('weights file or checkpoint folder'));

async function runInspect(args: Parsed<typeof inspectOptions>): Promise<void> {
  const { inspectWeights } = await import('../../weights/weights.ts');
  await inspectWeights(args.file, new Report({ json: args.json }));
}
