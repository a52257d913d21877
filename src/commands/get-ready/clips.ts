/** `clips prepare`. */

import type { Argv } from 'yargs';
import { Report } from '../../base/printer.ts';
import {
  begin,
  CONFIG,
  DRY_RUN,
  IN_PARTS,
  isPart,
  type Parsed,
  REQUIRED,
  refuseLoneExecutor,
  SET,
  text,
} from '../options.ts';

export const clips = (parser: Argv, words: string[]) =>
  parser.command('clips', 'videos made ready for training', (command) => clipsCommands(command, isPart(words)));

const clipsCommands = (command: Argv, ofPart: boolean) =>
  begin(command, 'clips').command(
    'prepare',
    're-encode the clips of a configuration once, so that each is cheap to open',
    (prepare: Argv) => clipsOptions(prepare, !ofPart),
    runClips,
  );

const clipsOptions = (command: Argv, isWhole = true) =>
  begin(command, 'clips prepare')
    .option('config', { ...CONFIG, demandOption: isWhole })
    .option(
      'output',
      text('output', 'folder for clips, lists and prepared.yaml; run again, it goes on', {
        demandOption: isWhole,
        ...REQUIRED,
      }),
    )
    .option('set', SET)
    .options(IN_PARTS)
    .option('dry-run', DRY_RUN('measure, say time and disk, write nothing'));

async function runClips(args: Parsed<typeof clipsOptions>): Promise<void> {
  const report = new Report({ json: args.json });
  const { part: dir, attempt = 1, config: file = '', output = '', 'dry-run': isDryRun, parts } = args;
  if (dir !== undefined) {
    const { runPart } = await import('../../caches/parts/part.ts');
    const { prepareClipsPart } = await import('../../caches/parts/clips.ts');
    return runPart('clips', { dir, attempt }, prepareClipsPart, report);
  }
  refuseLoneExecutor(args);
  const { loadInputs } = await import('../../data/checks.ts');
  const { config, notes } = await loadInputs(file, args.set, ['train', 'val']);
  for (const note of notes) report.note(note);
  report.enableProgress();
  if (parts === undefined || isDryRun) {
    const { prepareClips } = await import('../../caches/clips.ts');
    return prepareClips({ config, file, output, isDryRun }, report);
  }
  const { chooseInParts } = await import('../../caches/parts/executor-choice.ts');
  const { prepareClipsInParts } = await import('../../caches/parts/clips.ts');
  const inParts = chooseInParts(parts, args.executor, 'cpu');
  await prepareClipsInParts({ config, file, output, isDryRun }, inParts, report);
}
