/**
 * The keys of a sweep file besides `extends`, `set` and `space`: name, type, range, default and a line of help each.
 *
 * docs/sweeps.md and configs/sweeps/sweep.schema.json, for editors, are made from this file: `make docs`.
 */
import { z } from 'zod';
import { BYTES } from '../../base/format.ts';
import { collectKeys } from '../../config/keys.ts';
import { section } from '../../config/schema.ts';

const count = z.int().min(1);
export const text = z.string().min(1);
const seed = z.int().min(0);

const optional = <Schema extends z.ZodType>(schema: Schema) => schema.nullable().default(null);

const executor = section({
  kind: z.enum(['local', 'slurm', 'ray']).default('local').describe('Where cohorts run.'),
  slots: count.default(1).describe('Cohorts at once.'),
  memory: z
    .union([z.stringFormat('size', BYTES), z.number().positive()])
    .nullable()
    .default(null)
    .describe('Memory of a slot, as in 8GiB; a cohort that needs more is split. null: what the machine has.'),
  max_attempts: count.default(3).describe('Times a cohort is started whose worker was lost.'),
  failure: z
    .enum(['no-new', 'continue', 'kill'])
    .default('no-new')
    .describe('After a cohort has failed: start no new ones, go on with the others, or stop all.'),
  stall_seconds: optional(z.number().positive()).describe(
    'A cohort without progress for so long is lost; null: launch.stall_seconds of the configuration.',
  ),
  poll_seconds: z.number().positive().default(5).describe('Between two questions to Slurm or Ray.'),
  slurm: section({
    partition: optional(text).describe('sbatch --partition.'),
    account: optional(text).describe('sbatch --account.'),
    time: optional(z.union([text, count])).describe('sbatch --time.'),
    gres: optional(text).describe('sbatch --gres, as in gpu:1.'),
    cpus_per_task: optional(count).describe('sbatch --cpus-per-task.'),
    memory: optional(text).describe('sbatch --mem, as in 16G.'),
    extra: z.array(text).default([]).describe('Further options of sbatch, a list.'),
  }),
  ray: section({
    address: text.default('http://127.0.0.1:8265').describe("Address of Ray's dashboard."),
    num_cpus: optional(z.number().positive()).describe('CPUs a cohort reserves.'),
    num_gpus: optional(z.number().min(0)).describe('GPUs a cohort reserves.'),
  }),
});

export const sweepSchema = z.strictObject({
  base: text.describe('Training configuration whose keys are varied.'),
  method: z
    .enum(['grid', 'random', 'tpe'])
    .default('grid')
    .describe('grid: every combination; random: draws; tpe: draws that learn from results (Optuna).'),
  trials: optional(count).describe('Points of random and tpe; each is trained once a seed.'),
  seeds: z
    .union([count, z.array(seed).min(1)])
    .nullable()
    .default(null)
    .describe("Values of train.seed, or how many from the base's on; null: the base's alone."),
  seed: seed.default(0).describe('Seed of the draws.'),
  objective: optional(z.enum(['top1', 'top5', 'map'])).describe(
    'What is best, on selection_list; null: top1, of data.labels: multi map (mean average precision).',
  ),
  selection: z
    .enum(['separate', 'validation'])
    .default('separate')
    .describe('validation: choose on the validation list itself, whose accuracy is then no fair estimate.'),
  selection_list: optional(text).describe('Clips to choose on: neither the training nor the validation list.'),
  selection_root: optional(text).describe(
    "Folder of that list's relative paths; null: data.root, else the list's own.",
  ),
  bracket: section({
    rungs: z
      .array(count)
      .default([])
      .describe('Optimizer steps at which the worse points end; below train.steps. []: none do.'),
    keep: z.number().gt(0).max(1).default(0.5).describe('Share of the points that go on from a rung.'),
  }),
  tpe: section({ round: optional(count).describe('Points asked at once; null: as many as a cohort holds, else 8.') }),
  executor,
  cohort: section({ max_trials: optional(count).describe('Most trials in one cohort; null: what memory holds.') }),
});

export type SweepDraft = z.output<typeof sweepSchema>;

export const SWEEP_KEYS = collectKeys(sweepSchema);

export const value = z.union([z.string(), z.number(), z.boolean(), z.null()]);

/** What a key of the space may be given; a plain list stands for `values`. */
export const spaceKeySchema = z.strictObject({
  values: z.array(value).min(1).describe('The values to try.'),
  low: z.number().describe('Lowest number.'),
  high: z.number().describe('Highest number.'),
  log: z.boolean().describe('Even in the logarithm.'),
  step: z.number().positive().describe('From one number to the next.'),
  num: z.int().min(2).describe('Numbers of a grid from low to high.'),
});

export const SPACE_FIELDS = collectKeys(spaceKeySchema);
