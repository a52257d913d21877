/** `clips prepare`. */

import type { Argv } from 'yargs';
import { Report } from '../../base/printer.ts';
import { begin, CONFIG, DRY_RUN, type Parsed, REQUIRED, SET, text } from '../options.ts';

export const clips = (parser: Argv) => parser.command('clips', 'videos made ready for training', clipsCommands);

const clipsCommands = (command: Argv) =>
  begin(command, 'clips').command(
    'prepare',
    're-encode the clips of a configuration once, so that each is cheap to open',
    clipsOptions,
    runClips,
  );

const clipsOptions = (command: Argv) =>
  begin(command, 'clips prepare')
    .option('config', CONFIG)
    .option(
      'output',
      text('output', 'folder for clips, lists and prepared.yaml; run again, it goes on', {
        demandOption: true,
        ...REQUIRED,
      }),
    )
    .option('set', SET)
    .option('dry-run', DRY_RUN('measure, say time and disk, write nothing'));

async function runClips(args: Parsed<typeof clipsOptions>): Promise<void> {
  const report = new Report({ json: args.json });
  const { loadInputs } = await import('../../data/checks.ts');
  const { config, notes } = await loadInputs(args.config, args.set, ['train', 'val']);
  for (const note of notes) report.note(note);
  report.enableProgress();
  const { prepareClips } = await import('../../caches/clips.ts');
  const { config: file, output, 'dry-run': isDryRun } = args;
  await prepareClips({ config, file, output, isDryRun }, report);
}
