/** What shows a sweep: the view of its folder, `sweep status`, and what `sweep report` writes. The page itself: sweep-report.pages.ts. */
import { appendFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { Report } from '../src/base/printer.ts';
import { thinCurve } from '../src/results/run-report/history.ts';
import { writeReport } from '../src/results/sweep-report.ts';
import { showStatus } from '../src/results/sweep-status.ts';
import { describeWriter } from '../src/run/liveness.ts';
import { readSweepFolder, sumCost } from '../src/sweep/folder.ts';
import { rankPoints, shortenKeys, summarise, type TrialView } from '../src/sweep/leaderboard.ts';
import { coldframe, readJson } from './support.ts';
import { writeSweep } from './sweeps.ts';

const ROOT = mkdtempSync(join(tmpdir(), 'coldframe-'));
let count = 0;
let dir = '';
beforeEach(() => {
  dir = join(ROOT, String(++count));
  mkdirSync(dir);
});
afterAll(() => rmSync(ROOT, { recursive: true }));

const append = (line: object): void => appendFileSync(join(dir, 'journal.jsonl'), `${JSON.stringify(line)}\n`);
const quiet = (): Report => {
  const report = new Report();
  report.print = () => {};
  return report;
};

describe('the leaderboard', () => {
  const trial = (name: string, point: string, more: Partial<TrialView>): TrialView => ({
    ...{ name, point, params: {}, seed: 0, cohort: 'c0001', state: 'finished', step: 300, top1: 0.5, top5: 1 },
    ...{ rungs: [], why: null, ...more },
  });

  test('has the mean and the standard deviation over seeds', () => {
    expect(summarise([0.8, 0.9])).toEqual({ mean: expect.closeTo(0.85), spread: expect.closeTo(Math.sqrt(0.005)) });
    expect(summarise([0.8])).toEqual({ mean: 0.8, spread: null });
    expect(summarise([])).toBeNull();
  });

  test('puts whole points before those that lack a seed, further before earlier ones, ties by name', () => {
    const trials = [
      trial('t1', 'lacks', { top1: 0.99 }),
      trial('t2', 'lacks', { state: 'diverged', top1: null, step: 4 }),
      trial('t3', 'pruned', { state: 'pruned', step: 100, top1: 0.9 }),
      trial('t4', 'later', { state: 'pruned', step: 200, top1: 0.3 }),
      trial('t8', 'later', { state: 'diverged', top1: null, step: 4 }), // that lacks a seed, and came further
      trial('t5', 'tie b', { top1: 0.6 }),
      trial('t6', 'tie a', { top1: 0.6 }),
      trial('t7', 'waits', { state: 'waiting', step: null, top1: null }),
    ];
    const ranked = rankPoints(trials, 'top1');
    expect(ranked.map(({ point }) => point)).toEqual(['tie a', 'tie b', 'lacks', 'later', 'pruned', 'waits']);
    expect(ranked.map(({ rank }) => rank)).toEqual([1, 2, 3, 4, 5, null]);
    expect(ranked[2]).toMatchObject({ numCounted: 1, top1: { mean: 0.99, spread: null } });
  });

  test('names keys by their shortest endings that differ', () => {
    expect(shortenKeys(['train.lr', 'a.dropout', 'b.dropout'])).toEqual(['lr', 'a.dropout', 'b.dropout']);
  });
});

describe('the view of a folder', () => {
  test('has the final result, the best point, and the cost of all attempts', () => {
    writeSweep(dir);
    const view = readSweepFolder(dir);
    expect(view.state).toBe('finished');
    expect(view.best?.point).toBe(view.final?.point);
    expect(view.best?.point).toBe('p0005');
    expect(view.cohorts.map(({ seconds, attempt }) => [seconds, attempt])).toEqual([
      [390, 2],
      [370, 1],
    ]);
    expect(sumCost(view.cohorts)).toEqual({ seconds: 760, aloneSeconds: 760 * 4.5 });
    expect(view.incidents).toMatchObject([
      {
        cohort: 'c0001',
        why: 'process 4711 was killed by SIGKILL',
        log: 'step 90/300  loss 1.2\nKilled',
        isStop: false,
      },
    ]);
  });

  test('while it runs has what the cohorts say themselves', () => {
    writeSweep(dir, { state: 'running' });
    const view = readSweepFolder(dir);
    expect([view.state, view.etaSeconds, view.final]).toEqual(['running', 100, null]);
    expect(view.points.find(({ point }) => point === 'p0012')).toMatchObject({ state: 'running', step: 150 });
    expect(view.cohorts[1]).toMatchObject({ state: 'running', step: 150, etaSeconds: 50, seconds: 200 });
  });

  test('says that the runner is gone, by its process or by its silence, and its cohorts with it', () => {
    writeSweep(dir, { state: 'running', pid: 2 ** 30 });
    const view = readSweepFolder(dir);
    expect(view).toMatchObject({ state: 'stopped', message: expect.stringContaining('is gone') });
    expect(view.cohorts[1]).toMatchObject({ state: 'stopped', step: 150, savedStep: 100, etaSeconds: null });
    expect(view.trials.filter(({ state }) => state === 'running')).toEqual([]);
    expect(view.trials.filter(({ state }) => state === 'stopped')).toHaveLength(6);
    writeSweep(dir, { state: 'running' });
    const status = readJson<object>(dir, 'status.json');
    const updated = new Date(Date.now() - 90_000).toISOString();
    writeFileSync(join(dir, 'status.json'), JSON.stringify({ ...status, updated }));
    expect(readSweepFolder(dir).state).toBe('stopped');
    rmSync(join(dir, 'status.json'));
    expect(readSweepFolder(dir).state).toBe('stopped');
  });

  test('knows a runner and a cohort by their births: their numbers may be those of others by now', () => {
    writeSweep(dir, { state: 'running' });
    const patch = (file: string, more: object): void => {
      const path = join(dir, file);
      writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, 'utf8')), ...more }));
    };
    patch('status.json', { birth: 'another boot:1' });
    expect(readSweepFolder(dir).state).toBe('stopped');
    // A cohort outlives its runner: what it says itself counts then, of its own attempt only.
    const alive = { ...describeWriter(), updated: '2026-11-22T10:00:00Z' };
    patch('cohorts/c0002/status.json', { ...alive, attempt: 1 });
    expect(readSweepFolder(dir).cohorts[1]?.state).toBe('running');
    patch('cohorts/c0002/status.json', { attempt: 2 });
    expect(readSweepFolder(dir).cohorts[1]?.state).toBe('stopped');
    append({ time: '', kind: 'launched', cohort: 'c0002', attempt: 1, handle: `${alive.pid} ${alive.birth} 0 key` });
    expect(readSweepFolder(dir).cohorts[1]?.state).toBe('running');
  });

  test('leaves a torn last line out, and counts a result that came twice once', () => {
    writeSweep(dir, { state: 'running' });
    const before = readSweepFolder(dir);
    append({ time: '', kind: 'result', trial: 't0003', point: 'p0002', cohort: 'c0001', ...before.trials[2] });
    appendFileSync(join(dir, 'journal.jsonl'), '{"kind":"finished","seco');
    expect(readSweepFolder(dir).points).toEqual(before.points);
    expect(readSweepFolder(dir).state).toBe('running');
  });

  test('shows a cohort that was split through those that took its place', () => {
    writeSweep(dir, { state: 'running' });
    const [, second] = readSweepFolder(dir).cohorts;
    const trials = second?.trials ?? [];
    const attempt = {
      cohort: 'c0002',
      attempt: 1,
      outcome: 'failed',
      class: 'out_of_memory',
      why: 'no memory',
      seconds: 9,
    };
    append({ time: '', kind: 'ended', ...attempt });
    for (const [name, part] of [
      ['c0003', trials.slice(0, 6)],
      ['c0004', trials.slice(6)],
    ])
      append({ time: '', kind: 'cohort', cohort: name, trials: part, forecast_bytes: null, cost: null });
    append({ time: '', kind: 'split', cohort: 'c0002', into: ['c0003', 'c0004'], why: 'no memory' });
    const view = readSweepFolder(dir);
    expect(view.cohorts.map(({ state }) => state)).toEqual(['finished', 'split', 'waiting', 'waiting']);
    expect(view.trials.find(({ name }) => name === trials[0])).toMatchObject({ cohort: 'c0003', state: 'waiting' });
    expect(view.incidents.at(-1)).toMatchObject({ what: 'split into c0003, c0004' });
  });

  test('is refused where there is no sweep, with what to give', async () => {
    expect(() => readSweepFolder(join(dir, 'none'))).toThrow(/does not exist\. Give a sweep folder/);
    expect(() => readSweepFolder(dir)).toThrow(/holds no journal\.jsonl/);
    writeFileSync(join(dir, 'config.json'), '{}');
    expect(() => readSweepFolder(dir)).toThrow(/is the folder of one training run/);
    writeFileSync(join(dir, 'journal.jsonl'), 'time,loss\n1,2\n');
    expect(() => readSweepFolder(dir)).toThrow(/journal\.jsonl:1 {2}is not valid JSON/);
    writeFileSync(join(dir, 'journal.jsonl'), '');
    expect(() => readSweepFolder(dir)).toThrow(/was stopped before it began/);
  });
});

