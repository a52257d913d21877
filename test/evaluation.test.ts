/** What an evaluation leaves in its folder, what is said of its errors, and which one is the best. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, describe, expect, test } from '@jest/globals';
import { Bests, describeErrors, isChosenOn, recallBests, writeEvaluation } from '../src/run/evaluation.ts';
import { RunFolder, readCheckpoint } from '../src/run/folder.ts';
import type { Result } from '../src/runtime/replies.ts';

const ROOT = mkdtempSync(join(tmpdir(), 'coldframe-'));
let count = 0;
let dir = '';
beforeEach(() => {
  dir = join(ROOT, String(++count));
  mkdirSync(dir);
});
afterAll(() => rmSync(ROOT, { recursive: true }));

const CLASSES = ['run', 'a "quoted", one', 'jump'];
/** Of ten videos of class 0 six are right and four are jumps; both of class 1 are right; class 2 has none right. */
const SINGLE: Result = {
  ...{ top1: 8 / 14, top5: 1, num_videos: 14, num_bad: 0, views: 3, balanced_accuracy: 8 / 15 },
  per_class: [
    [0, 10, 6],
    [1, 2, 2],
    [2, 2, 0],
  ],
  confusion: [
    [0, 0, 6],
    [0, 2, 4],
    [1, 1, 2],
    [2, 0, 1],
    [2, 1, 1],
  ],
};
const MULTI: Result = {
  ...{ top1: 0.5, top5: 1, num_videos: 4, num_bad: 0, views: 1, map: 0.75, f1: 0.5, thresholds: [0.1, 0.2, 0.3] },
  per_class: [
    [0, 3, 3],
    [2, 2, 1],
  ],
  average_precision: [1, 0.5],
};
const LIST = { file: '/lists/val.txt', sha256: '5'.repeat(64), size_bytes: 9, num_lines: 14 };
const write = (name: string, text: string): void => writeFileSync(join(dir, name), text);
const read = (name: string): string => readFileSync(join(dir, name), 'utf8');

describe('the files', () => {
  test('have counts by class and by pair, with names, and an interval beside every share', () => {
    writeEvaluation(write, { step: 7, list: LIST, classes: CLASSES }, { main: SINGLE });
    expect(readdirSync(dir).sort()).toEqual(['confusion.csv', 'per-class.csv', 'result.json']);
    const quoted = '"a ""quoted"", one"';
    expect(read('confusion.csv')).toBe(
      `true,predicted,count\nrun,run,6\nrun,jump,4\n${quoted},${quoted},2\njump,run,1\njump,${quoted},1\n`,
    );
    const [header, first = '', second, third] = read('per-class.csv').split('\n');
    expect(header).toBe('class,label,videos,correct,top1,low,high,predicted');
    expect(first).toMatch(/^run,0,10,6,0\.6,0\.312\d+,0\.831\d+,7$/); // 6 of 10: 31.3 to 83.2 %
    expect(second).toMatch(/,1,2,2,1,0\.342\d+,1,3$/);
    expect(third).toMatch(/^jump,2,2,0,0,0,0\.657\d+,4$/);
    const { results, ...about } = JSON.parse(read('result.json'));
    expect(about).toEqual({ step: 7, list: LIST, classes: CLASSES });
    expect(results.main).toMatchObject({
      ...{ top1: 8 / 14, per_class: SINGLE.per_class, top5_interval: { high: 1 } },
      top1_interval: { low: expect.closeTo(0.3259, 4), high: expect.closeTo(0.7862, 4) },
      confusions: [
        { label: 0, predicted: 2, count: 4 },
        { label: 2, predicted: 0, count: 1 },
        { label: 2, predicted: 1, count: 1 },
      ],
    });
    expect(results.main).not.toHaveProperty('confusion');
  });

  test('of trials bear their names; one that is alone needs none', () => {
    writeEvaluation(write, { step: 7, list: null, classes: null }, { t1: SINGLE, t2: SINGLE });
    const own = ['confusion.csv', 'per-class.csv'];
    expect(readdirSync(dir).sort()).toEqual([
      'result.json',
      ...['t1', 't2'].flatMap((t) => own.map((o) => `${t}.${o}`)),
    ]);
    expect(read('t2.confusion.csv')).toContain('\n0,2,4\n'); // without names the labels stand for them
    rmSync(dir, { recursive: true });
    mkdirSync(dir);
    writeEvaluation(write, { step: 7, list: null, classes: null }, { t2: SINGLE }, true);
    expect(readdirSync(dir).sort()).toEqual([...own, 'result.json']);
  });

  test('of several labels a video have average precision, and no pairs or intervals of what is no share', () => {
    writeEvaluation(write, { step: 7, list: LIST, classes: CLASSES }, { main: MULTI });
    expect(readdirSync(dir).sort()).toEqual(['per-class.csv', 'result.json']);
    expect(read('per-class.csv')).toMatch(/^class,.*,average_precision\nrun,0,3,3,1,.*,1\njump,2,2,1,0\.5,.*,0\.5\n$/);
    const { main } = JSON.parse(read('result.json')).results;
    expect(main).toMatchObject({ map: 0.75, thresholds: [0.1, 0.2, 0.3] });
    expect(Object.keys(main)).not.toContain('top1_interval');
  });
});

