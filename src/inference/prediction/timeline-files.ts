/** What `predict --timeline` writes, as the ending says: everything, a table of segments, subtitles, or a page. */

import { extname } from 'node:path';
import { csvFormat } from 'd3-dsv';
import { showPath, UserError } from '../../base/errors.ts';
import type { TimelineSegment } from '../../runtime/prediction-replies.ts';
import type { Timelines } from './timeline.ts';
import { renderTimelines } from './timeline-page.ts';

const FORMS: Readonly<Record<string, (all: Timelines) => string>> = {
  '.json': formatJson,
  '.csv': formatTable,
  '.srt': formatSubtitles,
  '.html': renderTimelines,
};

/** Refuses before anything is computed what could not be written. */
export function refuseTimelineFile(path: string, numVideos: number): void {
  const ending = extname(path).toLowerCase();
  const isKnown = ending in FORMS;
  if (!isKnown)
    throw new UserError(
      `--timeline  found ${showPath(path)}. Allowed: a file that ends with ${Object.keys(FORMS).join(', ')}.`,
    );
  if (ending === '.srt' && numVideos !== 1)
    throw new UserError(
      `--timeline  ${showPath(path)} holds the subtitles of one video, and ${numVideos} are given. Give one, or name a file that ends with .json, .csv or .html.`,
    );
}

export const formatTimelines = (path: string, all: Timelines): string =>
  FORMS[extname(path).toLowerCase()]?.(all) ?? formatJson(all);

function formatJson({ checkpoint, options, videos }: Timelines): string {
  const { overlap, smoothSeconds, threshold } = options;
  const about = { checkpoint, overlap, smooth_seconds: smoothSeconds, threshold };
  return `${JSON.stringify({ ...about, videos }, null, 1)}\n`;
}

function formatTable({ videos }: Timelines): string {
  const columns = ['path', 'start', 'end', 'label', 'name', 'probability', 'error'] as const;
  const rows = videos.flatMap((video): Record<string, unknown>[] =>
    'error' in video ? [{ ...video }] : video.segments.map((segment) => ({ path: video.path, ...segment })),
  );
  return `${csvFormat(rows, [...columns])}\n`;
}

function formatSubtitles({ videos }: Timelines): string {
  return videos
    .flatMap((video) => ('error' in video ? [] : video.segments))
    .map((segment, index) => `${index + 1}\n${formatCue(segment)}\n`)
    .join('\n');
}

/** A line feed in a name would end the cue. */
function formatCue({ start, end, name, probability }: TimelineSegment): string {
  const text = name.replace(/\s+/g, ' ').trim();
  return `${formatTime(start)} --> ${formatTime(end)}\n${text} (${Math.round(100 * probability)} %)`;
}

function formatTime(seconds: number): string {
  const milliseconds = Math.round(seconds * 1000);
  const clock = [
    Math.floor(milliseconds / 3_600_000),
    Math.floor(milliseconds / 60_000) % 60,
    Math.floor(milliseconds / 1000) % 60,
  ];
  const parts = clock.map((part) => String(part).padStart(2, '0'));
  return `${parts.join(':')},${String(milliseconds % 1000).padStart(3, '0')}`;
}
