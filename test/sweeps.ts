/** Writes sweep folders as the runner and its cohorts leave them, for the tests of what shows them. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';

export interface Made {
  points?: number;
  seeds?: number[];
  /** running: the second cohort is on its way, and the rest waits. */
  state?: 'finished' | 'running';
  selection?: 'separate' | 'validation';
  /** Process that status.json names. */
  pid?: number;
  steps?: number;
  /** Fewer lines for big sweeps: without the cohorts' own files. */
  bare?: boolean;
}

interface TrialMade {
  name: string;
  point: string;
  params: Record<string, string | number | boolean | null>;
  seed: number;
}

const BEGAN = Date.parse('2026-11-22T10:00:00Z');
const at = (seconds: number): string => new Date(BEGAN + 1000 * seconds).toISOString();
const numbered = (letter: string, index: number): string => `${letter}${String(index + 1).padStart(4, '0')}`;
const SHA = 'ab'.repeat(32);

/** How good a trial is, 0..1: better with cross attention and a rate near 3e-3; every number by a formula. */
export function qualityOf({ params, seed }: Pick<TrialMade, 'params' | 'seed'>): number {
  const off = Math.abs(Math.log10(Number(params['train.lr'])) + 2.5);
  const quality = 0.55 + (params['model.temporal.cross_attention'] ? 0.3 : 0) - 0.12 * off + 0.01 * seed;
  return Math.round(1e4 * Math.max(0.1, quality)) / 1e4;
}

function makeTrials(points: number, seeds: number[]): TrialMade[] {
  return Array.from({ length: points }, (_, index) => {
    const layers = 1 + (index % 2);
    const params = {
      'train.lr': Number((1e-4 * 10 ** ((2.2 * (index % 7)) / 6)).toPrecision(4)),
      'model.decoder.num_layers': layers,
      ...(layers === 2 ? { 'model.decoder.mlp_dropout': index % 4 === 1 ? 0 : 0.5 } : {}),
      'model.temporal.cross_attention': index % 3 !== 0,
    };
    return seeds.map((seed, number) => ({
      name: numbered('t', index * seeds.length + number),
      point: numbered('p', index),
      params,
      seed,
    }));
  }).flat();
}

const accuracy = (trial: TrialMade, step: number, steps: number): { top1: number; top5: number } => {
  const top1 = Math.round(1e4 * qualityOf(trial) * (1 - Math.exp((-4 * step) / steps))) / 1e4;
  return { top1, top5: Math.min(1, top1 + 0.15) };
};

