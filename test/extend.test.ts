/** Sweeps that go on as more than they began, one of an earlier version too; trials are a fake program's. */
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { Report } from '../src/base/printer.ts';
import { readSweep } from '../src/sweep/definition/file.ts';
import { compareSweeps, refuseChanges } from '../src/sweep/extend.ts';
import type { TimedEntry } from '../src/sweep/journal.ts';
import { chooseSweepDir } from '../src/sweep/lock.ts';
import { runSweep } from '../src/sweep/sweep.ts';
import { FORECAST } from './fixtures/forecast.ts';
import { FIXTURES, readJson } from './support.ts';

jest.setTimeout(120_000);
const root = realpathSync(mkdtempSync(join(tmpdir(), 'extend-test-')));
const cwd = process.cwd();
let folder = '';
let dir = '';
let count = 0;

const BASE = `data: {dummy: true, num_classes: 4, num_frames: 4, stride: 4, size: 32, num_workers: 0}
model: {backbone: {preset: tiny}, decoder: {num_layers: 2}}
train: {steps: 6, batch_size: 4, precision: fp32}
launch: {device: cpu}
`;
const SPACE = 'space: {train.lr: {low: 1.0e-4, high: 1.0e-2, log: true}}\n';
/** The sweep of fixtures/format-1, as its file said it. */
const OLD = `base: base.yaml\nselection: validation\ncohort: {max_trials: 1}\nmethod: random\n`;

beforeEach(() => {
  folder = join(root, String(++count));
  dir = join(folder, 'runs', 'draws');
  mkdirSync(folder);
  writeFileSync(join(folder, 'base.yaml'), BASE);
  process.chdir(folder);
});
afterAll(() => {
  process.chdir(cwd);
  rmSync(root, { recursive: true });
});

/** A sweep that the earlier version finished, two draws long; of its stored configuration some keys more are missing. */
function plantOld(): void {
  cpSync(join(FIXTURES, 'format-1', 'sweep'), dir, { recursive: true });
  for (const name of readdirSync(dir, { recursive: true, encoding: 'utf8' }).filter((one) => /\.jsonl?$/.test(one))) {
    const text = readFileSync(join(dir, name), 'utf8').replaceAll('FOLDER/sweep', dir).replaceAll('FOLDER', folder);
    writeFileSync(join(dir, name), text);
  }
  const sweep = readJson<Record<string, Record<string, Record<string, unknown>>>>(dir, 'sweep.json');
  for (const [section, key] of [
    ['data', 'seed'],
    ['train', 'ema_decay'],
    ['prepare', 'gop'],
  ] as const)
    for (const stored of [sweep.config, sweep.draft]) delete stored?.[section]?.[key];
  delete sweep.tpe;
  writeFileSync(join(dir, 'sweep.json'), JSON.stringify(sweep));
}

function read(text: string, name = 'draws') {
  writeFileSync(join(folder, `${name}.yaml`), text);
  return readSweep(`${name}.yaml`, { env: {} }).sweep;
}

class Notes extends Report {
  readonly notes: string[] = [];
  override print(): void {}
  override say(): void {}
  override note(text: string): void {
    this.notes.push(text);
  }
}

/** Runs a sweep as `text` says it; returns what it noted and what the fake program did. */
async function run(text: string, name = 'draws'): Promise<{ notes: string[]; done: string[] }> {
  const log = join(folder, 'log.txt');
  writeFileSync(log, '');
  Object.assign(process.env, { FAKE: '{}', FAKE_LOG: log, FAKE_STEP_SECONDS: '0' });
  const report = new Notes();
  const program = [process.execPath, join(FIXTURES, 'fake-coldframe.mjs')];
  const forecast = async (shapes: object[]) => shapes.map(() => FORECAST);
  await runSweep({ sweep: read(text, name), dir: join(folder, 'runs', name), program, forecast }, report);
  const lines = readFileSync(log, 'utf8').split('\n');
  return {
    notes: report.notes,
    done: lines.filter((line) => /^(start|evaluate) /.test(line)).map((line) => line.split(' ').slice(0, 2).join(' ')),
  };
}

function entries<Kind extends TimedEntry['kind']>(kind: Kind, name = 'draws'): Extract<TimedEntry, { kind: Kind }>[] {
  const lines = readFileSync(join(folder, 'runs', name, 'journal.jsonl'), 'utf8')
    .trimEnd()
    .split('\n');
  return lines
    .map((line) => JSON.parse(line) as TimedEntry)
    .filter((entry): entry is Extract<TimedEntry, { kind: Kind }> => entry.kind === kind);
}
const trialsOf = (name = 'draws') =>
  entries('trials', name).flatMap(({ trials }) =>
    trials.map((one) => [one.name, one.point, one.params['train.lr'], one.seed]),
  );

