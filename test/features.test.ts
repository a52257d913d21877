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
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { watchLists } from '../src/caches/features.ts';
import { loadConfig } from '../src/config/load.ts';
import {
  belowVerdict,
  CLIPS,
  coldframe,
  type Ended,
  type Event,
  hashFiles,
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

const dryRun = (...more: string[]): Promise<Ended> => coldframe(['train', '--dry-run', ...options(...more)]);

test('training before the build is refused and leaves nothing', async () => {
  const ended = await coldframe(['train', '--run-dir', join(folder, 'early'), ...options()]);
  expect(ended).toMatchObject({ code: 2 });
  expect(ended.stderr).toBe(
    `data.features  ${cache} holds no feature cache. Run \`coldframe features build\` first.\n`,
  );
  expect(existsSync(join(folder, 'early'))).toBe(false);
  const dry = await dryRun();
  expect([dry.code, belowVerdict(dry)]).toEqual([2, ended.stderr]);
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
  await killed.gone();

  const stopped = new Running(build());
  await stopped.event('features_forecast');
  stopped.signalGroup('SIGINT');
  const interrupted = await stopped.ended;
  expect(interrupted.code).toBe(130);
  const [, done = ''] =
    /^(\d+) of 300 records are in .*cache; the same command goes on from there\n$/.exec(interrupted.stderr) ?? [];
  expect(Number(done)).toBeGreaterThan(0);
  expect(Number(done)).toBeLessThan(NUM_RECORDS);
  const incomplete = await dryRun();
  expect(incomplete.code).toBe(2);
  expect(incomplete.stderr).toMatch(new RegExp(`train: ${288 - Number(done)} of 288 records are not built yet`));

  const finished = await coldframe(build());
  expect(finished).toMatchObject({ code: 0, stderr: '' });
  const { bytes, remaining_bytes } = eventOf(finished, 'features_forecast') as unknown as {
    bytes: { total: number };
    remaining_bytes: number;
  };
  expect(remaining_bytes).toBe(bytes.total * (1 - Number(done) / NUM_RECORDS));
  expect(eventOf(finished, 'features_built')).toMatchObject({ folder: cache, num_records: NUM_RECORDS, num_bad: 0 });
  expect(readdirSync(cache).filter((name) => name.startsWith('train-'))).toEqual([
    'train-00000000.safetensors', // what the stop cut in two is joined
  ]);

  for (const part of ['train', 'val']) renameSync(join(videos, part), join(videos, `${part}-away`));
  const before = hashFiles(folder);
  const planned = eventOf(await dryRun(), 'planned');
  const files = readdirSync(cache).filter((name) => name.endsWith('.safetensors'));
  expect(planned?.features).toEqual({
    ...{ folder: cache, form: 'maps', precision: 'fp32', num_layers: 2, num_bad: 0 },
    num_records: { train: 24 * NUM_VIEWS, val: 12 },
    bytes: files.reduce((sum, name) => sum + statSync(join(cache, name)).size, 0),
  });
  expect((await coldframe(['train', '--dry-run', '--config', config])).stdout).toMatch(
    /\nfeatures {2}maps of 2 layers, fp32: 288 train records, 12 val records, [\d.]+ MiB in .*cache\n/,
  );
  expect(hashFiles(folder)).toEqual(before);

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

test('bad videos of a build count in their own list, and those to evaluate on end nothing', () => {
  const { config: loaded } = loadConfig(config, { set: ['data.max_bad_fraction=0.01'] });
  const told: unknown[] = [];
  const bad = watchLists(loaded, { event: ({ kind, ...event }) => void told.push(event) });
  const torn = (name: string) => ({ path: name, reason: 'is torn' });
  bad.val.count([torn('a'), torn('b')], 12);
  bad.train.count([torn('a')], 24); // told already
  expect(told).toEqual(['a', 'b'].map((path, index) => ({ ...torn(path), num_bad: index + 1, num_videos: 12 })));
  expect(() => bad.train.count([torn('c')], 24)).toThrow(/train.txt {2}2 of 24 videos cannot be read/);
});

test('a build writes what it has by the clock, long before a shard is full: a kill takes no more', async () => {
  const timed = join(folder, 'timed');
  renameSync(join(videos, 'train-away'), join(videos, 'train'));
  const more = [`data.features=${timed}`, 'features.train_views=400', 'run.save_minutes=1e-9'];
  const running = new Running(['features', 'build', ...options(...more)]);
  const shards = (): string[] =>
    (existsSync(timed) ? readdirSync(timed) : []).filter((name) => /\.safetensors$/.test(name));
  await until(() => shards().length > 1, 200);
  running.signalGroup('SIGKILL');
  await running.ended;
  expect(statSync(join(timed, shards()[0] ?? '')).size).toBeLessThan(2 ** 27); // a full one has twice that
  renameSync(join(videos, 'train'), join(videos, 'train-away'));
});

test('a sweep trains from the cache, chooses on a list of its own and ends on the validation list', async () => {
  const [file, run, select] = [join(folder, 'sweep.yaml'), join(folder, 'sweep'), join(videos, 'select.txt')];
  writeFileSync(select, readFileSync(join(videos, 'val.txt'), 'utf8').split('\n').slice(0, 8).join('\n'));
  writeFileSync(file, `base: ${config}\nspace: {train.lr: [1.0e-3, 1.0e-2]}\nselection_list: ${select}\n`);
  const sweep = ['sweep', '--config', file, '--run-dir', run, '--json'];
  for (const more of [['--dry-run'], []]) {
    const refused = await coldframe([...sweep, ...more]);
    expect(refused.code).toBe(2);
    expect(refused.stderr).toMatch('data.val_list: the cache holds no features of this list');
  }

  expect(await coldframe([...build(), ...set(`data.val_list=${select}`)])).toMatchObject({ code: 2 }); // no train clips
  renameSync(join(videos, 'train-away'), join(videos, 'train'));
  const built = await coldframe([...build(), ...set(`data.val_list=${select}`)]);
  expect(built).toMatchObject({ code: 0, stderr: '' });
  renameSync(join(videos, 'train'), join(videos, 'train-away'));

  expect(await coldframe([...sweep, '--dry-run'])).toMatchObject({ code: 0 });
  const ended = await coldframe(sweep);
  expect(ended).toMatchObject({ code: 0 });
  expect(eventOf(ended, 'final')).toMatchObject({ num_videos: 12 });
});

test('a sweep tells before it starts what is wrong with a later cohort', async () => {
  const file = join(folder, 'strides.yaml');
  writeFileSync(file, `base: ${config}\nspace: {data.stride: [4, 2]}\nselection: validation\n`);
  const refused = await coldframe(['sweep', '--config', file, '--run-dir', join(folder, 'strides'), '--dry-run']);
  expect(refused.code).toBe(2);
  expect(refused.stderr).toMatch('data.stride: 4 in the cache, 2 here');
});

test('a stale cache is refused with all that differs', async () => {
  const changes = ['data.stride=2', 'features.form=one', 'model.backbone.random_seed=3'];
  const ended = await coldframe(['train', '--run-dir', join(folder, 'stale'), ...options(...changes)]);
  expect(ended.code).toBe(2);
  expect(ended.stderr).toMatch(/data\.stride: 4 in the cache, 2 here/);
  expect(ended.stderr).toMatch(/features\.form: "maps" in the cache, "one" here/);
  expect(ended.stderr).toMatch(/model\.backbone\.weights \(SHA-256\): \w{16}\.\.\. in the cache, \w{16}\.\.\. here/);
  expect(existsSync(join(folder, 'stale'))).toBe(false);
  const dry = await dryRun(...changes);
  expect([dry.code, belowVerdict(dry)]).toEqual([2, ended.stderr]);
});

test('a dry run tells what is wrong with a list before Python is asked for the cache', async () => {
  const ended = await dryRun('data.stride=2', `data.val_list=${join(folder, 'none.txt')}`);
  expect(ended.code).toBe(2);
  expect(ended.stderr).toMatch(/none\.txt/);
  expect(ended.stderr).not.toMatch(/in the cache/);
});

test('a damaged manifest is told by a dry run as by training', async () => {
  const file = join(cache, 'features.json');
  const sound = readFileSync(file, 'utf8');
  writeFileSync(file, sound.replace('"num_layers": 2', '"num_layers": 3'));
  const ended = await coldframe(['train', '--run-dir', join(folder, 'damaged'), ...options()]);
  const dry = await dryRun();
  writeFileSync(file, sound);
  expect(ended).toMatchObject({
    code: 2,
    stderr: `${file}  cannot be used: it is damaged, its checksum does not agree. Remove the folder and build the cache again.\n`,
  });
  expect([dry.code, belowVerdict(dry)]).toEqual([2, ended.stderr]);
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
