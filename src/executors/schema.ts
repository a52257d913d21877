/** The keys of `executor`: where jobs run, of a sweep or of a large job in parts. */

import { z } from 'zod';
import { BYTES, parseBytes } from '../base/format.ts';
import { section } from '../config/schema.ts';
import type { SweepExecutor } from './executor.ts';

export const count = z.int().min(1);
export const text = z.string().min(1);

export const optional = <Schema extends z.ZodType>(schema: Schema) => schema.nullable().default(null);

export const executorSchema = section({
  kind: z.enum(['local', 'slurm', 'ray']).default('local').describe('Where cohorts run.'),
  slots: count.default(1).describe('Cohorts at once.'),
  memory: z
    .union([z.stringFormat('size', BYTES), z.number().positive()])
    .nullable()
    .default(null)
    .describe(
      'Memory of a slot, as in 8GiB, on GPUs of each of them; a cohort that needs more is split. null: what the machine has.',
    ),
  max_attempts: count
    .default(3)
    .describe('Times a cohort is started whose worker was lost, without getting further in between.'),
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
    num_cpus: optional(z.number().positive()).describe('CPUs a cohort reserves, on each of its machines.'),
    num_gpus: optional(z.number().min(0)).describe('GPUs a cohort reserves, on each of its machines.'),
    python: text.default('python3').describe('With `launch.nodes`: the Python of the cluster that has ray.'),
  }),
});

/** Returns what a file says, with its memory in bytes. */
export function readExecutor({ memory, ...settings }: z.output<typeof executorSchema>): SweepExecutor {
  return { ...settings, memory_bytes: memory === null ? null : (parseBytes(memory) ?? null) };
}