/** Writes a sweep of two cohorts with one rung at a third of its steps, half of the points kept; returns its trials. */
export function writeSweep(dir: string, made: Made = {}): TrialMade[] {
  const { points = 12, seeds = [0, 1], state = 'finished', selection = 'separate', steps = 300, bare = false } = made;
  const trials = makeTrials(points, seeds);
  const half = Math.ceil(points / 2) * seeds.length;
  const rung = Math.floor(steps / 3);
  const lines: object[] = [
    {
      ...{ time: at(0), kind: 'sweep', id: 'abc', name: 'demo <sweep>', method: 'grid', metric: 'top1', selection },
      ...{ selection_list: selection === 'validation' ? 'val.txt' : 'select.txt', val_list: 'val.txt' },
      ...{ num_points: points, seeds, bracket: { rungs: [rung], keep: 0.5 }, base: '/data/demo.yaml' },
      ...{ steps, executor: 'local' },
    },
  ];
  const cohorts = [trials.slice(0, half), trials.slice(half)];
  const cost = { together: 2e12, alone: 9e12 };
  cohorts.forEach((members, index) => {
    const names = members.map(({ name }) => name);
    lines.push({ time: at(0), kind: 'cohort', cohort: numbered('c', index), trials: names, forecast_bytes: 1e9, cost });
  });
  lines.push({ time: at(0), kind: 'trials', round: 0, trials });
  cohorts.forEach((members, index) => {
    const isDone = state === 'finished' || index === 0;
    const cohort = numbered('c', index);
    const plan = { steps, rung, ranked: rankMembers(members) };
    const ends = members.map((trial, number) => endTrial(trial, number === 0 && members.length > 4, plan));
    lines.push(...writeCohort(dir, cohort, members, ends, { steps, rung, isDone, index, bare }));
  });
  if (state === 'finished') {
    const best = trials.toSorted((a, b) => qualityOf(b) - qualityOf(a))[0];
    const { name: trial, point, seed } = best ?? { name: '', point: '', seed: 0 };
    lines.push({
      time: at(900),
      kind: 'final',
      trial,
      point,
      seed,
      top1: 0.8125,
      top5: 0.97,
      num_videos: 200,
      list: 'val.txt',
    });
    lines.push({ time: at(901), kind: 'finished', seconds: 901 });
    writeFileSync(join(dir, 'best.yaml'), 'train:\n  lr: 0.003\n');
  }
  writeFileSync(join(dir, 'journal.jsonl'), lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
  const about = {
    state,
    eta_seconds: 100,
    pid: made.pid ?? process.pid,
    host: hostname(),
    updated: new Date().toISOString(),
  };
  writeFileSync(join(dir, 'status.json'), JSON.stringify(about));
  return trials;
}

interface End extends Record<string, unknown> {
  state: 'finished' | 'pruned' | 'diverged';
  step: number;
}

interface Plan {
  steps: number;
  rung: number;
  /** Points of the cohort, the best first. */
  ranked: string[];
}

function rankMembers(members: TrialMade[]): string[] {
  const sums = new Map<string, number>();
  for (const trial of members) sums.set(trial.point, (sums.get(trial.point) ?? 0) + qualityOf(trial));
  return [...sums].sort(([a, x], [b, y]) => y - x || (a < b ? -1 : 1)).map(([point]) => point);
}

function endTrial(trial: TrialMade, diverges: boolean, { steps, rung, ranked }: Plan): End {
  const none = { top1: null, top5: null };
  if (diverges) return { state: 'diverged', step: 7, ...none, why: 'step 7: the loss is not finite' };
  const rank = ranked.indexOf(trial.point) + 1;
  const num = Math.ceil(ranked.length / 2);
  if (rank <= num) return { state: 'finished', step: steps, ...accuracy(trial, steps, steps), why: null };
  const why = `rank ${rank} of ${ranked.length} at step ${rung}, the best ${num} go on`;
  return { state: 'pruned', step: rung, ...accuracy(trial, rung, steps), why };
}

function writeCohort(
  dir: string,
  cohort: string,
  members: TrialMade[],
  ends: End[],
  { steps, rung, isDone, index, bare }: { steps: number; rung: number; isDone: boolean; index: number; bare: boolean },
): object[] {
  const folder = join(dir, 'cohorts', cohort);
  mkdirSync(folder, { recursive: true });
  const reached = isDone ? steps : Math.floor(steps / 2);
  const begin = at(10 + index * 400);
  const live = members.map(({ name }, number) => [
    name,
    ends[number]?.state === 'finished' && !isDone
      ? { state: 'running', step: reached, ...accuracyAt(members[number], rung, steps) }
      : ends[number],
  ]);
  const now = {
    state: isDone ? 'finished' : 'running',
    step: reached,
    steps,
    rung: null,
    eta_seconds: 50,
    trials: Object.fromEntries(live),
  };
  writeFileSync(join(folder, 'status.json'), JSON.stringify({ ...now, updated: at(10 + index * 400 + 200) }));
  const checkpoint = join(folder, 'checkpoints', `step-${isDone ? steps : rung}`);
  mkdirSync(checkpoint, { recursive: true });
  writeFileSync(join(checkpoint, 'checkpoint.json'), '{}');
  const evaluation = join(folder, 'evaluations', `step-${rung}`);
  mkdirSync(evaluation, { recursive: true });
  const results = { [members[0]?.name ?? '']: { top1: 0.5, top5: 1, num_videos: 160 } };
  writeFileSync(join(evaluation, 'result.json'), JSON.stringify({ step: rung, list: null, results }));
  if (!bare) writeFileSync(join(folder, 'events.jsonl'), writeEvents(members, ends, reached, steps, rung));
  const lines: object[] = [{ time: begin, kind: 'attempt', cohort, attempt: 1, key: `abc-${cohort}-1` }];
  if (index === 0) {
    const why = 'process 4711 was killed by SIGKILL\nstep 90/300  loss 1.2\nKilled';
    lines.push({ time: begin, kind: 'ended', cohort, attempt: 1, outcome: 'retry', class: 'lost', why, seconds: 20 });
    lines.push({ time: begin, kind: 'attempt', cohort, attempt: 2, key: `abc-${cohort}-2` });
  }
  if (!isDone) return lines;
  const attempt = index === 0 ? 2 : 1;
  lines.push({
    time: at(380 + index * 400),
    kind: 'ended',
    cohort,
    attempt,
    outcome: 'finished',
    class: null,
    why: null,
    seconds: 370,
  });
  const rungsOf = (trial: TrialMade | undefined): object =>
    trial === undefined ? {} : { rungs: [{ step: rung, ...accuracy(trial, rung, steps) }] };
  members.forEach(({ name: trial, point }, number) => {
    lines.push({
      time: at(380 + index * 400),
      kind: 'result',
      trial,
      point,
      cohort,
      ...rungsOf(members[number]),
      ...ends[number],
    });
  });
  return lines;
}

const accuracyAt = (trial: TrialMade | undefined, step: number, steps: number): object =>
  trial === undefined ? {} : accuracy(trial, step, steps);

function writeEvents(members: TrialMade[], ends: End[], reached: number, steps: number, rung: number): string {
  const lines: object[] = [];
  const list = { file: 'select.txt', sha256: SHA, size_bytes: 100, num_lines: 160 };
  for (let step = 10; step <= reached; step += 10) {
    members.forEach((trial, number) => {
      if (step > (ends[number]?.step ?? 0)) return;
      const loss =
        2.1 - 2 * qualityOf(trial) * (1 - Math.exp((-5 * step) / steps)) + 0.08 * Math.sin(step * (number + 1));
      lines.push({ time: at(step), kind: 'step', step, steps, trial: trial.name, loss, top1: 0.5 });
      if (step === rung || step === steps)
        lines.push({
          time: at(step),
          kind: 'evaluated',
          step,
          trial: trial.name,
          ...accuracy(trial, step, steps),
          num_videos: 160,
          list,
        });
    });
  }
  members.forEach((trial, number) => {
    const { state, step, why }: Partial<End> = ends[number] ?? {};
    const rank = Number(/rank (\d+)/.exec(String(why))?.[1] ?? 0) || undefined;
    if (state === 'pruned' || state === 'diverged')
      lines.push({
        time: at(rung),
        kind: 'dropped',
        step,
        trial: trial.name,
        why,
        reason: state,
        point: trial.point,
        rank,
        num_points: 6,
      });
  });
  return lines.map((line) => `${JSON.stringify(line)}\n`).join('');
}
