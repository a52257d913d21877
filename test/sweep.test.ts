/** Sweeps through the real program on real clips: the plan, a run, and kills. */
import { existsSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { findByVariable, signal } from '../src/base/process/processes.ts';
import { loadConfig } from '../src/config/load.ts';
import type { TimedEntry } from '../src/sweep/journal.ts';
import {
  CLIPS,
  coldframe,
  type Ended,
  hashTensors,
  makeClips,
  Running,
  readEvents,
  readJson,
  until,
  writeConfig,
} from './support.ts';

jest.setTimeout(600_000);
const folder = realpathSync(mkdtempSync(join(tmpdir(), 'sweep-test-')));
const reference = join(folder, 'reference');
let ended: Ended;

function writeSweep(name: string, text: string): string {
  const file = join(folder, `${name}.yaml`);
  const own = `base: small.yaml
set: {data.train_list: fit.txt, data.root: ${CLIPS}}
selection_list: select.txt
selection_root: ${CLIPS}
${text}`;
  writeFileSync(file, own);
  return file;
}

const GRID = `space: {train.lr: [1e-3, 1e-2], model.decoder.num_layers: [1, 2]}
bracket: {rungs: [4], keep: 0.5}
`;
const sweepInto = (dir: string, ...more: string[]): string[] => [
  ...['sweep', '--config', join(folder, 'grid.yaml'), '--run-dir', dir, '--json'],
  ...more,
];

function readJournal(dir: string): TimedEntry[] {
  const file = join(dir, 'journal.jsonl');
  if (!existsSync(file)) return [];
  const lines = readFileSync(file, 'utf8').split('\n').slice(0, -1);
  return lines.map((line) => JSON.parse(line) as TimedEntry);
}
const resultsOf = (dir: string): object[] =>
  readJournal(dir).flatMap(({ time: _, ...entry }) =>
    entry.kind === 'result' || entry.kind === 'final' ? [entry] : [],
  );

beforeAll(async () => {
  await makeClips();
  writeConfig(folder);
  const lines = readFileSync(join(CLIPS, 'train.txt'), 'utf8').trimEnd().split('\n');
  writeFileSync(join(folder, 'select.txt'), `${lines.slice(0, 8).join('\n')}\n`);
  writeFileSync(join(folder, 'fit.txt'), `${lines.slice(8).join('\n')}\n`);
  writeSweep('grid', GRID);
  ended = await coldframe(sweepInto(reference));
});
afterAll(() => {
  for (const { pid, value } of findByVariable('COLDFRAME_JOB')) if (value.startsWith('grid-')) signal(pid, 'SIGKILL');
  rmSync(folder, { recursive: true });
});

describe('a sweep', () => {
  test('is planned without writing anything', async () => {
    const before = readdirSync(folder);
    const json = await coldframe(sweepInto(join(folder, 'planned'), '--dry-run'), { cwd: folder });
    expect(readdirSync(folder)).toEqual(before);
    const plan = JSON.parse(json.stdout);
    expect(plan).toMatchObject({ kind: 'planned', num_points: 4, num_trials: 4, num_cohorts: 1 });
    expect(plan.trials).toHaveLength(4);
    expect(plan.cohorts[0].forecast_bytes).toBeGreaterThan(1e6);
    expect(plan.ratio).toBeGreaterThan(1.5);
  });

  test('trains its trials in one cohort, prunes at the rung, and evaluates the best on the validation list', () => {
    expect([ended.code, ended.signal]).toEqual([0, null]);
    const results = resultsOf(reference) as { kind: string; state: string; step: number; rungs: { step: number }[] }[];
    expect(results.map(({ state }) => state).sort()).toEqual(['finished', 'finished', 'pruned', 'pruned', undefined]);
    for (const { state, step, rungs } of results.slice(0, 4)) {
      expect([step, rungs.map((rung) => rung.step)]).toEqual(state === 'pruned' ? [4, [4]] : [8, [4, 8]]);
    }
    const final = results.at(-1);
    expect(final).toMatchObject({ kind: 'final', num_videos: 12, list: join(CLIPS, 'val.txt') });
    expect(readdirSync(join(reference, 'cohorts'))).toEqual(['c0001']);
    const events = ended.stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line).kind);
    expect(events).toEqual([
      'planned',
      'attempt',
      'launched',
      ...Array(4).fill('result'),
      'ended',
      'attempt',
      'launched',
      'final',
      'ended',
      'finished',
    ]);
  });

  test('tells before it starts what is wrong with the lists of any cohort', async () => {
    writeFileSync(join(folder, 'odd.txt'), '0.mp4 99\n');
    const lists = ['fit', 'odd', 'none'].map((name) => join(folder, `${name}.txt`));
    const file = writeSweep('lists', `space: {data.train_list: [${lists}], data.stride: [4, 2]}`);
    for (const more of [[], ['--dry-run']]) {
      const { code, stderr } = await coldframe([
        'sweep',
        '--config',
        file,
        '--run-dir',
        join(folder, 'lists'),
        ...more,
      ]);
      expect([code, existsSync(join(folder, 'lists'))]).toEqual([2, false]);
      expect(stderr).toContain(`${lists[1]}:1  label 99 is outside 0..7`);
      expect(stderr).toContain(`${lists[2]}  no such file.`);
      expect(stderr.match(/label 99/g)).toHaveLength(1);
    }
  });

  test('is reported by its winner, on the validation list', async () => {
    const file = join(folder, 'winner.html');
    const { code, stdout, stderr } = await coldframe(['report', reference, '--output', file]);
    expect([code, stderr]).toEqual([0, '']);
    const [final] = readJournal(reference).flatMap((entry) => (entry.kind === 'final' ? [entry] : []));
    expect(stdout).toMatch(new RegExp(`^run +.*${final?.trial}.*, step 8, on 12 videos of .*val\\.txt`, 'm'));
    expect(readJson(folder, 'metrics.json')).toMatchObject({
      ...{ trial: final?.trial, top1: final?.top1, evaluation: 'final', num_videos: 12 },
    });
    const page = readFileSync(file, 'utf8');
    const told = [/chosen on another list, \S*select\.txt/, /<img [^>]*src="data:image\/jpeg;base64,/];
    expect(told.filter((words) => !words.test(page))).toEqual([]);
    expect(page.match(/(src|href)="(?!data:)/g)).toBeNull();
  });

  test('leaves the best configuration ready to train with', () => {
    const { config } = loadConfig(join(reference, 'best.yaml'));
    const { trial } = readJson<{ best: { trial: string } }>(reference, 'status.json').best;
    const cohort = readJson<{ trials: { name: string; settings: { train: object; model: object } }[] }>(
      reference,
      'cohorts/c0001/cohort.json',
    );
    const settings = cohort.trials.find(({ name }) => name === trial)?.settings;
    expect([config.train, config.model]).toEqual([settings?.train, settings?.model]);
    expect(config.data.val_list).toBe(join(CLIPS, 'val.txt'));
  });

  test('ends with the same results and bytes when its runner, then runner and cohort are killed', async () => {
    const dir = join(folder, 'killed');
    const cohort = join(dir, 'cohorts', 'c0001');
    const first = new Running(sweepInto(dir));
    await until(() => existsSync(join(cohort, 'checkpoints', 'latest')), 120);
    process.kill(first.pid, 'SIGKILL');
    await first.ended;
    const second = new Running(sweepInto(dir));
    await until(() => existsSync(join(cohort, 'evaluations', 'step-4', 'result.json')), 120);
    process.kill(second.pid, 'SIGKILL');
    await second.ended;
    for (const { pid, value } of findByVariable('COLDFRAME_JOB')) if (value.startsWith('grid-')) signal(pid, 'SIGKILL');
    const { code } = await coldframe(sweepInto(dir));
    expect(code).toBe(0);
    expect(resultsOf(dir)).toEqual(resultsOf(reference));
    const bytesOf = (run: string) => hashTensors(join(run, 'cohorts', 'c0001'), 8);
    expect(Object.keys(bytesOf(dir))).toHaveLength(4);
    expect(bytesOf(dir)).toEqual(bytesOf(reference));
    const lossesOf = (run: string) =>
      new Map(
        readEvents(join(run, 'cohorts', 'c0001'))
          .filter(({ kind }) => kind === 'step')
          .map((e) => [`${e.step} ${e.trial}`, e.loss]),
      );
    expect(Object.fromEntries(lossesOf(dir))).toEqual(Object.fromEntries(lossesOf(reference)));
  });
});
