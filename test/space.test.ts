/** Points and cohorts: functions of the sweep alone, complete, without repetition, and within memory. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from '@jest/globals';
import { loadConfig } from '../src/config/load.ts';
import type { Value } from '../src/config/schema.ts';
import type { Trial } from '../src/run/cohort-types.ts';
import { type Forecast, forecastCost, groupTrials, shapesOf, splitCohort } from '../src/sweep/cohorts.ts';
import { drawRandom, listNumbers, makeCorners, makeGrid } from '../src/sweep/definition/space.ts';
import type { Range, SpaceKey } from '../src/sweep/definition/types.ts';

const list = (key: string, values: Value[], when: Record<string, Value[]> = {}): SpaceKey => ({
  ...{ key, values, range: null, when },
});
const range = (key: string, given: Partial<Range> & { low: number; high: number }): SpaceKey => ({
  ...{ key, values: null, when: {}, range: { log: false, step: null, is_integer: false, ...given } },
});
const CONDITIONAL = [
  list('layers', [1, 2, 4]),
  list('dropout', [0, 0.5], { layers: [2, 4] }),
  list('conv', [true, false]),
];

describe('a grid', () => {
  test('is every combination once, and a key without effect makes no second point', () => {
    const points = makeGrid(CONDITIONAL);
    expect(points.map(({ name }) => name).slice(0, 2)).toEqual(['p0001', 'p0002']);
    expect(points.map(({ params }) => Object.values(params))).toEqual([
      ...[
        [1, true],
        [1, false],
      ],
      ...[
        [2, 0, true],
        [2, 0, false],
        [2, 0.5, true],
        [2, 0.5, false],
      ],
      ...[
        [4, 0, true],
        [4, 0, false],
        [4, 0.5, true],
        [4, 0.5, false],
      ],
    ]);
  });

  test('a key is varied only where all it depends on is', () => {
    const chain = [list('a', [1, 2]), list('b', [1, 2], { a: [2] }), list('c', [1, 2], { b: [2] })];
    expect(makeGrid(chain).map(({ params }) => Object.values(params).join(''))).toEqual(['1', '21', '221', '222']);
    const ofNull = [list('a', [1, 2]), list('b', [null], { a: [2] }), list('c', [3], { b: [null] })];
    expect(makeGrid(ofNull).map(({ params }) => params)).toEqual([{ a: 1 }, { a: 2, b: null, c: 3 }]);
  });

  test('numbers from low to high have both ends, and no digits that nobody meant', () => {
    const numbers = (given: Partial<Range>, low: number, high: number, num: number | null) =>
      listNumbers({ low, high, log: false, step: null, is_integer: false, ...given }, num);
    expect(numbers({ step: 0.1 }, 0, 0.3, null)).toEqual([0, 0.1, 0.2, 0.3]); // 0.3 / 0.1 is below 3
    expect(numbers({ step: 0.2 }, 0, 0.5, null)).toEqual([0, 0.2, 0.4]);
    expect(numbers({ log: true }, 1e-4, 1e-2, 5)).toEqual([1e-4, 3.162e-4, 1e-3, 3.162e-3, 1e-2]);
    expect(numbers({}, 0, 1, 4)).toEqual([0, 0.333333333333, 0.666666666667, 1]);
    expect(numbers({ is_integer: true, log: true }, 1, 8, 7)).toEqual([1, 2, 3, 4, 6, 8]);
  });
});

describe('random draws', () => {
  const space = [
    ...[
      range('lr', { low: 1e-4, high: 1e-1, log: true }),
      range('depth', { low: 1, high: 4, step: 1, is_integer: true }),
    ],
    ...[range('decay', { low: 0, high: 0.3 }), list('conv', [true, false, null])],
    ...[
      range('width', { low: 2, high: 64, log: true, is_integer: true }),
      range('rate', { low: 0, high: 1, step: 0.25 }),
    ],
  ];
  const points = drawRandom(space, 3000, 1);
  const column = (key: string) => points.map(({ params }) => Number(params[key]));

  test('are a function of seed and index: more of them begin with the same, another key changes none', () => {
    expect(drawRandom(space, 5, 1)).toEqual(points.slice(0, 5));
    expect(drawRandom(space.slice(1), 3, 1).map(({ params }) => params)).toEqual(
      points.slice(0, 3).map(({ params: { lr: _, ...params } }) => params),
    );
    expect(drawRandom(space, 5, 2)).not.toEqual(points.slice(0, 5));
  });

  test.each([
    ['lr', (value: number) => Math.log10(value / 1e-4) / 3],
    ['decay', (value: number) => value / 0.3],
    ['width', (value: number) => Math.log(value / 1.5) / Math.log(64.5 / 1.5)],
  ])('%s is even over its range', (key, toShare) => {
    const shares = column(key).map(toShare);
    expect(Math.min(...shares)).toBeGreaterThanOrEqual(0);
    expect(Math.max(...shares)).toBeLessThanOrEqual(1);
    const [first, ...others] = [0.25, 0.5, 0.75].map((limit) => shares.filter((share) => share < limit).length / 3000);
    expect([first, ...others].map((found, index) => Math.abs((found ?? 0) - (index + 1) / 4) < 0.06)).toEqual([
      true,
      true,
      true,
    ]);
  });

  test.each([
    ['depth', [1, 2, 3, 4]],
    ['rate', [0, 0.25, 0.5, 0.75, 1]],
  ])('%s takes each of its values as often', (key, values) => {
    const counts = values.map((value) => column(key).filter((found) => found === value).length / 3000);
    expect(counts.every((count) => Math.abs(count - 1 / values.length) < 0.04)).toBe(true);
  });

  test('the first of whole numbers on a logarithmic range owns the half below it, too', () => {
    const share = column('width').filter((width) => width === 2).length / 3000;
    expect(Math.abs(share - Math.log(2.5 / 1.5) / Math.log(64.5 / 1.5))).toBeLessThan(0.03);
  });

  test('columns are independent of each other', () => {
    const [a, b] = [column('lr').map(Math.log), column('decay')];
    const mean = (of: number[]) => of.reduce((sum, value) => sum + value, 0) / of.length;
    const [ma, mb] = [mean(a), mean(b)];
    const covariance = mean(a.map((value, index) => (value - ma) * ((b[index] ?? 0) - mb)));
    const deviation = (of: number[], m: number) => Math.sqrt(mean(of.map((value) => (value - m) ** 2)));
    expect(Math.abs(covariance / deviation(a, ma) / deviation(b, mb))).toBeLessThan(0.06);
  });

  test('no point of a seed is one of another seed', () => {
    const others = new Set(drawRandom(space, 20, 2).map(({ params }) => JSON.stringify(params)));
    expect(points.slice(0, 20).filter(({ params }) => others.has(JSON.stringify(params)))).toEqual([]);
  });

  test('no point comes twice, and a space with fewer gives all it has', () => {
    const found = drawRandom(CONDITIONAL, 50, 0);
    expect(found.map(({ name }) => name)).toEqual(makeGrid(CONDITIONAL).map(({ name }) => name));
    const texts = (all: typeof found) => all.map(({ params }) => JSON.stringify(params)).sort();
    expect(texts(found)).toEqual(texts(makeGrid(CONDITIONAL)));
  });
});

test('corners are the ends of ranges with every listed value, also of a space too large for all', () => {
  const small = makeCorners([range('lr', { low: 1, high: 9 }), list('conv', [true, false])]);
  expect(small.map(({ params }) => Object.values(params))).toEqual([
    [1, true],
    [1, false],
    [9, true],
    [9, false],
  ]);
  const large = Array.from({ length: 20 }, (_, index) => list(`k${index}`, [1, 2, 3], index === 19 ? { k0: [2] } : {}));
  const corners = makeCorners(large);
  expect(corners.length).toBeLessThan(100);
  for (const { key } of large)
    expect(new Set(corners.map(({ params }) => params[key]))).toEqual(
      new Set(key === 'k19' ? [1, 2, 3, undefined] : [1, 2, 3]),
    );
});

const folder = mkdtempSync(join(tmpdir(), 'cohorts-'));
afterAll(() => rmSync(folder, { recursive: true }));
writeFileSync(join(folder, 'a.yaml'), 'model: {backbone: {preset: tiny}}\n');

/** A trial for each list of `--set` options; `point` and seed are counted. */
function makeTrials(sets: string[][], numSeeds = 1): Trial[] {
  const trials: Trial[] = [];
  for (const [index, set] of sets.entries()) {
    const { config } = loadConfig(join(folder, 'a.yaml'), { env: {}, set });
    for (let seed = 0; seed < numSeeds; seed++) {
      const settings = { ...config, train: { ...config.train, seed } };
      trials.push({ name: `t${trials.length + 1}`, point: `p${index + 1}`, params: {}, seed, settings });
    }
  }
  return trials;
}

