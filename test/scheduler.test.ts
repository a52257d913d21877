/** Sweeps under a real runner, with a program in the place of `coldframe` that dies, hangs and runs out of memory as told. */
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, jest, test } from '@jest/globals';
import { RuntimeFailure, UserError } from '../src/base/errors.ts';
import { findByVariable, signal } from '../src/base/process/processes.ts';
import { type Ended, explainEnd } from '../src/executors/scheduler.ts';
import { readSweep } from '../src/sweep/definition/file.ts';
import { showPlan } from '../src/sweep/show-plan.ts';
import { folder, runners, Silent, Sweep, undisturbed } from './fake-sweeps.ts';
import { FORECAST } from './fixtures/forecast.ts';
import { readJson, until } from './support.ts';

jest.setTimeout(300_000);
afterEach(() => {
  for (const { child } of runners) child.kill('SIGKILL');
  for (const { pid, value } of findByVariable('COLDFRAME_JOB')) if (value.startsWith('fake-')) signal(pid, 'SIGKILL');
});
afterAll(() => rmSync(folder, { recursive: true }));

describe('a sweep', () => {
  test('prunes, chooses by the mean over seeds, and evaluates the best trial once', async () => {
    const table = await undisturbed();
    expect(table).toHaveLength(8);
    expect(table.map((row) => (row as { state: string }).state).sort()).toEqual([
      ...Array(4).fill('finished'),
      ...Array(4).fill('pruned'),
    ]);
    const dir = join(folder, 'undisturbed', 'sweep');
    expect(readdirSync(dir).sort()).toEqual(
      ['best.yaml', 'cohorts', 'final', 'journal.jsonl', 'status.json', 'sweep.json'].sort(),
    );
    const { best, ...status } = readJson<{ best: { trial: string; mean: number } }>(dir, 'status.json');
    expect(status).toMatchObject({ state: 'finished', trials: { finished: 4, pruned: 4, waiting: 0 } });
    type Row = { trial: string; point: string; state: string; top1: number; why: string | null };
    const finished = (table as Row[]).filter(({ state }) => state === 'finished');
    const means = finished.map((row) => {
      const seeds = finished.filter(({ point }) => point === row.point);
      return seeds.reduce((sum, { top1 }) => sum + top1, 0) / seeds.length;
    });
    expect(best.mean).toBe(Math.max(...means));
    expect(readFileSync(join(dir, 'best.yaml'), 'utf8')).toMatch(new RegExp(`^# The best .*trial ${best.trial} `));
    expect(
      (table as Row[]).filter(({ state }) => state === 'pruned').every(({ why }) => why?.startsWith('rank of')),
    ).toBe(true);
  });
});

describe('before it is run', () => {
  test('its plan is shown: trials, cohorts, memory, cost and what will be written', async () => {
    const lines: string[] = [];
    class Kept extends Silent {
      override print(line: string): void {
        lines.push(line);
      }
    }
    const { file, dir } = new Sweep('shown', 'slots: 3', 'cohort: {max_trials: 4}');
    const forecast = async (shapes: object[]) => shapes.map(() => FORECAST);
    await showPlan(readSweep(file).sweep, dir, new Kept(), forecast);
    const shown = lines.join('\n');
    expect(shown).toMatch(
      /t0008 {2}p0004 {2}seed 1 {2}train\.lr 0\.0004\n\nc0001 {2}4 trials {2}t0001 \.\.\. t0004 {2}about 124 B {2}3\.8 times/,
    );
    expect(shown).toMatch(/points +4 \(grid\), 8 trials in 2 cohorts\npruning +after 3 steps the best 50 % go on/);
    expect(shown).toMatch(
      /selection +top1 on .*VALIDATION list itself\ntime .*\ncost +3\.8 times cheaper than each alone/,
    );
    expect(shown).toContain('sweep: sweep.json, journal.jsonl');
    expect(existsSync(dir)).toBe(false);
  });
});

