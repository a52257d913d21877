/** `predict`: names the classes of videos with a finished checkpoint. */

import { showPath, UserError } from '../base/errors.ts';
import type { EventOf } from '../base/events/event.ts';
import type { Report } from '../base/printer.ts';
import { keepLine, plural } from '../base/words.ts';
import type { Session } from '../runtime/session.ts';
import { type CheckpointArguments, openCheckpoint } from './checkpoint-config.ts';
import { describeOpen, withOpened } from './opened.ts';
import { PredictionFile } from './prediction-file.ts';
import { findVideos, type Video } from './videos.ts';

export interface PredictArguments extends CheckpointArguments {
  videos: string[];
  top: number;
  output: string | undefined;
}

/** A call takes about so long, so that what is done is seen, and little is lost with a decoder that breaks down. */
const CALL_SECONDS = 1;
const MOST_AT_ONCE = 64;

/** Names the classes of videos. Those that cannot be read are told after the others: UserError. */
export async function predict(args: PredictArguments, report: Report): Promise<void> {
  const { path: folder, name, config, classes } = openCheckpoint(args, (text) => report.note(text));
  const root = config.data.val_root ?? config.data.root;
  const videos = await findVideos(args.videos, { root, note: (text) => report.note(text) });
  if (config.data.dummy)
    report.warn(`${args.checkpoint}  was trained on noise (data.dummy: true): what it says of a video means nothing.`);
  const told = new Told(videos.length, args.output, report);
  const request = describeOpen('predict', { name, settings: config }, folder, classes, { train: null, val: null });
  report.enableProgress();
  report.waiting(`loading PyTorch and ${showPath(folder)} ...`);
  try {
    await withOpened(config, request, report, (session) => predictFiles(session, videos, args.top, told));
  } finally {
    told.close();
  }
  told.refuseFailed();
}

/** In groups that are decoded together, and grow until a call takes its time. */
async function predictFiles(session: Session, videos: Video[], top: number, told: Told): Promise<void> {
  for (let done = 0, size = 1; done < videos.length; ) {
    const group = videos.slice(done, done + size);
    const began = performance.now();
    const { predictions } = await session.predict(group, top);
    const seconds = (performance.now() - began) / 1000;
    for (const [index, { classes, reason }] of predictions.entries()) {
      const path = group[index]?.name ?? '';
      told.tell(
        classes === null ? { kind: 'predicted', path, error: reason ?? '' } : { kind: 'predicted', path, classes },
      );
    }
    done += group.length;
    size = Math.max(1, Math.min(MOST_AT_ONCE, 4 * size, Math.round((group.length * CALL_SECONDS) / seconds)));
  }
}

/** What is found of each video: printed, and written where that is asked for. */
class Told {
  readonly #report: Report;
  readonly #file: PredictionFile | undefined;
  readonly #failed: string[] = [];
  readonly #numVideos: number;
  #numDone = 0;

  constructor(numVideos: number, output: string | undefined, report: Report) {
    this.#numVideos = numVideos;
    this.#report = report;
    this.#file = output === undefined ? undefined : new PredictionFile(output);
  }

  tell(found: EventOf<'predicted'>): void {
    this.#numDone += 1;
    if ('error' in found) this.#failed.push(`${keepLine(found.path)}  ${found.error}`);
    // A person who has a file of them is not shown each, nor at its place what comes at the end.
    const isShown = this.#report.json || (this.#file === undefined && 'classes' in found);
    if (isShown) this.#report.event(found);
    this.#file?.add(found);
    this.#report.progress('predict', this.#numDone, this.#numVideos);
  }

  close(): void {
    if (this.#file === undefined) return;
    this.#report.endProgress();
    this.#file.close();
    const { count, path } = this.#file;
    if (count > 0) this.#report.say(`${showPath(path)}: ${count} of ${plural(this.#numVideos, 'video')}`);
  }

  refuseFailed(): void {
    if (this.#failed.length === 0) return;
    const many = `${this.#failed.length} of ${plural(this.#numVideos, 'video')} could not be read.`;
    throw new UserError(this.#numVideos > 1 ? [...this.#failed, many] : this.#failed);
  }
}
