/** `fit`: the search over cuts of a batch, and one real fit of a small model. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from '@jest/globals';
import { type Cut, readBudget, searchCut } from '../src/train/fit.ts';
import { coldframe, writeConfig } from './support.ts';

const folder = mkdtempSync(join(tmpdir(), 'fit-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** Cuts of a batch of 8 that are forecast to take 100 bytes and 10 a clip, and a machine where they take something else. */
const cuts = (): Cut[] =>
  [1, 2, 4, 8].map((parts) => ({ micro_batches: parts, forecast_bytes: 100 + 80 / parts, measured_bytes: null }));
const search = async (budget: number, take: (clips: number) => number) => {
  const tried: number[] = [];
  const found = await searchCut(cuts(), budget, async (cut) => {
    tried.push(cut.micro_batches);
    return take(8 / cut.micro_batches);
  });
  return { found: found?.micro_batches, measured: found?.measured_bytes, tried };
};

describe('the search', () => {
  test('measures only what the forecast names, when it is right', async () => {
    expect(await search(145, (clips) => 100 + 10 * clips)).toEqual({ found: 2, measured: 140, tried: [2] });
  });

  test('goes to smaller parts when they take more than forecast', async () => {
    expect(await search(145, (clips) => 110 + 10 * clips)).toEqual({ found: 4, measured: 130, tried: [2, 4] });
  });

  test('goes to larger parts when they take less', async () => {
    expect(await search(145, (clips) => 50 + 10 * clips)).toEqual({ found: 1, measured: 130, tried: [2, 1] });
  });

  test('never answers with what was measured too large, and tries one clip before it gives up', async () => {
    expect(await search(105, (clips) => 100 + 10 * clips)).toMatchObject({ found: undefined, tried: [8] });
    expect(await search(111, (clips) => 90 + 30 * clips)).toMatchObject({ found: undefined });
  });
});

describe('the budget', () => {
  test.each([
    ['8GiB', 8 * 2 ** 30],
    ['500 MB', 5e8],
    [undefined, null],
  ])('%s', (given, bytes) => expect(readBudget(given)).toBe(bytes));

  test.each(['8', '8x', '-1GB', '0GB', 'much'])('%s is refused', (given) => {
    expect(() => readBudget(given)).toThrow(`--memory  ${given} was given`);
  });
});

describe('the command', () => {
  const config = writeConfig(folder);
  const args = ['fit', '--config', config, '--set', 'data.num_workers=0', '--json'];

  test('prints a cut that was measured to fit, and takes the whole batch where there is room', async () => {
    const { code, stdout, stderr } = await coldframe([...args, '--memory', '4GiB']);
    expect([code, stderr.includes('measured')]).toEqual([0, true]);
    const event = JSON.parse(stdout);
    expect(event).toMatchObject({
      kind: 'fitted',
      batch_size: 4,
      micro_batches: 1,
      micro_batch: 4,
      budget_bytes: 2 ** 32,
    });
    expect(event.set).toBe('--set train.micro_batches=1');
    expect(event.measured_bytes).toBeGreaterThan(1e8);
    expect(event.measured_bytes).toBeLessThan(2 ** 32);
  }, 120_000);

  test('says what one clip takes where nothing fits', async () => {
    const { code, stderr } = await coldframe([...args, '--memory', '10MB']);
    expect(code).toBe(2);
    expect(stderr).toMatch(
      /memory {2}9\.5 MiB do not hold one clip at a time, which takes about \d+\.\d MiB\. Allow more/,
    );
  }, 120_000);
});
