/** Sweep files: everything wrong is told with its place, and what is right becomes complete trials. */
import { mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, describe, expect, test } from '@jest/globals';
import { UserError } from '../src/base/errors.ts';
import { parseBytes } from '../src/base/format.ts';
import { loadConfig } from '../src/config/load.ts';
import { finalConfig, makeTrials, planPoints, readSweep, roundSize } from '../src/sweep/definition/file.ts';
import { SWEEP_KEYS } from '../src/sweep/definition/schema.ts';
import { PROJECT } from './support.ts';

const project = process.cwd();
const folder = realpathSync(mkdtempSync(join(tmpdir(), 'sweep-file-')));

const BASE = `
data: {train_list: fit.txt, val_list: val.txt, root: clips, num_classes: 4}
model: {backbone: {preset: tiny}, decoder: {num_layers: 2}}
train: {steps: 300, batch_size: 4, seed: 5}
eval: {every: 100}
`;
const HEAD = 'base: base.yaml\nselection_list: select.txt\n';
const VARIABLE = '$'.concat('{LR:-0.5}');
const LR = 'space: {train.lr: [0.001, 0.01]}\n';

beforeEach(() => {
  rmSync(folder, { recursive: true });
  mkdirSync(folder);
  process.chdir(folder);
  write('base.yaml', BASE);
  for (const name of ['fit', 'select', 'val']) write(`${name}.txt`, `${name}.mp4 0\n`);
});
afterAll(() => {
  process.chdir(project);
  rmSync(folder, { recursive: true });
});

const write = (name: string, text: string) => writeFileSync(join(folder, name), text);

function read(text: string, set: string[] = []) {
  write('s.yaml', text);
  return readSweep('s.yaml', { set, env: {} });
}

const trialsOf = (text: string) => {
  const { sweep } = read(text);
  return makeTrials(sweep, planPoints(sweep));
};

function fail(text: string, set: string[] = []): string[] {
  try {
    read(text, set);
  } catch (error) {
    if (error instanceof UserError) return error.problems;
    throw error;
  }
  return [];
}

