/** What Python answers to each verb: schemas, and the types of what they read. */

import { z } from 'zod';
import { balance } from '../base/intervals.ts';

/** A number that Python may have found not finite; JSON carries null then. */
const number = z.number().nullable();

const badVideo = z.object({ path: z.string(), reason: z.string() });

const environment = z.record(z.string(), z.unknown());

const modelSchema = z.object({
  parameters_total: z.number(),
  parameters_trained: z.number(),
  flops_per_view: z.number(),
  backbone_flops_per_view: z.number(),
  decoder_flops_per_view: z.number(),
  /** Of the Python process or the CUDA device. Of a cohort: shared once, the most of any trial's features and of any
   * trial's transient bytes, and the sum of all trial_bytes; training_bytes is that of a trial alone. */
  memory: z.object({
    device: z.string(),
    precision: z.string(),
    shared_bytes: z.number(),
    features_bytes: z.number(),
    trial_bytes: z.number(),
    transient_bytes: z.number(),
    training_bytes: z.number(),
    evaluation_bytes: z.number(),
  }),
});

export const describeSchema = z.object({
  environment,
  model: modelSchema.nullable(),
  /** Why the device that the configuration names is not here: it is planned for another machine. */
  lacks: z.string().nullable(),
});

export const meetSchema = z.object({
  meetings: z.array(
    z.object({
      backend: z.string(),
      num_processes: z.number(),
      seconds: z.number(),
      problem: z.string().nullable(),
    }),
  ),
});

export const openSchema = z.object({
  step: z.number(),
  trials: z.array(z.string()),
  resumed_from: z.string().nullable(),
  device: z.string(),
  precision: z.string(),
  backbone_sha256: z.string(),
  parameters: z.object({ total: z.number(), trained: z.number() }),
  environment,
  notes: z.array(z.string()),
});

const stepSchema = z.object({
  step: z.number(),
  clips: z.number(),
  data_seconds: z.number(),
  step_seconds: z.number(),
  trials: z.record(z.string(), z.object({ loss: number, lr: z.number(), grad_norm: number, top1: number })),
});

export const advanceSchema = z.object({
  step: z.number(),
  steps: z.array(stepSchema),
  bad: z.array(badVideo),
  dropped: z.array(z.object({ trial: z.string(), step: z.number(), why: z.string() })),
});

const accuracyShape = {
  top1: z.number(),
  top5: z.number(),
  /** [label, videos, correct] of each class that occurs. */
  per_class: z.array(z.tuple([z.number(), z.number(), z.number()])),
  /** [label, best class, videos] of each pair that occurs; of videos with one label. */
  confusion: z.array(z.tuple([z.number(), z.number(), z.number()])).optional(),
  /** Of videos with several labels, as what follows. */
  map: z.number().optional(),
  f1: z.number().optional(),
  /** Beside `per_class`. */
  average_precision: z.array(z.number()).optional(),
  /** Of every class, those with the best F1 on these videos. */
  thresholds: z.array(z.number()).optional(),
};

/** With one label a video the mean of the classes' shares, which a frequent class does not rule. */
const withBalance = <T extends { map?: number | undefined; per_class: [number, number, number][] }>(result: T) => ({
  ...result,
  ...(result.map === undefined ? { balanced_accuracy: balance(result.per_class) } : {}),
});

const resultSchema = z
  .object({ ...accuracyShape, num_videos: z.number(), num_bad: z.number(), views: z.number() })
  .transform(withBalance);

const accuracySchema = z.object(accuracyShape).transform(withBalance);

export const ensembleSchema = z.object({
  num_videos: z.number(),
  members: z.array(accuracySchema),
  mean: accuracySchema,
});

export const evaluateSchema = z.object({
  done: z.boolean(),
  num_seen: z.number(),
  num_total: z.number(),
  bad: z.array(badVideo),
  /** Trials whose scores are not finite. */
  dropped: z.array(z.object({ trial: z.string(), step: z.number(), why: z.string() })),
  results: z.record(z.string(), resultSchema).nullable(),
});

export const exportSchema = z.object({
  ...{ opset: z.number().nullable(), size_bytes: z.number() },
  sha256: z.record(z.string(), z.string()).describe('by the name of a file'),
});
export type Exported = z.infer<typeof exportSchema>;

/** An exported file against the checkpoint, on videos of a list or on noise. */
export const compareExportSchema = z.object({
  ...{ done: z.boolean(), num_seen: z.number(), num_total: z.number(), num_bad: z.number(), is_noise: z.boolean() },
  largest_difference: z.number().describe('of a probability'),
  agreement: z.number(),
  /** Of the checkpoint, of the file. */
  top1: z.tuple([z.number(), z.number()]).nullable(),
});
export type Compared = z.infer<typeof compareExportSchema>;

const pair = z.tuple([z.number(), z.number()]);