test('the worst classes and the largest confusions are told, in full names', () => {
  expect(describeErrors(SINGLE, CLASSES).split('\n')).toEqual([
    'worst classes',
    '  jump  0.00 %   (95 %: 0.0 to 65.8 %)   0 of 2 videos',
    '  run   60.00 %  (95 %: 31.3 to 83.2 %)  6 of 10 videos',
    'largest confusions',
    '  run   taken for jump             4 of 10 videos',
    '  jump  taken for run              1 of 2 videos',
    '  jump  taken for a "quoted", one  1 of 2 videos',
  ]);
  expect(describeErrors(MULTI, null)).toMatch(
    /^classes whose videos are found least.*\n {2}2 {2}50\.00 % .* 1 of 2 videos$/,
  );
  const right: Result = { ...SINGLE, top1: 1, per_class: [[0, 3, 3]], confusion: [[0, 0, 3]] };
  expect(describeErrors(right, CLASSES)).toBe('');
});

describe('the best evaluation', () => {
  const evaluated = (step: number, top1: number, hasCheckpoint = true): void => {
    mkdirSync(join(dir, `evaluations/step-${step}`), { recursive: true });
    const stored = { step, list: LIST, results: { main: { top1 } } };
    write(`evaluations/step-${step}/result.json`, JSON.stringify(stored));
    if (!hasCheckpoint) return;
    mkdirSync(join(dir, `checkpoints/step-${step}`), { recursive: true });
    write(`checkpoints/step-${step}/checkpoint.json`, JSON.stringify({ step, trials: { main: {} }, config: {} }));
  };

  test('of a run that goes on is the best of those that it has passed and still has', () => {
    evaluated(2, 0.5);
    evaluated(4, 0.7);
    evaluated(6, 0.9, false); // pruned
    evaluated(8, 0.8); // the run was taken back to 6
    const bests = recallBests(new RunFolder(dir), 'top1', 6);
    expect(bests.of(['main'])).toEqual({ main: { step: 4, value: 0.7 } });
    expect(bests.take(7, { main: { top1: 0.69 } })).toBe(false);
    expect(bests.take(8, { main: { top1: 0.7 } })).toBe(true); // of equal ones the later
    expect(bests.of(['main'])).toEqual({ main: { step: 8, value: 0.7 } });
  });

  test('is one for each trial, and those that left have none', () => {
    const bests = new Bests('map');
    expect(bests.take(2, { t1: { map: 0.4 }, t2: { map: 0.6 } })).toBe(true);
    expect(bests.take(4, { t1: { map: 0.5 }, t2: { map: 0.5 } })).toBe(true);
    expect(bests.of(['t1', 't2'])).toEqual({ t1: { step: 4, value: 0.5 }, t2: { step: 2, value: 0.6 } });
    expect(bests.of(['t2'])).toEqual({ t2: { step: 2, value: 0.6 } });
    expect(bests.take(6, { t1: { top1: 1 } })).toBe(false);
  });

  test('is known where it is tested on the list that it was chosen on, and nowhere else', () => {
    evaluated(4, 0.7);
    const folder = new RunFolder(dir);
    expect(isChosenOn(folder, 'main', 4, LIST)).toBe(false);
    folder.writeJson('evaluations/best.json', {
      metric: 'top1',
      list: LIST,
      trials: { main: { step: 4, value: 0.7 } },
    });
    expect(isChosenOn(folder, 'main', 4, LIST)).toBe(true);
    expect(isChosenOn(folder, 'main', 6, LIST)).toBe(false);
    expect(isChosenOn(folder, 'main', 4, { ...LIST, sha256: '6'.repeat(64) })).toBe(false);
    expect(isChosenOn(folder, 'main', 4, null)).toBe(false);
  });

  test('and the latest one are opened under the name of their step', () => {
    evaluated(4, 0.7);
    symlinkSync('step-4', join(dir, 'checkpoints/latest'));
    write('checkpoints/best', 'step-4\n'); // on a disk without links
    for (const name of ['', 'checkpoints/latest', 'checkpoints/best'])
      expect(readCheckpoint(join(dir, name)).folder).toBe(join(dir, 'checkpoints/step-4'));
  });
});
