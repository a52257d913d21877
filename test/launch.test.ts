/** How many devices and machines train together: what the keys mean, and what does not fit. */
import { mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, test } from '@jest/globals';
import { findDevices } from '../src/base/process/devices.ts';
import { findChanges } from '../src/config/effects.ts';
import { loadConfig, openConfig } from '../src/config/load.ts';
import { readStoredConfig } from '../src/config/migrate.ts';
import { problemsOf } from './support.ts';

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
    ['1,-1,0', ['1']], // what follows a number that no device has is not seen
    ['0,3,1', ['0']],
    ['GPU-5d2a,MIG-91c0', ['GPU-5d2a', 'MIG-91c0']],
  ])('of three, CUDA_VISIBLE_DEVICES %j', (visible, expected) => {
    expect(findDevices(visible, files)).toEqual(expected);
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

  test('of parts that fit no batch at all only those are told', () => {
    expect(fail('launch.devices=8', 'train.micro_batches=3')).toEqual([
      '--set train.micro_batches=3: 3 does not divide train.batch_size 256 (default). Give a divisor of it.',
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
