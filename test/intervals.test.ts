/** Intervals of accuracies, against values computed by hand and published ones. */
import { expect, test } from '@jest/globals';
import { differ, findInterval, showInterval } from '../src/base/intervals.ts';

test.each([
  [199, 200, 0.9722, 0.9991],
  [0, 10, 0, 0.2775],
  [10, 10, 0.7225, 1],
  [81, 263, 0.2553, 0.3662], // Newcombe, Statistics in Medicine 17 (1998), 857-872, table I
  [15, 148, 0.0624, 0.1605], // the same
])('%s of %s videos: the Wilson interval', (right, count, low, high) => {
  const found = findInterval(right / count, count);
  expect(found.low).toBeCloseTo(low, 4);
  expect(found.high).toBeCloseTo(high, 4);
});

test('an interval is written in percent', () =>
  expect(showInterval({ low: 0.97222, high: 0.99912 })).toBe('97.2 to 99.9 %'));

test('nothing is known of no video', () => expect(findInterval(Number.NaN, 0)).toEqual({ low: 0, high: 1 }));

test.each([
  [1, 0.99, 200, false], // two of 200 videos
  [0.99, 1, 200, false],
  [1, 0.95, 200, true], // ten
  [0.85, 0.7, 100, true], // though 76.7 to 90.7 and 60.4 to 78.1 % overlap
  [0.5, 0.5, 1e6, false],
  [0.51, 0.5, 1000, false],
  [0.51, 0.5, 100_000, true],
])('%s and %s of %s videos differ: %s', (a, b, count, expected) => expect(differ(a, count, b, count)).toBe(expected));

test('the interval of a difference is the published one: 56/70 and 48/80 differ by 0.0524 at least', () => {
  // Newcombe, Statistics in Medicine 17 (1998), 873-890, table II, example a, method 10: 0.0524 to 0.3339
  const shift = (by: number): boolean => differ(56 / 70, 70, 48 / 80 + by, 80);
  expect(shift(0)).toBe(true);
  expect(shift(0.07)).toBe(false);
});
