/**
 * The keys of a sweep file besides `extends`, `set` and `space`: name, type, range, default and a line of help each.
 *
 * docs/sweeps.md and configs/sweeps/sweep.schema.json, for editors, are made from this file: `make docs`.
 */
import { z } from 'zod';
import { collectKeys } from '../../config/keys.ts';
import { section } from '../../config/schema.ts';
import { count, executorSchema, optional, text } from '../../executors/schema.ts';

const seed = z.int().min(0);

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
  executor: executorSchema,
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
