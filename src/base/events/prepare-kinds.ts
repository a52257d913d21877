/** The kinds of events of what comes before a training, and of tools: caches, clips, weights, sizes, keys. */

import { z } from 'zod';
import { anything, bytes, count, maybe, plain, seconds, text } from './fields.ts';

const range = z.object({ estimate: count, low: count, high: count });

export const PREPARE = [
  plain('planned', '`train --dry-run`.', {
    config: anything.describe('the whole configuration'),
    model: anything.describe('sizes, operations and memory, of each device'),
    share: z
      .object({ num_devices: count, num_nodes: count, clips: count, micro_batches: count, clips_at_once: count })
      .describe('what each device has of a batch'),
    lacks: text.nullable().describe('why this machine cannot train it, and another one can'),
    lists: z.object({ train: count, val: count }).describe('lines'),
    features: anything.nullable().describe('what the feature cache holds'),
    resumed_from: text.nullable().describe('checkpoint that the run would go on from'),
    start_step: maybe.describe('null: of a checkpoint of the original, which a dry run does not open'),
  }),
  plain('fitted', '`fit`.', {
    batch_size: count,
    micro_batches: count,
    micro_batch: count,
    forecast_bytes: bytes,
    measured_bytes: bytes.nullable(),
    workers_bytes: bytes,
    budget_bytes: bytes,
    set: text.describe('the option to use it'),
  }),
  plain('fetched', '`weights fetch`.', {
    path: text,
    url: text,
    sha256: text,
    is_new: z.boolean(),
    config: anything.describe('the keys that use the file'),
  }),
  plain('inspected', '`weights inspect`.', {
    path: text,
    format: text,
    dtypes: z.array(text),
    size_bytes: bytes,
    sha256: text.nullable(),
    backbone: anything.nullable(),
    evl: anything.nullable(),
    checkpoint: anything.nullable(),
    notes: z.array(text),
    published: text.nullable().describe('name of the public file that it is'),
    config: anything.nullable(),
  }),
  plain('features_forecast', '`features forecast`, and before building.', {
    folder: text,
    form: text,
    precision: text,
    num_layers: count,
    clip_bytes: bytes,
    num_clips: z.record(z.string(), count),
    bytes: z.object({ train: count, val: count, total: count }),
    remaining_bytes: bytes,
    free_bytes: bytes,
    fits: z.boolean(),
    seconds: z
      .object({
        build: seconds,
        epoch_without: seconds,
        epoch_with: seconds,
        pay_back_epochs: maybe,
        measured_clips: count,
      })
      .nullable()
      .describe('null: everything is built'),
  }),
  plain('features_built', '`features build`.', {
    folder: text,
    num_records: count,
    num_bad: count,
    parts: count.describe('that it was built in'),
    seconds: z.number(),
    clips_per_second: z.number().nullable().describe('null: of several parts, or nothing was computed'),
    waited_seconds: z.record(z.string(), z.number()).describe('for videos, for passes, for the disk'),
  }),
  plain('part', 'A part of a job that runs in some (`--parts`) has started, or ended.', {
    part: text,
    attempt: count.describe('from 1'),
    state: z.enum(['started', 'finished', 'retry', 'failed', 'cancelled']),
    why: text.nullable(),
  }),
  plain('features_exported', '`features export`.', {
    folder: text,
    form: z.enum(['safetensors', 'npy']),
    layer: count.describe('from 1, the output of the first block; 0: what enters it'),
    per: z.enum(['frame', 'clip']),
    num_clips: count.describe('rows'),
    num_bad: count.describe('clips that could not be read'),
    tensors: z.record(z.string(), z.array(count)).describe('their shapes'),
  }),
  plain('listed', '`lists`: the lists that were written.', {
    folder: text,
    root: text.describe('folder of the relative paths in them'),
    files: z.array(z.object({ path: text, num_clips: count })),
    classes: text.nullable().describe('file of class names'),
    num_clips: count,
    num_classes: count,
    num_left_out: count.describe('files that stand in no list'),
  }),
  plain('clips_forecast', '`clips prepare`, before it begins.', {
    folder: text,
    encoding: z.object({ short_side: maybe, gop: count, crf: count, preset: text }),
    num_clips: count,
    num_todo: count,
    source_bytes: bytes,
    bytes: range,
    seconds: range,
    num_workers: count,
    measured_clips: count,
    psnr: maybe.describe('worst of the measured clips, dB'),
    free_bytes: bytes,
    fits: z.boolean(),
  }),
  plain('clips_prepared', '`clips prepare`.', {
    folder: text,
    config: text.describe('the file to train with'),
    num_clips: count,
    num_bad: count,
    size_bytes: bytes,
  }),
  plain('key', '`keys`.', { key: text, allowed: text, default: z.unknown(), about: text }),
  plain('flag', '`flags`.', { flag: text, key: text.nullable(), how: text }),
  plain('imported', '`import-command`.', { path: text.nullable(), yaml: text }),
  plain('examined', '`doctor`.', { name: text, ok: z.boolean(), found: text, repair: text.nullable() }),
  z
    .looseObject({
      kind: z.literal('bench'),
      step: z.null().optional(),
      name: text,
      bench: text,
      ratio: maybe.optional(),
      low: count.optional(),
      high: count.optional(),
      least: maybe.optional(),
      goal: maybe.optional(),
      most: maybe.optional(),
      holds: z.boolean().nullable(),
      skipped: text.optional().describe('why there is no figure'),
    })
    .describe('`bench`: one figure, with what its program adds.'),
] as const;
