/** `evaluate`: tests a finished checkpoint on a list. */

import { basename, dirname, join, resolve } from 'node:path';
import { showPath, UserError } from '../base/errors.ts';
import { withScratch, writeWhole } from '../base/files.ts';
import type { Report } from '../base/printer.ts';
import type { Config } from '../config/load.ts';
import { addListProblems, type CheckedList, checkLists, describeList, type ListIdentity } from '../data/checks.ts';
import { BadVideos } from '../data/probe/bad-videos.ts';
import { findKnownLists } from '../data/probe/lists.ts';
import {
  describeClasses,
  describeErrors,
  describeResult,
  isChosenOn,
  type Results,
  writeEvaluation,
} from '../run/evaluation.ts';
import { RunFolder } from '../run/folder.ts';
import { guessDevice } from '../run/outcome.ts';
import { refuseForeignResults } from '../run/place.ts';
import type { Session } from '../runtime/session.ts';
import { type CheckpointArguments, openCheckpoint, type UsedCheckpoint } from './checkpoint-config.ts';
import { describeOpen, withOpened } from './opened.ts';

const CALL_SECONDS = 1;

interface About {
  step: number;
  list: ListIdentity | null;
  chosen_on_list: boolean;
  classes: string[] | null;
}

export interface EvaluateArguments extends CheckpointArguments {
  output: string | undefined;
}

/**
 * Evaluates a checkpoint on the validation list of its configuration, or of another. `output` takes the results and
 * scores; by default a folder in the checkpoint's run, named after the step, the views and the list.
 */
export async function evaluate(args: EvaluateArguments, report: Report): Promise<void> {
  if (args.output !== undefined) refuseForeignResults(args.output);
  const { path, name, config, classes: trained } = await openWithLists(args, report);
  const { val_list: given, dummy } = config.data;
  if (given === null)
    throw new UserError('data.val_list  is not set, and `evaluate` needs it: --set data.val_list=LIST.');
  report.say(
    `Evaluating ${showPath(path)} on ${dummy ? 'generated clips' : showPath(given)}\nDevice: ${guessDevice(config.launch.device)}. Loading PyTorch ...`,
  );
  await withScratch(async (scratch) => {
    const used = args.config === undefined ? forgetClasses(config, args.set) : config;
    const lists = await checkLists(used, ['val'], scratch, report).catch((error: unknown) => {
      throw args.config === undefined ? adviseOnPaths(error, args.checkpoint) : error;
    });
    const known = findKnownLists(used, lists).val?.bad.map(({ path, reason }) => ({ path, reason })) ?? [];
    const classes = lists.classes ?? trained;
    const list = { train: null, val: lists.val?.checkedFile ?? null };
    const request = describeOpen('evaluate', { name, settings: config }, path, classes, list);
    await withOpened(config, request, report, async (session, opened) => {
      const target = resolve(args.output ?? nameOutput(path, opened.step, name, config, lists.val));
      const counted = new BadVideos({ report, limit: null, done: 'read', lists: [] });
      counted.count(known, lists.val?.numLines ?? 0, opened.step);
      const results = await runEvaluation(session, opened.step, target, counted, report);
      const identity = describeList(lists.val);
      const isChosen = isChosenOn(new RunFolder(findRun(path)), name, opened.step, identity);
      const about = { step: opened.step, checkpoint: path, list: identity, chosen_on_list: isChosen, classes };
      writeEvaluation((file, text) => writeWhole(join(target, file), text), about, results, true);
      reportResults(results, about, target, report);
      if (isChosen) report.note(explainChosen(path, given));
    });
  });
}

/** With the problems of a configuration come those of its list. */
async function openWithLists(args: EvaluateArguments, report: Report): Promise<UsedCheckpoint> {
  try {
    return openCheckpoint(args, (line) => report.note(line));
  } catch (error) {
    throw await addListProblems(error, ['val']);
  }
}

/** A checkpoint knows its class names: the file they came from need not be here. */
export function forgetClasses(config: Config, set: string[]): Config {
  if (set.some((pair) => pair.startsWith('data.classes='))) return config;
  return { ...config, data: { ...config.data, classes: null } };
}

function adviseOnPaths(error: unknown, checkpoint: string): unknown {
  if (!(error instanceof UserError)) return error;
  const advice = 'Where they lie elsewhere here: --set data.val_list=LIST, --set data.root=FOLDER.';
  return new UserError([...error.problems, `${checkpoint}  list and paths are those it was trained with. ${advice}`]);
}

function nameOutput(
  checkpoint: string,
  step: number,
  trial: string,
  config: Config,
  list: CheckedList | undefined,
): string {
  const { spatial_views, temporal_views } = config.eval;
  const of = trial === 'main' ? '' : `${trial}-`;
  const name = `step-${step}-${of}${spatial_views}x${temporal_views}-${list?.sha256.slice(0, 8) ?? 'dummy'}`;
  return join(findRun(checkpoint), 'evaluations', name);
}

function findRun(checkpoint: string): string {
  const parent = dirname(checkpoint);
  return basename(parent) === 'checkpoints' ? dirname(parent) : parent;
}

const explainChosen = (checkpoint: string, list: string): string =>
  `${showPath(checkpoint)}  was chosen by what it finds on ${showPath(list)}, where this is too good to be true. ` +
  'Clips that nothing was chosen on say more: --set data.val_list=LIST.';

async function runEvaluation(
  session: Session,
  step: number,
  output: string,
  counted: BadVideos,
  report: Report,
): Promise<Results> {
  for (;;) {
    const { results, bad, num_seen, num_total } = await session.evaluate(CALL_SECONDS, output);
    counted.count(bad, num_total, step);
    report.progress('evaluate', num_seen, num_total);
    if (results !== null) return results;
  }
}

function reportResults(results: Results, about: About, output: string, report: Report): void {
  report.endProgress();
  const { step, list, classes, chosen_on_list } = about;
  for (const [trial, result] of Object.entries(results)) {
    const place = { list, list_sha256: list?.sha256, chosen_on_list, output };
    const told = { ...describeResult(result), ...describeClasses(result, classes) };
    report.event({ kind: 'evaluated', step, trial, ...told, ...place });
    const errors = describeErrors(result, classes);
    if (errors !== '') report.say(errors);
  }
}
