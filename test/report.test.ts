/** `report`: which training and evaluation it takes, what it writes, and what it says of them. The page: run-report.pages.ts. */
import { appendFileSync, cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { csvParse } from 'd3-dsv';
import { loadConfig } from '../src/config/load.ts';
import { readHistory } from '../src/results/run-report/history.ts';
import { describeChoice, listWarnings } from '../src/results/run-report/honesty.ts';
import { readSource } from '../src/results/run-report/source.ts';
import { CLASSES, type Planted, plant, writeRun } from './runs.ts';
import { CLIPS, checkEvent, coldframe, type Event, makeClips, problemsOf, readJson, writeConfig } from './support.ts';
import { writeSweep } from './sweeps.ts';

const ROOT = mkdtempSync(join(tmpdir(), 'coldframe-'));
const RUN = join(ROOT, 'run');
const CLIP = join(CLIPS, 'val', '00000-left.mp4');
let planted: Planted;

interface Told {
  path: string;
  suggested: string;
  labels: { name: string }[];
}

interface Metrics {
  top1: number;
  top1_interval: { low: number; high: number };
  num_videos: number;
  ece: number;
  pairs: { classes: string[]; num_videos: number[] }[];
  per_class: { name: string; num_videos: number; num_correct: number }[];
  label_errors: Told[];
  warnings: string[];
  calibration: { temperature: number | null; fitted_on: string | null };
  bad_videos: { path: string }[];
  training: { waiting_for_data: number; incidents: { what: string }[] };
}

beforeAll(async () => {
  await makeClips();
  planted = writeRun(RUN, { names: [`${CLIP}#t=0,0.5%d`] });
});
afterAll(() => rmSync(ROOT, { recursive: true }));

describe('what it writes', () => {
  let events: Event[];
  let metrics: Metrics;
  let page: string;

  beforeAll(async () => {
    const { code, stdout, stderr } = await coldframe(['report', RUN, '--json']);
    if (code !== 0) throw new Error(stderr);
    events = stdout
      .trimEnd()
      .split('\n')
      .map((line) => checkEvent(JSON.parse(line)));
    metrics = readJson<Metrics>(RUN, 'metrics.json');
    page = readFileSync(join(RUN, 'report.html'), 'utf8');
  });

  test('is told in one event, with its files', () => {
    expect(events).toHaveLength(1);
    expect(events[0]).toMatchObject({
      ...{ kind: 'reported', step: 300, trial: 'main', evaluation: 'step-300', num_videos: 200, top1: planted.top1 },
      ...{ path: join(RUN, 'report.html'), json: join(RUN, 'metrics.json'), csv: join(RUN, 'label-errors.csv') },
      size_bytes: statSync(join(RUN, 'report.html')).size,
    });
  });

  test('finds the planted pair, and every planted label error with the class that it is', () => {
    expect(metrics.pairs[0]).toEqual({ classes: ['left', 'counterclockwise'], num_videos: [12, 12] });
    const found = new Map(metrics.label_errors.map((error) => [error.path, error]));
    expect(planted.wrong).toHaveLength(5);
    for (const [video, label, is] of planted.wrong) {
      expect(found.get(video)).toMatchObject({ suggested: CLASSES[is] });
      expect(found.get(video)?.labels).toMatchObject([{ name: CLASSES[label] }]);
    }
    const rows = csvParse(readFileSync(join(RUN, 'label-errors.csv'), 'utf8'));
    expect(rows.map(({ path }) => path)).toEqual(metrics.label_errors.map(({ path }) => path));
    const [video, label, is] = planted.wrong[0] ?? ['', 0, 0];
    expect(rows.find(({ path }) => path === video)).toMatchObject({
      label: String(label),
      suggested_class: CLASSES[is],
    });
  });

  test('has shares, intervals, waiting and faults that follow from the run', () => {
    expect(metrics.top1).toBe(planted.top1);
    expect(metrics.top1_interval.low).toBeLessThan(planted.top1);
    expect(metrics.top1_interval.high).toBeGreaterThan(planted.top1);
    const right = metrics.per_class.reduce((sum, { num_correct }) => sum + num_correct, 0);
    expect(right / metrics.num_videos).toBeCloseTo(planted.top1);
    expect(metrics.training.waiting_for_data).toBeCloseTo(0.25); // 0.1 s of 0.4 s
    expect(metrics.training.incidents.map(({ what }) => what)).toEqual([
      'started again: process 4711 was killed by SIGKILL',
    ]);
    expect(metrics.bad_videos).toEqual([expect.objectContaining({ path: '/clips/bad <b>.mp4' })]);
  });

  test('is a page with frames that loads nothing, and that no name breaks out of', () => {
    expect(page).toContain('src="data:image/jpeg;base64,');
    expect(page.match(/(src|href)="(?!data:)/g)).toBeNull();
    expect(page.match(/<\/script>/g)).toHaveLength(2);
    expect(page).toContain('down &lt;up&gt;');
    expect(page).toContain('bad &lt;b&gt;.mp4');
    for (const told of [
      'SHA-256 '.concat('2e'.repeat(32)),
      '3d'.repeat(32),
      'c0ffee',
      'coldframe train --config repeat.yaml',
    ])
      expect(page).toContain(told);
  });
});

test('a trained run is reported from beginning to end, in the terminal, too', async () => {
  const dir = join(ROOT, 'trained');
  const set = ['--set', 'train.steps=2', '--set', 'eval.every=2'];
  const trained = await coldframe(['train', '--config', writeConfig(ROOT), '--run-dir', dir, ...set]);
  expect(trained.code).toBe(0);
  const { code, stdout, stderr } = await coldframe(['report', dir]);
  expect([code, stderr]).toEqual([0, '']);
  expect(stdout).toMatch(/^run +.*trained, step 2, on 12 videos of .*val\.txt, 1 view$/m);
  expect(stdout).toMatch(/^result +top-1 \d+\.\d\d % \(95 %: /m);
  expect(stdout).toContain(join(dir, 'report.html'));
  expect(stdout).not.toMatch(/^frames /m);
  const page = readFileSync(join(dir, 'report.html'), 'utf8');
  expect(page.match(/<img /g)?.length).toBeGreaterThanOrEqual(24);
  expect(page).not.toContain('no frame can be read here');
  // The configuration of the page is one that can be trained with, and the same.
  const [, yaml = ''] = /<pre id="config-yaml" tabindex="0">(.*?)<\/pre>/s.exec(page) ?? [];
  const file = join(ROOT, 'repeat.yaml');
  writeFileSync(
    file,
    yaml.replaceAll('&quot;', '"').replaceAll('&#39;', "'").replaceAll('&gt;', '>').replaceAll('&amp;', '&'),
  );
  expect(loadConfig(file, { set: [] }).config).toEqual(readSource(dir, undefined).config);
});

describe('which training and evaluation', () => {
  test('that of the last step of its own; another when asked, by name or by its folder', () => {
    cpSync(join(RUN, 'evaluations', 'step-150'), join(RUN, 'evaluations', 'step-400-1x3-abc'), { recursive: true });
    const name = (run: string, wanted?: string): string => readSource(run, wanted).evaluation.name;
    expect(name(RUN)).toBe('step-300');
    expect(name(RUN, 'step-150')).toBe('step-150');
    expect(name(join(RUN, 'evaluations', 'step-400-1x3-abc'))).toBe('step-400-1x3-abc');
    expect(problemsOf(() => readSource(RUN, 'step-7'))).toEqual([
      expect.stringMatching(/^--evaluation {2}found step-7\. .* has step-150, step-400-1x3-abc, step-300\.$/),
    ]);
    rmSync(join(RUN, 'evaluations', 'step-400-1x3-abc'), { recursive: true });
  });

  test("of a sweep the winner's, on the validation list; of a trial its own", () => {
    const dir = join(ROOT, 'sweep');
    mkdirSync(dir);
    writeSweep(dir);
    const settings = readJson(RUN, 'config.json');
    const cohort = join(dir, 'cohorts', 'c0001');
    const trials = ['t0009', 't0010', 't0011'].map((name) => ({ name, settings }));
    writeFileSync(join(cohort, 'cohort.json'), JSON.stringify({ format: 1, name: 'c0001', trials }));
    const write = (folder: string, trial: string): void => {
      cpSync(join(RUN, 'evaluations', 'step-300'), folder, { recursive: true });
      const { results, ...rest } = readJson<{ results: { main: object } }>(folder, 'result.json');
      writeFileSync(join(folder, 'result.json'), JSON.stringify({ ...rest, results: { [trial]: results.main } }));
    };
    expect(problemsOf(() => readSource(dir, undefined))).toEqual([
      expect.stringContaining('--evaluation  found final'),
    ]);
    write(join(dir, 'final'), 't0010');
    const winner = readSource(dir, undefined);
    expect(winner).toMatchObject({ trial: 't0010', target: join(dir, 'final'), evaluation: { name: 'final' } });
    expect(describeChoice(winner)).toContain('chosen on another list, select.txt');
    expect(listWarnings(winner)).toEqual([]);
    write(join(cohort, 'evaluations', 'step-200'), 't0011');
    const other = readSource(`${dir}:t0011`, undefined);
    expect(other).toMatchObject({ trial: 't0011', target: join(cohort, 'reports', 't0011') });
    expect(problemsOf(() => readSource(cohort, undefined))).toEqual([
      expect.stringMatching(/holds several trials\. Give one, as in .*c0001:t0009\. It has t0009, t0010, t0011\.$/),
    ]);
    expect(problemsOf(() => readSource(`${dir}:t9`, undefined))).toEqual([expect.stringContaining('no trial t9')]);
    writeSweep(dir, { selection: 'validation' });
    expect(listWarnings(readSource(dir, undefined))).toEqual([
      expect.stringContaining('chose its winner on this list'),
    ]);
  });

  test('is refused with what to give where there is none', () => {
    const empty = join(ROOT, 'empty');
    mkdirSync(empty);
    const [missing] = problemsOf(() => readSource(join(ROOT, 'none'), undefined));
    expect(missing).toMatch(/none {2}does not exist\. Give the folder of a run or of a sweep, such as runs\/NAME\.$/);
    expect(problemsOf(() => readSource(empty, undefined))).toEqual([expect.stringContaining('holds no config.json')]);
    writeFileSync(join(empty, 'config.json'), '{}');
    expect(problemsOf(() => readSource(empty, undefined))).toEqual([
      expect.stringMatching(/has no evaluation yet\. Make one: coldframe evaluate --checkpoint .*empty$/),
    ]);
    mkdirSync(join(empty, 'evaluations', 'step-2'), { recursive: true });
    const about = { step: 2, list: null, classes: null, results: { main: {} } };
    writeFileSync(join(empty, 'evaluations', 'step-2', 'result.json'), JSON.stringify(about));
    expect(problemsOf(() => readSource(empty, undefined))).toEqual([expect.stringContaining('holds no scores')]);
  });
});

describe('what is honest', () => {
  test('a list that was trained on, a step that is not the last, videos that were not read', () => {
    const dir = join(ROOT, 'dishonest');
    writeRun(dir, { bad: 2, steps: [100, 200] });
    expect(listWarnings(readSource(dir, undefined))).toEqual([
      '2 videos of the list could not be read; no number here counts them.',
    ]);
    expect(listWarnings(readSource(dir, 'step-100'))[0]).toContain('not the last of the training, which is 200');
    expect(describeChoice(readSource(dir, undefined))).toContain('evaluated 2 times on this list');
    const best = { metric: 'top1', list: { sha256: '2e'.repeat(32) }, trials: { main: { step: 100, value: 1 } } };
    writeFileSync(join(dir, 'evaluations', 'best.json'), JSON.stringify(best));
    expect(listWarnings(readSource(dir, 'step-100'))[0]).toMatch(
      /^Step 100 was chosen by what it finds on this very list/,
    );
    expect(listWarnings(readSource(dir, undefined))).toHaveLength(1);
    const [train] = [{ file: '/lists/train.txt', sha256: '1f'.repeat(32), num_lines: 9 }];
    const about = { step: 200, classes: CLASSES, each: 2, pairs: [], errors: 0, names: ['a'], list: train, bad: 0 };
    plant(join(dir, 'evaluations', 'step-200-1x3-1f1f1f1f'), about);
    expect(listWarnings(readSource(dir, 'step-200-1x3-1f1f1f1f'))).toEqual([
      'These are the videos that it was trained on: the numbers say nothing of new ones.',
    ]);
  });

  test('a temperature is fitted on another list of the same step, and not on what was trained on', async () => {
    const dir = join(ROOT, 'dishonest');
    const select = { file: '/lists/select.txt', sha256: '4c'.repeat(32), num_lines: 9 };
    const made = { step: 200, classes: CLASSES, each: 25, pairs: [[1, 2]], errors: 3, names: ['a%d'], bad: 0 };
    plant(join(dir, 'evaluations', 'step-200-1x3-0'), { ...made, list: select });
    const { code, stdout } = await coldframe(['report', dir]);
    expect(code).toBe(0);
    expect(stdout).toMatch(
      /^frames +of (\d+) of \1 videos to look at none can be read here, such as \/clips\/\d+\.mp4: /m,
    );
    expect(stdout).toMatch(/with a temperature of \d+\.\d+ \(fitted on .*select\.txt\)/);
    expect(readJson<Metrics>(dir, 'metrics.json').calibration.fitted_on).toBe('/lists/select.txt');
  });
});

test('the journal is read line by line: a torn one is left out, a repeated step counts once', async () => {
  const file = join(ROOT, 'events.jsonl');
  cpSync(join(RUN, 'events.jsonl'), file);
  const again = { time: '2026-11-22T11:00:00Z', kind: 'step', step: 10, trial: 'main', loss: 9, lr: 1 };
  appendFileSync(file, `${JSON.stringify(again)}\n{"kind":"step","step":9`);
  const history = await readHistory(file, 'main', 'top1');
  expect(history.loss).toHaveLength(30);
  expect(history.loss[0]).toEqual([10, 9]);
  expect(history.waiting).toBeCloseTo(0.25);
  expect(history.metric.map(([step]) => step)).toEqual([150, 300]);
  expect(history.seconds).toBe(3600);
  expect((await readHistory(file, 'other', 'top1')).loss).toEqual([]);
});
