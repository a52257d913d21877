/** Cohorts through the real program on real clips: each trial comes out as it would alone, whatever happens to others. */
import { mkdirSync, mkdtempSync, readdirSync, realpathSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { loadConfig } from '../src/config/load.ts';
import type { Bracket, CohortFile } from '../src/run/cohort-types.ts';
import {
  CLIPS,
  coldframe,
  type Ended,
  type Event,
  hashFiles,
  makeClips,
  Running,
  readEvents,
  readJson,
  writeConfig,
} from './support.ts';

jest.setTimeout(600_000); // on a machine that others keep busy
const folder = realpathSync(mkdtempSync(join(tmpdir(), 'cohort-test-')));
const config = writeConfig(folder);
const bracket = { rungs: [4, 6], keep: 0.5 };
const SHARED = ['data.seed=0', 'run.tensorboard=true'];
const TRIALS: Record<string, string[]> = {
  t1: ['train.seed=1', 'model.decoder.num_layers=1', 'train.lr=2e-3'],
  t2: ['train.seed=2', 'model.decoder.qkv_dim=64', 'train.warmup_steps=3', 'train.clip_grad_norm=1'],
  t3: [
    'train.seed=3',
    'model.temporal.conv=false',
    'model.temporal.cross_attention=false',
    'train.label_smoothing=0.1',
  ],
  t4: ['train.seed=1', 'model.decoder.mlp_dropout=0', 'train.decay_all=false', 'train.ema_decay=0.9'],
};
const DIVERGING = { t5: ['train.lr=1e30'] };

/** Writes a cohort file; returns its path. */
function writeCohort(name: string, sets: Record<string, string[]>, bracket: Bracket | null = null): string {
  const trials = Object.entries(sets).map(([trial, set]) => {
    const { config: settings } = loadConfig(config, { set: [...SHARED, ...set] });
    return { name: trial, point: `p-${trial}`, params: {}, seed: settings.train.seed, settings };
  });
  const cohort: CohortFile = { format: 1, name, metric: 'top5', bracket, trials };
  writeFileSync(join(folder, `${name}.json`), JSON.stringify(cohort));
  return join(folder, `${name}.json`);
}

const command = (cohort: string, runDir: string, ...more: string[]): string[] => [
  ...['train', '--cohort', join(folder, `${cohort}.json`), '--run-dir', join(folder, runDir), '--json'],
  ...more,
];
const finish = async (cohort: string, runDir: string, ...more: string[]): Promise<Ended> => {
  const ended = await coldframe(command(cohort, runDir, ...more));
  expect([ended.code, ended.stderr]).toEqual([0, '']);
  return ended;
};
const alone = (trial: string): Promise<Ended> => {
  const set = [...SHARED, ...(TRIALS[trial] ?? [])].flatMap((pair) => ['--set', pair]);
  return coldframe(['train', '--config', config, '--run-dir', join(folder, `alone-${trial}`), ...set]);
};

/** Weights, moments and mean of the weights of a trial, by what they are. */
function tensorsOf(runDir: string, trial: string, step = 8): Record<string, string | undefined> {
  const hashes = hashFiles(join(folder, runDir, 'checkpoints', `step-${step}`));
  const own = Object.entries(hashes).filter(([name]) => name.startsWith(`${trial}.`));
  return Object.fromEntries(own.map(([name, hash]) => [name.slice(trial.length), hash]));
}

/** What each step of a trial gave, without what depends on the clock; a step that was taken again gave the same. */
function stepsOf(runDir: string, trial: string): Map<number | null, object> {
  const steps = new Map<number | null, object>();
  for (const event of readEvents(join(folder, runDir))) {
    if (event.kind !== 'step' || event.trial !== trial) continue;
    const { loss, lr, grad_norm, top1 } = event;
    const found = { loss, lr, grad_norm, top1 };
    expect(found).toEqual(steps.get(event.step) ?? found);
    steps.set(event.step, found);
  }
  return steps;
}

const decisionsOf = (runDir: string): object => {
  const events = readEvents(join(folder, runDir)).filter(({ kind }) => ['evaluated', 'rung', 'dropped'].includes(kind));
  // Steps that were taken again are told again; the last one counts.
  return Object.fromEntries(events.map(({ time, ...event }) => [`${event.kind} ${event.step} ${event.trial}`, event]));
};

const checkpointOf = (runDir: string) => hashFiles(join(folder, runDir, 'checkpoints', 'step-8'));
const statusOf = (runDir: string): Record<string, unknown> => readJson(folder, runDir, 'status.json');
beforeAll(async () => {
  await makeClips();
  writeCohort('all', { ...TRIALS, ...DIVERGING });
  writeCohort('halved', { ...TRIALS, ...DIVERGING }, bracket);
  await Promise.all([finish('all', 'all'), finish('halved', 'halved')]);
});
afterAll(() => rmSync(folder, { recursive: true }));

describe('a trial of a cohort', () => {
  test('has the losses and the final bytes that it has alone, one that diverges beside it or pruned ones', async () => {
    for (const pair of [
      ['t1', 't2'],
      ['t3', 't4'],
    ]) {
      const ended = await Promise.all(pair.map(alone));
      expect(ended.map(({ code }) => code)).toEqual([0, 0]);
    }
    const survivors = Object.keys(
      readJson<{ trials: object }>(folder, 'halved', 'checkpoints', 'latest', 'checkpoint.json').trials,
    );
    expect(survivors).toHaveLength(1);
    const bytes = new Set<string>();
    for (const trial of Object.keys(TRIALS)) {
      const expected = tensorsOf(`alone-${trial}`, 'main');
      expect(Object.keys(expected)).toEqual(expect.arrayContaining(['.optimizer.safetensors', '.safetensors']));
      expect(tensorsOf('all', trial)).toEqual(expected);
      if (survivors.includes(trial)) expect(tensorsOf('halved', trial)).toEqual(expected);
      bytes.add(JSON.stringify(expected));
      const steps = stepsOf(`alone-${trial}`, 'main');
      expect(steps.size).toBe(8);
      expect(stepsOf('all', trial)).toEqual(steps);
      for (const [step, found] of stepsOf('halved', trial)) expect(found).toEqual(steps.get(step));
    }
    expect(bytes.size).toBe(4);
  });

  test('is pruned, diverges or finishes, and says so in status.json, in its events and curves', () => {
    const number = expect.any(Number);
    expect(statusOf('all')).toMatchObject({ state: 'finished', step: 8, steps: 8, rung: null, eta_seconds: null });
    expect(statusOf('all').trials).toEqual({
      ...Object.fromEntries(
        Object.keys(TRIALS).map((name) => [name, { state: 'finished', step: 8, top1: number, top5: number }]),
      ),
      t5: { state: 'diverged', step: 2, top1: null, top5: null },
    });
    const states = Object.values(statusOf('halved').trials as Record<string, { state: string; step: number }>);
    expect(states.map(({ state, step }) => `${state} ${step}`).sort()).toEqual([
      ...['diverged 2', 'finished 8', 'pruned 4', 'pruned 4', 'pruned 6'],
    ]);
    const events = readEvents(join(folder, 'halved'));
    const dropped = events.filter(({ kind }) => kind === 'dropped');
    expect(dropped[0]).toMatchObject({
      trial: 't5',
      step: 2,
      reason: 'diverged',
      why: expect.stringContaining('not finite'),
    });
    expect(dropped.slice(1).map(({ step, reason, rank, num_points }) => [step, reason, rank, num_points])).toEqual([
      [4, 'pruned', 3, 4],
      [4, 'pruned', 4, 4],
      [6, 'pruned', 2, 2],
    ]);
    const last = Object.keys(events.at(-1)?.trials ?? {});
    expect([events.at(-1)?.kind, last.length]).toEqual(['finished', 1]);
    for (const { trial, step } of dropped)
      expect(Math.max(...events.filter((e) => e.kind === 'step' && e.trial === trial).map((e) => e.step ?? 0))).toBe(
        step,
      );
    expect(readdirSync(join(folder, 'halved', 'metrics')).sort()).toEqual(['t1', 't2', 't3', 't4', 't5']);
  });

  test('that is pruned has the lowest metric, and at a rung the order is: evaluate, decide, drop, save', () => {
    const events = readEvents(join(folder, 'halved')).filter(({ step }) => step === 4);
    expect(events.map(({ kind }) => kind)).toEqual([
      ...[...Array(4).fill('step'), ...Array(4).fill('evaluated'), 'rung', 'dropped', 'dropped', 'saved'],
    ]);
    const top5 = new Map(
      events.filter(({ kind }) => kind === 'evaluated').map(({ trial, top5 }) => [trial, top5 as number]),
    );
    const pruned = events.filter(({ kind }) => kind === 'dropped').map(({ trial }) => trial);
    const left = [...top5].filter(([trial]) => !pruned.includes(trial)).map(([, value]) => value);
    for (const trial of pruned) expect(top5.get(trial)).toBeLessThanOrEqual(Math.min(...left));
    const held = (step: number) =>
      Object.keys(
        readJson<{ config: object }>(folder, 'halved', 'checkpoints', `step-${step}`, 'checkpoint.json').config,
      ).length;
    expect([2, 4, 6, 8].map(held)).toEqual([4, 2, 1, 1]);
    expect(readJson<CohortFile>(folder, 'halved', 'cohort.json')).toEqual(readJson(folder, 'halved.json'));
  });
});

describe('a cohort that is stopped goes on to the same decisions and bytes', () => {
  test('when SIGTERM ends it, and when it is killed while a rung is decided and after one', async () => {
    const first = new Running(command('halved', 'stopped'));
    await first.event('step', 2);
    first.child.kill('SIGTERM');
    expect((await first.ended).code).toBe(130);
    const t5 = { state: 'diverged', step: 2 };
    expect(statusOf('stopped')).toMatchObject({ state: 'interrupted', trials: { t5 } });
    // Which rung these meet depends on how far the last one came; one that has come to its end was not killed.
    for (const kind of ['evaluated', 'rung']) {
      const run = new Running(command('halved', 'stopped'));
      await run.event(kind).catch(() => {});
      run.child.kill('SIGKILL');
      await run.gone();
    }
    await finish('halved', 'stopped');
    expect(checkpointOf('stopped')).toEqual(checkpointOf('halved'));
    expect(decisionsOf('stopped')).toEqual(decisionsOf('halved'));
    for (const trial of Object.keys(TRIALS)) expect(stepsOf('stopped', trial)).toEqual(stepsOf('halved', trial));
    expect(statusOf('stopped').trials).toEqual(statusOf('halved').trials);
  });

  test('when its checkpoint at a rung still holds the losers: they leave before another step is taken', async () => {
    const whole = join(folder, 'all', 'checkpoints', 'step-4'); // of the cohort without rungs
    await finish('halved', 'unsettled', '--resume', whole);
    expect(checkpointOf('unsettled')).toEqual(checkpointOf('halved'));
    const kinds = readEvents(join(folder, 'unsettled')).map(({ kind, step }) => `${kind} ${step}`);
    const first = [...Array(4).fill('evaluated 4'), 'rung 4', 'dropped 4', 'dropped 4', 'saved 4', 'step 5'];
    expect(kinds.slice(0, 10)).toEqual(['started 4', ...first]);
    expect(readdirSync(join(folder, 'unsettled', 'checkpoints'))).not.toContain('step-2');
  });
});

describe('one trial of a checkpoint', () => {
  const evaluate = (...more: string[]): Promise<Ended> => {
    const set = [...SHARED, ...(TRIALS.t1 ?? [])].flatMap((pair) => ['--set', pair]);
    return coldframe(['evaluate', '--config', config, '--checkpoint', join(folder, 'all'), ...set, '--json', ...more]);
  };

  test('is evaluated by its name; without one the names are told', async () => {
    const { code, stderr } = await evaluate();
    expect([code, stderr]).toEqual([2, expect.stringContaining('holds the trials t1, t2, t3, t4. Name one')]);
    const found = await evaluate('--trial', 't1', '--output', join(folder, 'final'));
    expect([found.code, found.stderr]).toEqual([0, '']);
    const { top1, top5 } = (statusOf('all').trials as Record<string, { top1: number; top5: number }>).t1 ?? {};
    expect(JSON.parse(found.stdout)).toMatchObject({ kind: 'evaluated', trial: 't1', top1, top5 });
    expect(readdirSync(join(folder, 'final')).sort()).toEqual([
      ...['confusion.csv', 'per-class.csv', 'result.json', 'scores.npz'],
    ]);
  });
});

describe('an attempt', () => {
  const follow = (runDir: string, attempt: number): number => {
    const file = join(folder, runDir, 'attempt.json');
    mkdirSync(join(folder, runDir), { recursive: true });
    writeFileSync(`${file}.new`, JSON.stringify({ attempt, key: `x-${attempt}` }));
    renameSync(`${file}.new`, file);
    return Date.now();
  };

  test('leaves the folder to the next one at once, and writes nothing there any more', async () => {
    writeCohort(
      'long',
      Object.fromEntries(['t1', 't2'].map((name) => [name, ['train.steps=1000', 'run.save_every=5']])),
    );
    follow('attempts', 1);
    const stale = new Running(command('long', 'attempts', '--attempt', '1'));
    await stale.event('step', 2);
    const since = follow('attempts', 2);
    const next = new Running(command('long', 'attempts', '--attempt', '2'));
    const { code, stderr } = await stale.ended;
    expect([code, stderr]).toEqual([3, expect.stringMatching(/attempts {2}a later attempt than 1 has taken over/)]);
    const started = await next.event('started');
    for (const { time } of stale.events.slice(0, -1)) expect(Date.parse(time)).toBeLessThanOrEqual(since);
    expect(stale.events.at(-1)).toMatchObject({ kind: 'failed', where: 'Fenced' });
    const written = readEvents(join(folder, 'attempts'));
    const between = written.filter(({ time }: Event) => Date.parse(time) > since && time < started.time);
    expect(between).toEqual([]);
    next.child.kill('SIGTERM');
    expect((await next.ended).code).toBe(130);
    expect(statusOf('attempts')).toMatchObject({ state: 'interrupted', attempt: 2 });
    expect(readEvents(join(folder, 'attempts')).map(({ kind }) => kind)).not.toContain('failed');
  });

  test('says why it failed, also before it began: what a user must mend, or memory that is not there', async () => {
    writeCohort('huge', { t1: ['model.decoder.mlp_factor=1e7'] });
    writeCohort('missing', { t1: [`data.train_list=${join(CLIPS, 'nothing.txt')}`] });
    for (const [name, kind, text] of [
      ['huge', 'out_of_memory', /^memory {2}.*train\.micro_batches/],
      ['missing', 'user', /nothing\.txt/],
    ] as const) {
      follow(name, 1);
      const { code } = await coldframe(command(name, name, '--attempt', '1'));
      expect([name, code]).toEqual([name, 2]);
      expect(statusOf(name)).toMatchObject({ state: 'failed', class: kind, message: expect.stringMatching(text) });
    }
  });
});

test('a cohort of which every trial diverges ends as a failure that the user can mend, and names them', async () => {
  writeCohort('lost', { t1: DIVERGING.t5, t2: [...DIVERGING.t5, 'train.seed=2'] });
  const { code, stderr } = await coldframe(command('lost', 'lost'));
  expect(code).toBe(2);
  expect(stderr).toMatch(/^trial t1: training stopped at step 2: the loss is not finite .*\ntrial t2: /);
  const diverged = expect.objectContaining({ state: 'diverged' });
  expect(statusOf('lost')).toMatchObject({ state: 'failed', class: 'user', trials: { t1: diverged, t2: diverged } });
});