test('a sweep that has begun is planned by what is left of it', async () => {
  const table = await undisturbed();
  const dir = join(folder, 'undisturbed', 'sweep');
  const { sweep } = readSweep(join(folder, 'undisturbed', 'fake.yaml'));
  const lines: string[] = [];
  class Kept extends Silent {
    override print(line: string): void {
      lines.push(line);
    }
  }
  await showPlan(sweep, dir, new Kept(), async (shapes: object[]) => shapes.map(() => FORECAST));
  expect(lines.at(-1)).toBe(`begun      ${table.length} of 8 trials are done; the same command goes on with the rest`);
  const other = { ...sweep, bracket: null };
  await expect(showPlan(other, dir, new Kept(), async () => [])).rejects.toThrow(/bracket.*was planned with/s);
});

describe('a search', () => {
  test('asks for points in rounds; killed between two, it asks the same again', async () => {
    const search = 'method: tpe\ntrials: 5\ntpe: {round: 2}';
    const space = '{train.lr: {low: 1e-4, high: 1e-1, log: true}}';
    const whole = new Sweep('search', 'slots: 2', search, space);
    expect(await whole.run()).toBeUndefined();
    const pointsOf = (sweep: Sweep) => sweep.entries('trials').map(({ trials }) => trials.map(({ params }) => params));
    expect(pointsOf(whole).map((points) => points.length)).toEqual([4, 4, 2]);
    const killed = new Sweep('search-killed', 'slots: 2', search, space);
    const runner = killed.start();
    await until(() => killed.entries('result').length >= 4, 120);
    await runner.kill();
    expect(await killed.run()).toBeUndefined();
    expect(pointsOf(killed)).toEqual(pointsOf(whole));
    expect(killed.table()).toEqual(whole.table());
  });
});

let ended: Sweep | undefined;
/** A sweep that has ended, with 23 lines in its journal: the last `finished`, before it four of the final evaluation. */
async function theEnded(): Promise<Sweep> {
  if (ended === undefined) {
    ended = new Sweep('ended');
    expect(await ended.run()).toBeUndefined();
  }
  return ended;
}