export const inspectSchema = z.object({
  format: z.string(),
  /** That of most numbers first. */
  dtypes: z.array(z.string()),
  size_bytes: z.number(),
  sha256: z.string().nullable(),
  backbone: z
    .object({
      width: z.number(),
      num_layers: z.number(),
      num_heads: z.number(),
      /** Which of CLIP's has this width; null: not known, and num_heads is a guess. */
      tower: z.string().nullable(),
      /** A file beside the weights that says heads and activation. */
      description: z.string().nullable(),
      activation: z.string().nullable(),
      patch_size: pair,
      num_patches: z.number(),
      grid: pair.nullable(),
      mlp_factor: z.number(),
    })
    .nullable(),
  evl: z
    .object({
      width: z.number(),
      num_layers: z.number(),
      qkv_dim: z.number(),
      mlp_factor: z.number(),
      num_classes: z.number(),
      num_frames: z.number().nullable(),
      grid: pair.nullable(),
      temporal: z.object({ conv: z.boolean(), position_embedding: z.boolean(), cross_attention: z.boolean() }),
    })
    .nullable(),
  checkpoint: z
    .object({
      step: z.number(),
      trials: z.array(z.string()),
      classes: z.array(z.string()).nullable(),
      backbone_sha256: z.string(),
    })
    .nullable(),
  notes: z.array(z.string()),
});

export const featuresCheckedSchema = z.object({
  folder: z.string(),
  form: z.string(),
  precision: z.string(),
  num_layers: z.number(),
  num_records: z.record(z.string(), z.number()),
  /** Records of videos that could not be read. */
  num_bad: z.number(),
  /** On the disk. */
  bytes: z.number(),
});

export const featuresForecastSchema = z.object({
  folder: z.string(),
  form: z.string(),
  precision: z.string(),
  num_layers: z.number(),
  clip_bytes: z.number(),
  num_clips: z.record(z.string(), z.number()),
  bytes: z.object({ train: z.number(), val: z.number(), total: z.number() }),
  remaining_bytes: z.number(),
  free_bytes: z.number(),
  fits: z.boolean(),
  /** Measured on a few clips; null when everything is built. */
  seconds: z
    .object({
      build: z.number(),
      epoch_without: z.number(),
      epoch_with: z.number(),
      pay_back_epochs: number,
      measured_clips: z.number(),
    })
    .nullable(),
  notes: z.array(z.string()),
});

export const featuresBuiltSchema = z.object({
  done: z.boolean(),
  num_done: z.number(),
  num_total: z.number(),
  /** Of each list; of one that is not there 0. */
  num_videos: z.object({ train: z.number(), val: z.number() }),
  num_bad: z.number(),
  bad: z.array(badVideo.extend({ list: z.enum(['train', 'val']) })),
  /** null: nothing was computed. */
  clips_per_second: z.number().nullable(),
  /** For videos, for passes, for the disk. */
  waited_seconds: z.record(z.string(), z.number()),
  /** Of a pass, by which shards end. */
  most_clips: z.number(),
});

export const featuresMergedSchema = z.object({
  done: z.boolean(),
  num_done: z.number(),
  num_total: z.number(),
  num_records: z.number(),
  /** Not there, damaged, or of videos that have changed. */
  num_missing: z.number(),
  num_videos: z.object({ train: z.number(), val: z.number() }),
  bad: z.array(badVideo.extend({ list: z.enum(['train', 'val']) })),
});

export const featuresExportedSchema = z.object({
  ...{ done: z.boolean(), num_seen: z.number(), num_total: z.number(), bad: z.array(badVideo) },
  /** Their shapes, once it is done. */
  tensors: z.record(z.string(), z.array(z.number())).nullable(),
});

const spreadSchema = z.object({ estimate: z.number(), low: z.number(), high: z.number() });

export const clipsForecastSchema = z.object({
  folder: z.string(),
  encoding: z.object({ short_side: z.number().nullable(), gop: z.number(), crf: z.number(), preset: z.string() }),
  num_clips: z.number(),
  num_todo: z.number(),
  /** Of what is not prepared yet, as the two that follow. */
  source_bytes: z.number(),
  bytes: spreadSchema,
  seconds: spreadSchema,
  num_workers: z.number(),
  measured_clips: z.number(),
  /** Worst of the measured clips, dB; null when everything is prepared. */
  psnr: number,
  free_bytes: z.number(),
  fits: z.boolean(),
});

export const clipsPreparedSchema = z.object({
  done: z.boolean(),
  num_done: z.number(),
  /** Of a share its own. */
  num_total: z.number(),
  /** Of the lists. */
  num_clips: z.number(),
  num_bad: z.number(),
  /** Of all prepared clips, once it is done. */
  size_bytes: z.number(),
  bad: z.array(badVideo),
});

export type ClipsForecast = z.infer<typeof clipsForecastSchema>;
export type ClipsPrepared = z.infer<typeof clipsPreparedSchema>;
export type FeaturesBuilt = z.infer<typeof featuresBuiltSchema>;
export type FeaturesChecked = z.infer<typeof featuresCheckedSchema>;
export type FeaturesForecast = z.infer<typeof featuresForecastSchema>;
export type BadVideo = z.infer<typeof badVideo>;
export type Opened = z.infer<typeof openSchema>;
export type Step = z.infer<typeof stepSchema>;
export type Advanced = z.infer<typeof advanceSchema>;
export type Result = z.infer<typeof resultSchema>;
export type Evaluated = z.infer<typeof evaluateSchema>;
export type Inspected = z.infer<typeof inspectSchema>;
export const forecastSchema = z.object({ models: z.array(modelSchema) });

export const memorySchema = z.object({ peak_bytes: z.number(), workers_bytes: z.number(), free_bytes: z.number() });

export type ModelForecast = z.infer<typeof modelSchema>;
export type Description = z.infer<typeof describeSchema>;