const NO_LIMIT = { forecasts: null, memory_bytes: null, max_trials: null };
const forecast = (trial_bytes: number, more: Partial<Forecast> = {}): Forecast => ({
  ...{ shared_bytes: 100, features_bytes: 20, transient_bytes: 30, trial_bytes },
  ...{ backbone_flops_per_view: 900, decoder_flops_per_view: 100, ...more },
});
const sizesOf = (cohorts: { trials: Trial[] }[]) => cohorts.map(({ trials }) => trials.length);
const namesOf = (cohorts: { trials: Trial[] }[]) =>
  cohorts.map(({ trials }) => trials.map(({ name }) => name).join(' '));

describe('trials share a cohort', () => {
  test('when they differ behind the backbone only', () => {
    const own = [
      ...[
        'model.decoder.num_layers=2',
        'model.decoder.qkv_dim=64',
        'model.decoder.mlp_dropout=0',
        'model.temporal.conv=false',
      ],
      ...[
        'model.head.dropout=0',
        'train.lr=1',
        'train.weight_decay=1',
        'train.decay_all=false',
        'train.warmup_steps=3',
      ],
      ...['train.clip_grad_norm=1', 'train.label_smoothing=0.1', 'train.ema_decay=0.9', 'data.num_frames=8'],
    ];
    expect(
      sizesOf(
        groupTrials(
          makeTrials(
            own.map((set) => [set]),
            2,
          ),
          NO_LIMIT,
        ),
      ),
    ).toEqual([2 * own.length]);
  });

  test.each([
    ...[
      'data.num_frames=4',
      'data.seed=1',
      'train.batch_size=8',
      'train.steps=3',
      'train.mixup=0.5',
      'train.precision=fp32',
    ],
    ...['model.backbone.random_seed=1', 'eval.temporal_views=1', 'run.save_every=1', 'launch.device=cpu'],
  ])('but not with another %s', (set) => {
    const cohorts = groupTrials(makeTrials([[], [set], [], [set]]), { ...NO_LIMIT, first_index: 4 });
    expect(namesOf(cohorts)).toEqual(['t1 t3', 't2 t4']);
    expect(cohorts.map(({ name }) => name)).toEqual(['c0004', 'c0005']);
  });

  test.each(['features.form=one', 'prepare.crf=3', 'train.backbone_lr=1', 'model.backbone.train_blocks=1'])(
    'also with another %s, which nothing reads here',
    (set) => expect(sizesOf(groupTrials(makeTrials([[], [set]]), NO_LIMIT))).toEqual([2]),
  );

  test('never with a backbone that is trained', () => {
    expect(sizesOf(groupTrials(makeTrials([['model.backbone.freeze=false']], 3), NO_LIMIT))).toEqual([1, 1, 1]);
  });
});

