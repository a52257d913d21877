/** How many devices and machines train together: what the keys mean, and what does not fit. */
import { existsSync, mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, jest, test } from '@jest/globals';
import { findDevices } from '../src/base/process/devices.ts';
import { countCores, shareThreads } from '../src/base/process/processes.ts';
import { findChanges } from '../src/config/effects.ts';
import { loadConfig, openConfig } from '../src/config/load.ts';
import { readStoredConfig } from '../src/config/migrate.ts';
import { explainLack } from '../src/run/place.ts';
import { coldframe, PROJECT, problemsOf } from './support.ts';

jest.setTimeout(300_000);
const folder = realpathSync(mkdtempSync(join(tmpdir(), 'launch-')));
const file = join(folder, 'my.yaml');
writeFileSync(file, 'model: {backbone: {preset: tiny}}\n');
afterAll(() => rmSync(folder, { recursive: true }));

const load = (...set: string[]) => loadConfig(file, { set, env: {} });
const fail = (...set: string[]): string[] => problemsOf(() => load(...set));

describe('devices that CUDA shows', () => {
  const files = ['nvidia1', 'nvidia0', 'nvidiactl', 'null', 'nvidia10', 'nvidia-caps'];

  test.each([
    [undefined, ['0', '1', '10']],
    ['', []],
    ['-1', []],
    ['NoDevFiles', []],
    ['2,0', ['2', '0']],
    ['1, 0', ['1', '0']],
    ['GPU-5d2a,MIG-91c0', ['GPU-5d2a', 'MIG-91c0']],
  ])('of three, CUDA_VISIBLE_DEVICES %j', (visible, expected) => {
    expect(findDevices(visible, files)).toEqual(expected);
  });

  test('and one that no device has ends what is seen', () => {
    expect(findDevices('1,-1,0', files)).toEqual(['1']);
    expect(findDevices('0,3,1', files)).toEqual(['0']);
  });

  test('where the driver shows no files, the variable is believed', () => {
    expect(findDevices('0,7', ['null'])).toEqual(['0', '7']);
    expect(findDevices(undefined, ['null'])).toEqual([]);
  });
});

describe('auto', () => {
  const before = process.env.CUDA_VISIBLE_DEVICES;
  afterEach(() => {
    if (before === undefined) delete process.env.CUDA_VISIBLE_DEVICES;
    else process.env.CUDA_VISIBLE_DEVICES = before;
  });

  test('is the number of devices that are shown, on a CPU one, and never stored', () => {
    process.env.CUDA_VISIBLE_DEVICES = 'GPU-a,GPU-b';
    const set = ['launch.devices=auto', 'train.batch_size=8'];
    expect(load(...set).config.launch.devices).toBe(2);
    expect(openConfig(file, { set, env: {} }).draft.launch.devices).toBe(2);
    expect(load(...set, 'launch.device=cpu').config.launch.devices).toBe(1);
    process.env.CUDA_VISIBLE_DEVICES = '';
    expect(load(...set).config.launch.devices).toBe(1);
  });

  test('that does not divide the batch says how many there are', () => {
    process.env.CUDA_VISIBLE_DEVICES = 'GPU-a,GPU-b,GPU-c';
    expect(fail('launch.devices=auto', 'train.batch_size=8')).toEqual([
      '--set launch.devices=auto: auto is 3 here, but train.batch_size 8 (--set train.batch_size=8) cannot be cut into 3 equal parts. What fits: launch.devices 1, 2, 4, or train.batch_size 6 or 9.',
    ]);
  });
});

describe('a batch that cannot be shared out', () => {
  test.each([
    [['launch.devices=6', 'train.batch_size=16'], /launch\.devices 1, 2, 4, 8, or train\.batch_size 12 or 18\.$/],
    [
      ['launch.devices=4', 'train.micro_batches=3', 'train.batch_size=30'],
      /train\.micro_batches 3 \(.*\) cannot be cut into 12 equal parts\. What fits: launch\.devices 1, 2, 5, or train\.batch_size 24 or 36\.$/,
    ],
    [
      ['launch.nodes=3', 'launch.devices=2', 'train.batch_size=16'],
      /launch\.nodes 3 \(--set launch\.nodes=3\) cannot be cut into 6 equal parts\. What fits: train\.batch_size 12 or 18\.$/,
    ],
    [['launch.devices=8', 'train.batch_size=4'], /What fits: launch\.devices 1, 2, 4, or train\.batch_size 8\.$/],
  ])('%j', (set, expected) => {
    expect(fail(...set)).toEqual([expect.stringMatching(expected)]);
  });

  test('four devices with two micro-batches each cannot share out 36 clips', () => {
    expect(fail('launch.devices=4', 'train.micro_batches=2', 'train.batch_size=36')).toHaveLength(1);
  });

  test('of parts that fit no batch at all only those are told', () => {
    expect(fail('launch.devices=8', 'train.micro_batches=3')).toEqual([
      '--set train.micro_batches=3: 3 does not divide train.batch_size 256 (default). Give a divisor of it.',
    ]);
  });

  test('clips of one video stay on one device', () => {
    expect(fail('launch.devices=4', 'data.clips_per_video=3', 'train.batch_size=24')).toEqual([]);
    expect(fail('launch.devices=4', 'data.clips_per_video=4', 'train.batch_size=24')).toEqual([
      '--set data.clips_per_video=4: 4 does not divide the 6 clips of each of 4 devices. Give a divisor of it.',
    ]);
  });

  test('eight devices, two nodes and four parts of 256 clips are in order', () => {
    const { launch } = load('launch.devices=8', 'launch.nodes=2', 'train.micro_batches=4').config;
    expect([launch.devices, launch.nodes, launch.rendezvous, launch.hang_seconds]).toEqual([8, 2, null, 30]);
  });
});

