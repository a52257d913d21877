/** What Python answers of two evaluations, video by video (`pair`). */

import { z } from 'zod';

/** Two files of scores, video by video. */
export const pairedSchema = z.union([
  z.object({
    reason: z.null(),
    ...{ num_first: z.number(), num_other: z.number(), num_shared: z.number() },
    /** Videos that are right in these. */
    ...{ both: z.number(), only_first: z.number(), only_other: z.number(), neither: z.number() },
    /** McNemar's. */
    p: z.number(),
  }),
  z.object({ reason: z.string() }),
]);
export type Paired = z.infer<typeof pairedSchema>;
