/** `train`. */

import type { Argv } from 'yargs';
import { Report } from '../../base/printer.ts';
import { begin, CONFIG, DRY_RUN, number, type Parsed, SET, text } from '../options.ts';

export const train = (parser: Argv, words: string[]) => {
  const hasCohort = words.some((word) => /^--cohort(=|$)/.test(word));
  const options = (command: Argv) => trainOptions(command, !hasCohort);
  return parser.command('train', 'train a classifier; run again, it goes on where it stopped', options, runTrain);
};

const trainOptions = (command: Argv, needsConfig = true) =>
  begin(command, 'train')
    .option('config', { ...CONFIG, demandOption: needsConfig })
    .option('cohort', text('cohort', 'cohort.json of a sweep: many trials on one stream of clips', { hidden: true }))
    .option('set', SET)
    .option('run-dir', text('run-dir', 'run folder (default runs/<name of the file>)', {}))
    .option(
      'resume',
      text('resume', 'auto: go on where the run stopped; never: start anew; or a checkpoint to go on from', {
        default: 'auto',
      }),
    )
    .option('attempt', {
      ...number('attempt', 'number of this start, from a scheduler: a higher one in RUN/attempt.json ends this one'),
      hidden: true,
    })
    .option('dry-run', DRY_RUN('check all, print the plan, train nothing'));

async function runTrain(args: Parsed<typeof trainOptions>): Promise<void> {
  const report = new Report({ json: args.json });
  const { chooseRunDir } = await import('../../run/changes.ts');
  const { firstSettings } = await import('../../run/cohort-file.ts');
  const { readWork, train: trainWork } = await import('../../train/train.ts');
  const notes: string[] = [];
  const { cohort, name } = await readWork(args, (text) => notes.push(text));
  // That a run starts anew is its first line: what else there is to say comes after it.
  const runDir = args['run-dir'] ?? chooseRunDir(name, cohort, (text) => notes.unshift(text));
  if (args['dry-run']) {
    const { planTraining } = await import('../../train/dry-run.ts');
    return planTraining({ cohort, runDir, resume: args.resume }, report, notes);
  }
  for (const note of notes) report.note(note);
  report.enableProgress();
  const request = { cohort, runDir, resume: args.resume, attempt: args.attempt };
  const settings = firstSettings(cohort);
  if (settings.launch.nodes === 1) return trainWork(request, report);
  const { withMachines } = await import('../../runtime/nodes/machines.ts');
  await withMachines(settings, runDir, report, (meeting) => trainWork({ ...request, meeting }, report));
}
