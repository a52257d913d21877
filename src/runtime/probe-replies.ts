/** What Python answers to `probe`: what a video is, and whether its frames can be read. */
import { z } from 'zod';

const factsSchema = z.object({
  num_frames: z.number(),
  /** That the header promises beyond those. */
  num_missing: z.number(),
  /** As shown. */
  width: z.number(),
  height: z.number(),
  /** Frames a second, the mean. */
  rate: z.number(),
  is_variable_rate: z.boolean(),
  duration_seconds: z.number(),
  codec: z.string(),
  container: z.string(),
  /** Degrees. */
  rotation: z.number(),
  mirrored: z.boolean(),
  /** Frames are found by their times; else each reading begins at the beginning. */
  by_time: z.boolean(),
});

const probeSchema = z.object({
  /** null: it cannot be opened. Of a part of a video: its own frames and seconds. */
  facts: factsSchema.nullable(),
  /** Why it cannot be used; the fault is a word to decide by. */
  problem: z.object({ fault: z.string(), reason: z.string() }).nullable(),
  /** Why not all of its frames can be read, also where no sampling reaches those. */
  damage: z.string().nullable(),
});

export const probedSchema = z.object({
  clips: z.array(probeSchema.extend({ path: z.string(), part: z.tuple([z.number(), z.number()]).nullable() })),
  /** Videos in hand. */
  num_left: z.number(),
});

/** Which frames of a video are asked for. */
export interface Sampling {
  num_frames: number;
  /** null: TSN. */
  stride: number | null;
  repeat_last: boolean;
  /** Of an evaluation; null: of a training. */
  num_views: number | null;
}

export type Facts = z.infer<typeof factsSchema>;
export type Probe = z.infer<typeof probeSchema>;
export type Problem = NonNullable<Probe['problem']>;