test('an address that one node does not need is noted', () => {
  const of = (...set: string[]) =>
    load('launch.rendezvous=host:29500', ...set).notes.filter((text) => /rendez/.test(text));
  expect(of()).toEqual([expect.stringContaining('launch.rendezvous: has no effect with launch.nodes 1.')]);
  expect(of('launch.nodes=2')).toEqual([]);
});

test('a run that was stored without these keys is filled in, and goes on with any number of devices', () => {
  const { config } = load('train.batch_size=16');
  const { rendezvous: _, hang_seconds: __, ...launch } = config.launch;
  const stored = readStoredConfig({ ...config, launch }, { file: 'config.json' });
  expect(stored).toEqual(config);
  const wanted = ['launch.devices=2', 'launch.nodes=2', 'launch.rendezvous=host:1', 'launch.hang_seconds=5'];
  expect(findChanges(stored, load('train.batch_size=16', ...wanted).config, () => true)).toEqual([]);
});

test('more GPUs than a machine shows are refused with the numbers that fit; a CPU has any number', () => {
  const explain = (there: string[], ...set: string[]) =>
    explainLack(load('launch.devices=8', 'train.batch_size=24', ...set).config, there);
  expect(explain(['0', '1', '2', '3', '4'])).toMatch(
    /^launch\.devices {2}found 8, and this machine shows 5 GPUs.*\. What fits: 1, 2, 3, 4\.$/,
  );
  expect(explain(['0'])).toMatch(/shows 1 GPU.*What fits: 1\.$/);
  expect(explain(['0', '1', '2'], 'train.micro_batches=3')).toMatch(/What fits: 1, 2\.$/);
  expect([explain([]), explain(['0'], 'launch.device=cpu')]).toEqual([undefined, undefined]);
});

describe('a dry run for eight GPUs, where there is none', () => {
  const weights = ['model.backbone.weights=random', 'model.backbone.weights_sha256=null'];
  const lists = join(folder, 'k400');
  mkdirSync(lists);
  writeFileSync(join(folder, 'clip.mp4'), 'not read here');
  for (const name of ['train.txt', 'val.txt']) writeFileSync(join(lists, name), `${join(folder, 'clip.mp4')} 0\n`);

  test('says batch, micro-batches and memory for each device', async () => {
    const set = [...weights, 'launch.devices=8', 'launch.device=cuda'].flatMap((text) => ['--set', text]);
    const config = join(PROJECT, 'configs', 'k400', 'vitl14_336_32x8.yaml');
    const env = { K400_ROOT: lists, CUDA_VISIBLE_DEVICES: '' };
    const args = ['train', '--config', config, '--run-dir', join(folder, 'run'), '--dry-run', ...set];
    const { code, stdout, stderr } = await coldframe(args, { env });
    expect([code, existsSync(join(folder, 'run'))]).toEqual([0, false]);
    expect(stdout).toContain('This can be trained on another machine');
    expect(stderr).toContain('Not here: launch.device is cuda, and PyTorch');
    expect(stdout).toMatch(/^batch {5}256 clips a step: 32 on each of 8 devices, in 8 micro-batches of 4$/m);
    expect(stdout).toMatch(
      /^memory {4}about 11\.\d GiB to train, 7\.\d GiB to evaluate on each device \(Python on cuda, fp16;/m,
    );
  });
});

describe('threads of processes that train together', () => {
  const names = ['COLDFRAME_CPUS', 'OMP_NUM_THREADS', 'MKL_NUM_THREADS'];
  const before = names.map((name) => process.env[name]);
  const set = (values: (string | undefined)[]): void =>
    names.forEach((name, index) => {
      if (values[index] === undefined) delete process.env[name];
      else process.env[name] = values[index];
    });
  afterEach(() => set(before));

  test('each has its share of the cores, and one at least; what the user says stands', () => {
    set(['1', undefined, undefined]);
    expect(shareThreads(4)).toEqual({ OMP_NUM_THREADS: '1', MKL_NUM_THREADS: '1' });
    set([undefined, undefined, undefined]);
    expect(shareThreads(1).OMP_NUM_THREADS).toBe(String(countCores()));
    expect(shareThreads(2).OMP_NUM_THREADS).toBe(String(Math.max(1, Math.floor(countCores() / 2))));
    set([undefined, '3', undefined]);
    expect(shareThreads(4)).toEqual({ OMP_NUM_THREADS: '3', MKL_NUM_THREADS: '3' });
  });
});
