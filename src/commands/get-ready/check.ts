/** `check`. */

import type { Argv } from 'yargs';
import { UserError } from '../../base/errors.ts';
import { Report } from '../../base/printer.ts';
import type { ListToProbe } from '../../caches/parts/probes.ts';
import { begin, IN_PARTS, names, number, type Parsed, refuseLoneExecutor, text } from '../options.ts';

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
    )
    .options(IN_PARTS);

async function runCheck(args: Parsed<typeof checkOptions>): Promise<void> {
  const report = new Report({ json: args.json });
  const { part: dir, attempt = 1, parts, executor } = args;
  if (dir !== undefined) {
    const { runPart } = await import('../../caches/parts/part.ts');
    const { probePart } = await import('../../caches/parts/probes.ts');
    return runPart('probes', { dir, attempt }, probePart, report);
  }
  refuseLoneExecutor(args);
  if (parts !== undefined && !args.probe)
    throw new UserError('--parts  is of looking into every clip. Add --probe, or leave it out.');
  report.enableProgress();
  const { checkClips } = await import('../../data/check/check.ts');
  const { isUpstreamFile, readCheckpoint } = await import('../../run/folder.ts');
  const { lists = [], config, root, 'num-classes': numClasses, 'write-clean': writeClean } = args;
  const readTrained = (checkpoint: string): string[] | null =>
    isUpstreamFile(checkpoint) ? null : readCheckpoint(checkpoint).header.classes;
  const probeSeconds = args.probe ? args['probe-seconds'] : undefined;
  const probeBefore = parts === undefined ? undefined : await chooseProbing(parts, executor, report);
  const request = { lists, config, root, numClasses, probeSeconds, probeBefore, writeClean, readTrained };
  await checkClips(request, report);
}

async function chooseProbing(parts: number, executor: string | undefined, report: Report) {
  const { chooseInParts } = await import('../../caches/parts/executor-choice.ts');
  const { probeInParts } = await import('../../caches/parts/probes.ts');
  const inParts = chooseInParts(parts, executor, 'cpu');
  return (lists: ListToProbe[]): Promise<void> => probeInParts(lists, inParts, report);
}