describe('a sweep file', () => {
  test('becomes trials that are the base with their point, seed and selection list, and nothing else', () => {
    const [first, second] = trialsOf(`${HEAD}${LR}seeds: [7, 8]\n`);
    const { config } = loadConfig('base.yaml', { env: {} });
    expect(first).toEqual({
      ...{ name: 't0001', point: 'p0001', params: { 'train.lr': 0.001 }, seed: 7 },
      settings: {
        ...config,
        data: { ...config.data, val_list: join(folder, 'select.txt'), seed: 5 },
        train: { ...config.train, lr: 0.001, seed: 7 },
        eval: { ...config.eval, every: null },
      },
    });
    expect(second).toMatchObject({ name: 't0002', point: 'p0001', seed: 8 });
  });

  test('gives each trial a configuration to train it alone, with the validation list of the base', () => {
    const { sweep } = read(`${HEAD}${LR}`);
    const [trial] = makeTrials(sweep, planPoints(sweep));
    const set = ['train.lr=0.001', 'data.seed=5'];
    expect(trial && finalConfig(sweep, trial)).toEqual(loadConfig('base.yaml', { env: {}, set }).config);
  });

  test('says the same after a round through JSON, as sweep.json holds it', () => {
    const { sweep } = read(`${HEAD}${LR}seeds: 2\n`);
    const again = JSON.parse(JSON.stringify(sweep));
    expect(again).toEqual(sweep);
    expect(makeTrials(again, planPoints(again))).toEqual(makeTrials(sweep, planPoints(sweep)));
  });

  test('derives what follows from a point as if the base had said it', () => {
    const [small, large] = trialsOf(`${HEAD}space: {model.decoder.qkv_dim: [64, 256]}\n`);
    expect(small?.settings.model.decoder.num_heads).toBe(1);
    expect(large?.settings.model.decoder.num_heads).toBe(4);
  });

  test('varies data and backbone too', () => {
    const trials = trialsOf(`${HEAD}space: {data.num_frames: [4, 8], data.size: [64, 32], train.lr: [1, 2]}\n`);
    const found = trials.map(({ settings: { data, model } }) => [
      data.num_frames,
      data.size,
      model.backbone.input_size,
    ]);
    expect(found).toEqual([
      [4, 64, 64],
      [4, 64, 64],
      [4, 32, 32],
      [4, 32, 32],
      [8, 64, 64],
      [8, 64, 64],
      [8, 32, 32],
      [8, 32, 32],
    ]);
  });

  test('changes the base by `set`, whose paths start from the sweep file', () => {
    mkdirSync('sub');
    write('sub/other.txt', 'other.mp4 1\n');
    write(
      'sub/s.yaml',
      `base: ../base.yaml\nselection_list: ../select.txt\nset: {data.train_list: other.txt, train: {steps: 20}}\n${LR}`,
    );
    const { sweep } = readSweep('sub/s.yaml', { env: {} });
    expect(sweep.config.data.train_list).toBe(join(folder, 'sub', 'other.txt'));
    expect(sweep.config.train.steps).toBe(20);
  });

  test('takes dotted and nested keys, variables, --set, and all from the files it extends', () => {
    write(
      'parent.yaml',
      `${HEAD}space: {train: {lr: {low: 1e-4, high: 1e-2, log: true, num: 3}}, train.weight_decay: [0, 0.1]}\nseeds: 2\n`,
    );
    write('s.yaml', `extends: parent.yaml\nspace: {train.lr: ["${VARIABLE}"]}\nbracket: {rungs: [10]}\n`);
    expect(() => readSweep('s.yaml', { env: {} })).toThrow('train.lr: found "0.5"'); // quoted: a text
    write('s.yaml', `extends: parent.yaml\nspace:\n  train.lr:\n    - ${VARIABLE}\nbracket: {rungs: [10]}\n`);
    const { sweep } = readSweep('s.yaml', { env: { LR: '0.25' }, set: ['bracket.keep=0.25', 'set.train.steps=50'] });
    expect(sweep.space.map(({ key, values }) => [key, values])).toEqual([
      ['train.weight_decay', [0, 0.1]],
      ['train.lr', [0.25]],
    ]);
    expect(sweep).toMatchObject({ seeds: [5, 6], bracket: { rungs: [10], keep: 0.25 } });
    expect(sweep.config.train.steps).toBe(50);
    expect(readSweep('s.yaml', { env: {}, set: ['space.train.lr=[1, 2]'] }).sweep.space[1]?.values).toEqual([1, 2]);
  });

  test('has defaults: a grid, the seed of the base, one local slot, no bracket', () => {
    expect(read(`${HEAD}${LR}`).sweep).toMatchObject({
      ...{
        name: 's',
        method: 'grid',
        trials: null,
        seeds: [5],
        objective: 'top1',
        selection: 'separate',
        bracket: null,
      },
      executor: { kind: 'local', slots: 1, memory_bytes: null, max_attempts: 3, failure: 'no-new' },
      cohort: { max_trials: null },
    });
  });

  test('asks of tpe what was said, else what one cohort holds', () => {
    const text = `${HEAD}${LR}method: tpe\ntrials: 9\nseeds: 2\n`;
    expect(planPoints(read(text).sweep)).toEqual([]);
    expect([null, 12, 1].map((held) => roundSize(read(text).sweep, held))).toEqual([8, 6, 1]);
    expect(roundSize(read(`${text}tpe: {round: 3}\n`).sweep, 12)).toBe(3);
  });

  test('measures memory in the units that people write', () => {
    const sizes = ['8GiB', '1.5 MiB', '500 MB', '7B', '8 Gib', '-1GiB', 'GiB'];
    expect(sizes.map(parseBytes)).toEqual([2 ** 33, 1.5 * 2 ** 20, 5e8, 7, ...Array(3).fill(undefined)]);
    expect(read(`${HEAD}${LR}executor: {memory: 2GiB}\n`).sweep.executor.memory_bytes).toBe(2 ** 31);
    expect(fail(`${HEAD}${LR}executor: {memory: 2 tons}\n`)).toEqual([
      expect.stringContaining('s.yaml:4:20  executor.memory: found "2 tons"'),
    ]);
  });
});

