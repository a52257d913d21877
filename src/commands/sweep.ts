/** `sweep`, and what shows one. */

import type { Argv } from 'yargs';
import { Report } from '../base/printer.ts';
import { begin, CONFIG, DRY_RUN, JSON_LINES, name, type Parsed, SET, text } from './options.ts';

export const sweep = (parser: Argv) =>
  parser.command('sweep', 'many trials for the price of little more than one', sweepCommands);

const DIR = name('folder of the sweep');

const sweepCommands = (command: Argv) =>
  begin(command, 'sweep')
    .command('status <dir>', 'where a sweep stands', statusOptions, runStatus)
    .command('report <dir>', 'one HTML page, a CSV and a JSON of all results', reportOptions, runReport)
    .command('$0', 'run many trials, or go on with them', sweepOptions, runSweepCommand);

const sweepOptions = (command: Argv) =>
  command
    .option('json', JSON_LINES)
    .option('config', { ...CONFIG, describe: 'YAML sweep file' })
    .option('set', SET)
    .option('run-dir', text('run-dir', 'folder of the sweep (default runs/<name of the file>)', {}))
    .option('dry-run', DRY_RUN('print trials, cohorts, memory and cost; run nothing'));

async function runSweepCommand(args: Parsed<typeof sweepOptions>): Promise<void> {
  const report = new Report({ json: args.json });
  const { readSweep } = await import('../sweep/definition/file.ts');
  const { addListProblems } = await import('../data/checks.ts');
  const read = async () => readSweep(args.config, { set: args.set });
  const { sweep, notes } = await read().catch(async (error: unknown) => {
    throw await addListProblems(error, ['train', 'val']); // all problems at once
  });
  const { chooseSweepDir } = await import('../sweep/lock.ts');
  // That it starts anew is its first line: what else there is to say comes after it.
  const dir = args['run-dir'] ?? chooseSweepDir(sweep, (text) => report.note(text));
  for (const note of notes) report.note(note);
  if (args['dry-run']) {
    const { showPlan } = await import('../sweep/show-plan.ts');
    return showPlan(sweep, dir, report);
  }
  report.enableProgress();
  const { runSweep } = await import('../sweep/sweep.ts');
  await runSweep({ sweep, dir }, report);
}

const statusOptions = (command: Argv) =>
  begin(command, 'sweep status')
    .positional('dir', DIR)
    .option('watch', { type: 'boolean', default: false, describe: 'draw again every 2 seconds' });

async function runStatus(args: Parsed<typeof statusOptions>): Promise<void> {
  const { showStatus } = await import('../results/sweep-status.ts');
  await showStatus(args.dir, new Report({ json: args.json }), { watch: args.watch });
}

const reportOptions = (command: Argv) =>
  begin(command, 'sweep report')
    .positional('dir', DIR)
    .option('output', text('output', 'file to write (default: report.html in the folder)', {}));

async function runReport(args: Parsed<typeof reportOptions>): Promise<void> {
  const { writeReport } = await import('../results/sweep-report.ts');
  await writeReport(args.dir, new Report({ json: args.json }), { output: args.output });
}
