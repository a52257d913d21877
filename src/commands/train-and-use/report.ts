/** `report`. */

import type { Argv } from 'yargs';
import { Report } from '../../base/printer.ts';
import { begin, name, type Parsed, text } from '../options.ts';

export const report = (parser: Argv) =>
  parser.command(
    'report <run>',
    'one HTML page of a training: results, mistakes, likely label errors',
    reportOptions,
    runReport,
  );

const reportOptions = (command: Argv) =>
  begin(command, 'report')
    .positional('run', name('run folder, RUN:TRIAL, or the folder of a sweep, which stands for its winner'))
    .option(
      'evaluation',
      text('evaluation', 'which of RUN/evaluations (default: that of the last step on the validation list)', {}),
    )
    .option('output', text('output', 'file to write (default: report.html in the folder)', {}));

async function runReport(args: Parsed<typeof reportOptions>): Promise<void> {
  const { reportRun } = await import('../../results/run-report/report.ts');
  const printer = new Report({ json: args.json });
  printer.enableProgress();
  await reportRun(args, printer);
}
