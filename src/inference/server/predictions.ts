/** What is told of videos: the classes of several at once, and which are not looked at; what is seen when, and where the decoder looks. */

import { readFile, rm } from 'node:fs/promises';
import { UserError } from '../../base/errors.ts';
import { formatDuration } from '../../base/format.ts';
import type { Explanation } from '../../runtime/prediction-replies.ts';
import { type Timeline, watch } from '../prediction/timeline.ts';
import type { Video } from '../prediction/videos.ts';
import type { Together } from './line.ts';
import { Refusal } from './refusal.ts';

const MOST_CLASSES = 5; // of a window
const OVERLAP = 0.5;
/** Of the time that there is: what was seen until then is shown. */
const SHARE_OF_TIME = 0.7;

export interface Asked {
  video: Video;
  top: number;
}

export interface Class {
  label: number;
  name: string;
  probability: number | null;
  threshold?: number | undefined;
}

/** Returns what names the classes of videos that last at most so many seconds. */
export function makePredict(maxDuration: number): Together<Asked, Class[]> {
  return async (session, asked) => {
    const { videos } = await session.measure(asked.map(({ video }) => video.path));
    const refused = asked.map(({ video }, index) => refuse(video, videos[index], maxDuration));
    const left = asked.filter((_, index) => refused[index] === undefined);
    const most = Math.max(...left.map(({ top }) => top));
    const { predictions } =
      left.length === 0
        ? { predictions: [] }
        : await session.predict(
            left.map(({ video }) => video),
            most,
          );
    return asked.map(({ video, top }, index) => {
      const why = refused[index];
      if (why !== undefined) return why;
      const { classes = null, reason } = predictions[left.indexOf(asked[index] as Asked)] ?? {};
      if (classes === null) return bad(video, reason);
      // Of several labels a video there is a threshold beside each, and no limit to how many.
      return classes[0]?.threshold === undefined ? classes.slice(0, top) : classes;
    });
  };
}

function refuse(
  { name, part }: Video,
  measured: { duration_seconds: number | null; reason: string | null } | undefined,
  maxDuration: number,
): Refusal | undefined {
  if (measured?.duration_seconds == null) return bad({ name }, measured?.reason);
  const seconds =
    part === null ? measured.duration_seconds : Math.min((part.end - part.start) / 1e6, measured.duration_seconds);
  if (seconds <= maxDuration) return undefined;
  const allowed = formatDuration(maxDuration);
  return new Refusal(
    'too_long',
    `lasts ${formatDuration(seconds)}, and ${allowed} are allowed. Send a part of it.`,
    name,
  );
}

const bad = ({ name }: Pick<Video, 'name'>, reason: string | null | undefined): Refusal =>
  new Refusal('bad_video', reason ?? 'cannot be read', name);

export type TimelineView = Omit<Timeline, 'path'> & { is_whole: boolean };
export type AttentionView = Omit<Explanation, 'maps'> & { strip: string };
/** What cannot be shown, and why. */
export interface Missing {
  error: string;
}

/** Returns what goes through a video in windows, for as long as there is time and somebody waits. */
export function makeTimeline(seconds: number, left: AbortSignal): Together<Video, TimelineView | Missing> {
  return async (session, videos, letBy) => {
    const end = performance.now() + SHARE_OF_TIME * seconds * 1000;
    const found: (TimelineView | Missing)[] = [];
    for (const video of videos) {
      let isWhole = true;
      const isOver = (): boolean => {
        isWhole = performance.now() < end && !left.aborted;
        return !isWhole;
      };
      const options = { windowSeconds: null, overlap: OVERLAP, smoothSeconds: 0, threshold: null, top: MOST_CLASSES };
      const { path: _, ...rest } = await watch(session, video, options, { isOver, pause: letBy });
      found.push('error' in rest ? rest : { ...rest, is_whole: isWhole });
    }
    return found;
  };
}

/** Returns what draws the clip in the middle of a video with the weights of its frames, by way of a file. */
export function makeAttention(strip: string): Together<Video, AttentionView | Missing> {
  return async (session, videos) => {
    const found: (AttentionView | Missing)[] = [];
    for (const { path, part } of videos) {
      try {
        const request = { path, part: part === null ? null : ([part.start, part.end] as [number, number]) };
        const drawn = await session.explain({ ...request, layer: null, head: null, strip, overlay: null });
        const { explanation, reason } = drawn;
        if (explanation === null) {
          found.push({ error: reason ?? 'cannot be shown' });
          continue;
        }
        const { maps: _, ...rest } = explanation; // they are what is drawn
        found.push({ ...rest, strip: `data:image/png;base64,${await readFile(strip, 'base64')}` });
      } catch (error) {
        if (!(error instanceof UserError)) throw error;
        found.push({ error: error.message.replace(/^--explain +/, '') }); // a decoder that looks nowhere
      } finally {
        await rm(strip, { force: true });
      }
    }
    return found;
  };
}
