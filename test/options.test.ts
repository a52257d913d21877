/** The configuration's options: each does something, and what must not matter does not. One interpreter plays them all. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { loadConfig } from '../src/config/load.ts';
import { checkList } from '../src/data/list.ts';
import { CLIPS, ENVIRONMENT, FIXTURES, makeClips, PYTHON, readTensors, writeConfig } from './support.ts';

jest.setTimeout(300_000); // on a machine that others keep busy
const folder = realpathSync(mkdtempSync(join(tmpdir(), 'options-test-')));
const config = writeConfig(folder);
afterAll(() => rmSync(folder, { recursive: true }));

type Reply = { ok: boolean; error?: { message: string }; result?: Record<string, unknown> };
type Job = [string, object][];
const jobs = new Map<string, Job>();
const replies = new Map<string, Reply[]>();
const lossesIn = (name: string): number[] => {
  const steps = replies.get(name)?.map(({ result }) => result?.steps);
  const taken = steps?.find(Array.isArray) as { trials: { main: { loss: number } } }[] | undefined;
  return (taken ?? []).map(({ trials }) => trials.main.loss);
};
interface Result {
  top1: number;
  top5: number;
  num_videos: number;
}
const resultOf = (name: string): Result | undefined =>
  (replies.get(name)?.at(-1)?.result?.results as { main: Result } | undefined)?.main;
const advance: Job = [['advance', { steps: 3 }]];
const evaluate: Job = [['evaluate', { seconds: 600, output: join(folder, 'scores') }]];
const save: Job = [['save', {}]];

function plan(name: string, pairs: string[], calls: Job, more: object = {}): void {
  const settings = loadConfig(config, { set: ['data.num_workers=0', ...pairs] }).config;
  const lists = { train: join(folder, 'train.tsv'), val: join(folder, 'val.tsv') };
  const trials = [{ name: 'main', settings }];
  const open = { mode: 'train', trials, lists, classes: null, run_dir: null, resume: 'never', ...more };
  jobs.set(name, [['open', open], ...calls]);
}

beforeAll(async () => {
  await makeClips();
  for (const split of ['train', 'val']) {
    const options = { root: CLIPS, numClasses: 8, writeTo: join(folder, `${split}.tsv`) };
    await checkList({ file: join(CLIPS, `${split}.txt`), ...options });
  }
  const firstLabels = readFileSync(join(folder, 'val.tsv'), 'utf8').replace(/^.*\t[3-7]\n/gm, '');
  writeFileSync(join(folder, 'three.tsv'), firstLabels);
  const three = { train: join(folder, 'three.tsv'), val: join(folder, 'three.tsv') };

  plan('plain', [], [...advance, ...save, ...evaluate], { run_dir: join(folder, 'plain') });
  for (const pair of Object.keys(CHANGING)) plan(pair, [pair], advance);
  const undropped = ['model.decoder.mlp_dropout=0', 'model.head.dropout=0'];
  plan('one batch', undropped, advance);
  plan('two parts', [...undropped, 'train.micro_batches=2'], advance);
  plan('two workers', ['data.num_workers=2'], advance);
  plan('dummy', ['data.dummy=true'], advance, { lists: { train: null, val: null } });
  plan('tsn', ['data.sampling=tsn'], [...advance, ...evaluate]);
  plan('three classes', ['data.classes=null', 'data.num_classes=3'], [...advance, ...evaluate], { lists: three });
  plan('init', [`run.init_from=${join(folder, 'plain', 'checkpoints', 'step-3')}`], evaluate);
  const trained = 'model.backbone.freeze=false';
  plan('whole', [trained], [...save, ...advance, ...save, ...evaluate], { run_dir: join(folder, 'whole') });
  const saved = { mode: 'evaluate', resume: join(folder, 'whole', 'checkpoints', 'step-3') };
  plan('whole again', [trained], evaluate, saved);
  const output = execFileSync(PYTHON, [join(FIXTURES, 'sessions.py')], {
    input: JSON.stringify([...jobs.values()]),
    encoding: 'utf8',
    env: ENVIRONMENT,
    stdio: ['pipe', 'pipe', 'ignore'],
  });
  const all: Reply[][] = JSON.parse(output);
  [...jobs.keys()].forEach((name, index) => void replies.set(name, all[index] ?? []));
});

/** Whether the first loss is another one already, or only those after the first update. */
const CHANGING: Record<string, 'first' | 'later'> = {
  'train.label_smoothing=0.1': 'first',
  'train.mixup=0.8': 'first',
  'train.cutmix=1': 'first',
  'train.seed=1': 'first',
  'train.precision=bf16': 'first',
  'train.clip_grad_norm=0.01': 'later',
  'train.warmup_steps=2': 'later',
  'train.weight_decay=10': 'later',
  'data.augment=null': 'first',
  'data.mirror=true': 'first',
  'model.backbone.random_seed=1': 'first',
  'model.backbone.freeze=false': 'later',
  'model.temporal.conv=false': 'first',
  'model.temporal.position_embedding=false': 'later',
  'model.temporal.cross_attention=false': 'later',
  'model.head.dropout=0': 'first',
};

test('all of them run', () => {
  const errors = [...replies].flatMap(([name, all]) => all.map(({ error }) => error && `${name}: ${error.message}`));
  expect(errors.filter((error) => error !== undefined)).toEqual([]);
});

test.each(Object.entries(CHANGING))('%s changes the %s loss, and all stay finite', (name, which) => {
  const [losses, plain] = [lossesIn(name), lossesIn('plain')];
  expect(losses.every(Number.isFinite)).toBe(true);
  expect(losses).toHaveLength(3);
  if (which === 'first') expect(losses[0]).not.toBe(plain[0]);
  else expect(losses[0]).toBe(plain[0]);
  expect(losses[2]).not.toBe(plain[2]);
});

test('micro batches and loader workers change nothing', () => {
  const [one, two] = [lossesIn('one batch'), lossesIn('two parts')];
  for (const [index, loss] of one.entries()) expect(Math.abs(loss - (two[index] ?? 0))).toBeLessThan(1e-6);
  expect(lossesIn('two workers')).toEqual(lossesIn('plain'));
});

test('dummy clips need no list; tsn sampling trains and evaluates; of three classes the first five are all', () => {
  expect(lossesIn('dummy').every(Number.isFinite)).toBe(true);
  expect(lossesIn('tsn')).not.toEqual(lossesIn('plain'));
  expect(resultOf('tsn')).toMatchObject({ num_videos: 12, num_bad: 0 });
  expect(resultOf('three classes')?.top5).toBe(1);
});

test('run.init_from takes the weights of a checkpoint', () => {
  expect(resultOf('init')).toEqual(resultOf('plain'));
  expect(replies.get('init')?.[0]?.result).toMatchObject({
    step: 0,
    notes: [expect.stringContaining('weights taken')],
  });
});

test('freeze: false trains, saves and evaluates the backbone too', () => {
  const read = (step: number) =>
    readTensors(join(folder, 'whole', 'checkpoints', `step-${step}`, 'main.safetensors')).get('backbone.conv1.weight');
  expect(read(3)?.shape).toEqual([128, 3, 8, 8]);
  expect(read(3)?.values).not.toEqual(read(0)?.values);
  expect(resultOf('whole again')).toEqual(resultOf('whole'));
});