test('a curve is thinned to means of neighbours, in the order of steps, and what is not a number is left out', () => {
  const curve = thinCurve(new Map(Array.from({ length: 1000 }, (_, index) => [1000 - index, 1000 - index])));
  expect(curve.length).toBeLessThanOrEqual(300);
  expect(curve.slice(0, 2)).toEqual([
    [4, 2.5],
    [8, 6.5],
  ]);
  expect(
    thinCurve(
      new Map([
        [2, Number.NaN],
        [1, 0.5],
      ]),
    ),
  ).toEqual([[1, 0.5]]);
  expect(thinCurve(new Map())).toEqual([]);
});

describe('sweep report', () => {
  test('writes a page that loads nothing, a CSV and a JSON with the same rows', async () => {
    writeSweep(dir);
    await writeReport(dir, quiet(), { output: undefined });
    const page = readFileSync(join(dir, 'report.html'), 'utf8');
    expect(page).toContain("default-src 'none'");
    expect(page).not.toMatch(
      /<(script|img|iframe)[^>]*\ssrc=|<link[^>]+href="(?!data:)|@import|url\((?!#|["']?data:|")/,
    );
    expect(page).toContain('demo &lt;sweep&gt;');
    expect(page).not.toContain('demo <sweep>');
    const rows = readJson<Record<string, unknown>[]>(dir, 'leaderboard.json');
    const [head, first] = readFileSync(join(dir, 'leaderboard.csv'), 'utf8').split('\n');
    expect(head?.split(',')).toEqual(Object.keys(rows[0] ?? {}));
    expect(first?.split(',')).toEqual(Object.values(rows[0] ?? {}).map((value) => String(value ?? '')));
    expect(rows).toHaveLength(12);
    expect(rows[0]).toMatchObject({
      rank: 1,
      point: 'p0005',
      num_seeds: 2,
      'train.lr': 0.002929,
      trials: 't0009 t0010',
    });
  });

  test('without its script still shows every point, why trials were left out, and what failed', async () => {
    writeSweep(dir);
    await writeReport(dir, quiet(), { output: join(dir, 'page.html') });
    const body = readFileSync(join(dir, 'page.html'), 'utf8').split('<script')[0];
    expect(body?.match(/<tr data-point=/g)).toHaveLength(12);
    for (const text of [
      'rank 6 of 6 at step 100',
      'the loss is not finite',
      'killed by SIGKILL',
      'lr: 0.003',
      '4.5 times',
    ])
      expect(body).toContain(text);
    expect(body).not.toContain('The choice was made on the validation list');
  });

  test('has percents, ratios, rungs, intervals and ties that follow from the results', async () => {
    writeSweep(dir);
    await writeReport(dir, quiet(), { output: undefined });
    const body = readFileSync(join(dir, 'report.html'), 'utf8').split('<script')[0]?.replace(/\s+/g, ' ') ?? '';
    expect(body).toContain('<dd>81.25 %<p>'); // 0.8125 of 200 videos, and its Wilson interval
    expect(body).toContain('evaluated once on 200 videos; 95 %: 75.3 to 86.1 %');
    expect(body).toContain('each trial alone: 00:57:00'); // 760 s, and 9e12 operations for 2e12
    expect(body).toContain('<td>4.5 times</td>');
    expect(body).toContain('the best 50 % of the points');
    expect(body).toContain('<li>Step 100: 12 came, 6 went on.</li>');
    const rows = [...body.matchAll(/<tr data-point="(p\d+)".*?<\/tr>/g)].map(([row, name]) => ({ name, row }));
    const tied = rows.filter(({ row }) => row.includes('≈')).map(({ name }) => name);
    // 0.8354 is the best; of 160 videos p0003's 0.7490 ties with it by Newcombe's formula, and p0009's 0.7058 differs
    expect(tied).toEqual(['p0012', 'p0006', 'p0011', 'p0003']);
    expect(body).toContain('4 other points cannot be told from it');
  });

  test('says which keys made the difference, with what may be chance left out', async () => {
    writeSweep(dir);
    await writeReport(dir, quiet(), { output: undefined });
    const [, body = ''] =
      /What made the difference<\/h2>(.*?)<\/section>/s.exec(readFileSync(join(dir, 'report.html'), 'utf8')) ?? [];
    expect(body).toMatch(
      /<strong><code>model\.temporal\.cross_attention<\/code><\/strong>: true instead of false is worth [\d.]+ ± [\d.]+ points of top-1/,
    );
    expect(body).toMatch(/No clear effect: .*num_layers/);
    expect(body).toMatch(/from\s+12 points at step 100/);
  });

  test('takes a stop that was asked for as none of the failures, and shows a log as one', async () => {
    writeSweep(dir);
    const why = 'the command ended with exit code 130\nstopped at step 7';
    append({
      time: '2026-11-22T10:30:00Z',
      kind: 'ended',
      cohort: 'c0002',
      attempt: 1,
      outcome: 'cancelled',
      class: 'lost',
      why,
      seconds: 1,
    });
    expect(readSweepFolder(dir).incidents.at(-1)).toMatchObject({
      isStop: true,
      what: 'attempt 1: stopped with the sweep',
    });
    await writeReport(dir, quiet(), { output: undefined });
    const body = readFileSync(join(dir, 'report.html'), 'utf8').split('<script')[0] ?? '';
    const [, failures = ''] = /Failures and retries<\/h2>(.*?)<\/section>/s.exec(body) ?? [];
    expect(failures).not.toContain('130');
    expect(failures).toContain('<pre>step 90/300  loss 1.2\nKilled</pre>');
    expect(body).toContain('on request at 2026-11-22 10:30 UTC');
  });

  test('warns when the choice was made on the validation list', async () => {
    writeSweep(dir, { selection: 'validation' });
    await writeReport(dir, quiet(), { output: undefined });
    expect(readFileSync(join(dir, 'report.html'), 'utf8')).toContain('The choice was made on the validation list');
  });

  test('cannot be broken out of by what runs and errors are called', async () => {
    writeSweep(dir, { state: 'running' });
    const why = '</script><script>alert(1)</script><!--';
    append({
      time: '2026-11-22T10:00:00Z',
      kind: 'ended',
      cohort: 'c0002',
      attempt: 1,
      outcome: 'failed',
      class: 'bug',
      why,
      seconds: 1,
    });
    const trial = { name: 't0099', point: 'p0099', params: { 'train.lr': why }, seed: 0 };
    append({ time: '2026-11-22T10:00:00Z', kind: 'trials', round: 1, trials: [trial] });
    await writeReport(dir, quiet(), { output: undefined });
    expect(readFileSync(join(dir, 'report.html'), 'utf8')).not.toContain('alert(1)</script>');
  });

  test('draws the best 200 trials of many and says so', async () => {
    writeSweep(dir, { points: 300, seeds: [0], steps: 30 });
    await writeReport(dir, quiet(), { output: undefined });
    const page = readFileSync(join(dir, 'report.html'), 'utf8');
    expect(page).toContain('100 more are left out');
    const [, data = ''] = /id="data">([^<]*)</.exec(page) ?? [];
    expect((JSON.parse(data) as { curves: object[] }).curves).toHaveLength(200);
  });
});

