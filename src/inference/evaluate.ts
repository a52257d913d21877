/** `evaluate`: tests a finished checkpoint on a list. */

import { basename, dirname, join, resolve } from 'node:path';
import { showPath, UserError } from '../base/errors.ts';
import { withScratch, writeWhole } from '../base/files.ts';
import type { Report } from '../base/printer.ts';
import type { Config } from '../config/load.ts';
import { addListProblems, type CheckedList, checkLists, describeList } from '../data/checks.ts';
import { BadVideos } from '../data/probe/bad-videos.ts';
import { findKnownLists } from '../data/probe/lists.ts';
import { guessDevice } from '../run/outcome.ts';
import { refuseForeignResults } from '../run/place.ts';
import type { Result } from '../runtime/replies.ts';
import type { Session } from '../runtime/session.ts';
import { type CheckpointArguments, openCheckpoint, type UsedCheckpoint } from './checkpoint-config.ts';
import { describeOpen, withOpened } from './opened.ts';

const CALL_SECONDS = 1;

type Results = Record<string, Result>;

export interface EvaluateArguments extends CheckpointArguments {
  output: string | undefined;
}

/**
 * Evaluates a checkpoint on the validation list of its configuration, or of another. `output` takes `result.json` and
 * `scores.npz`; by default a folder in the checkpoint's run, named after the step, the views and the list.
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
      const about = { step: opened.step, checkpoint: path, list: describeList(lists.val), classes, results };
      writeWhole(join(target, 'result.json'), `${JSON.stringify(about, null, 2)}\n`);
      reportResults(results, opened.step, target, lists.val, report);
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
  const parent = dirname(checkpoint);
  const run = basename(parent) === 'checkpoints' ? dirname(parent) : parent;
  return join(run, 'evaluations', name);
}

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

function reportResults(
  results: Results,
  step: number,
  output: string,
  list: CheckedList | undefined,
  report: Report,
): void {
  report.endProgress();
  for (const [trial, { per_class, average_precision, thresholds, ...result }] of Object.entries(results)) {
    const about = { list: describeList(list), list_sha256: list?.sha256, output };
    report.event({
      kind: 'evaluated',
      step,
      trial,
      ...result,
      ...about,
      per_class: describeClasses(per_class, average_precision),
    });
  }
}

function describeClasses(perClass: Result['per_class'], precisions: number[] = []) {
  return perClass.map(([label, videos, correct], index) => {
    const precision = precisions[index];
    const more = precision === undefined ? {} : { average_precision: precision };
    return { label, num_videos: videos, top1: correct / videos, ...more };
  });
}
