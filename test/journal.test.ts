/** The journal of a sweep: what a kill may do to its file, and what follows from its lines. */
import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from '@jest/globals';
import { UserError } from '../src/base/errors.ts';
import { type Entry, Journal, type TrialResult } from '../src/sweep/journal.ts';
import { rankFinished } from '../src/sweep/leaderboard.ts';

const folder = mkdtempSync(join(tmpdir(), 'journal-test-'));
afterAll(() => rmSync(folder, { recursive: true }));
let count = 0;
const newFile = (): string => join(folder, `${++count}.jsonl`);

const cohort = (name: string, ...trials: string[]): Entry => ({
  ...{ kind: 'cohort', cohort: name, trials, forecast_bytes: null, cost: null },
});
const trials = (round: number, ...names: string[]): Entry => ({
  kind: 'trials',
  round,
  trials: names.map((name) => ({ name, point: name.replace('t', 'p'), params: { 'train.lr': 1 }, seed: 0 })),
});
const result = (trial: string, point: string, top1: number, state: TrialResult['state'] = 'finished'): Entry => ({
  ...{ kind: 'result', trial, point, cohort: 'c1', state, step: 8, top1, top5: 1, rungs: [], why: null },
});
const SWEEP: Entry = {
  ...{ kind: 'sweep', id: 'x', name: 'x', method: 'grid', metric: 'top1', selection: 'separate', selection_list: null },
  ...{ val_list: null, num_points: 2, seeds: [0, 1], bracket: null, base: 'x', steps: 8, executor: 'local' },
};

function open(file: string, ...entries: Entry[]): Journal {
  const journal = new Journal(file);
  journal.append(...entries);
  return journal;
}

describe('the file', () => {
  test('gives the same state again, wherever a kill tore it', () => {
    const file = newFile();
    open(file, cohort('c1', 't1'), trials(0, 't1'), result('t1', 'p1', 0.5)).close();
    const whole = readFileSync(file);
    const ends = [...whole.keys()].filter((place) => whole[place] === 0x0a);
    for (let length = 0; length <= whole.length; length += 7) {
      const torn = newFile();
      writeFileSync(torn, whole.subarray(0, length));
      const journal = new Journal(torn);
      const numLines = ends.filter((end) => end < length).length;
      expect([journal.state.trials.size, journal.state.results.size]).toEqual([
        Number(numLines > 1),
        Number(numLines > 2),
      ]);
      journal.append({ kind: 'finished', seconds: 1 });
      journal.close();
      const lines = readFileSync(torn, 'utf8').trimEnd().split('\n');
      expect(lines.map((line) => JSON.parse(line).kind)).toHaveLength(numLines + 1);
    }
  });

  test('names a line that is broken before the last', () => {
    const file = newFile();
    open(file, cohort('c1', 't1')).close();
    appendFileSync(file, 'not json\n{"kind":"finished"}\n');
    expect(() => new Journal(file)).toThrow(UserError);
    expect(() => new Journal(file)).toThrow(`${file}:2  is not valid JSON`);
  });
});

describe('the state', () => {
  test('has a cohort once the trials of its round, or the split that it comes from, are there', () => {
    const journal = open(newFile(), cohort('c1', 't1', 't2'), cohort('c2', 't3'));
    const names = (): string[] => [...journal.state.cohorts.keys()];
    expect(names()).toEqual([]);
    journal.append(cohort('c1', 't1'), cohort('c2', 't2', 't3'), trials(0, 't1', 't2', 't3'));
    expect(journal.state.cohorts.get('c1')?.trials).toEqual(['t1']);
    journal.append(cohort('c3', 't2'), cohort('c4', 't3'));
    expect(names()).toEqual(['c1', 'c2']);
    journal.append({ kind: 'split', cohort: 'c2', into: ['c3', 'c4'], why: '' });
    expect(names()).toEqual(['c1', 'c2', 'c3', 'c4']);
    expect([...journal.state.replaced]).toEqual(['c2']);
    journal.close();
  });

  test('keeps each attempt with its handle and its end', () => {
    const about = { cohort: 'c1', attempt: 1 };
    const ending = { outcome: 'retry' as const, class: 'lost' as const, why: 'killed', seconds: 2, step: 6 };
    const file = newFile();
    open(
      file,
      { kind: 'attempt', ...about, key: 'k1' },
      { kind: 'launched', ...about, handle: 'h1' },
      { kind: 'ended', ...about, ...ending },
      { kind: 'attempt', cohort: 'c1', attempt: 2, key: 'k2' },
    ).close();
    const attempts = new Journal(file).state.attempts.get('c1');
    expect(attempts).toMatchObject([
      { attempt: 1, key: 'k1', handle: 'h1', ended: ending },
      { attempt: 2, key: 'k2' },
    ]);
    expect(attempts?.[1]).not.toHaveProperty('ended');
  });

  test('ranks points by their mean over seeds, ties by name, and last those that did not finish with every seed', () => {
    const journal = open(
      newFile(),
      SWEEP,
      ...[result('t1', 'p1', 0.9), result('t2', 'p1', 0.1, 'diverged')],
      ...[result('t5', 'p3', 0.5), result('t6', 'p3', 0.75)],
      ...[result('t3', 'p2', 0.75), result('t4', 'p2', 0.5)],
      ...[result('t7', 'p4', 0.5), result('t8', 'p4', 0.5)],
      ...[result('t9', 'p5', 0.99, 'pruned')],
    );
    const ranked = rankFinished(journal.state).map(({ point, mean, trials: [best] }) => [point, mean, best?.trial]);
    expect(ranked).toEqual([
      ['p2', 0.625, 't3'],
      ['p3', 0.625, 't6'],
      ['p4', 0.5, 't7'],
      ['p1', 0.9, 't1'],
    ]);
    journal.close();
  });
});
