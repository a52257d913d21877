/** `check` of classes, and the clean lists that it writes. */
import { mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeEach, describe, expect, test } from '@jest/globals';
import { Report } from '../src/base/printer.ts';
import { checkClips } from '../src/data/check/check.ts';
import { findCountFaults, findNameFaults } from '../src/data/check/classes.ts';
import { type Finding, Findings } from '../src/data/check/findings.ts';
import type { FoundClip } from '../src/data/scan.ts';

const folder = realpathSync(mkdtempSync(join(tmpdir(), 'check-clean-test-')));
const within = (name: string): string => join(folder, name);
beforeEach(() => {
  rmSync(folder, { recursive: true });
  mkdirSync(folder);
});
afterAll(() => rmSync(folder, { recursive: true }));

const QUIET = Object.assign(new Report(), { print: () => {}, warn: () => {} });

/** Writes a file for each clip, of its name, and the lists. */
function write(clips: string[], lists: Record<string, string>): void {
  for (const name of clips) {
    mkdirSync(dirname(within(name)), { recursive: true });
    writeFileSync(within(name), `\0\0\0\x18ftyp${name}`);
  }
  for (const [name, text] of Object.entries(lists)) writeFileSync(within(name), text);
}

/** Checks lists and writes them clean; errors are told in an exception, after that. */
async function clean(lists: string[], root?: string): Promise<void> {
  const request = { lists: lists.map(within), config: undefined, numClasses: undefined, root, readTrained: () => null };
  await checkClips({ ...request, probeSeconds: undefined, writeClean: within('clean') }, QUIET).catch(
    (error: Error) => {
      if (error.name !== 'UserError') throw error;
    },
  );
}

const read = (name: string): string => readFileSync(within(`clean/${name}`), 'utf8').replaceAll(`${folder}/`, '');
const reasonsOf = (): string[] =>
  read('quarantine.tsv')
    .split('\n')
    .slice(1, -1)
    .map((line) => line.split('\t').slice(0, 3).join(' '));

describe('clean lists', () => {
  test('hold every line against which nothing is said; the others are kept with their reasons', async () => {
    const train = [
      '# mine',
      'a.mp4 0',
      'b.mp4 1',
      'a.mp4 0',
      'gone.mp4 1',
      'c.mp4 x',
      ' d  e.mp4 1\r',
      'f.mp4 0',
      'f.mp4 1',
    ];
    write(['a.mp4', 'b.mp4', 'c.mp4', 'd  e.mp4', 'f.mp4'], {
      't.txt': train.join('\n'),
      'v.txt': '\n\uFEFFb.mp4 1\n',
    });
    await clean(['t.txt', 'v.txt']);
    expect(read('t.txt')).toBe('a.mp4 0\nd  e.mp4 1\n');
    expect(read('v.txt')).toBe('b.mp4 1\n'); // what is evaluated on stays
    expect(reasonsOf()).toEqual([
      't.txt 3 leak',
      't.txt 4 duplicate-path',
      't.txt 5 missing',
      't.txt 6 label-not-a-number',
      't.txt 8 label-conflict',
      't.txt 9 label-conflict',
    ]);
    expect(read('per-class.tsv')).toBe('label\tname\tt.txt\tv.txt\n0\t\t1\t0\n1\t\t1\t1\n');
    expect(JSON.parse(read('clean.json')).lists).toMatchObject([{ num_lines: 2, num_left_out: 6 }, { num_lines: 1 }]);
  });

  test('of a root that was given stay relative to it', async () => {
    write(['clips/a.mp4'], { 't.txt': './a.mp4 0\n' });
    await clean(['t.txt'], within('clips'));
    expect(readFileSync(within('clean/t.txt'), 'utf8')).toBe('./a.mp4 0\n');
  });

  test('have the labels of the first where theirs are another order of its class folders', async () => {
    const clips = ['up', 'down', 'left'].flatMap((name) => [`${name}/1.mp4`, `${name}/2.mp4`]);
    const lists = {
      't.txt': 'up/1.mp4 0\ndown/1.mp4 1\nleft/1.mp4 2\n',
      'v.txt': 'up/2.mp4 1\ndown/2.mp4 0\nleft/2.mp4 2\n',
    };
    write(clips, lists);
    await clean(['t.txt', 'v.txt']);
    expect(read('mapping-v.tsv')).toBe('label\tnew_label\tname\n0\t1\tdown\n1\t0\tup\n2\t2\tleft\n');
    expect([read('t.txt'), read('v.txt')]).toEqual([lists['t.txt'], 'up/2.mp4 0\ndown/2.mp4 1\nleft/2.mp4 2\n']);
  });

  test('are not written among other files', async () => {
    write(['a.mp4'], { 't.txt': 'a.mp4 0\n' });
    mkdirSync(within('clean'));
    writeFileSync(within('clean/mine.txt'), '');
    await clean(['t.txt']);
    expect(() => read('t.txt')).toThrow('ENOENT');
  });
});