describe('what is wrong', () => {
  test('is told all at once, each with its place and the nearest key', () => {
    const text = `base: base.yaml
selection_lst: select.txt
set: {train.step: 3}
method: grit
space:
  train.learning_rat: [1]
  model.decoder.num_layer: {low: 1, high: 2}
  train.weight_decay: {low: 0, hgh: 1}
  model.temporal.conv: [true, 3]
  train.lr: 0.1
  model.head.dropout: {low: 0, high: 0.5}
bracket: {rungs: [20, 10]}
`;
    expect(fail(text)).toEqual([
      's.yaml:2:1  selection_lst: unknown key. Did you mean selection_list?',
      's.yaml:4:9  method: found "grit". Allowed: grid, random, tpe.',
      expect.stringMatching(/^s.yaml:6:3 {2}space.train.learning_rat: unknown key. Allowed in train: .*lr/),
      's.yaml:7:3  space.model.decoder.num_layer: unknown key. Did you mean model.decoder.num_layers?',
      's.yaml:8:32  space.train.weight_decay.hgh: unknown key. Did you mean high?',
      's.yaml:9:24  space.model.temporal.conv: found 3. Allowed: true or false.',
      's.yaml:10:13  space.train.lr: found 0.1. Give a list of values, as in [1, 2, 4], or low and high.',
      's.yaml:11:3  space.model.head.dropout: a grid needs num, how many numbers from low to high; or step, or values.',
      's.yaml:3:7  train.step: unknown key. Did you mean train.steps?',
      's.yaml:12:18  bracket.rungs: found [20,10]. Give each step once, from small to large.',
    ]);
  });

  test.each([
    ['space: {train.seed: [1]}', 'sets this key itself. Give seeds'],
    ['space: {data.val_list: [a]}', 'Give selection_list'],
    ['space: {train.lr: {values: [1], low: 2}}', 'either values, or low and high'],
    ['space: {train.lr: {low: 2}}', 'give both low and high'],
    ['space: {train.lr: {low: 2, high: 1, num: 2}}', 'high is 1, not above low, 2'],
    ['space: {train.weight_decay: {low: 0, high: 1, log: true, num: 3}}', 'has to be above 0'],
    ['space: {train.lr: {low: -1, high: 1, num: 3}}', 'low is -1. Allowed: a number above 0'],
    ['space: {train.lr: {low: 1, high: 2, num: 3, step: 1}}', 'step cannot be given with num'],
    ['space: {train.lr: {low: 1, high: 2, num: one}}', 'num is "one". Allowed: a whole number from 2'],
    ['space: {train.lr: {low: 1, high: 2, num: 3}}\nmethod: random\ntrials: 2', 'num is for method: grid'],
    ['space: {model.decoder.num_layers: {low: 1, high: 4, step: 0.5}}', 'a whole number up to 3'],
    ['space: {train.lr: []}', 'Give a list of values'],
    ['space: {train.lr: {}}', 'found {}'],
    ['space: [1]', 'Give keys of the configuration'],
    ['space: {}', 'nothing is varied'],
    ['space: {data.mean: [[1, 2, 3]]}', 'found [1,2,3]'],
    [`${LR}method: random`, 'method: random needs how many points'],
    [`${LR}seeds: [1, 1]`, 'a seed is there twice'],
    [`${LR}seeds: 4\ncohort: {max_trials: 3}`, '3 is less than 4 seeds'],
    [`${LR}bracket: {rungs: [300]}`, '300 is not below train.steps 300 (base.yaml:4:16)'],
    [`${LR}bracket: {rungs: [100]}\nset: {model.backbone.freeze: false}`, 'each that trains its backbone has its own'],
    ['space: {train.lr: {values: [1], when: {train.weight_decay: 0}}}', 'when train.weight_decay: not varied'],
    ['space: {train.lr: [1], train.weight_decay: {values: [1], when: {train.lr: 2}}}', 'it is never 2'],
    [
      'space: {train.lr: {values: [1], when: {train.weight_decay: 1}}, train.weight_decay: {values: [1], when: {train.lr: 1}}}',
      'go round in a circle',
    ],
    [
      'space: {train.lr: {low: 1, high: 2, num: 400}, train.weight_decay: {low: 1, high: 2, num: 400}}',
      'more than 100000 points',
    ],
  ])('%s', (text, problem) => {
    expect(fail(`${HEAD}${text}\n`)).toEqual([expect.stringContaining(problem)]);
  });

  test('a base that is missing, or wrong itself, is told beside the rest', () => {
    expect(fail('selection_list: select.txt\nspace: {train.lr: [-1]}\n')).toEqual([
      's.yaml  base: not set. Give the training configuration whose keys are varied.',
      's.yaml:2:19  space.train.lr: found -1. Allowed: a number above 0.',
    ]);
    write('base.yaml', `${BASE}run: {save_evry: 3}\n`);
    expect(fail(`${HEAD}space: {train.lr: [-1]}\n`)).toEqual([
      's.yaml:3:19  space.train.lr: found -1. Allowed: a number above 0.',
      'base.yaml:6:7  run.save_evry: unknown key. Did you mean run.save_every?',
    ]);
  });

  test('points that do not resolve are named, each problem once', () => {
    const text = `${HEAD}space:\n  model.decoder.num_layers: [1, 5]\n  train.lr: [0.1, 0.2]\n`;
    const problem =
      's.yaml:4:29  model.decoder.num_layers: 5 is more than model.backbone.num_layers 4 (preset tiny): each decoder layer reads one of them. Give fewer. So at point';
    expect(fail(text)).toEqual([`${problem} p0003 (model.decoder.num_layers 5, train.lr 0.1), and at 1 more.`]);
    const corners = 'method: tpe\ntrials: 4\n';
    const range = text.replace('[1, 5]', '{low: 1, high: 5}').replace('[0.1, 0.2]', '{low: 0.1, high: 0.2}');
    expect(fail(range + corners)[0]).toContain('So at point (model.decoder.num_layers 5, train.lr 0.1)');
    expect(fail(text + corners.replace('tpe', 'random'))[0]).toMatch(/So at point p000\d/);
  });

  test('steps in the space are compared with the rungs', () => {
    expect(fail(`${HEAD}space: {train.steps: [50, 200]}\nbracket: {rungs: [100]}\n`)).toEqual([
      's.yaml:4:18  bracket.rungs: 100 is not below train.steps 50 (s.yaml:3:22): the end is evaluated anyway. So at point p0001 (train.steps 50).',
    ]);
  });
});

