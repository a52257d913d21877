/**
 * What is stored, read by a later version. fixtures/format-1 was written by the last version before there were formats:
 * its paths begin with CLIPS or FOLDER.
 */
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { KEYS } from '../src/config/keys.ts';
import { loadConfig } from '../src/config/load.ts';
import { readStoredConfig } from '../src/config/migrate.ts';
import { FORMAT, listFormerDefaults, readFormat } from '../src/config/stored-format.ts';
import { chooseRunDir, refuseChangedConfig, refuseOtherBackbone, refuseOtherCheckpoint } from '../src/run/changes.ts';
import { plainCohort, readCohort, recordCohort } from '../src/run/cohort-file.ts';
import { RunFolder, readCheckpoint } from '../src/run/folder.ts';
import { SaveClock } from '../src/run/save-clock.ts';
import {
  CLIPS,
  coldframe,
  type Ended,
  FIXTURES,
  hashFiles,
  makeClips,
  PROJECT,
  problemsOf,
  readJson,
  writeConfig,
} from './support.ts';

jest.setTimeout(300_000);
const folder = realpathSync(mkdtempSync(join(tmpdir(), 'stored-test-')));
const OLD = join(FIXTURES, 'format-1');
type Json = Record<string, Record<string, unknown>>;

/** A file that the earlier version wrote, as it would lie here. */
const readOld = (...name: string[]): Json =>
  JSON.parse(
    readFileSync(join(OLD, ...name), 'utf8')
      .replaceAll('CLIPS', CLIPS)
      .replaceAll('FOLDER', folder),
  );

function write(file: string, value: unknown): string {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, JSON.stringify(value));
  return file;
}

/** Takes a dotted key out of a stored configuration. */
function remove(config: object, key: string): void {
  const parts = key.split('.');
  const section = parts.slice(0, -1).reduce((at: unknown, part) => (at as Json)[part], config);
  Reflect.deleteProperty(section as object, parts.at(-1) ?? '');
}

const small = (): object => {
  const file = join(folder, 'tiny.yaml');
  writeFileSync(file, 'model: {backbone: {preset: tiny}}\n');
  return loadConfig(file, { env: {} }).config;
};
const at = { file: 'runs/a/config.json' };

afterAll(() => rmSync(folder, { recursive: true }));