describe('a sweep of the earlier version', () => {
  test('that is finished trains nothing again, and with more trials only those', async () => {
    plantOld();
    expect(await run(`${OLD}trials: 2\n${SPACE}`)).toEqual({ notes: [], done: [] });
    const first = trialsOf();
    const { notes, done } = await run(`${OLD}trials: 4\n${SPACE}`);
    expect(notes).toEqual(['runs/draws is extended (trials: 2 then, 4 now).']);
    expect(done.filter((line) => line.startsWith('start'))).toEqual(['start c0003', 'start c0004']);
    expect(trialsOf().slice(0, 2)).toEqual(first);
    expect(trialsOf().map(([name, point]) => [name, point])).toEqual(
      [1, 2, 3, 4].map((number) => [`t000${number}`, `p000${number}`]),
    );
    expect(entries('result').map(({ trial }) => trial)).toEqual(['t0001', 't0002', 't0003', 't0004']);
    expect(new Set(entries('sweep').map(({ id }) => id)).size).toBe(1);
    expect(entries('finished').length).toBeGreaterThanOrEqual(2);
    const best = entries('result').toSorted((a, b) => (b.top1 ?? 0) - (a.top1 ?? 0))[0]?.trial;
    expect(entries('final').at(-1)?.trial).toBe(best);
    expect(readJson(dir, 'sweep.json')).toMatchObject({ trials: 4, config: { run: { save_minutes: 10 } } });
    expect(await run(`${OLD}trials: 4\n${SPACE}`)).toEqual({ notes: [], done: [] });
  });

  test('that was killed after its first cohort goes on with the second, whose settings are complete', async () => {
    plantOld();
    const lines = readFileSync(join(dir, 'journal.jsonl'), 'utf8').split('\n');
    const end = lines.findIndex((line) => line.includes('"kind":"ended"'));
    writeFileSync(join(dir, 'journal.jsonl'), `${lines.slice(0, end + 1).join('\n')}\n`);
    for (const name of ['saved.json', 'status.json', 'evaluations'])
      rmSync(join(dir, 'cohorts', 'c0002', name), { recursive: true });
    const { done } = await run(`${OLD}trials: 2\n${SPACE}`);
    expect(done).toEqual(['start c0002', 'evaluate t0001']);
    const results = readFileSync(join(FIXTURES, 'format-1', 'sweep', 'journal.jsonl'), 'utf8').match(/"top1":[\d.]+/g);
    expect(entries('result').map(({ top1 }) => `"top1":${top1}`)).toEqual([results?.[0], results?.[2]]);
    const { trials } = readJson<{ trials: { settings: object }[] }>(dir, 'cohorts', 'c0002', 'cohort.json');
    expect(trials[0]?.settings).toMatchObject({ run: { save_minutes: 10 }, prepare: { gop: 4 } });
  });
});

