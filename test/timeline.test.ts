/** The files of `predict --timeline`, from results as a session gives them. */
import { describe, expect, test } from '@jest/globals';
import { csvParse } from 'd3-dsv';
import { formatPlace } from '../src/base/format.ts';
import type { Failed, Timeline } from '../src/inference/prediction/timeline.ts';
import { formatTimelines } from '../src/inference/prediction/timeline-files.ts';

const segment = (start: number, end: number, label: number, name: string) => ({
  start,
  end,
  label,
  name,
  probability: 0.9,
});
const video: Timeline = {
  ...{ path: 'a <b>.mp4', rate: 25, window_seconds: 5, hop_seconds: 2.5, seconds: 3725.5, num_frames: 93_137 },
  ...{ num_damaged: 2, broken: null, classes: [{ label: 1, name: 'jump', probability: 0.5 }] },
  windows: [0, 1].map((i) => ({ start: 2.5 * i, end: 5, classes: [{ label: 1, name: 'jump', probability: 0.9 }] })),
  segments: [segment(0, 1.5, 1, 'jump'), segment(59.9996, 3725.5, 0, 'run\nfast')],
};
const failed: Failed = { path: 'b.mp4', error: 'is empty (0 bytes)' };
const options = { top: 5, windowSeconds: null, overlap: 0.5, smoothSeconds: 0, threshold: 0.25 };
const write = (name: string, videos: (Timeline | Failed)[] = [video, failed]): string =>
  formatTimelines(name, { checkpoint: 'runs/a', options, videos });

test('subtitles', () =>
  expect(write('a.srt', [video])).toBe(
    '1\n00:00:00,000 --> 00:00:01,500\njump (90 %)\n\n2\n00:01:00,000 --> 01:02:05,500\nrun fast (90 %)\n',
  ));

test('a table, also of what failed', () => {
  const rows = csvParse(write('a.csv'));
  expect(rows.map(({ path, start, name, error }) => [path, start, name, error])).toEqual([
    ['a <b>.mp4', '0', 'jump', ''],
    ['a <b>.mp4', '59.9996', 'run\nfast', ''],
    ['b.mp4', '', '', 'is empty (0 bytes)'],
  ]);
});

test('everything', () =>
  expect(JSON.parse(write('a.json'))).toMatchObject({ checkpoint: 'runs/a', videos: [video, failed] }));

describe('the page', () => {
  const page = write('a.HTML');
  test('escapes names, and says what is damaged or failed', () => {
    expect(page).toContain('<h2 id="video-0">a &lt;b&gt;.mp4</h2>');
    expect(page).not.toContain('<b>');
    expect(page).toContain('2 frames could not be decoded whole');
    expect(page).toContain('is empty (0 bytes)');
    expect(page).toContain('A segment is where a class reaches 25.00 %');
  });
  test('has the class that is seen longest first, at its place', () => {
    const bars = [...page.matchAll(/left:([\d.]+)%;width:([\d.]+)%/g)].map(([, ...place]) => place.map(Number));
    expect(bars).toEqual([
      [1.611, 98.389],
      [0, 0.04],
    ]);
  });
});

test.each([
  [0, '0:00.0'],
  [59.96, '1:00.0'],
  [3599.94, '59:59.9'],
  [3725.5, '1:02:05.5'],
])('%d seconds are %s', (seconds, words) => expect(formatPlace(seconds)).toBe(words));
