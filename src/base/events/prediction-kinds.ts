/** What `predict` finds, and what others say in its form. */

import { z } from 'zod';
import { count, plain, seconds, text } from './fields.ts';

const share = z.number().describe('0..1');
const maybeShare = share.nullable();

const hidden = z
  .object({ frames: z.array(count), probability: share, change: share.describe('total variation') })
  .nullable();

export const PREDICTIONS = [
  plain('predicted', '`predict`: one video.', {
    path: text,
    classes: z
      .array(z.object({ label: count, name: text, probability: maybeShare, threshold: share.optional() }))
      .describe('the best; of data.labels: multi those that reach their threshold'),
    start: seconds.optional().describe('of a stream: of the window that this is said of'),
    end: seconds.optional(),
  }),
  plain('predicted', '`predict`: a video that cannot be read.', { path: text, error: text }),
  plain('segment', '`predict --timeline`: a piece of a video in which a class is seen.', {
    path: text,
    ...{ start: seconds, end: seconds, label: count, name: text },
    probability: share.describe('mean'),
  }),
  plain('explained', '`predict --explain`: where the decoder looks in the clip in the middle of a video.', {
    path: text,
    ...{ strip: text.describe('PNG'), overlay: text.describe('MP4'), json: text.describe('all of it') },
    frames: z.array(z.object({ index: count, seconds, weight: share.describe('all together 1') })),
    ...{ label: count, name: text, probability: share.describe('of this clip') },
    without_most: hidden.describe('the answer without the half of the frames that is looked at most'),
    without_least: hidden,
  }),
] as const;