describe('a stored configuration', () => {
  test.each([...KEYS.keys()])('that lacks %s has its default, or what follows from the others', (key) => {
    const whole = small();
    const stored = structuredClone(whole);
    remove(stored, key);
    expect(stored).not.toEqual(whole);
    const found = readStoredConfig(stored, at);
    // Its sizes say it all; what they were called is lost.
    if (key === 'model.backbone.preset') found.model.backbone.preset = 'tiny';
    expect(found).toEqual(whole);
  });

  test('that lacks sections is filled in as its format meant them, and not as today', () => {
    const migrations = [
      { format: 2, before: { 'train.seed': 3, 'train.lr': 2, 'eval.batch_size': 5 } },
      { format: 3, before: { 'eval.batch_size': 6, 'data.stride': 9 } },
    ];
    const found = (format: number) => {
      const stored = { data: { dummy: true }, model: { backbone: { preset: 'tiny' } }, train: { lr: 1 } };
      const { data, eval: evaluation, train } = readStoredConfig(stored, { ...at, format, migrations });
      return [train.seed, data.seed, evaluation.batch_size, data.stride, train.lr];
    };
    expect([found(1), found(2), found(3)]).toEqual([
      [3, 3, 5, 9, 1],
      [0, 0, 6, 9, 1],
      [0, 0, 8, 16, 1],
    ]);
    expect([...listFormerDefaults(2, migrations)]).toEqual([
      ['eval.batch_size', 6],
      ['data.stride', 9],
    ]);
  });

  test('needs nothing that it names: weights, lists and class names may be gone', () => {
    const stored = { ...small(), data: { classes: '/nowhere/c.txt', num_classes: 7, train_list: '/nowhere/t.txt' } };
    expect(readStoredConfig(stored, at).data).toMatchObject({ num_classes: 7, size: 64, train_list: '/nowhere/t.txt' });
  });

  test.each([
    ['an unknown key', { train: { sed: 1 } }, 'train.sed: unknown key. Did you mean train.seed?'],
    ['a null that must be resolved', { data: { size: null } }, 'data.size: found null.'],
    ['a value of another type', { train: { lr: 'much' } }, 'train.lr: found "much". Allowed: a number above 0.'],
  ])('with %s is refused, with the file', (_, change: Json, problem) => {
    const whole = small() as Json;
    for (const [section, values] of Object.entries(change)) Object.assign(whole[section] ?? {}, values);
    const problems = problemsOf(() => readStoredConfig(whole, at));
    expect(problems[0]).toContain(`runs/a/config.json  ${problem}`);
    expect(problems[1]).toMatch(/version/);
  });

  test.each([[3], [{}], [null]])('that is none is refused: %j', (stored) => {
    expect(problemsOf(() => readStoredConfig(stored, at))[0]).toMatch(
      /^runs\/a\/config\.json {2}holds no configuration/,
    );
  });

  test('of a later format is refused, wherever it is stored, and never passed over', () => {
    const later = /has format 99: a later version of coldframe wrote it\. This version reads formats up to \d+/;
    expect(() => readStoredConfig({ ...small(), format: 99 }, at)).toThrow(later);
    const checkpoint = write(join(folder, 'later', 'step-1', 'checkpoint.json'), { format: 99, trials: {} });
    expect(() => readCheckpoint(dirname(checkpoint))).toThrow(later);
    expect(() => readCohort(write(join(folder, 'later.json'), { format: 99, trials: [] }))).toThrow(later);
    const yaml = write(join(folder, 'later.yaml'), { ...small(), format: 99 });
    expect(() => loadConfig(yaml)).toThrow(later);
    const run = new RunFolder(join(folder, 'ahead'));
    mkdirSync(run.path('checkpoints', 'latest'), { recursive: true });
    run.writeJson('config.json', { ...small(), format: 99 });
    expect(() => refuseChangedConfig(run, plainCohort(readStoredConfig(small(), at)))).toThrow(later);
    for (const wrong of [0, 1.5, '1', null])
      expect(() => readFormat({ format: wrong }, 'f')).toThrow('no version wrote that');
  });

  test('of another model is told by its keys where a run is to go on from its checkpoint', () => {
    const given = join(folder, 'given', 'step-1');
    write(join(given, 'checkpoint.json'), { format: FORMAT, step: 1, trials: { main: {} }, config: { main: small() } });
    const cohort = (...set: string[]) => plainCohort(loadConfig(join(folder, 'tiny.yaml'), { env: {}, set }).config);
    expect(problemsOf(() => refuseOtherCheckpoint(given, cohort('train.lr=1')))).toEqual([]);
    const [first, second] = problemsOf(() => refuseOtherCheckpoint(given, cohort('model.decoder.mlp_factor=3')));
    expect(first).toMatch(/^model\.decoder\.mlp_factor {2}is 3, and the checkpoint was trained with \d/);
    expect(second).toBe(`${given}  holds another model. Take its values, or another checkpoint.`);
  });

  test('says its format, which Python knows too, and can be trained from as it is', () => {
    const python = readFileSync(join(PROJECT, 'py', 'coldframe', 'train', 'checkpoint.py'), 'utf8');
    expect(/^FORMAT = (\d+)/m.exec(python)?.[1]).toBe(String(FORMAT));
    const record = recordCohort(plainCohort(readStoredConfig(small(), at)));
    expect(record).toMatchObject({ format: FORMAT, run: { save_minutes: 10 } });
    expect(loadConfig(write(join(folder, 'again.yaml'), record)).config).toEqual(small());
  });
});

