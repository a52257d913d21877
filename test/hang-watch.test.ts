/** Who hangs: judged by what the ranks say each second. */
import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { HangWatch, type State } from '../src/runtime/transports/hang-watch.ts';

let found: [number, string][];
let watch: HangWatch;
let beats: number;
beforeEach(() => {
  jest.useFakeTimers();
  [found, beats] = [[], 0];
  watch = new HangWatch(3, (rank, how) => void found.push([rank, how]));
  watch.start();
});
afterEach(() => {
  watch.stop();
  jest.useRealTimers();
});

/** Two ranks, as they are for so many seconds; `moves`: whose work goes on. */
function live(seconds: number, ranks: Partial<State>[], moves: number[] = []): void {
  for (let second = 0; second < seconds; second++) {
    beats += 1;
    watch.take(
      ranks.map((one, rank) => {
        const progress = moves.includes(rank) ? beats : 0;
        return { rank, host: `h${rank}`, pid: rank, beats, progress, is_waiting: false, is_busy: true, ...one };
      }),
    );
    jest.advanceTimersByTime(1000);
  }
}
const waits = { is_waiting: true };

test('one that stands still while another has waited for it as long, in a step', () => {
  watch.begin('advance');
  live(3, [{}, waits]);
  expect(found).toEqual([]);
  live(1, [{}, waits]);
  const how = 'rank 0 on h0 made no progress for 3 s (launch.hang_seconds), and rank 1 on h1 waited for it';
  expect(found).toEqual([[0, how]]);
  live(5, [{}, waits]);
  expect(found).toHaveLength(1); // it is told once
});

test.each([
  ['works on, however long the other waits', [{}, waits], [0], 'advance'],
  ['stands still where nobody waits: both read a slow disk', [{}, {}], [], 'advance'],
  ['waits, too: a network stands still, and no rank', [waits, waits], [], 'advance'],
  ['has nothing to do', [{ is_busy: false }, waits], [], 'evaluate'],
  ['reads weights for the others', [{}, waits], [], 'open'],
] as const)('not one that %s', (_, ranks, moves, verb) => {
  watch.begin(verb);
  live(10, [...ranks], [...moves]);
  expect(found).toEqual([]);
});

test('the waits of many steps are not one', () => {
  watch.begin('advance');
  live(10, [{}, waits], [1]); // it is seen in a collective each time, and always in another one
  expect(found).toEqual([]);
});

test('one that gives no sign of life, whatever is asked', () => {
  live(4, [{}, { beats: 7 }]);
  expect(found).toEqual([[1, 'rank 1 on h1 gave no sign of life for 3 s']]);
});

test('the first one, which tells of all, by its silence', () => {
  live(2, [{}, {}]);
  jest.advanceTimersByTime(1000);
  expect(found).toEqual([]);
  jest.advanceTimersByTime(1000);
  expect(found).toEqual([[0, 'rank 0 on h0 gave no sign of life for 3 s']]);
});