describe('classes', () => {
  const clipsOf = (folders: Record<string, number>): FoundClip[] =>
    Object.entries(folders).map(([name, label]) => ({
      path: `/c/${name}/x.mp4`,
      label,
      line: 1,
      id: name,
      size: 1,
      mtime: 1,
    }));
  const told = (find: (findings: Findings) => void): string[] => {
    const found: Finding[] = [];
    find(new Findings((finding) => found.push(finding)));
    return found.map(({ code, severity, message }) => `${severity} ${code}: ${message.split('. ')[0]}`);
  };
  const names = { source: 'classes.txt', names: ['Up Right', 'down', 'left'] };
  const compare = (folders: Record<string, number>, trained: string[] | null = null): string[] =>
    told((findings) => {
      const known = { classes: names, trained: trained === null ? null : { source: 'old', names: trained } };
      findNameFaults([{ file: 't.txt', found: clipsOf(folders) }], known, findings);
    });

  test('are compared by the folders of the clips', () => {
    expect(compare({ up_right: 0, down: 1, left: 2 })).toEqual([]);
    expect(compare({ a: 0, b: 1 })).toEqual([]); // folders of another kind
    expect(compare({ up_right: 2, down: 1, left: 0 })).toEqual([
      expect.stringContaining(
        'labels-permuted: 2 labels of 3 stand for another class than in classes.txt, and the names are the same: "up_right" is 2 here, 0 there',
      ),
    ]);
    expect(compare({ up_right: 0, down: 1, right: 2 })).toEqual([
      expect.stringContaining(
        'class-names-differ: 1 label of 3 have other names than in classes.txt: 2 is "right" here, and "left" in',
      ),
    ]);
  });

  test('a clip may lie deeper in the folder of its class', () => {
    const deep = { 'up_right/raw': 0, 'down/raw': 1, 'left/2019/cam 2': 2 };
    expect(compare(deep)).toEqual([]);
    expect(compare({ up_right: 0, down: 1, 'left/cam': 2 })).toEqual([]);
    expect(compare({ 'a/up_right': 0, down: 1, 'left/cam': 2 })).toEqual([]); // no level has all of them
    expect(compare({ up_right: 0, down: 1, 'right/cam': 2 })).toEqual([
      expect.stringContaining('class-names-differ: 1 label of 3'),
    ]);
    expect(compare({ 'up_right/raw': 2, 'down/raw': 1, 'left/2019/cam 2': 0 })).toEqual([
      expect.stringContaining('labels-permuted: 2 labels of 3'),
    ]);
  });

  test('are compared with those of the checkpoint that training begins from', () => {
    expect(compare({}, ['up right', 'down', 'left'])).toEqual([]);
    expect(compare({}, ['down', 'up right', 'left'])).toEqual([
      expect.stringContaining('labels-permuted: 2 labels of 3'),
    ]);
  });

  test('of few clips, of none and of far more than others are told', () => {
    const count = (perClass: number[], numClasses: number | null = 3): string[] =>
      told((findings) =>
        findCountFaults(
          [{ file: 't.txt', perClass: Uint32Array.from(perClass), found: [] }],
          { classes: names, numClasses },
          findings,
        ),
      );
    expect(count([20, 20, 20])).toEqual([]);
    expect(count([3, 20, 29])).toEqual(['warning class-few: 1 class of 3 with fewer than 5 clips (0 "Up Right")']);
    expect(count([4, 4, 4])).toEqual([expect.stringContaining('note class-few: 3 classes of 3')]);
    expect(count([20, 200, 20])).toEqual([
      expect.stringContaining('note class-skew: class 1 "down" has 200 clips, class 0 "Up Right" has 20: 10 times'),
    ]);
    expect(count([20, 0, 20], null)).toEqual([
      expect.stringContaining('warning class-empty: labels go to 2, and 1 class below without a clip'),
    ]);
  });
});