describe('the selection list', () => {
  test('has to be there', () => {
    expect(fail(`base: base.yaml\n${LR}`)).toEqual([
      expect.stringMatching(/selection_list: not set.*selection: validation/),
    ]);
    expect(fail(`base: base.yaml\nselection_list: no.txt\n${LR}`)).toEqual([
      expect.stringMatching(/no file at .*no\.txt/),
    ]);
    expect(
      read(`base: base.yaml\nset: {data.dummy: true, data.train_list: null, data.val_list: null}\n${LR}`).sweep
        .selection_list,
    ).toBe(null);
  });

  test.each(['fit', 'val'])('is not %s.txt, nor a link to it, nor a copy of it', (name) => {
    symlinkSync(join(folder, `${name}.txt`), join(folder, 'link.txt'));
    write('copy.txt', `${name}.mp4 0\n`);
    for (const file of [`${name}.txt`, 'link.txt', 'copy.txt']) {
      const [problem, ...others] = fail(`base: base.yaml\nselection_list: ${file}\n${LR}`);
      expect(problem).toMatch(
        new RegExp(`^s.yaml:2:17 {2}selection_list: ${file} (is|has the same content as) the .*${name}.txt`),
      );
      expect(others).toEqual([]);
    }
  });

  test('is the validation list where the file says so', () => {
    const { sweep } = read(`base: base.yaml\nselection: validation\n${LR}`);
    expect(sweep).toMatchObject({
      selection: 'validation',
      selection_list: join(folder, 'val.txt'),
      selection_root: join(folder, 'clips'),
    });
    expect(fail(`${HEAD}selection: validation\n${LR}`)).toEqual([
      expect.stringContaining('selection_list is not val.txt'),
    ]);
  });
});

describe('the sweeps that come with the project', () => {
  const env = { K400_ROOT: folder, CLIP_WEIGHTS: folder };
  const load = (name: string, set: string[] = []) =>
    readSweep(join(PROJECT, 'configs', 'sweeps', `${name}.yaml`), { env, set }).sweep;
  beforeEach(() => write('ViT-B-16.pt', ''));

  test('ablation: six depths, and at the published one all eight combinations of the temporal modules', () => {
    const points = planPoints(load('ablation'));
    expect(points).toHaveLength(5 + 8);
    expect(
      points
        .filter(({ params }) => 'model.temporal.conv' in params)
        .map(({ params }) => params['model.decoder.num_layers']),
    ).toEqual(Array(8).fill(4));
  });

  test('lr_wd: a grid around the published recipe, two seeds each', () => {
    const sweep = load('lr_wd');
    expect(sweep.space[0]?.values).toEqual([1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3]);
    expect(makeTrials(sweep, planPoints(sweep))).toHaveLength(30);
  });

  test('demo: at least twelve trials with two rungs, on no list that they train on', () => {
    const lists = ['fit', 'select', 'val'].map((name) => join(folder, `${name}.txt`));
    const set = [`set.data.train_list=${lists[0]}`, `selection_list=${lists[1]}`, `set.data.val_list=${lists[2]}`];
    const sweep = load('demo', [...set, 'set.data.classes=null', 'set.data.num_classes=8']);
    expect(planPoints(sweep).length).toBeGreaterThanOrEqual(12);
    expect(sweep.bracket?.rungs).toHaveLength(2);
  });

  test('sweep.schema.json has every key', () => {
    const stored = JSON.parse(readFileSync(join(PROJECT, 'configs', 'sweeps', 'sweep.schema.json'), 'utf8'));
    expect(Object.keys(stored.properties)).toEqual(
      expect.arrayContaining([...SWEEP_KEYS.keys.keys()].filter((key) => !key.includes('.'))),
    );
  });
});
