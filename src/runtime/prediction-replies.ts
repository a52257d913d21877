/** What Python answers of single videos: their classes, what is seen when, where the decoder looks. */

import { z } from 'zod';

const namedClass = z.object({
  label: z.number(),
  name: z.string(),
  probability: z.number().nullable(),
  threshold: z.number().optional(),
});

export const predictSchema = z.object({
  predictions: z.array(
    z.object({ path: z.string(), reason: z.string().nullable(), classes: z.array(namedClass).nullable() }),
  ),
});

/** Windows that will slide over a video, in seconds, or why it cannot be opened. */
export const timelineOpenedSchema = z.object({
  reason: z.string().nullable(),
  windows: z
    .object({
      /** Frames a second. */
      rate: z.number(),
      window_seconds: z.number(),
      hop_seconds: z.number(),
      /** As the file says; of a stream null. */
      header_seconds: z.number().nullable(),
    })
    .nullable(),
});

const windowSchema = z.object({ start: z.number(), end: z.number(), classes: z.array(namedClass) });
const segmentSchema = z.object({
  ...{ start: z.number(), end: z.number() },
  ...{ label: z.number(), name: z.string(), probability: z.number() },
});

/** What was found since the last call, and how far it is. Seconds are those of the video. */
export const timelineSchema = z.object({
  done: z.boolean(),
  /** Why there is nothing. */
  reason: z.string().nullable(),
  seconds: z.number(),
  num_frames: z.number(),
  num_windows: z.number(),
  /** Frames and packets that could not be decoded whole. */
  num_damaged: z.number(),
  /** Why it ended before its end. */
  broken: z.string().nullable(),
  windows: z.array(windowSchema),
  segments: z.array(segmentSchema),
  /** Of the whole, once it is done. */
  classes: z.array(namedClass).nullable(),
});
export type TimelineWindow = z.infer<typeof windowSchema>;
export type TimelineSegment = z.infer<typeof segmentSchema>;
export type TimelineReply = z.infer<typeof timelineSchema>;

const hiddenSchema = z.object({ frames: z.array(z.number()), probability: z.number(), change: z.number() });

/** Where the decoder looks in one clip, or why the video cannot be read. */
export const explainSchema = z.object({
  reason: z.string().nullable(),
  explanation: z
    .object({
      /** Weights are together one. */
      frames: z.array(z.object({ index: z.number(), seconds: z.number(), weight: z.number() })),
      /** Of each frame, the weights of its patches by row and column. */
      maps: z.array(z.array(z.array(z.number()))),
      num_layers: z.number(),
      num_heads: z.number(),
      /** The answer for this clip. */
      ...{ label: z.number(), name: z.string(), probability: z.number() },
      /** Of a probability, between what the weights give and what the model says. */
      difference: z.number(),
      /** The answer without the half of the frames that is looked at most, and least; null of a clip of one frame. */
      without_most: hiddenSchema.nullable(),
      without_least: hiddenSchema.nullable(),
    })
    .nullable(),
});
export type Explanation = NonNullable<z.infer<typeof explainSchema>['explanation']>;