describe('the runner', () => {
  test('killed at any moment and started again gives the same table, repeats no step, and evaluates once', async () => {
    const expected = await undisturbed();
    const sweep = new Sweep('killed');
    let [seed, numKills, numLines] = [1234, 0, 0];
    const countLines = (): number => sweep.numLines() + sweep.done().length;
    for (let isDone = false; !isDone; ) {
      const runner = sweep.start();
      seed = (seed * 48271) % 2147483647; // Park and Miller's: the same moments each time
      numLines += 1 + (seed % 11);
      await until(() => runner.hasEnded || countLines() >= numLines, 120);
      numLines = Math.max(numLines, countLines());
      isDone = runner.hasEnded;
      if (isDone) expect(runner.child.exitCode).toBe(0);
      else numKills += 1;
      await runner.kill();
    }
    expect(numKills).toBeGreaterThan(2);
    expect(sweep.table()).toEqual(expected);
    const steps = sweep.done('step');
    expect(steps).toHaveLength(12);
    expect(new Set(steps).size).toBe(12);
    expect(sweep.done('end')).toHaveLength(2);
    expect(sweep.done('evaluate')).toHaveLength(1);
    expect(sweep.entries('final')).toHaveLength(1);
    expect(sweep.entries('sweep')).toHaveLength(1);
    expect(sweep.entries('trials')).toHaveLength(1);
  });

  test.each([1, 2, 3, 4, 9, 15])('that lost the last %d lines of its journal repeats nothing', async (numLost) => {
    const sweep = await theEnded();
    const done = sweep.done().filter((line) => numLost <= 4 || !line.startsWith('evaluate'));
    const file = join(sweep.dir, 'journal.jsonl');
    const lines = readFileSync(file, 'utf8').trimEnd().split('\n');
    writeFileSync(file, `${lines.slice(0, 23 - numLost).join('\n')}\n`);
    expect(await sweep.run()).toBeUndefined();
    expect(sweep.done().filter((line) => numLost <= 4 || !line.startsWith('evaluate'))).toEqual(done);
    expect(sweep.table()).toEqual(await undisturbed());
    expect(sweep.entries('final')).toHaveLength(1);
  });

  test('killed between a start and its record finds what it started, and watches it', async () => {
    const sweep = new Sweep('unrecorded', 'slots: 1');
    const runner = sweep.start({ plan: { c0001: ['wait'] } });
    await until(() => sweep.done('start').length > 0, 60);
    await until(() => sweep.entries('launched').length > 0, 60);
    await runner.kill();
    const file = join(sweep.dir, 'journal.jsonl');
    writeFileSync(file, readFileSync(file, 'utf8').replace(/.*"launched".*\n/, ''));
    const running = sweep.run({ plan: { c0001: ['wait'] } });
    await until(() => sweep.entries('launched').length > 0, 60);
    sweep.release();
    expect(await running).toBeUndefined();
    expect(sweep.done('start c0001')).toHaveLength(1);
    expect(sweep.table()).toEqual(await undisturbed());
  });

  test('takes what ended while nobody watched as it is', async () => {
    const sweep = new Sweep('unwatched', 'slots: 1');
    const runner = sweep.start({ plan: { c0001: ['wait'] } });
    await until(() => sweep.done('start').length > 0, 60);
    await runner.kill();
    sweep.release();
    await until(() => sweep.done('end c0001').length > 0, 60);
    expect(await sweep.run()).toBeUndefined();
    expect(sweep.done('start')).toHaveLength(2);
    expect(sweep.table()).toEqual(await undisturbed());
  });

  test('is alone in its folder, stops at SIGTERM when its cohorts have saved, and goes on from there', async () => {
    const sweep = new Sweep('stopped');
    const runner = sweep.start({ plan: { c0001: ['wait'], c0002: ['wait'] } });
    await until(() => sweep.done('start').length === 2, 60);
    const second = await sweep.run();
    expect(second).toBeInstanceOf(UserError);
    expect(second?.message).toMatch(new RegExp(`process ${runner.child.pid} on .* runs this sweep`));
    runner.child.kill('SIGTERM');
    expect(await runner.end()).toBe(130);
    const stopped = sweep.endings().map(([, outcome]) => outcome);
    expect(stopped).toEqual(['cancelled', 'cancelled']);
    expect(readJson(sweep.dir, 'status.json')).toMatchObject({ state: 'interrupted' });
    expect(await sweep.run()).toBeUndefined();
    expect(sweep.table()).toEqual(await undisturbed());
    expect(new Set(sweep.done('step')).size).toBe(sweep.done('step').length);
  });

  test('ends a cohort that does not listen at the second signal', async () => {
    const sweep = new Sweep('deaf');
    const runner = sweep.start({ plan: { c0001: ['hang'] } });
    await until(() => sweep.done('start').length === 2, 60);
    await until(() => sweep.done('end').length === 1, 60);
    runner.child.kill('SIGHUP'); // the terminal was closed: as any other
    await until(() => sweep.done('deaf').length > 0, 60);
    expect(runner.hasEnded).toBe(false);
    runner.child.kill('SIGTERM');
    expect(await runner.end()).toBe(130);
    expect(sweep.endings()).toContainEqual(['c0001', 'cancelled', 'lost']);
  });

  test('refuses a sweep file that has changed, but for where and how it runs', async () => {
    await undisturbed();
    const dir = join(folder, 'undisturbed', 'sweep');
    const runChanged = (name: string, ...how: string[]) => Object.assign(new Sweep(name, ...how), { dir }).run();
    expect(await runChanged('faster', 'slots: 1, max_attempts: 9')).toBeUndefined();
    expect(await runChanged('smaller', 'slots: 1', 'cohort: {max_trials: 3}')).toBeUndefined();
    const refused = await runChanged('other', 'slots: 1', 'objective: top5');
    expect(refused).toBeInstanceOf(UserError);
    expect(refused?.message).toMatch(
      /^objective {2}is "top5"; the sweep in .* was planned with "top1"\.\nRungs of the bracket/,
    );
  });
});

