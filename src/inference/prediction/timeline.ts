/** What is seen when in a video: one pass over it in windows, be it a file of hours or a camera. */

import type { TimelineReply, TimelineSegment, TimelineWindow } from '../../runtime/prediction-replies.ts';
import type { Session } from '../../runtime/session.ts';
import type { Video } from './videos.ts';

const CALL_SECONDS = 1;

export interface TimelineOptions {
  top: number;
  /** null: as long as a clip that was trained on. */
  windowSeconds: number | null;
  /** Of a window with the next one, 0..1. */
  overlap: number;
  smoothSeconds: number;
  /** From which probability on a class makes a segment; null: what the checkpoint chose, else 0.5. */
  threshold: number | null;
}

/** A video that was gone through. */
export interface Timeline {
  path: string;
  rate: number;
  window_seconds: number;
  hop_seconds: number;
  seconds: number;
  num_frames: number;
  num_damaged: number;
  /** Why it ended before its end. */
  broken: string | null;
  /** Means of the windows. */
  classes: TimelineWindow['classes'];
  windows: TimelineWindow[];
  segments: TimelineSegment[];
}

export interface Failed {
  path: string;
  error: string;
}

/** What is written. */
export interface Timelines {
  checkpoint: string;
  options: TimelineOptions;
  videos: (Timeline | Failed)[];
}

export interface Watching {
  /** What came since the last time; `seconds` of `total` are seen. */
  tell?: (windows: TimelineWindow[], segments: TimelineSegment[], seconds: number, total: number | null) => void;
  /** Whether to end it where it is. */
  isOver?: (seconds: number) => boolean;
  /** Between two calls of about a second: Python is free for others then. */
  pause?: () => Promise<void>;
  /** Of a stream without end windows would fill the memory. */
  keepsWindows?: boolean;
}

/** Goes through a video. One that cannot be read, or does not end whole, is told in what is returned. */
export async function watch(
  session: Session,
  video: Video,
  options: TimelineOptions,
  { tell = () => {}, isOver = () => false, pause = async () => {}, keepsWindows = true }: Watching = {},
): Promise<Timeline | Failed> {
  const { reason, windows } = await session.openTimeline({
    ...{ path: video.path, is_stream: video.isStream },
    part: video.part === null ? null : [video.part.start, video.part.end],
    ...{ window_seconds: options.windowSeconds, overlap: options.overlap },
    ...{ smooth_seconds: options.smoothSeconds, threshold: options.threshold },
  });
  if (windows === null) return { path: video.name, error: reason ?? 'cannot be opened' };
  const { header_seconds: total, ...plan } = windows;
  const kept: TimelineWindow[] = [];
  const segments: TimelineSegment[] = [];
  const take = (reply: TimelineReply): TimelineReply => {
    if (keepsWindows) for (const one of reply.windows) kept.push(one);
    for (const one of reply.segments) segments.push(one);
    tell(reply.windows, reply.segments, reply.seconds, total);
    return reply;
  };
  let last = take(await session.advanceTimeline(CALL_SECONDS, options.top));
  while (!last.done) {
    await pause();
    const call = isOver(last.seconds)
      ? session.closeTimeline(options.top)
      : session.advanceTimeline(CALL_SECONDS, options.top);
    last = take(await call);
  }
  if (last.reason !== null || last.classes === null)
    return { path: video.name, error: last.reason ?? 'ended before its first window' };
  const { seconds, num_frames, num_damaged, broken, classes } = last;
  segments.sort((a, b) => a.start - b.start || a.label - b.label);
  return { path: video.name, ...plan, seconds, num_frames, num_damaged, broken, classes, windows: kept, segments };
}
