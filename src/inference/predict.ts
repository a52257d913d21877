/** `predict`: names the classes of videos with a finished checkpoint. */

import { showPath, UserError } from '../base/errors.ts';
import type { Report } from '../base/printer.ts';
import { keepLine } from '../base/words.ts';
import { type CheckpointArguments, openCheckpoint } from './checkpoint-config.ts';
import { describeOpen, withOpened } from './opened.ts';
import { findVideos } from './videos.ts';

export interface PredictArguments extends CheckpointArguments {
  videos: string[];
  top: number;
}

/** Names the classes of video files. Files that cannot be read are told after the others: UserError. */
export async function predict(args: PredictArguments, report: Report): Promise<void> {
  const { path: folder, name, config, classes } = openCheckpoint(args, (text) => report.note(text));
  const videos = await findVideos(args.videos);
  if (config.data.dummy)
    report.warn(`${args.checkpoint}  was trained on noise (data.dummy: true): what it says of a video means nothing.`);
  const request = describeOpen('predict', { name, settings: config }, folder, classes, { train: null, val: null });
  report.enableProgress();
  report.waiting(`loading PyTorch and ${showPath(folder)} ...`);
  await withOpened(config, request, report, async (session) => {
    const unreadable: string[] = [];
    for (const video of videos) {
      // One call a video: what is done is printed, whatever comes later.
      const { predictions } = await session.predict([video], args.top);
      for (const { classes, reason } of predictions) {
        if (classes === null) unreadable.push(`${keepLine(video.name)}  ${reason}`);
        else report.event({ kind: 'predicted', path: video.name, classes });
      }
    }
    if (unreadable.length > 0) throw new UserError(unreadable);
  });
}