describe('a cohort that', () => {
  test('dies is started again where it was, with a new attempt', async () => {
    const sweep = new Sweep('dies');
    expect(await sweep.run({ plan: { c0001: ['die'] } })).toBeUndefined();
    expect(sweep.table()).toEqual(await undisturbed());
    expect(sweep.endings().filter(([cohort]) => cohort === 'c0001')).toEqual([
      ['c0001', 'retry', 'lost'],
      ['c0001', 'finished', null],
    ]);
    expect(sweep.done('step c0001')).toHaveLength(6);
    const attempt = { attempt: 2, key: expect.stringMatching(/^fake-[0-9a-f]{6}-c0001-2$/) };
    expect(readJson(sweep.dir, 'cohorts', 'c0001', 'attempt.json')).toEqual(attempt);
  });

  test('needs too much memory is split, and what does not fit alone takes its batch in more parts', async () => {
    const sweep = new Sweep('memory', 'slots: 4', 'cohort: {max_trials: 2}');
    expect(await sweep.run({ memory: 1 })).toBeUndefined();
    const splits = sweep.entries('split');
    expect(splits.filter(({ into }) => into.length === 2)).toHaveLength(4);
    expect(splits.filter(({ why }) => why.includes('train.micro_batches 1 -> 2'))).toHaveLength(8);
    expect(splits.filter(({ why }) => why.includes('train.micro_batches 2 -> 4'))).toHaveLength(8);
    expect(sweep.table()).toHaveLength(8);
    const last = sweep.entries('result').at(-1)?.cohort ?? '';
    const file = readJson<{ trials: { settings: object }[] }>(sweep.dir, 'cohorts', last, 'cohort.json');
    expect(file.trials[0]?.settings).toMatchObject({ train: { micro_batches: 4, batch_size: 4 } });
  });

  test('needs too much memory for a single clip fails', async () => {
    const sweep = new Sweep('too-much', 'slots: 4, failure: continue', 'cohort: {max_trials: 2}');
    const error = await sweep.run({ memory: 0.5 });
    expect(error).toBeInstanceOf(UserError);
    expect(error?.message).toMatch(/no trial finished.*out of memory/);
    expect(sweep.entries('result').filter(({ state }) => state === 'failed')).toHaveLength(8);
  });

  test('diverges as a whole is a result, and the others go on', async () => {
    const sweep = new Sweep('diverges');
    expect(await sweep.run({ plan: { c0001: ['diverge'] } })).toBeUndefined();
    const diverged = sweep.entries('result').filter(({ state }) => state === 'diverged');
    expect(diverged.map(({ trial, why }) => [trial, why])).toEqual(
      ['t0001', 't0002', 't0003', 't0004'].map((trial) => [trial, 'the loss is not finite']),
    );
  });

  test('has an error of the user stops the sweep with its message; mended, the same command goes on', async () => {
    const sweep = new Sweep('user', 'slots: 1, failure: continue');
    const error = await sweep.run({ plan: { c0001: ['user'] } });
    expect(error).toBeInstanceOf(UserError);
    expect(error?.message).toContain('c0001  train.txt:3  no such clip');
    expect(error?.message).toContain(join(sweep.dir, 'cohorts', 'c0001', 'cohort.log'));
    expect(sweep.done('start c0002')).toEqual([]);
    expect(await sweep.run()).toBeUndefined();
    expect(sweep.table()).toEqual(await undisturbed());
  });
});

