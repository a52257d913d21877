/**
 * Every kind of event with its fields: the lines of events.jsonl and of `--json`. docs/events.md is made of it, and what
 * the program prints is tested against it. Fields may be added; the ones that are here stay.
 */

import { z } from 'zod';
import { FAILURE_CLASSES } from '../errors.ts';
import { anything, at, bytes, count, maybe, plain, seconds, text } from './fields.ts';
import { LISTS } from './list-kinds.ts';
import { PREDICTIONS } from './prediction-kinds.ts';
import { PREPARE } from './prepare-kinds.ts';
import { SERVER } from './server-kinds.ts';

const metric = z.enum(['top1', 'top5', 'map']);
const share = z.number().describe('0..1');
const interval = z.object({ low: share, high: share }).describe('95 %, Wilson');
const intervals = { top1_interval: interval.optional(), top5_interval: interval.optional() };
/** Of `compare`. */
const pair = z.object({
  runs: z.tuple([text, text]).describe('the better one first'),
  paired: anything
    .nullable()
    .describe('num_shared videos, and those that both, only_first, only_other, neither get right; p'),
  reason: text.nullable().describe('why they are not paired'),
  p_adjusted: maybe.describe('p as one of so many comparisons'),
  differs: z.boolean(),
});
const maybeShare = share.nullable();
const map = maybeShare.optional().describe('mean average precision, of data.labels: multi');

const list = z
  .object({ file: text, sha256: text, size_bytes: bytes, num_lines: count })
  .nullable()
  .describe('the list; results of the same SHA-256 can be compared');
const badVideo = { path: text, reason: text, num_bad: count.describe('so far'), num_videos: count };
const state = z.enum(['finished', 'pruned', 'diverged', 'failed']);
const params = z
  .record(z.string(), z.union([z.string(), z.number(), z.boolean(), z.null()]))
  .describe('dotted keys of the sweep, with their values');
const seeded = { name: text, point: text, params, seed: count };
const cohort = text.describe('c0001 ..., or `final`: the evaluation of the best trial');
const attempt = count.describe('from 1');
const cost = z.object({ together: count, alone: count }).describe('multiply-adds, as cohorts and each trial alone');
const final = { trial: text, point: text, seed: count, top1: maybeShare, top5: maybeShare, map, num_videos: count };
const cohortFields = {
  cohort: text,
  trials: z.array(text),
  forecast_bytes: bytes.nullable(),
  cost: cost.nullable(),
  micro_batches: count.optional().describe('set where a trial did not fit into memory otherwise'),
};

