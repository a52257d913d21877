/** What Python answers of stored scores and of pictures: what a report shows. */

import { z } from 'zod';

const labelled = z.tuple([z.number(), z.number()]).describe('class, probability');

const clipSchema = z.object({
  index: z.number(),
  name: z.string(),
  labels: z.array(labelled),
  /** The best classes, the most probable first. */
  best: z.array(labelled),
});
export type Clip = z.infer<typeof clipSchema>;

const labelErrorSchema = clipSchema.extend({
  suggested: z.number(),
  /** Of videos with several labels: whether the suggested one is missing, or too many. */
  is_missing: z.boolean().optional(),
  margin: z.number(),
});
export type LabelError = z.infer<typeof labelErrorSchema>;

const reliabilitySchema = z.object({
  ece: z.number(),
  nll: z.number().optional(),
  /** From, to, videos, mean confidence, share that is right; those with videos. */
  bins: z.array(z.tuple([z.number(), z.number(), z.number(), z.number(), z.number()])),
});
export type Reliability = z.infer<typeof reliabilitySchema>;

const classSchema = z.object({
  label: z.number(),
  num_videos: z.number(),
  num_correct: z.number(),
  num_predicted: z.number(),
  /** Class, videos. */
  taken_for: z.tuple([z.number(), z.number()]).nullable(),
});

export const analysisSchema = z.object({
  is_multi: z.boolean(),
  num_videos: z.number(),
  num_classes: z.number(),
  classes: z.array(classSchema),
  /** Label, predicted class, videos. */
  confusion: z.array(z.tuple([z.number(), z.number(), z.number()])),
  /** Classes, those side by side that are taken for each other. */
  order: z.array(z.number()),
  /** Two classes, videos of the first taken for the second, of the second for the first. */
  pairs: z.array(z.tuple([z.number(), z.number(), z.number(), z.number()])),
  /** Label, predicted class, video. */
  mistakes: z.array(z.tuple([z.number(), z.number(), z.string()])),
  calibration: z.object({
    before: reliabilitySchema,
    after: reliabilitySchema.nullable(),
    temperature: z.number().nullable(),
  }),
  /** As many as are estimated; null: of videos with several labels. More are listed. */
  num_label_errors: z.number().nullable(),
  label_errors: z.array(labelErrorSchema),
  clips: z.object({
    worst: z.array(clipSchema),
    confused: z.array(clipSchema).optional(),
    uncertain: z.array(clipSchema),
  }),
});
export type Analysis = z.infer<typeof analysisSchema>;

const pictureSchema = z.object({ address: z.string(), width: z.number(), height: z.number() });
export type Picture = z.infer<typeof pictureSchema>;

/** In the order of the videos; null: none of its frames can be read. */
export const picturesSchema = z.object({ pictures: z.array(pictureSchema.nullable()) });
