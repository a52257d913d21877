/** `bench`. */

import type { Argv } from 'yargs';
import { Report } from '../../base/printer.ts';
import { BENCHES } from '../../tools/bench-names.ts';
import { begin, type Parsed } from '../options.ts';

export const bench = (parser: Argv) =>
  parser.command('bench <name>', 'measure this machine: ratios to the plain way', benchOptions, runBench);

const benchOptions = (command: Argv) =>
  begin(command, 'bench')
    .usage('$0 bench <name> [-- options of the program]')
    .positional('name', {
      type: 'string',
      demandOption: true,
      choices: [...BENCHES, 'all'] as const,
      describe: 'what to measure',
    })
    .option('quick', { type: 'boolean', default: false, describe: 'fewer rounds: a first look' });

async function runBench(args: Parsed<typeof benchOptions> & { _: (string | number)[] }): Promise<void> {
  const { bench: runBenches } = await import('../../tools/bench.ts');
  const { name, quick } = args;
  await runBenches({ name, quick, args: args._.slice(1).map(String) }, new Report({ json: args.json }));
}