const RUN = [
  at('started', 'A run begins, or goes on.', {
    run_dir: text,
    steps: count,
    batch_size: count,
    backbone: text,
    num_train: maybe.describe('clips; null: generated'),
    num_val: maybe,
    resumed_from: text.nullable().describe('checkpoint'),
    device: text,
    precision: text,
    parameters: z.object({ total: count, trained: count }),
    trials: z.array(text).describe('of a plain run `main`'),
  }),
  at('step', 'One trial, every `run.print_every` steps.', {
    steps: count.describe('of the whole run'),
    trial: text,
    loss: maybe,
    lr: count,
    grad_norm: maybe,
    top1: maybeShare.describe('of the batch; with several labels a clip is right if its best class is among them'),
    labels: z.literal('multi').optional().describe('of data.labels: multi'),
    clips_per_second: count,
    data_seconds: seconds.describe('waiting for data, a step'),
    step_seconds: seconds,
    eta_seconds: seconds,
  }),
  at('evaluated', 'One trial, in a run or by `evaluate`.', {
    trial: text,
    top1: share,
    top5: share,
    ...intervals,
    balanced_accuracy: share.optional().describe('mean of the classes, of data.labels: single'),
    map: map.describe('mean average precision, of data.labels: multi, as what follows'),
    f1: share.optional().describe('mean of the classes, at their thresholds'),
    num_videos: count,
    num_bad: count.describe('videos that could not be read'),
    views: count,
    list,
    list_sha256: text.optional().describe('of `evaluate`, as what follows'),
    chosen_on_list: z.boolean().optional().describe('the checkpoint was chosen by what it finds on this list'),
    output: text.optional().describe('folder of result.json, scores.npz, per-class.csv and confusion.csv'),
    per_class: z
      .array(
        z.object({
          ...{ label: count, name: text, num_videos: count },
          ...{ top1: share.describe('of multi: found at its threshold'), top1_interval: interval },
          average_precision: share.optional(),
        }),
      )
      .optional(),
    confusions: z
      .array(z.object({ label: count, predicted: count, count }))
      .optional()
      .describe('the largest, of data.labels: single'),
  }),
  at('saved', 'A checkpoint is complete.', { path: text }),
  z
    .strictObject({ kind: z.literal('bad_video'), step: z.number().nullable().optional(), ...badVideo })
    .describe('A video that cannot be read, once each.'),
  at('left_out', 'A step without a clip that could be read.', { num_left_out: count.describe('so far') }),
  at('dropped', 'A trial ends before the others.', {
    trial: text,
    why: text,
    reason: z.enum(['pruned', 'diverged']),
    top1: maybeShare.describe('at its last evaluation'),
    top5: maybeShare,
    map,
    point: text.optional().describe('of a pruned one, as what follows'),
    rank: count.optional(),
    num_points: count.optional(),
    metric: share.optional().describe('mean over the seeds of the point'),
  }),
  at('rung', 'The points at a rung, best first.', {
    metric,
    num_points: count,
    num_left: count,
    points: z.array(z.object({ point: text, rank: count, metric: share, trials: z.array(text), stays: z.boolean() })),
  }),
  at('restarted', 'The runtime died and is started again.', { why: text }),
  at('interrupted', 'Asked to stop: the state is saved.', {}),
  at('finished', 'A run is done.', {
    trials: z.record(z.string(), z.object({ top1: maybeShare, top5: maybeShare, map })).describe('those that are left'),
  }),
  z
    .strictObject({
      kind: z.literal('failed'),
      step: z.number().nullable().optional(),
      where: text.describe('kind of error'),
      class: z.enum(FAILURE_CLASSES).optional().describe('in events.jsonl: what a scheduler may do about it'),
      message: text,
    })
    .describe('How a command ended.'),
] as const;

const SWEEP = [
  plain('planned', 'A round of a sweep, or what `sweep --dry-run` plans.', {
    sweep: text,
    run_dir: text,
    num_points: count,
    num_done: count.optional().describe('of a dry run: trials of a begun sweep'),
    num_trials: count,
    num_cohorts: count,
    cost,
    ratio: maybe.describe('times cheaper than each trial alone'),
    duration: z
      .object({ seconds, step_seconds: seconds, measured_in: text })
      .nullable()
      .optional()
      .describe('of a dry run, as what follows'),
    cohorts: z.array(z.object(cohortFields)).optional(),
    trials: z.array(z.object(seeded)).optional(),
  }),
  plain('cohort', 'A cohort that takes the place of another one.', cohortFields),
  plain('attempt', 'A cohort is about to be started.', { cohort, attempt, key: text.describe('finds it again') }),
  plain('launched', 'It was handed to the executor.', { cohort, attempt, handle: text.describe("the executor's") }),
  z
    .strictObject({
      kind: z.literal('ended'),
      step: z.number().nullable().optional().describe('that the next attempt goes on from'),
      cohort,
      attempt,
      outcome: z.enum(['finished', 'retry', 'failed', 'cancelled']),
      class: z.enum([...FAILURE_CLASSES, 'cancelled']).nullable(),
      why: text.nullable(),
      seconds,
    })
    .describe('An attempt has ended.'),
  plain('split', 'A cohort did not fit into memory.', { cohort, into: z.array(text), why: text }),
  z
    .strictObject({
      kind: z.literal('result'),
      step: z.number().nullable(),
      trial: text,
      point: text,
      cohort: text,
      state,
      top1: maybeShare,
      top5: maybeShare,
      map,
      rungs: z.array(z.object({ step: count, top1: maybeShare, top5: maybeShare, map })),
      why: text.nullable(),
    })
    .describe('What a trial came to.'),
  plain('final', 'The best trial on the validation list.', { ...final, list: text.nullable() }),
  plain('finished', 'A sweep is done.', {
    sweep: text,
    run_dir: text,
    metric,
    best: z.object({ point: text, mean: share, trial: text.optional() }).optional(),
    params: params.optional(),
    final: z.object({ ...final, list: text.nullable() }).nullable(),
    num_failed: count,
    selection: z.enum(['separate', 'validation']),
    seconds: seconds.describe('of all attempts'),
  }),
  plain('sweep_status', '`sweep status` of a sweep.', {
    sweep: text,
    dir: text,
    state: text,
    message: text.nullable(),
    began: text,
    updated: text,
    eta_seconds: maybe,
    metric,
    counts: z.record(z.string(), count).describe('trials by state'),
    num_points: maybe,
    cost: z.object({ seconds, alone_seconds: maybe }),
    best: text.nullable().describe('point'),
    final: z.object({ ...final, list: text.nullable() }).nullable(),
    cohorts: z.array(anything),
    leaderboard: z.array(anything),
    incidents: z.array(anything),
  }),
  plain('reported', '`sweep report` has written its files.', {
    path: text,
    csv: text,
    json: text,
    num_points: count,
    num_drawn: count,
    size_bytes: bytes,
  }),
] as const;