describe('what may change in a sweep', () => {
  const judge = (text: string) => {
    plantOld();
    const { refused, extended } = compareSweeps(dir, read(text.replace('max_trials: 1', 'max_trials: 4')));
    const tell = ({ key, before, after }: { key: string; before: string; after: string }) =>
      `${key}: ${before} > ${after}`;
    return { refused: refused.map(tell), extended: extended.map(tell) };
  };
  const none = { refused: [], extended: [] };

  test.each([
    'executor: {slots: 3, kind: slurm}',
    'set: {prepare.crf: 3, train.precision: bf16, eval.batch_size: 2, run.save_minutes: null}',
    'set: {train.lr: 0.5}', // every point has its own
    'set: {data.size: 32, model.backbone.input_size: 32}', // as it followed before
  ])('%s changes no number', (more) => {
    expect(judge(`${OLD}trials: 2\n${SPACE}${more}\n`)).toEqual(none);
  });

  test.each([
    ['seeds: [3, 0]', 'seeds: [0] > [3,0]'],
    ['objective: top5', 'objective: "top1" > "top5"'],
  ])('%s goes on with what is there', (more, change) => {
    expect(judge(`${OLD}trials: 2\n${SPACE}${more}\n`)).toEqual({ refused: [], extended: [change] });
  });

  test('TPE may go on from points that lie in its space', () => {
    const tpe = OLD.replace('random', 'tpe');
    expect(judge(`${tpe}trials: 5\n${SPACE}`).refused).toEqual([]);
    expect(judge(`${tpe}trials: 5\nspace: {train.lr: {low: 1.0e-5, high: 1, log: true}}\n`).refused).toEqual([]);
    expect(judge(`${tpe}trials: 1\n${SPACE}`).refused).toHaveLength(2);
    expect(judge(`${tpe}trials: 5\nspace: {train.lr: {low: 1.0e-5, high: 1.0e-3, log: true}}\n`).refused).toHaveLength(
      3,
    );
  });

  test.each([
    ['trials: 1', SPACE, ['trials: 2 > 1']],
    ['trials: 2\nseed: 1', SPACE, ['seed: 0 > 1']],
    ['trials: 2\nseeds: [3]', SPACE, ['seeds: [0] > [3]']],
    ['trials: 2\nset: {train.steps: 7}', SPACE, ['train.steps: 6 > 7']],
    [
      'trials: 2\nbracket: {rungs: [3]}\nseeds: [0, 1]',
      SPACE,
      ['seeds: [0] > [0,1]', 'bracket: null > {"rungs":[3],"keep":0.5}'],
    ],
    [
      'trials: 2',
      'space: {train.lr: {low: 1.0e-4, high: 1.0e-3, log: true}, train.weight_decay: [0, 0.1]}\n',
      [
        'space.train.lr: 0.0001 to 0.01, log > 0.0001 to 0.001, log',
        'space.train.weight_decay: not varied > one of 0, 0.1',
      ],
    ],
  ])('%s is another sweep', (more, space, changes) => {
    expect(judge(`${OLD}${more}\n${space}`)).toEqual({ refused: changes, extended: [] });
  });

  test('what is refused is told by key, with what could be done', () => {
    plantOld();
    const changed = compareSweeps(dir, read(`${OLD}trials: 2\nspace: {train.lr: [0.1, 0.2]}\n`));
    expect(() => refuseChanges(dir, changed)).toThrow(
      [
        'space.train.lr  is one of 0.1, 0.2; the sweep in runs/draws was planned with 0.0001 to 0.01, log.',
        '2 of 2 points would be none of this sweep, such as p0001 (train.lr 0.0005713). Trials and values may be added where every point that was drawn stays.',
        'Take the old values back, or choose another --run-dir.',
      ].join('\n'),
    );
  });

  test('without a folder of its own another sweep begins anew, and says so', () => {
    plantOld();
    const notes: string[] = [];
    const choose = (text: string): string => chooseSweepDir(read(text), (note) => notes.push(note));
    expect([choose(`${OLD}trials: 9\n${SPACE}`), notes]).toEqual(['runs/draws', []]);
    expect(choose(`${OLD}trials: 9\nset: {train.steps: 7}\n${SPACE}`)).toBe('runs/draws-2');
    expect(notes).toEqual([
      'Starting anew in runs/draws-2: runs/draws holds another sweep (train.steps: 6 then, 7 now).',
    ]);
  });

  test('of a later version is told', () => {
    plantOld();
    const stored = readJson<object>(dir, 'sweep.json');
    writeFileSync(join(dir, 'sweep.json'), JSON.stringify({ ...stored, format: 99 }));
    expect(() => compareSweeps(dir, read(`${OLD}trials: 2\n${SPACE}`))).toThrow(/sweep\.json {2}has format 99/);
  });
});

test('a grid takes values and seeds; what is there keeps its names and results', async () => {
  const grid = (values: string, more = '') =>
    run(`base: base.yaml\nselection: validation\nspace: {train.lr: [${values}]}\n${more}`, 'grid');
  await grid('0.001, 0.003');
  const before = entries('result', 'grid').map(({ trial, top1 }) => [trial, top1]);
  const { notes, done } = await grid('0.001, 0.002, 0.003', 'seeds: [0, 1]\n');
  expect(notes[0]).toContain(
    'space.train.lr: one of 0.001, 0.003 then, one of 0.001, 0.002, 0.003 now; seeds: [0] then, [0,1] now',
  );
  expect(done[0]).toBe('start c0002');
  expect(trialsOf('grid')).toEqual([
    ['t0001', 'p0001', 0.001, 0],
    ['t0002', 'p0002', 0.003, 0],
    ['t0003', 'p0001', 0.001, 1],
    ['t0004', 'p0002', 0.003, 1],
    ['t0005', 'p0003', 0.002, 0],
    ['t0006', 'p0003', 0.002, 1],
  ]);
  const after = entries('result', 'grid').map(({ trial, top1 }) => [trial, top1]);
  expect(after.slice(0, 2)).toEqual(before);
  expect(after).toHaveLength(6);
});
