/** Several labels a clip: the grammar of a list, what is found in it, and what of a training and its results it changes. */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from '@jest/globals';
import { describeEvent } from '../src/base/events/describe.ts';
import type { RunEvent } from '../src/base/events/kinds.ts';
import { balance } from '../src/base/intervals.ts';
import { findChanges, listShared } from '../src/config/effects.ts';
import { resolveWith } from '../src/config/resolve.ts';
import { fileSchema } from '../src/config/schema.ts';
import { Findings } from '../src/data/check/findings.ts';
import { listLabels, numberSet, readLabels, showLabels } from '../src/data/line.ts';
import { readList } from '../src/data/list.ts';
import type { Trial } from '../src/run/cohort-types.ts';
import { readSweep } from '../src/sweep/definition/file.ts';
import { rankPoints, type TrialView } from '../src/sweep/leaderboard.ts';
import { decideRung } from '../src/train/bracket.ts';

const folder = mkdtempSync(join(tmpdir(), 'labels-'));
afterAll(() => rmSync(folder, { recursive: true }));

async function check(text: string, labels: 'single' | 'multi' = 'multi') {
  const file = join(folder, 'list.txt');
  writeFileSync(file, text);
  const findings = new Findings();
  const options = { file, root: '/v', numClasses: 5, labels, skipFiles: true, writeTo: join(folder, 'list.tsv') };
  const report = await readList(options, findings);
  const found = findings.groups.flatMap(({ first }) => first);
  return { report, found, written: existsSync(options.writeTo) ? readFileSync(options.writeTo, 'utf8') : '' };
}

const read = (text: string) => readLabels(Buffer.from(text), 0, text.length);

describe('labels of a line', () => {
  test.each([
    ['5', [5]],
    ['9,1,5', [1, 5, 9]],
    ['-', []],
    ['', null],
    ['1,', null],
    [',1', null],
    ['1,,2', null],
    ['1,1', null],
    ['-1', null],
    ['1;2', null],
    ['a,1', null],
  ])('%s', (text, labels) => expect(read(text)).toEqual(labels));

  test('a set has a number of its own, and a label by itself its own', () => {
    expect(numberSet([7])).toBe(7);
    const sets = [[], [1, 5], [1, 5, 9], [5, 9]];
    const found = sets.map(numberSet);
    expect(new Set(found).size).toBe(4);
    expect(found.map(listLabels)).toEqual(sets);
    expect(found.map(showLabels)).toEqual(['-', '1,5', '1,5,9', '5,9']);
    expect(numberSet([1, 5])).toBe(found[1]);
  });
});

describe('a list with several labels a clip', () => {
  test('is written in order, and counts a clip for each of its classes', async () => {
    const { report, found, written } = await check('a b.mp4 3,0\n/c.mp4\t4\n# a comment\nd.mp4 -\ne.mp4 0,1,2\n');
    expect(written).toBe('/v/a b.mp4\t0,3\n/c.mp4\t4\n/v/d.mp4\t-\n/v/e.mp4\t0,1,2\n');
    expect([...report.perClass]).toEqual([2, 1, 1, 1, 1]);
    expect(found).toEqual([]);
  });

  test('may be one of parts', async () => {
    const { written } = await check('# columns: path label start end\na.mp4 1,2 0 1.5\na.mp4 - 2 3\n');
    expect(written).toBe('/v/a.mp4\t1,2\t0\t1.5\n/v/a.mp4\t-\t2\t3\n');
  });

  test('tells each line whose labels are none, and of several each that is no class', async () => {
    const { found } = await check('a.mp4 1,x\nb.mp4 0,7,9\nc.mp4 2,2\n');
    const told = found.filter(({ severity }) => severity === 'error');
    expect(told.map(({ code, line, message }) => [code, line, message])).toEqual([
      ['label-not-a-number', 1, expect.stringMatching(/"1,x" is not what data.labels: multi asks for: .* - for none/)],
      ['label-not-a-number', 3, expect.stringContaining('each once')],
      ['label-range', 2, expect.stringContaining('label 7 is outside 0..4')],
      ['label-range', 2, expect.stringContaining('label 9 is outside 0..4')],
    ]);
  });

  test('has a conflict where one clip has two sets, and none where they are the same in another order', async () => {
    const { found } = await check('a.mp4 0,1\na.mp4 1,0\nb.mp4 0,1,2\nb.mp4 -\n/x 3\n/y 4\n');
    const conflicts = found.filter(({ code }) => code === 'label-conflict');
    expect(conflicts).toMatchObject([
      { line: 4, labels: [], message: 'label -, and 0,1,2 on line 3 for the same path. Keep the right one.' },
    ]);
  });

  test('is told how to be read where one label is expected', async () => {
    const { found } = await check('a.mp4 0,1\n', 'single');
    expect(found[0]).toMatchObject({
      code: 'label-not-a-number',
      message: expect.stringContaining('set data.labels: multi'),
    });
  });
});