describe('a cohort', () => {
  const trials = makeTrials(Array.from({ length: 10 }, (_, index) => [`model.decoder.num_layers=${(index % 2) + 1}`]));

  test('asks for forecasts of unlike shapes only', () => {
    const same = [
      ['train.lr=1'],
      ['train.lr=2', 'model.decoder.mlp_dropout=0'],
      ['model.decoder.num_heads=1'],
      ['train.ema_decay=0.9'],
    ];
    expect(shapesOf(makeTrials(same)).shapeOf).toEqual([0, 0, 1, 2]);
    expect(shapesOf(trials).shapes.map(({ model }) => model.decoder.num_layers)).toEqual([1, 2]);
  });

  test('takes what is shared once, of features and activations the most, and what each trial has', () => {
    const forecasts = [forecast(5, { features_bytes: 21 }), forecast(7, { transient_bytes: 32 })];
    const [cohort] = groupTrials(trials, { ...NO_LIMIT, forecasts });
    expect(cohort?.forecast_bytes).toBe(100 + 21 + 32 + 5 * 5 + 5 * 7);
  });

  test('that is too large becomes the fewest parts of near-equal size, in order', () => {
    const split = (memory_bytes: number | null, max_trials: number | null) =>
      groupTrials(trials, { forecasts: [forecast(10), forecast(10)], memory_bytes, max_trials });
    expect(sizesOf(split(250, null))).toEqual([10]);
    expect(sizesOf(split(249, null))).toEqual([5, 5]);
    expect(sizesOf(split(190, null))).toEqual([3, 3, 4]);
    expect(sizesOf(split(160, null))).toEqual(Array(10).fill(1));
    expect(sizesOf(split(null, 4))).toEqual([3, 3, 4]);
    expect(split(200, null).flatMap((cohort) => cohort.trials)).toEqual(trials);
    expect(split(200, null).every(({ forecast_bytes }) => (forecast_bytes ?? 999) <= 200)).toBe(true);
  });

  test('keeps the seeds of a point together, and says what a point needs that does not fit', () => {
    const seeds = makeTrials([[], ['train.lr=1'], ['train.lr=2']], 2);
    const options = { forecasts: [forecast(10)], memory_bytes: 185, max_trials: null };
    expect(namesOf(groupTrials(seeds, options))).toEqual(['t1 t2', 't3 t4', 't5 t6']);
    expect(sizesOf(groupTrials(seeds, { ...options, memory_bytes: 190 }))).toEqual([2, 4]);
    expect(() => groupTrials(seeds, { ...options, memory_bytes: 165 })).toThrow(
      /^point p1 .* 2 seeds, which stay together, needs .* Raise train.micro_batches, give fewer seeds/,
    );
  });

  test('can be halved down to one trial', () => {
    const [left = [], right = []] = splitCohort(makeTrials([[], [], []], 2)) ?? [];
    expect([left, right].map((half) => half.map(({ point }) => point).join(''))).toEqual(['p1p1', 'p2p2p3p3']);
    expect(splitCohort(left)?.map((half) => half.length)).toEqual([1, 1]);
    expect(splitCohort(left.slice(1))).toBe(null);
    const uneven = splitCohort(makeTrials([[], []], 3).slice(2)); // two trials of the first point have left
    expect(uneven?.map((half) => half.map(({ point }) => point).join(''))).toEqual(['p1', 'p2p2p2']);
  });

  test('saves all but one backbone pass, and a bracket more', () => {
    const set = ['train.steps=100', 'train.batch_size=2'];
    const four = makeTrials(Array.from({ length: 4 }, () => set));
    const cohorts = groupTrials(four, { ...NO_LIMIT, forecasts: [forecast(1)] });
    const alone = 4 * 100 * 2 * (900 + 300);
    const shared = 100 * 2 * (900 + 4 * 300);
    const costOf = (bracket: Parameters<typeof forecastCost>[2]) => forecastCost(cohorts, () => forecast(1), bracket);
    expect(costOf(null)).toEqual({ together: shared, alone, ratio: alone / shared, sharing_ratio: alone / shared });
    const pruned = 2 * (10 * (900 + 1200) + 20 * (900 + 600) + 70 * (900 + 300));
    expect(costOf({ rungs: [10, 30], keep: 0.5 })).toEqual({
      together: pruned,
      alone,
      ratio: alone / pruned,
      sharing_ratio: alone / shared,
    });
  });

  test('is forecast with as many points after a rung as the rung keeps', () => {
    const points = makeTrials(Array.from({ length: 25 }, () => ['train.steps=100', 'train.batch_size=1']));
    const cohorts = groupTrials(points, { ...NO_LIMIT, forecasts: [forecast(1)] });
    const { together } = forecastCost(cohorts, () => forecast(1), { rungs: [50], keep: 0.28 }); // 0.28 * 25 is above 7
    expect(together).toBe(50 * (900 + 25 * 300) + 50 * (900 + 7 * 300));
    const fewer = groupTrials(points.slice(0, 10), { ...NO_LIMIT, forecasts: [forecast(1)] });
    const cost = forecastCost(fewer, () => forecast(1), { rungs: [50], keep: 0.15 }); // of 1.5 two go on
    expect(cost.together).toBe(50 * (900 + 10 * 300) + 50 * (900 + 2 * 300));
  });

  test('whose backbone is trained saves nothing', () => {
    const own = makeTrials([['model.backbone.freeze=false'], ['model.backbone.freeze=false', 'train.lr=1']]);
    const cost = forecastCost(groupTrials(own, NO_LIMIT), () => forecast(1), null);
    const { steps, batch_size } = loadConfig(join(folder, 'a.yaml'), { env: {} }).config.train;
    const alone = 2 * steps * batch_size * 3 * (900 + 100);
    expect(cost).toEqual({ together: alone, alone, ratio: 1, sharing_ratio: 1 });
  });
});
