/** TPE through the real program: a function of seed and history, in the space, and better than chance. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from '@jest/globals';
import type { Params } from '../src/config/schema.ts';
import { suggestPoints, type Told } from '../src/sweep/definition/tpe.ts';
import type { SpaceKey } from '../src/sweep/definition/types.ts';

const folder = mkdtempSync(join(tmpdir(), 'suggest-'));
afterAll(() => rmSync(folder, { recursive: true }));

const space: SpaceKey[] = [
  {
    key: 'train.lr',
    values: null,
    when: {},
    range: { low: 1e-4, high: 1e-1, log: true, step: null, is_integer: false },
  },
  { key: 'model.decoder.num_layers', values: [1, 2, 4], range: null, when: {} },
  { key: 'model.decoder.mlp_dropout', values: [0, 0.5], range: null, when: { 'model.decoder.num_layers': [2, 4] } },
];
const sweep = { space, seed: 3 };
const tell = (params: Params): Told => ({
  ...{ params, state: 'complete', intermediate: {} },
  value: -((Math.log10(Number(params['train.lr'])) + 2) ** 2),
});

test('points are in the space, named on, the same for the same history and others for another', async () => {
  const first = await suggestPoints(sweep, 4, [], 9);
  expect(first.map(({ name }) => name)).toEqual(['p0009', 'p0010', 'p0011', 'p0012']);
  for (const { params } of first) {
    expect([1, 2, 4]).toContain(params['model.decoder.num_layers']);
    expect('model.decoder.mlp_dropout' in params).toBe(params['model.decoder.num_layers'] !== 1);
    expect(Number(params['train.lr'])).toBeGreaterThanOrEqual(1e-4);
    expect(Number(params['train.lr'])).toBeLessThanOrEqual(1e-1);
  }
  const history = first.map(({ params }) => tell(params));
  const [again, next, other] = await Promise.all([
    suggestPoints(sweep, 4, [], 9),
    suggestPoints(sweep, 4, history, 9),
    suggestPoints({ space, seed: 4 }, 4, [], 9),
  ]);
  expect(again).toEqual(first);
  expect(next).not.toEqual(first);
  expect(other).not.toEqual(first);
});

test('a history that is not of this space is an error of the runtime with its reason', async () => {
  const foreign = [tell({ 'train.lr': 1e-3, 'train.steps': 7 })];
  await expect(suggestPoints(sweep, 1, foreign, 1)).rejects.toMatchObject({
    name: 'RuntimeFailure',
    lines: [expect.stringContaining('train.steps: not in the space')],
  });
});

describe('without new points', () => {
  const few = { space: space.slice(1), seed: 0 };
  test('it suggests what is left, then nothing', async () => {
    const all = await suggestPoints(few, 8, [], 1);
    expect(new Set(all.map(({ params }) => JSON.stringify(params))).size).toBe(5);
    expect(all).toHaveLength(5);
    const history: Told[] = all
      .slice(0, 3)
      .map(({ params }) => ({ params, value: 1, state: 'complete', intermediate: {} }));
    expect(
      await suggestPoints(
        few,
        8,
        history,
        4,
        all.slice(3).map(({ params }) => params),
      ),
    ).toEqual([]);
  });
});
