/** `predict`: names the classes of videos with a finished checkpoint, as a whole or as they come along in time. */

import { Interrupted, showPath, UserError } from '../../base/errors.ts';
import { makeFolder, writeWhole } from '../../base/files.ts';
import type { Report } from '../../base/printer.ts';
import type { Stop } from '../../base/process/stop.ts';
import { plural } from '../../base/words.ts';
import type { Session } from '../../runtime/session.ts';
import { type CheckpointArguments, openCheckpoint } from '../checkpoint-config.ts';
import { describeOpen, withOpened } from '../opened.ts';
import { Explainer, readAttention } from './explain.ts';
import { type Failed, type Timeline, type TimelineOptions, watch } from './timeline.ts';
import { formatTimelines, refuseTimelineFile } from './timeline-files.ts';
import { Told } from './told.ts';
import { findVideos, type Video } from './videos.ts';

export interface PredictArguments extends CheckpointArguments {
  videos: string[];
  top: number;
  output: string | undefined;
  timeline: string | undefined;
  window: number | undefined;
  overlap: number | undefined;
  smooth: number | undefined;
  threshold: number | undefined;
  seconds: number | undefined;
  explain: string | undefined;
  attention: string | undefined;
}

/** A call takes about so long, so that what is done is seen, and little is lost with a decoder that breaks down. */
const CALL_SECONDS = 1;
const MOST_AT_ONCE = 64;
const OVERLAP = 0.5;

/** Names the classes of videos. Those that cannot be read are told after the others: UserError. */
export async function predict(args: PredictArguments, report: Report): Promise<void> {
  const { path: folder, name, config, classes } = openCheckpoint(args, (text) => report.note(text));
  const root = config.data.val_root ?? config.data.root;
  const videos = await findVideos(args.videos, { root, note: (text) => report.note(text) });
  refuseUnused(args, videos);
  if (config.data.dummy)
    report.warn(`${args.checkpoint}  was trained on noise (data.dummy: true): what it says of a video means nothing.`);
  const told = new Told(videos.length, args.output, report);
  const request = describeOpen('predict', { name, settings: config }, folder, classes, { train: null, val: null });
  report.enableProgress();
  report.waiting(`loading PyTorch and ${showPath(folder)} ...`);
  const hasStreams = videos.some(({ isStream }) => isStream);
  const work = (session: Session, _: unknown, stop: Stop) =>
    new Prediction(args, session, told, report, stop).run(videos);
  try {
    await withOpened(config, request, report, work, hasStreams ? 'second' : 'first');
  } finally {
    told.close();
  }
  told.refuseFailed();
}

/** Each option that would change nothing is told. */
function refuseUnused(args: PredictArguments, videos: Video[]): void {
  const hasStreams = videos.some(({ isStream }) => isStream);
  const isTimed = args.timeline !== undefined || hasStreams;
  const problems = [
    ...(['window', 'overlap'] as const).filter((key) => args[key] !== undefined && !isTimed),
    ...(['smooth', 'threshold'] as const).filter((key) => args[key] !== undefined && args.timeline === undefined),
  ].map((key) => `--${key}  is for --timeline FILE, which is not given.`);
  if (args.seconds !== undefined && !hasStreams)
    problems.push('--seconds  ends a stream, and none is given. Of a file name a part: FILE#t=START,END.');
  if (args.attention !== undefined && args.explain === undefined)
    problems.push('--attention  is for --explain FOLDER, which is not given.');
  if (args.explain !== undefined && isTimed)
    problems.push('--explain  looks at one clip of a file: it goes with no --timeline and no stream.');
  if (problems.length > 0) throw new UserError(problems);
  readAttention(args.attention);
  if (args.explain !== undefined) makeFolder(args.explain);
  if (args.timeline === undefined) return;
  refuseTimelineFile(args.timeline, videos.length);
  makeFolder(`${args.timeline}/..`);
}

class Prediction {
  readonly #args: PredictArguments;
  readonly #session: Session;
  readonly #told: Told;
  readonly #report: Report;
  readonly #stop: Stop;
  readonly #explainer: Explainer | undefined;
  readonly #timelines: (Timeline | Failed)[] = [];

