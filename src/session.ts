/** The session's verbs with the types of what they take and give: the TypeScript side of py/coldframe/session.py. */

import { z } from 'zod';
import { PythonBug, RuntimeFailure } from './errors.ts';
import type { Runtime } from './runtime.ts';

/** A number that Python may have found not finite; JSON carries null then. */
const number = z.number().nullable();

const badVideo = z.object({ path: z.string(), reason: z.string() });

const environment = z.record(z.string(), z.unknown());

const modelSchema = z.object({
  parameters_total: z.number(),
  parameters_trained: z.number(),
  flops_per_view: z.number(),
  memory: z.object({
    device: z.string(),
    precision: z.string(),
    training_bytes: z.number(),
    evaluation_bytes: z.number(),
  }),
});

const describeSchema = z.object({ environment, model: modelSchema.nullable() });

const openSchema = z.object({
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

const advanceSchema = z.object({
  step: z.number(),
  steps: z.array(stepSchema),
  bad: z.array(badVideo),
  dropped: z.array(z.object({ trial: z.string(), why: z.string() })),
});

const resultSchema = z.object({
  top1: z.number(),
  top5: z.number(),
  num_videos: z.number(),
  num_bad: z.number(),
  views: z.number(),
  /** [label, videos, correct] of each class that occurs. */
  per_class: z.array(z.tuple([z.number(), z.number(), z.number()])),
});

const accuracySchema = resultSchema.pick({ top1: true, top5: true, per_class: true });

const ensembleSchema = z.object({
  num_videos: z.number(),
  members: z.array(accuracySchema),
  mean: accuracySchema,
});

const evaluateSchema = z.object({
  done: z.boolean(),
  num_seen: z.number(),
  num_total: z.number(),
  bad: z.array(badVideo),
  results: z.record(z.string(), resultSchema).nullable(),
});

const predictSchema = z.object({
  predictions: z.array(
    z.object({
      path: z.string(),
      reason: z.string().nullable(),
      classes: z.array(z.object({ label: z.number(), name: z.string(), probability: number })).nullable(),
    }),
  ),
});

const pair = z.tuple([z.number(), z.number()]);

const inspectSchema = z.object({
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

export type BadVideo = z.infer<typeof badVideo>;
export type Opened = z.infer<typeof openSchema>;
export type Step = z.infer<typeof stepSchema>;
export type Advanced = z.infer<typeof advanceSchema>;
export type Result = z.infer<typeof resultSchema>;
export type Evaluated = z.infer<typeof evaluateSchema>;
export type Inspected = z.infer<typeof inspectSchema>;
export type Description = z.infer<typeof describeSchema>;

export interface OpenRequest {
  mode: 'train' | 'evaluate' | 'predict';
  trials: { name: string; settings: object }[];
  /** Checked lists in normalised form (data-list.ts). */
  lists: { train: string | null; val: string | null };
  classes: string[] | null;
  run_dir: string | null;
  /** auto, never, or the path of a checkpoint. */
  resume: string;
}

/** torch/utils/data/dataloader.py and signal_handling.py. */
const WORKER_DIED = /DataLoader worker .*(exited unexpectedly|killed by signal)/;

export class Session {
  readonly runtime: Runtime;

  constructor(runtime: Runtime) {
    this.runtime = runtime;
  }

  /** A loader worker that dies is no bug: mostly the kernel killed it for lack of memory, and a restart goes on. */
  async #call<T>(verb: string, args: object, schema: z.ZodType<T>): Promise<T> {
    try {
      return await this.runtime.call(verb, args, schema);
    } catch (error) {
      if (!(error instanceof PythonBug && WORKER_DIED.test(error.message))) throw error;
      const [how = error.message] = /DataLoader worker \(pid \d+\) is killed.*/.exec(error.traceback) ?? [];
      throw new RuntimeFailure(`python  ${how.trim()} Lower data.num_workers, or give it more (shared) memory.`);
    }
  }

  /** Lets Python import torch, which takes seconds, while this side does something else. */
  warm(): void {
    this.describe(null).catch(() => {}); // the next call tells what is wrong
  }

  describe(settings: object | null) {
    return this.#call('describe', { settings }, describeSchema);
  }

  open(request: OpenRequest) {
    return this.#call('open', request, openSchema);
  }

  advance(steps: number) {
    return this.#call('advance', { steps }, advanceSchema);
  }

  /** Goes on with the evaluation for about so long; at its end there are `results`, and scores in the folder. */
  evaluate(seconds: number, output: string) {
    return this.#call('evaluate', { seconds, output }, evaluateSchema);
  }

  ensemble(paths: string[]) {
    return this.#call('ensemble', { paths }, ensembleSchema);
  }

  save() {
    return this.#call('save', {}, z.object({ path: z.string(), step: z.number() }));
  }

  convert(to: 'coldframe' | 'upstream', output: string) {
    return this.#call('convert', { to, output }, z.object({ path: z.string(), step: z.number() }));
  }

  predict(paths: string[], top: number) {
    return this.#call('predict', { paths, top }, predictSchema);
  }

  /** What a file of weights or a checkpoint folder is. */
  inspect(path: string) {
    return this.#call('inspect', { path }, inspectSchema);
  }
}