describe('what may change', () => {
  const begun = new RunFolder(join(folder, 'begun'));
  const weights = (name: string, text = 'weights'): string => {
    writeFileSync(join(folder, name), text);
    return join(folder, name);
  };
  const cohort = (...set: string[]) => plainCohort(loadConfig(join(folder, 'tiny.yaml'), { env: {}, set }).config);
  const changesFrom = (before: string[], after: string[]): string[] => {
    small();
    mkdirSync(begun.path('checkpoints', 'latest'), { recursive: true });
    begun.writeJson('config.json', recordCohort(cohort(...before)));
    return problemsOf(() => refuseChangedConfig(begun, cohort(...after))).slice(0, -1);
  };

  test.each([
    ['prepare.crf=9'],
    ['features.train_views=3', 'features.form=one', 'features.precision=fp32'],
    ['train.compile=true', 'train.precision=bf16'],
    ['data.num_workers=0', 'data.reader=torchcodec', 'data.on_bad_video=fail', 'data.max_bad_fraction=0.5'],
    ['run.save_minutes=3', 'eval.every=7', 'launch.device=cpu'],
    ['model.backbone.random_seed=0', 'train.backbone_lr=1', 'model.backbone.train_blocks=1'],
    [`model.backbone.weights_sha256=null`],
  ])('changes no number: %s', (...set) => {
    expect(changesFrom([], set)).toEqual([]);
  });

  test.each([
    [[], ['train.seed=1'], ['train.seed', 'data.seed']],
    [[], ['model.backbone.random_seed=1'], ['model.backbone.random_seed']],
    [['model.backbone.freeze=false'], ['model.backbone.freeze=false', 'train.backbone_lr=1'], ['train.backbone_lr']],
    [['data.features=a', 'features.form=one'], ['data.features=b'], ['features.form']],
    [[], ['data.features=b'], ['data.features']],
    [['data.sampling=tsn', 'data.stride=2'], ['data.sampling=tsn', 'data.stride=3'], []],
    [['data.stride=2'], ['data.stride=3'], ['data.stride']],
  ])('from %j to %j: %j', (before, after, keys) => {
    expect(
      changesFrom(before, after)
        .map((line) => line.split('  ')[0])
        .sort(),
    ).toEqual([...keys].sort());
  });

  test('weights are what is in the file: it may be moved or copied, and a file that is gone is compared when loaded', () => {
    const [file, copy, other] = [weights('w.pt'), weights('copy.pt'), weights('other.pt', 'others!')];
    const key = 'model.backbone.weights';
    expect(changesFrom([`${key}=${file}`], [`${key}=${copy}`])).toEqual([]);
    expect(changesFrom([`${key}=${file}`], [`${key}=${other}`])).toEqual([
      expect.stringContaining(`${key}  is "${other}"`),
    ]);
    expect(changesFrom([], [`${key}=${file}`])).toHaveLength(1);
    begun.writeJson('config.json', recordCohort(cohort(`${key}=${file}`)));
    rmSync(file);
    expect(problemsOf(() => refuseChangedConfig(begun, cohort(`${key}=${copy}`)))).toEqual([]);
  });

  test('cohorts of a sweep that have not begun take the backbone of those that have', () => {
    small();
    const [file, moved, other] = [weights('a.pt'), weights('b.pt'), weights('c.pt', 'others!')];
    const two = (path: string, ...set: string[]) => {
      const [trial] = cohort(`model.backbone.weights=${path}`, ...set).trials;
      if (trial === undefined) throw new Error('a cohort has a trial');
      return { ...cohort(), trials: [trial, { ...trial, name: 'second' }] };
    };
    const first = new RunFolder(join(folder, 'cohorts', 'c0001'));
    first.writeJson('config.json', recordCohort(two(file)));
    first.writeJson('environment.json', { backbone_sha256: 'aa' });
    const dir = join(folder, 'cohorts', 'c0002');
    const problems = (...args: Parameters<typeof two>): string[] =>
      problemsOf(() => refuseOtherBackbone(dir, two(...args), 'bb'));
    expect(problems(file)).toEqual([expect.stringContaining('is not the backbone that c0001 of this sweep')]);
    expect(problemsOf(() => refuseOtherBackbone(dir, two(file), 'aa'))).toEqual([]);
    expect(problems(other)).toEqual([]); // a key that the sweep varies
    expect(problems(file, 'data.size=96')).toEqual([]); // positions are interpolated: another hash
    rmSync(file);
    expect(problems(moved)).toEqual([expect.stringContaining(moved)]);
    expect(problemsOf(() => refuseOtherBackbone(join(folder, 'runs', 'x'), two(moved), 'bb'))).toEqual([]);
  });
});

test('a run of another configuration is passed over when none is named, and that is said with both values', () => {
  const cwd = process.cwd();
  const notes: string[] = [];
  small();
  const file = join(folder, 'tiny.yaml');
  const choose = (...set: string[]): string =>
    chooseRunDir('tiny', plainCohort(loadConfig(file, { env: {}, set }).config), (text) => notes.push(text));
  const run = new RunFolder(join(folder, 'runs', 'tiny'));
  mkdirSync(run.path('checkpoints', 'latest'), { recursive: true });
  run.writeJson('config.json', small());
  process.chdir(folder);
  try {
    expect(choose('prepare.crf=9', 'train.precision=bf16', 'data.num_workers=3')).toBe('runs/tiny');
    expect(notes).toEqual([]);
    expect(choose('train.steps=9', 'train.lr=1')).toBe('runs/tiny-2');
    const changes = 'train.steps: 50000 then, 9 now; train.lr: 0.0004 then, 1 now';
    const where = 'Starting anew in runs/tiny-2: runs/tiny holds a run with another configuration';
    expect(notes).toEqual([`${where} (${changes}).`]);
  } finally {
    process.chdir(cwd);
  }
});