  constructor(args: PredictArguments, session: Session, told: Told, report: Report, stop: Stop) {
    this.#args = args;
    this.#session = session;
    this.#told = told;
    this.#report = report;
    this.#stop = stop;
    this.#explainer =
      args.explain === undefined ? undefined : new Explainer(args.explain, readAttention(args.attention), session);
  }

  /** In the order in which they were given: those that are looked at as a whole in groups, the others one by one. */
  async run(videos: Video[]): Promise<void> {
    const { timeline } = this.#args;
    const isTimed = ({ isStream }: Video): boolean => isStream || timeline !== undefined;
    for (let done = 0, size = 1; done < videos.length && !this.#stop.signal.aborted; ) {
      const [first] = videos.slice(done, done + 1);
      if (first !== undefined && isTimed(first)) {
        await this.#watch(first);
        done += 1;
        continue;
      }
      const end = videos.findIndex((video, index) => index > done && (index === done + size || isTimed(video)));
      const group = videos.slice(done, end < 0 ? undefined : end);
      const seconds = await this.#predict(group);
      done += group.length;
      size = Math.max(1, Math.min(MOST_AT_ONCE, 4 * size, Math.round((group.length * CALL_SECONDS) / seconds)));
    }
    this.#writeTimelines(videos.length);
    if (this.#stop.signal.aborted) throw new Interrupted('stopped');
  }

  /** Returns how many seconds it took: groups grow until a call takes its time. */
  async #predict(group: Video[]): Promise<number> {
    const began = performance.now();
    const { predictions } = await this.#session.predict(group, this.#args.top);
    const seconds = (performance.now() - began) / 1000;
    for (const [index, video] of group.entries()) {
      const { classes = null, reason = null } = predictions[index] ?? {};
      if (classes === null) this.#told.fail(video.name, reason ?? '');
      else this.#told.tell({ kind: 'predicted', path: video.name, classes });
      const explained = classes === null ? undefined : await this.#explainer?.explain(video);
      if (explained !== undefined) this.#report.event(explained);
    }
    return seconds;
  }

  async #watch(video: Video): Promise<void> {
    const { timeline, seconds: most = Number.POSITIVE_INFINITY } = this.#args;
    const found = await watch(this.#session, video, this.#options(), {
      keepsWindows: timeline !== undefined,
      isOver: (seconds) => video.isStream && (seconds >= most || this.#stop.signal.aborted),
      tell: (windows, segments, seconds, total) => {
        if (total !== null) this.#report.progress('timeline', Math.round(seconds), Math.round(total), this.#told.place);
        for (const one of segments) this.#report.event({ kind: 'segment', path: video.name, ...one });
        if (timeline !== undefined) return;
        for (const one of windows) this.#told.show({ kind: 'predicted', path: video.name, ...one });
      },
    });
    this.#timelines.push(found);
    if ('error' in found) this.#told.fail(found.path, found.error);
    else this.#tellWhole(found);
  }

  #tellWhole({ path, classes, broken, num_damaged }: Timeline): void {
    this.#told.tell({ kind: 'predicted', path, classes });
    if (num_damaged > 0) this.#report.warn(`${path}  ${plural(num_damaged, 'frame')} could not be decoded whole.`);
    if (broken !== null) this.#report.warn(`${path}  ended before its end: ${broken}.`);
  }

  #options(): TimelineOptions {
    const { top, window, overlap = OVERLAP, smooth = 0, threshold } = this.#args;
    return { top, windowSeconds: window ?? null, overlap, smoothSeconds: smooth, threshold: threshold ?? null };
  }

  #writeTimelines(numVideos: number): void {
    const { timeline, checkpoint } = this.#args;
    if (timeline === undefined || this.#timelines.length === 0) return;
    writeWhole(timeline, formatTimelines(timeline, { checkpoint, options: this.#options(), videos: this.#timelines }));
    this.#report.endProgress();
    this.#report.say(`${showPath(timeline)}: ${this.#timelines.length} of ${plural(numVideos, 'video')}`);
  }
}
