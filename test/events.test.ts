/** Events: what is documented is what is printed. Every run of the other tests with `--json` is checked by `checkEvent`. */
import { describe, expect, jest, test } from '@jest/globals';
import { describeEvent, summarizeEvents } from '../src/base/events/describe.ts';
import type { RunEvent } from '../src/base/events/event.ts';
import { Report } from '../src/base/printer.ts';
import { checkEvent, coldframe, type Event } from './support.ts';

describe('an event', () => {
  const saved: Event = { time: '2026-11-27T13:08:21.107Z', kind: 'saved', step: 2, path: 'runs/a' };

  test('has the fields of its kind', () => expect(checkEvent(saved)).toBe(saved));

  test.each([
    ['a field that is not documented', { ...saved, size: 3 }],
    ['a field of another type', { ...saved, path: 3 }],
    ['none of a field', { time: saved.time, kind: 'saved', step: 2 }],
    ['a kind that is not documented', { ...saved, kind: 'stored' }],
    ['no time', { ...saved, time: '' }],
  ])('with %s is refused', (_what, event) => expect(() => checkEvent(event)).toThrow('is no event'));

  test('of a short verb is checked as it is printed', async () => {
    const { stdout } = await coldframe(['keys', 'train.lr', '--json']);
    expect(JSON.parse(stdout)).toMatchObject({ kind: 'key', key: 'train.lr', default: 4e-4, step: null });
  });
});

test('what a person reads of an event has no more lines for a name that holds some', () => {
  const path = 'a\nb\x1b[2J/c.mp4';
  const event = { kind: 'bad_video', step: 1, path, reason: 'moov\n  not found', num_bad: 1, num_videos: 9 } as const;
  expect(describeEvent(event)).toBe('a\\u000ab\x1b[2J/c.mp4  moov not found (skipped, 1 of 9 so far)');
  const classes = [{ label: 0, name: 'up\ndown', probability: 0.5 }];
  expect(describeEvent({ kind: 'predicted', path, reason: null, classes } as RunEvent)?.split('\n')).toHaveLength(2);
  const result = { kind: 'result', cohort: 'c\n1', trial: 't', state: 'failed' } as unknown as RunEvent;
  expect(summarizeEvents([result, result])).toBe('c\\u000a1: 2 failed');
});

test('on stdout it is also without escape codes, and --json keeps the exact name', () => {
  const path = 'a\nb\x1b[2J.mp4';
  const lines: string[] = [];
  const spy = jest.spyOn(process.stdout, 'write').mockImplementation(((text: string) => lines.push(text) > 0) as never);
  try {
    for (const json of [false, true]) new Report({ json }).event({ kind: 'saved', step: 2, path });
  } finally {
    spy.mockRestore();
  }
  expect(lines[0]).toBe('saved a\\u000ab\\u001b[2J.mp4\n');
  expect(lines[1]?.split('\n')).toHaveLength(2);
  expect(JSON.parse(lines[1] ?? '').path).toBe(path);
});

test('a part of a job is told in a line', () => {
  const tell = (more: object) =>
    describeEvent({ kind: 'part', part: 'p0003', attempt: 1, why: null, ...more } as RunEvent);
  expect(tell({ state: 'started' })).toBe('p0003 started');
  expect(tell({ state: 'started', attempt: 2 })).toBe('p0003 started (attempt 2)');
  expect(tell({ state: 'retry', why: 'was killed by signal 9' })).toBe(
    'p0003 lost, to be tried again: was killed by signal 9',
  );
});
