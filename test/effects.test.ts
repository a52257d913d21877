/** What made the difference in a sweep: against known effects, and tables of the distributions. */
import { describe, expect, test } from '@jest/globals';
import { findEffects, findP, findT, groupValues } from '../src/results/effects.ts';
import type { PointView } from '../src/sweep/leaderboard.ts';

const point = (name: string, params: PointView['params'], top1: number, step = 100): PointView => ({
  ...{ rank: null, point: name, params, state: 'finished', step, numCounted: 1, top5: null, map: null },
  top1: { mean: top1, spread: null },
  trials: [
    {
      ...{ name, point: name, params, seed: 0, cohort: 'c0001', state: 'finished', step, top1, top5: null, why: null },
      rungs: step === 300 ? [{ step: 100, top1: top1 - 0.1, top5: null }] : [],
    },
  ],
});

test.each([
  [3, 3.182],
  [10, 2.228],
  [30, 2.042],
  [1000, 1.962],
])("t of %s degrees of freedom is the table's", (free, t) => expect(findT(free)).toBeCloseTo(t, 3));

test.each([
  [4.96, 1, 10, 0.05],
  [3.71, 3, 10, 0.05],
  [5.39, 2, 30, 0.01],
  [0, 2, 5, 1],
])("the chance of F = %s with %s and %s degrees of freedom is the table's", (f, parts, free, p) =>
  expect(findP(f, parts, free)).toBeCloseTo(p, 3),
);

describe('effects', () => {
  // A grid: a is worth 0.2, b 0.02, and the noise is 0.01, up and down.
  const grid = [0, 1].flatMap((a) =>
    [0, 1, 2, 3].map((b) =>
      point(`p${a}${b}`, { a, b, c: 'same' }, 0.5 + 0.2 * a + 0.02 * b + ((a + b) % 2 ? 0.01 : -0.01)),
    ),
  );

  test('of a grid are the differences of its means, the strongest first; a key that does not vary has none', () => {
    const found = findEffects(grid, ['b', 'a', 'c'], 'top1');
    expect([found?.step, found?.numPoints]).toEqual([100, 8]);
    expect(found?.effects.map(({ key }) => key)).toEqual(['a', 'b']);
    const [a, b] = found?.effects ?? [];
    expect(a).toMatchObject({ best: '1', worst: '0', difference: expect.closeTo(0.2, 9) });
    expect(a?.levels.map(({ label, count, mean }) => [label, count, mean])).toEqual([
      ['0', 4, expect.closeTo(0.53, 9)],
      ['1', 4, expect.closeTo(0.73, 9)],
    ]);
    expect(b?.difference).toBeCloseTo(0.06, 9);
    expect(a?.p).toBeLessThan(0.001);
    // by hand: total 0.0848, of it 0.08 for a; residuals 8 * 0.01^2 = 0.0008 with 3 degrees of freedom
    expect(a?.share).toBeCloseTo(0.08 / 0.0848, 9);
    expect(a?.half).toBeCloseTo(3.182 * Math.sqrt((0.0008 / 3) * (1 / 4 + 1 / 4)), 4);
  });

  test('of a key that only went along with another one are not taken for its own', () => {
    // b is 1 mostly where a is; only a counts
    const both = [
      [0, 0],
      [0, 0],
      [0, 0],
      [0, 1],
      [1, 1],
      [1, 1],
      [1, 1],
      [1, 0],
    ];
    const points = both.map(([a = 0, b = 0], at) =>
      point(`p${at}`, { a, b }, 0.5 + 0.2 * a + (at % 2 ? 0.002 : -0.002)),
    );
    const effects = new Map(findEffects(points, ['a', 'b'], 'top1')?.effects.map((one) => [one.key, one]));
    expect(effects.get('a')?.difference).toBeCloseTo(0.2, 2);
    expect(effects.get('b')?.difference).toBeLessThan(0.005);
    expect(effects.get('b')?.p).toBeGreaterThan(0.05);
  });

  test('are of the step at which most points were measured', () => {
    const later = grid.map((one, at) =>
      at % 2 ? point(one.point, one.params, (one.top1?.mean ?? 0) + 0.1, 300) : one,
    );
    expect(findEffects(later, ['a', 'b'], 'top1')).toEqual(findEffects(grid, ['a', 'b'], 'top1'));
  });

  test('of few points are none', () => expect(findEffects(grid.slice(0, 3), ['a', 'b'], 'top1')).toBeUndefined());

  test('of numbers with many values are those of three groups of equal size; a key that is not set is one of its own', () => {
    expect(groupValues([1, 2, 3, 4, 5, 6])).toEqual(['1 to 2', '1 to 2', '3 to 4', '3 to 4', '5 to 6', '5 to 6']);
    expect(groupValues([0.1, undefined, true, 'x', null])).toEqual(['0.1', '–', 'true', 'x', 'null']);
    expect(groupValues([5, 5, 5, 5, 1, 2, 3, 4])).toEqual(['5', '5', '5', '5', '1 to 2', '1 to 2', '3 to 4', '3 to 4']);
  });
});