describe('saving by time', () => {
  test('is due so many minutes after the last time, and never without', () => {
    let now = 100;
    const clock = new SaveClock(10, () => now);
    const off = new SaveClock(null, () => now);
    const due: boolean[] = [];
    for (const second of [699, 700, 705]) {
      now = second;
      due.push(clock.isDue);
    }
    clock.restart();
    now = 1304;
    due.push(clock.isDue);
    now = 1305;
    due.push(clock.isDue, off.isDue);
    expect(due).toEqual([false, true, true, false, true, false]);
  });
});

describe('a run of the earlier version', () => {
  const reference = join(folder, 'reference');
  const old = join(folder, 'old');
  const config = writeConfig(folder);
  const trainInto = (dir: string, ...more: string[]): Promise<Ended> =>
    coldframe(['train', '--config', config, '--run-dir', dir, '--json', ...more]);
  const tensorsOf = (dir: string) =>
    Object.entries(hashFiles(join(dir, 'checkpoints', 'step-8'))).filter(([name]) => name.startsWith('main.'));

  /** At its fourth step, with what was stored lacking some keys more: as a version before it would have left it. */
  function plantOld(dir: string): void {
    cpSync(reference, dir, { recursive: true, verbatimSymlinks: true });
    const checkpoints = join(dir, 'checkpoints');
    for (const name of readdirSync(checkpoints))
      if (name !== 'step-4') rmSync(join(checkpoints, name), { recursive: true });
    rmSync(join(dir, 'evaluations'), { recursive: true });
    symlinkSync('step-4', join(checkpoints, 'latest'));
    const lacking = ['data.seed', 'data.short_clips', 'model.decoder.query_init', 'train.ema_decay', 'prepare.gop'];
    const header = readOld('checkpoint.json');
    const stored = readOld('config.json');
    expect([stored.run, header.format]).toEqual([expect.not.objectContaining({ save_minutes: 10 }), 1]);
    for (const key of lacking) for (const one of [stored, header.config?.main as object]) remove(one, key);
    write(join(dir, 'config.json'), stored);
    write(join(checkpoints, 'step-4', 'checkpoint.json'), header);
  }

  beforeAll(async () => {
    await makeClips();
    // Saved by time alone: after every call to Python, the first of which is one step.
    const ended = await trainInto(reference, '--set', 'run.save_every=1000', '--set', 'run.save_minutes=1e-9');
    expect([ended.stderr, ended.code]).toEqual(['', 0]);
    plantOld(old);
  });

  test('(by the clock a run is saved after its first step, and before an evaluation)', () => {
    const names = readdirSync(join(reference, 'checkpoints'));
    expect(names).toEqual(expect.arrayContaining(['step-1', 'step-4', 'step-8']));
  });

  test('is evaluated, predicts and is converted', async () => {
    const checkpoint = join(old, 'checkpoints', 'step-4');
    const clip = join(CLIPS, 'val', readdirSync(join(CLIPS, 'val'))[0] ?? '');
    const ended = await Promise.all([
      coldframe(['evaluate', '--config', join(old, 'config.json'), '--checkpoint', checkpoint, '--json']),
      coldframe(['predict', '--checkpoint', checkpoint, clip, '--set', 'data.num_workers=0', '--json']),
      coldframe(['checkpoint', 'convert', checkpoint, '--to', 'coldframe', '--output', join(folder, 'converted')]),
    ]);
    expect(ended.map(({ code, stderr }) => [code, stderr])).toEqual(Array(3).fill([0, '']));
    expect(JSON.parse(ended[0]?.stdout ?? '')).toMatchObject({ kind: 'evaluated', num_videos: 12 });
    const converted = join(folder, 'converted', 'step-4');
    expect(readJson<Json>(converted, 'checkpoint.json').config?.main).toEqual(loadConfig(config).config);
  });

  test('goes on to the same bytes in its own folder, with fewer workers too', async () => {
    const ended = await trainInto(old, '--set', 'data.num_workers=0', '--set', 'prepare.crf=3');
    expect([ended.stderr, ended.code]).toEqual(['', 0]);
    expect(JSON.parse(ended.stdout.split('\n')[0] ?? '')).toMatchObject({ kind: 'started', step: 4 });
    expect(tensorsOf(old)).toEqual(tensorsOf(reference));
    expect(readJson(old, 'config.json')).toMatchObject({ format: FORMAT, run: { save_minutes: 10 } });
  });
});