const USE = [
  ...PREDICTIONS,
  plain('exported', '`export`: the file is written, and was compared.', {
    path: text,
    ...{ format: z.enum(['onnx', 'torch']), precision: z.enum(['fp32', 'fp16', 'int8']), opset: maybe },
    size_bytes: bytes,
    sha256: z.record(z.string(), text).describe('of each file of the model'),
    num_compared: count.describe('videos, or clips of noise'),
    is_noise: z.boolean(),
    largest_difference: count.describe('of a probability, to what the checkpoint gives'),
    agreement: share.describe('of the first class'),
    top1: z.tuple([share, share]).nullable().describe('of the checkpoint, of the file'),
  }),
  at('reported', '`report` has written its files.', {
    run_dir: text,
    trial: text,
    evaluation: text.describe('folder in RUN/evaluations'),
    num_videos: count,
    ...{ top1: share, top5: share, map },
    ece: share.describe('expected calibration error'),
    num_label_errors: count.describe('labels that are likely wrong'),
    path: text,
    json: text.describe('metrics.json'),
    csv: text.describe('label-errors.csv'),
    size_bytes: bytes,
  }),
  plain('averaged', '`ensemble`.', {
    members: z.array(z.object({ path: text, top1: share, top5: share, ...intervals, map })),
    top1: share,
    top5: share,
    ...intervals,
    map,
    num_videos: count,
  }),
  plain('compared', '`compare`.', {
    runs: z.array(anything),
    config: z.array(anything).describe('differences: {key, values}'),
    environment: z.array(anything),
    pairs: z.array(pair).describe('the best run beside each other one, by McNemar where their videos are paired'),
    comparable: z.boolean(),
    warnings: z.array(text),
    notes: z.array(text),
  }),
  at('run_status', '`sweep status` of one run.', {
    dir: text,
    state: text,
    ...{ pid: maybe.optional(), host: text.nullable().optional(), updated: text.nullable().optional() },
    steps: count,
    saved_step: maybe,
    trials: anything.optional(),
  }),
] as const;

/** By what they are of, for the documentation. */
export const EVENTS = {
  'Of a run': RUN,
  'Of a sweep': SWEEP,
  'Of results': USE,
  'Of a server': SERVER,
  'Of lists': LISTS,
  'Of what comes before': PREPARE,
} as const;

export type RunEvent = z.infer<
  (typeof RUN | typeof SWEEP | typeof USE | typeof SERVER | typeof LISTS | typeof PREPARE)[number]
>;
