/** `check`. */

import type { Argv } from 'yargs';
import { Report } from '../../base/printer.ts';
import { begin, names, number, type Parsed, text } from '../options.ts';

export const check = (parser: Argv) =>
  parser.command('check [lists..]', 'what is wrong with lists and their clips, line by line', checkOptions, runCheck);

const checkOptions = (command: Argv) =>
  begin(command, 'check')
    .positional('lists', {
      ...names('lists of `<path> <label>` lines (default: those of --config)'),
      demandOption: false,
    })
    .option('config', text('config', 'YAML configuration: its lists, roots and classes', {}))
    .option('num-classes', number('num-classes', 'number of classes; labels go from 0 to one less', { least: 1 }))
    .option('root', text('root', "folder of relative paths (default: the list's own)", {}))
    .option('probe', {
      type: 'boolean',
      default: false,
      describe: 'look into every clip: decode all frames that training may pick',
    })
    .option('probe-seconds', {
      ...number('probe-seconds', 'how long a clip may take; one that takes longer is named', { least: 1 }),
      default: 20,
    })
    .option(
      'write-clean',
      text('write-clean', 'folder for the lists without what was found, and what was left out', {}),
    );

async function runCheck(args: Parsed<typeof checkOptions>): Promise<void> {
  const report = new Report({ json: args.json });
  report.enableProgress();
  const { checkClips } = await import('../../data/check/check.ts');
  const { isUpstreamFile, readCheckpoint } = await import('../../run/folder.ts');
  const { lists = [], config, root, 'num-classes': numClasses, 'write-clean': writeClean } = args;
  const readTrained = (checkpoint: string): string[] | null =>
    isUpstreamFile(checkpoint) ? null : readCheckpoint(checkpoint).header.classes;
  const probeSeconds = args.probe ? args['probe-seconds'] : undefined;
  await checkClips({ lists, config, root, numClasses, probeSeconds, writeClean, readTrained }, report);
}
