/** The feature cache as a user meets it: forecast, build, stop and go on, train and evaluate without the videos. */
import {
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { loadConfig } from '../src/config.ts';
import {
  CLIPS,
  coldframe,
  type Ended,
  type Event,
  makeClips,
  Running,
  readEvents,
  until,
  writeConfig,
} from './support.ts';

jest.setTimeout(300_000); // on a machine that others keep busy
const NUM_VIEWS = 12;
const NUM_RECORDS = 24 * NUM_VIEWS + 12;
const folder = realpathSync(mkdtempSync(join(tmpdir(), 'features-test-')));
const videos = join(folder, 'videos'); // whose clips are taken away while training from the cache
const config = writeConfig(folder);
const cache = join(folder, 'cache');

const set = (...pairs: string[]): string[] => pairs.flatMap((pair) => ['--set', pair]);
const options = (...more: string[]): string[] => ['--config', config, '--json', ...set(...more)];
const build = (): string[] => ['features', 'build', ...options()];
const eventOf = ({ stdout }: Ended, kind: string): Event | undefined =>
  stdout
    .trimEnd()
    .split('\n')
    .map((line): Event => JSON.parse(line))
    .find((event) => event.kind === kind);

beforeAll(async () => {
  await makeClips();
  cpSync(CLIPS, videos, { recursive: true });
  const text = readFileSync(config, 'utf8')
    .replaceAll(CLIPS, videos)
    .replace('num_workers: 1', 'num_workers: 1\n  features: cache');
  writeFileSync(config, `${text}features: {precision: fp32, train_views: ${NUM_VIEWS}}\n`);
});
afterAll(() => rmSync(folder, { recursive: true }));

test('training before the build is refused and leaves nothing', async () => {
  const ended = await coldframe(['train', '--run-dir', join(folder, 'early'), ...options()]);
  expect(ended).toMatchObject({ code: 2 });
  expect(ended.stderr).toBe(
    `data.features  ${cache} holds no feature cache. Run \`coldframe features build\` first.\n`,
  );
  expect(existsSync(join(folder, 'early'))).toBe(false);
});

describe('features forecast', () => {
  test('says bytes, time and when it pays, and writes nothing', async () => {
    const ended = await coldframe(['features', 'forecast', '--config', config]);
    expect(ended).toMatchObject({ code: 0, stderr: '' });
    // Two layers of 4 frames: 17 tokens of 128 channels, and two maps of 3 x 16 x 16, all of 4 bytes.
    const clipBytes = 2 * (4 * 17 * 128 + 2 * 3 * 16 * 16) * 4;
    const total = `${((NUM_RECORDS * clipBytes) / 2 ** 20).toFixed(1)} MiB`;
    expect(ended.stdout).toMatch(
      `features  maps of 2 layers, fp32: ${(clipBytes / 1024).toFixed(1)} KiB a clip, 288 train clips, 12 val clips`,
    );
    expect(ended.stdout).toMatch(`disk      ${total} (train`);
    expect(ended.stdout).toMatch(/build {5}about [\d:]+, measured on 2 clips\nepoch {5}about [\d:]+ without the cache/);
    expect(existsSync(cache)).toBe(false);
  });

  test('refuses what the disk does not hold, with the numbers', async () => {
    const ended = await coldframe(['features', 'forecast', ...options('features.train_views=1000000000')]);
    expect(ended.code).toBe(2);
    const forecast = eventOf(ended, 'features_forecast') as unknown as { remaining_bytes: number; free_bytes: number };
    expect(forecast.remaining_bytes).toBeGreaterThan(forecast.free_bytes);
    expect(ended.stderr).toMatch(`(${forecast.remaining_bytes} bytes)`);
    expect(ended.stderr).toMatch(`(${forecast.free_bytes} bytes)`);
  });

  test('asks for a folder', async () => {
    const ended = await coldframe(['features', 'forecast', ...options('data.features=null')]);
    expect(ended).toMatchObject({
      code: 2,
      stderr: 'data.features  is not set. Name the folder of the feature cache.\n',
    });
  });
});

test('a build goes on after SIGKILL and after Ctrl-C, and its cache trains and evaluates without the videos', async () => {
  const killed = new Running(build());
  await killed.event('features_forecast');
  await until(() => existsSync(join(cache, 'features.json')), 60);
  killed.signalGroup('SIGKILL');
  await killed.ended;
  await until(() => killed.members().length === 0, 20);

  const stopped = new Running(build());
  await stopped.event('features_forecast');
  stopped.signalGroup('SIGINT');
  const interrupted = await stopped.ended;
  expect(interrupted.code).toBe(130);
  const [, done = ''] =
    /^(\d+) of 300 records are in .*cache; the same command goes on from there\n$/.exec(interrupted.stderr) ?? [];
  expect(Number(done)).toBeGreaterThan(0);
  expect(Number(done)).toBeLessThan(NUM_RECORDS);

  const finished = await coldframe(build());
  expect(finished).toMatchObject({ code: 0, stderr: '' });
  const { bytes, remaining_bytes } = eventOf(finished, 'features_forecast') as unknown as {
    bytes: { total: number };
    remaining_bytes: number;
  };
  expect(remaining_bytes).toBe(bytes.total * (1 - Number(done) / NUM_RECORDS));
  expect(eventOf(finished, 'features_built')).toMatchObject({ folder: cache, num_records: NUM_RECORDS, num_bad: 0 });
  expect(readdirSync(cache).filter((name) => name.startsWith('train-'))).toEqual([
    'train-00000000.safetensors',
    `train-${done.padStart(8, '0')}.safetensors`,
  ]);

  for (const part of ['train', 'val']) renameSync(join(videos, part), join(videos, `${part}-away`));
  const run = join(folder, 'run');
  const trained = await coldframe(['train', '--run-dir', run, ...options()]);
  expect(trained).toMatchObject({ code: 0, stderr: '' });
  const events = readEvents(run);
  expect(events.filter(({ kind }) => kind === 'step')).toHaveLength(8);

  renameSync(join(videos, 'val-away'), join(videos, 'val'));
  const evaluated = await coldframe(['evaluate', '--checkpoint', run, ...options('data.features=null')]);
  const fromCache = events.findLast(({ kind }) => kind === 'evaluated');
  for (const name of ['top1', 'top5', 'num_videos'])
    expect([name, eventOf(evaluated, 'evaluated')?.[name]]).toEqual([name, fromCache?.[name]]);
});

test('a stale cache is refused with all that differs', async () => {
  const changes = ['data.stride=2', 'features.form=one', 'model.backbone.random_seed=3'];
  const ended = await coldframe(['train', '--run-dir', join(folder, 'stale'), ...options(...changes)]);
  expect(ended.code).toBe(2);
  expect(ended.stderr).toMatch(/data\.stride: 4 in the cache, 2 here/);
  expect(ended.stderr).toMatch(/features\.form: "maps" in the cache, "one" here/);
  expect(ended.stderr).toMatch(/model\.backbone\.weights \(SHA-256\): \w{16}\.\.\. in the cache, \w{16}\.\.\. here/);
  expect(existsSync(join(folder, 'stale'))).toBe(false);
});

test.each([
  ['train.mixup=0.2', 'Mixup needs pixels: set it to 0'],
  ['train.cutmix=1', 'Cutmix needs pixels: set it to 0'],
  ['model.backbone.freeze=false', 'They are of a frozen backbone: set it to true'],
])('%s does not go with a cache', (change, advice) => {
  const load = () => loadConfig(config, { set: [change] });
  expect(load).toThrow(`--set ${change}: found`);
  expect(load).toThrow(/but data\.features "[^"]+cache" \(.*small\.yaml:\d+:\d+\) holds features of clips\./);
  expect(load).toThrow(`${advice}, or set data.features: null.`);
});