describe('keys', () => {
  const draft = fileSchema.parse({ data: { dummy: true }, model: { backbone: { preset: 'tiny' } } });
  const resolve = (params: Record<string, string>) => resolveWith(draft, params);
  const plain = resolve({}).config;
  const differ = (params: Record<string, string>) =>
    findChanges(plain, resolve(params).config, () => true).map(({ key }) => key);

  test('change numbers, and only class weights may differ in a cohort', () => {
    const changes = { 'data.labels': 'multi', 'data.balance': 'classes', 'train.class_weights': 'balanced' };
    for (const [key, value] of Object.entries(changes)) expect(differ({ [key]: value })).toEqual([key]);
    const shared = listShared(plain);
    expect(Object.keys(changes).map((key) => shared.has(key))).toEqual([true, true, false]);
    expect(differ({ 'data.labels': 'single', 'eval.thresholds': '/f' })).toEqual([]);
  });

  test('that correct the same skew twice, or that nothing reads, are refused', () => {
    const twice = resolve({ 'train.class_weights': 'balanced', 'data.balance': 'classes' });
    expect(twice.problems).toEqual([expect.stringContaining('makes up for the same already')]);
    expect(resolve({ 'eval.thresholds': '/f' }).problems).toEqual([expect.stringContaining('Set it to null')]);
    expect(resolve({ 'eval.thresholds': '/f', 'data.labels': 'multi' }).problems).toEqual([]);
  });
});

describe('a sweep', () => {
  function readObjective(labels: string, objective: string): string {
    writeFileSync(
      join(folder, 'base.yaml'),
      `data: {dummy: true, labels: ${labels}}\nmodel: {backbone: {preset: tiny}}\n`,
    );
    const file = join(folder, 'sweep.yaml');
    writeFileSync(file, `base: base.yaml\n${objective}\nspace: {train.class_weights: [none, balanced]}\n`);
    return readSweep(file).sweep.objective;
  }

  test('chooses by mAP where a clip has several labels, and only there', () => {
    expect(readObjective('multi', '')).toBe('map');
    expect(readObjective('multi', 'objective: top1')).toBe('top1');
    expect(readObjective('single', '')).toBe('top1');
    expect(() => readObjective('single', 'objective: map')).toThrow(
      /objective: found "map", which is of data.labels: multi/,
    );
  });

  test('ranks points, and a rung its trials, by mAP', () => {
    const trials = [0.2, 0.9].map((map, index) => ({ name: `t${index}`, point: `p${index}`, map }));
    const results = Object.fromEntries(trials.map(({ name, map }) => [name, { top1: 1 - map, top5: 1, map }]));
    const cohort = { metric: 'map' as const, trials: trials as unknown as Trial[] };
    expect(decideRung(cohort, 0.5, results).map(({ point, stays }) => [point, stays])).toEqual([
      ['p1', true],
      ['p0', false],
    ]);
    const views = trials.map(({ name, point, map }): TrialView => {
      const about = { params: {}, seed: 0, cohort: null, state: 'finished' as const, step: 8, rungs: [], why: null };
      return { name, point, ...about, top1: 1 - map, top5: 1, map };
    });
    expect(rankPoints(views, 'map').map(({ point, map }) => [point, map?.mean])).toEqual([
      ['p1', 0.9],
      ['p0', 0.2],
    ]);
  });
});

describe('what a person reads', () => {
  const evaluated = { kind: 'evaluated', step: 8, trial: 'main', top1: 0.5, top5: 1, num_videos: 40, num_bad: 0 };
  const tell = (more: object): string | undefined =>
    describeEvent({ ...evaluated, views: 3, list: null, ...more } as RunEvent);

  test('is mAP in the place of top-1', () => {
    expect(tell({ map: 0.912, f1: 0.85 })).toBe('evaluated at step 8: mAP 91.20 %, F1 85.00 % on 40 videos, 3 views');
    const step = { kind: 'step', step: 1, steps: 8, trial: 'main', loss: 1, lr: 1, top1: 0.5, labels: 'multi' };
    const told = describeEvent({
      ...step,
      clips_per_second: 1,
      data_seconds: 0,
      step_seconds: 1,
      eta_seconds: 1,
    } as RunEvent);
    expect(told).toContain('hit@1 50.00 %');
    const predicted = { kind: 'predicted', path: 'a.mp4', classes: [] };
    expect(describeEvent(predicted as unknown as RunEvent)).toContain('no class reaches its threshold');
  });

  test('is balanced accuracy beside top-1 where classes are skewed', () => {
    expect(
      balance([
        [0, 8, 8],
        [2, 2, 0],
      ]),
    ).toBe(0.5);
    expect(tell({ balanced_accuracy: 0.4 })).toContain('), balanced 40.00 %, top-5');
    expect(tell({ balanced_accuracy: 0.5 })).not.toContain('balanced');
  });
});
