/** `compare`: runs side by side, from folders as training, cohorts and sweeps leave them. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeEach, describe, expect, test } from '@jest/globals';
import { Report } from '../src/base/printer.ts';
import { compareRuns } from '../src/results/compare.ts';
import { describeWriter } from '../src/run/liveness.ts';
import { coldframe } from './support.ts';
import { writeSweep } from './sweeps.ts';

const ROOT = mkdtempSync(join(tmpdir(), 'coldframe-'));
let count = 0;
let dir = '';
beforeEach(() => {
  dir = join(ROOT, String(++count));
});
afterAll(() => rmSync(ROOT, { recursive: true }));

function write(file: string, value: unknown): void {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, JSON.stringify(value));
}

const LIST = { file: '/lists/val.txt', sha256: '5'.repeat(64), size_bytes: 9, num_lines: 200 };
const result = (top1: number, num_videos = 200) => ({
  top1,
  top5: 0.9,
  num_videos,
  num_bad: 0,
  views: 3,
  per_class: [],
});
const settings = (lr: number, list = '/lists/val.txt') => ({
  data: { val_list: list, val_root: null, mean: [1, 2, 3] },
  model: { backbone: { preset: 'tiny' } }, // what else a configuration has is filled in
  train: { lr, steps: 300 },
  eval: { every: 100 },
});

function writeRun(name: string, { lr = 1e-3, top1 = 0.8, list = LIST, commit = 'c0ffee', videos = 200 } = {}): string {
  const run = join(dir, name);
  write(join(run, 'config.json'), settings(lr));
  const environment = { git_commit: commit, device: 'cpu', precision: 'fp32', backbone_sha256: 'b'.repeat(64) };
  write(join(run, 'environment.json'), { ...environment, packages: { torch: '2.13.0' }, free_disk_bytes: lr });
  for (const step of [100, 300])
    write(join(run, `evaluations/step-${step}/result.json`), {
      step,
      list,
      results: { main: result(step === 300 ? top1 : 0.1, videos) },
    });
  write(join(run, 'evaluations/step-300-3x4-abcdef01/result.json'), {
    step: 300,
    list,
    results: { main: result(0.99) },
  });
  return run;
}

interface Compared {
  runs: { run: string; state: string; trial: string; step: number; result: { top1: number; num_videos: number } }[];
  config: { key: string; values: unknown[] }[];
  environment: { key: string; values: unknown[] }[];
  comparable: boolean;
  warnings: string[];
  notes: string[];
}

async function compare(...names: string[]): Promise<Compared> {
  const report = new Report({ json: true });
  let printed = '';
  report.print = (text) => {
    printed = text;
  };
  await compareRuns(names, report);
  return JSON.parse(printed);
}

describe('training runs', () => {
  test('are shown by their last own evaluation, with the keys and surroundings that differ and no others', async () => {
    const found = await compare(writeRun('a'), writeRun('b', { lr: 2e-3, top1: 0.7, commit: 'beef' }));
    expect(found.runs.map(({ trial, step, result: { top1 } }) => [trial, step, top1])).toEqual([
      ['main', 300, 0.8],
      ['main', 300, 0.7],
    ]);
    expect(found.config).toEqual([{ key: 'train.lr', values: [1e-3, 2e-3] }]);
    expect(found.environment).toEqual([{ key: 'git_commit', values: ['c0ffee', 'beef'] }]);
    expect([found.comparable, found.warnings]).toEqual([true, []]);
  });

  test('of different lists are not comparable', async () => {
    const other = { ...LIST, file: '/lists/other.txt', sha256: '6'.repeat(64) };
    const found = await compare(writeRun('a'), writeRun('b'), writeRun('c', { list: other }));
    expect(found.comparable).toBe(false);
    expect(found.warnings).toEqual([
      expect.stringMatching(/c was evaluated on another list than .*a \(.*other\.txt, 6+\.\.\./),
    ]);
  });

  test('that were killed are not shown as running, and a difference of two videos in 200 as none', async () => {
    const [a, b, c] = [writeRun('a'), writeRun('b', { top1: 0.79 }), writeRun('c', { top1: 0.6 })];
    write(join(a, 'status.json'), { state: 'finished', step: 300, steps: 300 });
    write(join(b, 'status.json'), { ...describeWriter(), state: 'running', step: 320, steps: 500, birth: 'gone:1' });
    write(join(b, 'checkpoints/step-300/checkpoint.json'), {});
    const found = await compare(a, b, c);
    const why = `Their videos are not paired: ${a}/evaluations/step-300/scores.npz is missing.`;
    expect(found.runs.map(({ state }) => state)).toEqual(['finished', 'stopped', 'unknown']);
    expect(found.notes).toEqual([
      `${b} is stopped: these are its numbers at step 300. Its checkpoint is of step 300.`,
      `${a} and ${b} cannot be told apart on 200 videos (top-1, 95 %). ${why}`,
      `${a} and ${c} differ on 200 videos (top-1, 95 %). ${why}`,
    ]);
  });

  test('of one list with different numbers of videos are told', async () => {
    const found = await compare(writeRun('a'), writeRun('b', { videos: 198 }));
    expect(found.warnings).toEqual([expect.stringContaining('200 and 198 of its videos')]);
  });

  test('that cannot be read are named all at once, with what is missing', async () => {
    mkdirSync(join(dir, 'empty'), { recursive: true });
    const young = writeRun('young');
    rmSync(join(young, 'evaluations'), { recursive: true });
    const old = writeRun('old');
    rmSync(join(old, 'environment.json'));
    const names = [join(dir, 'none'), join(dir, 'empty'), young, old, `${writeRun('a')}:t0009`];
    const act = (): Promise<Compared> => compare(...names);
    for (const text of ['none  does not exist', 'empty  holds no config.json', 'young  has no evaluation yet'])
      await expect(act()).rejects.toThrow(text);
    await expect(act()).rejects.toThrow('environment.json is missing');
    await expect(act()).rejects.toThrow('no trial t0009 was evaluated there. It has main.');
    await expect(compare(names[0] ?? '')).rejects.toThrow('Give two or more');
  });

  test('are printed side by side', async () => {
    const { code, stdout } = await coldframe(['compare', writeRun('a'), writeRun('b', { lr: 2e-3 })]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/b +main +unknown +300 +80\.00 % +73\.9 to 85\.0 % +90\.00 % +200 +val\.txt 55555555/);
    expect(stdout).toMatch(/train\.lr +0\.001 +0\.002/);
  });
});

describe('trials', () => {
  function writeCohort(run: string): void {
    const trials = ['t0001', 't0002'].map((name, index) => ({
      name,
      settings: settings(1e-3 * (index + 1), '/lists/select.txt'),
    }));
    write(join(run, 'cohort.json'), { format: 1, trials });
    write(join(run, 'environment.json'), { git_commit: 'c0ffee' });
    const list = { ...LIST, file: '/lists/select.txt', sha256: '7'.repeat(64) };
    write(join(run, 'evaluations/step-100/result.json'), {
      step: 100,
      list,
      results: { t0001: result(0.4), t0002: result(0.3) },
    });
    write(join(run, 'evaluations/step-300/result.json'), { step: 300, list, results: { t0001: result(0.6) } });
  }

  test('of a cohort are named after a colon; a pruned one shows its last evaluation', async () => {
    const run = join(dir, 'cohort');
    writeCohort(run);
    const found = await compare(`${run}:t0001`, `${run}:t0002`);
    expect(found.runs.map(({ step, result: { top1 } }) => [step, top1])).toEqual([
      [300, 0.6],
      [100, 0.3],
    ]);
    expect(found.config).toEqual([{ key: 'train.lr', values: [1e-3, 2e-3] }]);
    await expect(compare(run, `${run}:t0001`)).rejects.toThrow('holds several trials');
  });

  test('a sweep stands for its best trial on the validation list, with the settings of that evaluation', async () => {
    const sweep = join(dir, 'sweep');
    mkdirSync(sweep, { recursive: true });
    writeSweep(sweep, { points: 2, seeds: [0], bare: true });
    writeCohort(join(sweep, 'cohorts', 'c0002'));
    const act = (): Promise<Compared> => compare(sweep, writeRun('a', { lr: 2e-3, top1: 0.7 }));
    await expect(act()).rejects.toThrow('sweep.json is missing');
    write(join(sweep, 'sweep.json'), { config: settings(9) });
    write(join(sweep, 'final/result.json'), { step: 300, list: LIST, results: { t0002: result(0.8125) } });
    const found = await act();
    expect(found.runs[0]).toMatchObject({ run: sweep, trial: 't0002', step: 300, result: { top1: 0.8125 } });
    expect([found.config, found.comparable]).toEqual([[], true]);
    expect((await compare(`${sweep}:t0002`, sweep)).runs[0]).toMatchObject({ step: 100, result: { top1: 0.3 } });
    await expect(compare(`${sweep}:t0099`, sweep)).rejects.toThrow('no trial t0099 has begun there');
  });

  test('a sweep without a final result says how to name a trial of it', async () => {
    mkdirSync(dir, { recursive: true });
    writeSweep(dir, { state: 'running', bare: true });
    await expect(compare(dir, dir)).rejects.toThrow(
      `has no final result yet. Let the sweep finish, or give a trial, as in ${dir}:t0001`,
    );
  });
});
