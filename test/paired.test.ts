/** `compare` on runs whose scores of every video are there: McNemar's test by the real Python. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { expect, jest, test } from '@jest/globals';
import { Report } from '../src/base/printer.ts';
import { compareRuns } from '../src/results/compare.ts';
import { adjust } from '../src/results/paired.ts';
import { useOwnFolder } from './own-folder.ts';
import { PYTHON } from './support.ts';

jest.setTimeout(120_000);
const { at, said } = useOwnFolder('paired-test-');

function write(file: string, value: unknown): void {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, JSON.stringify(value));
}

/** Of 40 videos those in `wrong` are wrong; `order` is that of its list. */
function writeRun(
  name: string,
  wrong: number[],
  { sha256 = '5'.repeat(64), order = 1, hasScores = true } = {},
): string {
  const run = at(name);
  const config = { data: { val_list: 'v' }, model: { backbone: { preset: 'tiny' } }, train: {}, eval: {} };
  write(at(name, 'config.json'), { ...config, train: { lr: 1e-3 } });
  write(at(name, 'environment.json'), {});
  const result = { top1: 1 - wrong.length / 40, top5: 1, num_videos: 40, num_bad: 0, views: 1, per_class: [] };
  const list = { file: `/lists/${name}.txt`, sha256, size_bytes: 9, num_lines: 40 };
  write(at(name, 'evaluations/step-8/result.json'), { step: 8, list, results: { main: result } });
  if (hasScores) writeScores(at(name, 'evaluations/step-8/scores.npz'), wrong, order);
  return run;
}

function writeScores(file: string, wrong: number[], order: number): void {
  const program = [
    'import sys, json, numpy as np',
    `wrong, videos = ${JSON.stringify(wrong)}, np.arange(40)[::${order}]`,
    'labels = videos % 4; best = np.where(np.isin(videos, wrong), (labels + 1) % 4, labels)',
    'paths = np.array([f"/v/{i}.mp4" for i in videos])',
    'np.savez(sys.argv[1], scores=np.eye(4)[best], labels=labels, indices=np.arange(40), paths=paths)',
  ];
  execFileSync(PYTHON, ['-c', program.join('\n'), file]);
}

const upTo = (count: number, from = 0): number[] => Array.from({ length: count }, (_, i) => from + i);

interface Compared {
  comparable: boolean;
  notes: string[];
  pairs: { runs: string[]; differs: boolean; p_adjusted: number; paired: object }[];
}

async function compare(...runs: string[]): Promise<Compared> {
  said.length = 0;
  await compareRuns(runs, new Report({ json: true }));
  return JSON.parse(said.join(''));
}

test('two runs differ by the videos on which one alone is right: what two intervals cannot tell, pairs can', async () => {
  // 95 and 75 % of 40 videos: their intervals overlap.
  const [best, other] = [writeRun('best', upTo(2)), writeRun('other', upTo(10))];
  const { pairs, notes, comparable } = await compare(other, best);
  const paired = { both: 30, only_first: 8, only_other: 0, neither: 2, num_shared: 40 };
  expect(pairs).toEqual([
    {
      runs: [best, other],
      differs: true,
      p_adjusted: 2 / 2 ** 8,
      reason: null,
      paired: expect.objectContaining(paired),
    },
  ]);
  expect(comparable).toBe(true);
  expect(notes.at(-1)).toBe(
    `${best} and ${other} differ on the 40 videos: 8 are right in the first alone, 0 in the other alone; p = 0.0078 (McNemar, exact).`,
  );
});

test('the same videos in another order are the same; several comparisons count as several; missing scores are told', async () => {
  const best = writeRun('best', upTo(2));
  const turned = writeRun('turned', upTo(8), { sha256: '6'.repeat(64), order: -1 });
  const close = writeRun('close', upTo(4, 1));
  const { pairs } = await compare(best, turned, close);
  expect(pairs).toMatchObject([
    { runs: [best, close], differs: false, p_adjusted: 0.625, paired: { only_first: 3, only_other: 1 } },
    { runs: [best, turned], differs: false, p_adjusted: 0.0625, paired: { only_first: 6, only_other: 0, p: 0.03125 } },
  ]);
  const { comparable, notes } = await compare(best, turned, writeRun('bare', upTo(30), { hasScores: false }));
  expect(comparable).toBe(true);
  expect(notes.join('\n')).toMatch(
    /bare differ on 40 videos \(top-1, 95 %\)\. Their videos are not paired: .*bare.*scores\.npz is missing\.$/,
  );
});

test('p-values of several comparisons are adjusted in their order', () => {
  expect(adjust([0.01, null, 0.04, 0.03])).toEqual([0.03, null, 0.06, 0.06]);
  expect(adjust([0.9, 0.8])).toEqual([1, 1]);
  expect(adjust([0.04])).toEqual([0.04]);
});