describe('sweep status', () => {
  test('prints cohorts, the leaderboard and the cost for people', async () => {
    writeSweep(dir, { state: 'running', pid: 2 ** 30 });
    const { code, stdout } = await coldframe(['sweep', 'status', dir]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/c0002 +stopped +1 +12 +150\/300 +100 /); // dead as its runner; saved at its rung
    expect(stdout).not.toMatch(/\brunning\b/);
    expect(stdout).toMatch(/1 +p0005 +finished +83\.54 % ± 0\.69/);
    expect(stdout).toContain('00:44:15 (4.5 times), forecast');
    expect(stdout).toContain('is gone, last seen');
  });

  test('prints one object under --json', async () => {
    writeSweep(dir);
    const { stdout } = await coldframe(['sweep', 'status', dir, '--json']);
    const status = JSON.parse(stdout);
    expect(status).toMatchObject({ kind: 'sweep_status', state: 'finished', best: 'p0005', counts: { finished: 12 } });
    expect(status.leaderboard).toHaveLength(12);
  });

  test('of one training run says whether its process lives, and where its next start goes on', () => {
    const status = { state: 'running', step: 120, steps: 300, trials: { main: { state: 'running', top1: 0.5 } } };
    writeFileSync(join(dir, 'config.json'), '{}');
    mkdirSync(join(dir, 'checkpoints/step-100'), { recursive: true });
    writeFileSync(join(dir, 'checkpoints/step-100/checkpoint.json'), '{}');
    const show = (writer: object): { state: string; saved_step: number } => {
      writeFileSync(join(dir, 'status.json'), JSON.stringify({ ...status, ...describeWriter(), ...writer }));
      const report = new Report({ json: true });
      let printed = '';
      report.print = (text) => {
        printed = text;
      };
      void showStatus(dir, report, { watch: false });
      return JSON.parse(printed);
    };
    expect(show({})).toMatchObject({ kind: 'run_status', state: 'running', step: 120, saved_step: 100 });
    expect(show({ birth: 'another boot:1' })).toMatchObject({ state: 'stopped', saved_step: 100 });
    expect(show({ pid: 2 ** 30, birth: null })).toMatchObject({ state: 'stopped' });
    expect(show({ host: 'elsewhere' })).toMatchObject({ state: 'running' });
    expect(show({ host: 'elsewhere', updated: '2026-11-22T10:00:00Z' })).toMatchObject({ state: 'stopped' });
    expect(show({ state: 'interrupted', birth: 'another boot:1' })).toMatchObject({ state: 'interrupted' });
  });

  test('fits a terminal of 60 columns, and loses nothing', async () => {
    const far = join(dir, 'a-long-name-of-a-folder/'.repeat(6));
    const show = async (): Promise<string> => {
      const report = new Report();
      Object.defineProperty(report, 'width', { value: 60 });
      const print = jest.spyOn(report, 'print').mockReturnValue();
      await showStatus(far, report, { watch: false });
      return print.mock.calls.map(([text]) => text).join('\n');
    };
    const expectFits = (text: string) => expect(text.split('\n').filter((line) => line.length > 60)).toEqual([]);
    writeSweep(far, { state: 'running', pid: 2 ** 30 });
    writeFileSync(
      join(far, 'status.json'),
      JSON.stringify({ state: 'failed', message: `${far}  is full. `.repeat(3) }),
    );
    const sweep = await show();
    expectFits(sweep);
    expect(sweep.replace(/\s/g, '')).toContain(`${far}is full.`.repeat(3).replaceAll(' ', ''));
    rmSync(far, { recursive: true });
    mkdirSync(far, { recursive: true });
    writeFileSync(join(far, 'config.json'), '{}');
    const status = { ...describeWriter(), state: 'running', step: 120, steps: 300, pid: 2 ** 30, birth: null };
    writeFileSync(join(far, 'status.json'), JSON.stringify(status));
    const run = await show();
    expectFits(run);
    expect(run.replace(/\s/g, '')).toMatch(/a-long-name-of-a-folderstoppedatstep120of300;itsprocess/);
  });

  test('of a folder without a sweep ends with exit code 2', async () => {
    const { code, stderr } = await coldframe(['sweep', 'status', dir]);
    expect([code, stderr]).toEqual([2, expect.stringContaining('holds no journal.jsonl')]);
  });
});
