/** What a cohort decides and what it refuses, with no Python at hand. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from '@jest/globals';
import {
  classifyFailure,
  Fenced,
  Interrupted,
  OutOfMemory,
  PythonBug,
  RuntimeFailure,
  UserError,
} from '../src/base/errors.ts';
import { Report } from '../src/base/printer.ts';
import { type Config, loadConfig } from '../src/config/load.ts';
import { refuseChangedConfig } from '../src/run/changes.ts';
import { plainCohort, readCohort, recordCohort } from '../src/run/cohort-file.ts';
import type { CohortFile, Trial } from '../src/run/cohort-types.ts';
import { type CheckpointHeader, chooseTrial, RunFolder } from '../src/run/folder.ts';
import { countLeft, decideRung, findNextRung } from '../src/train/bracket.ts';
import { readWork, train } from '../src/train/train.ts';
import { Standing } from '../src/train/trials.ts';

const folder = realpathSync(mkdtempSync(join(tmpdir(), 'bracket-test-')));
const config = join(folder, 'small.yaml');
writeFileSync(
  config,
  `data: {train_list: train.txt, val_list: val.txt, num_classes: 8, num_frames: 4, stride: 4, size: 32}
model: {backbone: {preset: tiny}, decoder: {num_layers: 2}}
train: {steps: 8, batch_size: 4, precision: fp32, lr: 1e-3}
`,
);
const settingsOf = (...set: string[]): Config => loadConfig(config, { set }).config;
const trial = (name: string, point: string, ...set: string[]): Trial => {
  return { name, point, params: {}, seed: 0, settings: settingsOf(...set) };
};
const cohortOf = (...trials: Trial[]): CohortFile => ({ format: 1, name: 'c1', metric: 'top1', bracket: null, trials });
const write = (value: unknown, name = 'cohort.json'): string => {
  writeFileSync(join(folder, name), JSON.stringify(value));
  return join(folder, name);
};

afterAll(() => rmSync(folder, { recursive: true }));

describe('a rung', () => {
  const points: [string, string][] = [
    ['t1', 'p1'],
    ['t2', 'p1'],
    ['t3', 'p2'],
    ['t4', 'p2'],
    ['t5', 'p3'],
  ];
  const cohort = { metric: 'top1' as const, trials: points.map(([name, point]) => trial(name, point)) };
  const results = (values: Record<string, number>) =>
    Object.fromEntries(Object.entries(values).map(([name, top1]) => [name, { top1, top5: 1 - top1 }]));

  test('ranks points by their mean over the trials that are left', () => {
    const decided = decideRung(cohort, 0.5, results({ t1: 0.9, t2: 0.1, t3: 0.6, t4: 0.5, t5: 0.52 }));
    expect(decided).toEqual([
      { point: 'p2', rank: 1, metric: 0.55, trials: ['t3', 't4'], stays: true },
      { point: 'p3', rank: 2, metric: 0.52, trials: ['t5'], stays: true },
      { point: 'p1', rank: 3, metric: 0.5, trials: ['t1', 't2'], stays: false },
    ]);
    const without = decideRung(cohort, 0.5, results({ t1: 0.9, t3: 0.6, t4: 0.5 })); // t2 diverged, and all of p3
    expect(without.map(({ point, trials, stays }) => [point, trials, stays])).toEqual([
      ['p2', ['t3', 't4'], true], // a point that lost a seed comes after the whole ones, as in the final choice
      ['p1', ['t1'], false],
    ]);
  });

  test('goes by the metric of the cohort, and by name when points are equal, whatever their order', () => {
    const all = results({ t1: 0.9, t2: 0.9, t3: 0.5, t4: 0.5, t5: 0.7 });
    const names = (metric: 'top1' | 'top5') => decideRung({ ...cohort, metric }, 1, all).map(({ point }) => point);
    expect([names('top1'), names('top5')]).toEqual([
      ['p1', 'p3', 'p2'],
      ['p2', 'p3', 'p1'],
    ]);
    const equal = results({ t1: 0.5, t2: 0.5, t3: 0.5, t4: 0.5, t5: 0.5 });
    const reversed = { ...cohort, trials: cohort.trials.toReversed() };
    for (const one of [cohort, reversed])
      expect(decideRung(one, 0.4, equal).map(({ point, stays }) => [point, stays])).toEqual([
        ['p1', true],
        ['p2', true],
        ['p3', false],
      ]);
  });

  test('keeps ceil(keep * points), at least one', () => {
    expect([12, 5, 1].map((count) => countLeft(count, 0.5))).toEqual([6, 3, 1]);
    expect([countLeft(25, 0.28), countLeft(3, 0.01), countLeft(7, 1)]).toEqual([7, 1, 7]); // 0.28 * 25 is above 7
  });

  test('comes after the steps before it', () => {
    const bracket = { rungs: [100, 300], keep: 0.5 };
    expect([0, 99, 100, 300].map((step) => findNextRung(bracket, step))).toEqual([100, 100, 300, null]);
    expect(findNextRung(null, 0)).toBe(null);
  });
});

describe('cohort.json', () => {
  test('may differ after the backbone, and comes back as it was written', () => {
    const differing = [
      'train.lr=1e-4',
      'train.seed=3',
      'data.seed=0',
      'model.decoder.num_layers=1',
      'train.ema_decay=0.9',
    ];
    const cohort = {
      ...cohortOf(trial('t1', 'p1'), trial('t2', 'p2', ...differing)),
      bracket: { rungs: [2, 4], keep: 1 },
    };
    expect(readCohort(write(cohort))).toEqual(cohort);
  });

  test('is refused with all that its trials must share, and with what its rungs must be', () => {
    const others = [trial('t2', 'p1', 'data.stride=2', 'train.steps=9'), trial('t2', 'p2', 'train.batch_size=8')];
    const cohort = { ...cohortOf(trial('t1', 'p1'), ...others), bracket: { rungs: [4, 2, 8], keep: 0.5 } };
    const file = write(cohort);
    const problems = (): string[] => {
      try {
        readCohort(file);
      } catch (error) {
        if (error instanceof UserError) return error.problems;
      }
      return [];
    };
    expect(problems()).toEqual([
      `${file}  has two trials t2. Names must be unique.`,
      `${file}  bracket.rungs: found 4, 2, 8. Each must be above the one before.`,
      `${file}  bracket.rungs: found 8; train.steps is 8. Rungs lie before the end.`,
      expect.stringMatching(/data\.stride: is 2 in trial t2 and 4 in t1\. Trials of a cohort share it/),
      expect.stringMatching(/train\.steps: is 9 in trial t2 and 8 in t1/),
      expect.stringMatching(/train\.batch_size: is 8 in trial t2 and 4 in t1/),
    ]);
  });

  test.each([
    [
      'a trained backbone',
      () => ({ ...cohortOf(...['t1', 't2'].map((name) => trial(name, name, 'model.backbone.freeze=false'))) }),
      /freeze: is false/,
    ],
    [
      'a rung without a list',
      () => ({ ...cohortOf(trial('t1', 'p1', 'data.val_list=null')), bracket: { rungs: [2], keep: 1 } }),
      /needs data.val_list/,
    ],
    ['a name that is none for files', () => cohortOf(trial('../t1', 'p1')), /trials\.0\.name: names files/],
    ['an unknown key', () => ({ ...cohortOf(trial('t1', 'p1')), keeps: 1 }), /keeps/],
    [
      'incomplete settings',
      () => ({ ...cohortOf(), trials: [{ ...trial('t1', 'p1'), settings: {} }] }),
      /trial t1: {2}holds no configuration/,
    ],
    ['no trial', () => cohortOf(), /trials: /],
  ])('is refused with %s', (_, make, message) => {
    expect(() => readCohort(write(make(), 'wrong.json'))).toThrow(message);
  });

  test('and --config exclude each other; one is needed; a cohort takes neither --set nor --dry-run', async () => {
    const nothing = { config: undefined, cohort: undefined, set: [], 'dry-run': false, attempt: undefined };
    const file = write(cohortOf(trial('t1', 'p1')));
    const read = (change: object) => readWork({ ...nothing, ...change }, () => {});
    await expect(read({})).rejects.toThrow(/Missing required argument/);
    await expect(read({ config, cohort: file })).rejects.toThrow(/Give one of them/);
    await expect(read({ cohort: file, set: ['train.lr=1'] })).rejects.toThrow(/--set {2}changes no cohort/);
    await expect(read({ cohort: file, 'dry-run': true })).rejects.toThrow(/sweep --dry-run/);
    await expect(read({ cohort: file, attempt: 1.5 })).rejects.toThrow(/--attempt {2}1\.5/);
    await expect(read({ cohort: join(folder, 'nothing.json') })).rejects.toThrow(/--cohort {2}no file/);
    expect(await read({ cohort: file })).toEqual({ name: 'c1', cohort: cohortOf(trial('t1', 'p1')) });
    expect(await read({ config })).toMatchObject({
      name: 'small',
      cohort: plainCohort(settingsOf()),
    });
  });

  test('that has changed since the run began is refused with the trial, the key and both values', () => {
    const run = new RunFolder(join(folder, 'changed'));
    mkdirSync(run.path('checkpoints', 'latest'), { recursive: true });
    const bracket = { rungs: [2, 4], keep: 0.5 };
    run.writeJson('config.json', recordCohort({ ...cohortOf(trial('t1', 'p1')), bracket }));
    const refuse = (cohort: CohortFile) => () => refuseChangedConfig(run, cohort);
    expect(refuse({ ...cohortOf(trial('t1', 'p1', 'train.lr=2e-3')), bracket })).toThrow(
      /^trials\.t1\.train\.lr {2}is 0\.002; the run in .* was started with 0\.001\./,
    );
    expect(refuse({ ...cohortOf(trial('t1', 'p1')), bracket: { rungs: [2], keep: 0.5 } })).toThrow(
      /bracket\.rungs {2}is \[2\]/,
    );
    expect(refuse({ ...cohortOf(trial('t1', 'p1', 'run.print_every=7')), bracket })).not.toThrow();
  });
});

describe('an attempt', () => {
  test('that a later one has followed starts nothing and writes nothing', async () => {
    const dir = join(folder, 'fenced');
    mkdirSync(dir);
    writeFileSync(join(dir, 'attempt.json'), JSON.stringify({ attempt: 2, key: 'x-2' }));
    const request = { cohort: plainCohort(settingsOf()), runDir: dir, resume: 'auto', attempt: 1 };
    await expect(train(request, new Report())).rejects.toBeInstanceOf(Fenced);
    expect(readdirSync(dir)).toEqual(['attempt.json']);
  });

  test('that its cluster has started again ends the earlier start of it', () => {
    const dir = join(folder, 'restarted');
    const first = new RunFolder(dir, 1);
    first.create();
    first.writeJson('attempt.json', { attempt: 1, key: 'x-1' });
    process.env.COLDFRAME_RESTART = '1';
    const again = new RunFolder(dir, 1);
    delete process.env.COLDFRAME_RESTART;
    expect(first.isFenced()).toBe(false);
    again.create();
    expect([first.isFenced(), again.isFenced()]).toEqual([true, false]);
    expect(again.readJson('attempt.json')).toEqual({ attempt: 1, key: 'x-1', restart: 1 });
  });

  test('writes nothing into a folder from the moment that a later one has it', () => {
    const dir = join(folder, 'late');
    const run = new RunFolder(dir, 1);
    run.create();
    const event = { time: '', kind: 'saved' as const, step: 1, path: 'x' };
    run.append(event);
    run.writeJson('attempt.json', { attempt: 1, key: 'x-1' });
    run.append(event);
    new RunFolder(dir).writeJson('attempt.json', { attempt: 2, key: 'x-2' });
    const writes: (() => unknown)[] = [
      () => run.append(event),
      () => run.writeJson('status.json', {}),
      () => run.writeStatus({ state: 'running', step: 1, steps: 2 }),
      () => run.addBadVideo('train', 'x', 'y'),
    ];
    for (const one of writes) expect(one).toThrow(Fenced);
    expect(readFileSync(join(dir, 'events.jsonl'), 'utf8').trimEnd().split('\n')).toHaveLength(2);
    expect(readdirSync(dir).sort()).toEqual(['attempt.json', 'events.jsonl']);
    new RunFolder(dir, 2).append(event);
  });
});

describe('a failure', () => {
  test('has the class that a scheduler decides by', () => {
    const errors = [
      new UserError('x'),
      new OutOfMemory('x'),
      new RuntimeFailure('x'),
      new PythonBug('x', ''),
      new Error('x'),
    ];
    expect(errors.map(classifyFailure)).toEqual(['user', 'out_of_memory', 'lost', 'bug', 'bug']);
    expect(new Interrupted('x')).not.toBeInstanceOf(UserError);
  });
});

describe('where trials stand', () => {
  test('is known again after a resume: those that the checkpoint lacks left as the journal says', () => {
    const standing = new Standing(['t1', 't2', 't3', 't4']);
    const dropped = (name: string, step: number, reason: string, top1: number | null) => {
      return { time: '', kind: 'dropped', step, trial: name, reason, top1, top5: top1 };
    };
    standing.resume(6, ['t1'], [dropped('t2', 2, 'diverged', null), dropped('t3', 4, 'pruned', 0.25)]);
    standing.evaluated({ t1: { top1: 0.5, top5: 1 } });
    expect(standing.alive).toEqual(['t1']);
    expect(standing.describe(6, 'running')).toEqual({
      t1: { state: 'running', step: 6, top1: 0.5, top5: 1 },
      t2: { state: 'diverged', step: 2, top1: null, top5: null },
      t3: { state: 'pruned', step: 4, top1: 0.25, top5: 0.25 },
      t4: { state: 'pruned', step: 6, top1: null, top5: null },
    });
    expect(standing.results()).toEqual({ t1: { top1: 0.5, top5: 1 } });
  });
});

test('a checkpoint of several trials asks which one; of one trial it is that one, whatever its name', () => {
  const header = (...names: string[]): CheckpointHeader => {
    return {
      format: 1,
      step: 1,
      classes: null,
      config: {},
      trials: Object.fromEntries(names.map((name) => [name, {}])),
    };
  };
  expect(chooseTrial('x', header('t7'), undefined)).toBe('t7');
  expect(chooseTrial('x', header('t1', 't2'), 't2')).toBe('t2');
  expect(() => chooseTrial('x', header('t1', 't2'), undefined)).toThrow(
    /x {2}holds the trials t1, t2\. Name one .*--trial/,
  );
  expect(() => chooseTrial('x', header('t1', 't2'), 't3')).toThrow(/and no t3/);
});