describe('a cohort that fails', () => {
  test('under `continue` counts as failed, and the others go on to the end', async () => {
    const sweep = new Sweep('continue', 'slots: 1, failure: continue');
    expect(await sweep.run({ plan: { c0001: ['bug'] } })).toBeUndefined();
    const failed = sweep.entries('result').filter(({ state }) => state === 'failed');
    expect(failed.map(({ trial }) => trial)).toEqual(['t0001', 't0002', 't0003', 't0004']);
    expect(failed[0]?.why).toContain('a bug of ours');
    expect(sweep.entries('final')).toHaveLength(1);
    expect(await sweep.run()).toBeUndefined();
    expect(sweep.done('start c0001')).toHaveLength(1);
  });

  test('under `no-new` lets what runs end and starts nothing more', async () => {
    const sweep = new Sweep('no-new', 'slots: 2, failure: no-new', 'cohort: {max_trials: 2}');
    const running = sweep.run({ plan: { c0001: ['bug'], c0002: ['wait'] } });
    await until(() => sweep.endings().length > 0, 60);
    sweep.release();
    const error = await running;
    expect(error).toBeInstanceOf(RuntimeFailure);
    expect(error?.message).toContain('a bug of ours');
    expect(sweep.endings()).toEqual([
      ['c0001', 'failed', 'bug'],
      ['c0002', 'finished', null],
    ]);
    expect(await sweep.run()).toBeUndefined();
    expect(sweep.table()).toHaveLength(8);
    expect(sweep.done('start c0002')).toHaveLength(1);
  });

  test('under `kill` stops what runs, saved', async () => {
    const sweep = new Sweep('kill', 'slots: 2, failure: kill');
    const error = await sweep.run({ plan: { c0001: ['bug'], c0002: ['wait'] } });
    expect(error).toBeInstanceOf(RuntimeFailure);
    expect(sweep.endings()).toEqual([
      ['c0001', 'failed', 'bug'],
      ['c0002', 'cancelled', 'lost'],
    ]);
    expect(await sweep.run()).toBeUndefined();
    expect(sweep.table()).toEqual(await undisturbed());
    expect(sweep.done('step c0002')).toHaveLength(6);
  });

  test('by dying is tried so often as is allowed', async () => {
    const sweep = new Sweep('attempts', 'slots: 1, max_attempts: 2');
    const error = await sweep.run({ plan: { c0001: ['vanish'] } });
    expect(error).toBeInstanceOf(RuntimeFailure);
    expect(error?.message).toContain('was killed by SIGKILL; tried 2 times');
    expect(sweep.done('start')).toHaveLength(2);
    // What was lost before it was given up does not count when the same command tries it again.
    expect(await sweep.run({ plan: { c0001: ['', '', 'vanish', 'ok'] } })).toBeUndefined();
    expect(sweep.done('start c0001')).toHaveLength(4);
    const attempt = readJson(sweep.dir, 'cohorts', 'c0001', 'attempt.json');
    expect(attempt).toEqual({ attempt: 4, key: expect.stringMatching(/-c0001-4$/) });
  });

  test('by dying after its saved step has moved on is tried on: a time limit is no fault', async () => {
    const sweep = new Sweep('limits', 'slots: 1, max_attempts: 2');
    const plan = { c0001: ['move', 'move', 'move', 'ok'], c0002: ['move', 'vanish'] };
    const error = await sweep.run({ plan });
    expect(error?.message).toMatch(/^c0002 .*; tried 2 times/);
    expect(sweep.done('start c0001')).toHaveLength(4);
    expect(sweep.done('start c0002')).toHaveLength(2);
    expect(sweep.entries('ended').map(({ step }) => step)).toEqual([1, 2, 3, undefined, 1, 1]);
  });
});

test('losses count from the last time that a cohort was given up', async () => {
  const sweep = new Sweep('given-up', 'slots: 1, max_attempts: 2', 'cohort: {max_trials: 8}');
  const plan = { c0001: ['vanish', 'vanish', 'vanish', 'ok'] };
  expect(await sweep.run({ plan })).toBeInstanceOf(RuntimeFailure);
  expect(await sweep.run({ plan })).toBeUndefined();
  expect(sweep.entries('ended').flatMap(({ cohort, outcome }) => (cohort === 'c0001' ? outcome : []))).toEqual([
    ...['retry', 'failed', 'retry', 'finished'],
  ]);
});

test('what an attempt printed last is told of it, not that of the one before, nor how far one was that was killed', () => {
  const logFile = join(folder, 'attempts.log');
  const explain = (code: number | null, why: string): string =>
    explainEnd({ state: 'ended', code, why } as Ended, { logFile });
  expect(explain(2, 'ended')).toBe('the command ended');
  writeFileSync(logFile, 'step 1\nmemory ran out\n');
  expect(explain(1, 'ended')).toBe('the command ended:\nstep 1\nmemory ran out');
  writeFileSync(logFile, 'memory ran out\n--- attempt 2 ---\nstopped at step 7\n');
  expect(explain(130, 'ended')).toBe('the command ended:\nstopped at step 7');
  expect(explain(null, 'was killed by SIGKILL')).toBe('the command was killed by SIGKILL');
});
