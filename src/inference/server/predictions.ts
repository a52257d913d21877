/** The classes of several videos at once, and which of them are not looked at. */

import { formatDuration } from '../../base/format.ts';
import type { Video } from '../prediction/videos.ts';
import type { Together } from './line.ts';
import { Refusal } from './refusal.ts';

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
