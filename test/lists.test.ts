/** Lists from class folders, and their split. */
import { mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { Report } from '../src/base/printer.ts';
import { numberClasses } from '../src/data/layouts/classes.ts';
import { readFolders } from '../src/data/layouts/folders.ts';
import { adviseRename, explainName } from '../src/data/layouts/names.ts';
import { readCsv } from '../src/data/layouts/rows.ts';
import { countSides, findLacking, findSeed, type Shares, sideOf, splitClips } from '../src/data/layouts/split.ts';
import { type SplitRequest, splitList } from '../src/data/layouts/split-list.ts';
import { printList, writeLayout } from '../src/data/layouts/write.ts';
import { checkList } from '../src/data/list.ts';
import { useOwnFolder } from './own-folder.ts';
import { problemsOf } from './support.ts';

const { folder, at, said } = useOwnFolder('lists-');

/** Makes files below the folder; a name may be bytes. */
function make(...names: (string | Buffer)[]): void {
  for (const name of names) {
    const path = Buffer.concat([Buffer.from(`${folder}/`), Buffer.from(name)]);
    mkdirSync(path.subarray(0, path.lastIndexOf('/')), { recursive: true });
    writeFileSync(path, 'x');
  }
}

const list = (dir: string, output: string, classes?: string) =>
  writeLayout(readFolders(at(dir)), { output: at(output), classes }, new Report());
const read = (...parts: string[]): string => readFileSync(at(...parts), 'utf8');

describe('tables with slips in them', () => {
  const table = (text: string) => {
    writeFileSync(at('t.csv'), text);
    return readCsv({ file: at('t.csv'), videos: folder, frameRate: undefined });
  };

  test('a cell that was cut at its comma is named: the cells behind it would be taken for others', () => {
    expect(problemsOf(() => table('path,label\na, b.mp4,run\nc.mp4,jump,,\nd.mp4,,x,y\n'))).toEqual([
      expect.stringMatching(
        /:2 {2}has 3 cells for 2 columns \("a", " b\.mp4", "run"\)\. Put a cell that holds "," in quotes/,
      ),
      expect.stringMatching(/:4 {2}has 4 cells for 2 columns \("d\.mp4", "", "x", \.\.\.\)/),
    ]);
  });

  test('blanks around a path are none of it, unless a file has them', () => {
    make(' b.mp4');
    const { clips, notes } = table('label,path\nrun, a.mp4 \nrun, b.mp4\n0,"c .mp4"\nrun,d.mp4 \n');
    expect(clips.map(({ path }) => path)).toEqual(['a.mp4', ' b.mp4', 'c .mp4', 'd.mp4']);
    expect(notes).toEqual([expect.stringMatching(/:2 {2}2 paths without the blanks around them: no file has them/)]);
  });
});

describe('class folders', () => {
  test('any depth below a class is its own; labels follow the order of code points', () => {
    make('d/b/1.mp4', 'd/a b/x/y/2.MKV', 'd/\uff5a/3.webm', 'd/\u{1f600}/4.avi', 'd/Z/5.mov');
    list('d', 'out');
    expect(read('out/classes.txt')).toBe('Z\na b\nb\n\uff5a\n\u{1f600}\n');
    expect(read('out/all.txt')).toBe('Z/5.mov 0\na b/x/y/2.MKV 1\nb/1.mp4 2\n\uff5a/3.webm 3\n\u{1f600}/4.avi 4\n');
  });

  test('names that are numbers stand in their order', () => {
    make('d/10/a.mp4', 'd/9/a.mp4');
    list('d', 'out');
    expect(read('out/all.txt')).toBe('10/a.mp4 1\n9/a.mp4 0\n');
  });

  test('folders that are all called train, val, test are lists', () => {
    make('d/train/a/1.mp4', 'd/validation/a/2.mp4', 'd/test/b/3.mp4');
    list('d', 'out');
    expect([read('out/train.txt'), read('out/val.txt'), read('out/test.txt')]).toEqual([
      'train/a/1.mp4 0\n',
      'validation/a/2.mp4 0\n',
      'test/b/3.mp4 1\n',
    ]);
    make('e/train/1.mp4', 'e/bus/2.mp4', 'f/train/1.mp4', 'f/test/2.mp4');
    for (const dir of ['e', 'f']) list(dir, `${dir}-out`); // a train is a vehicle, and without classes below it is no side
    expect([read('e-out/classes.txt'), read('f-out/classes.txt')]).toEqual(['bus\ntrain\n', 'test\ntrain\n']);
  });

  test('whatever stands in no list is named, with its reason', () => {
    const odd = Buffer.from('d/a/bad\xff.mp4', 'latin1');
    make('d/a/1.mp4', 'd/a/two\nlines.mp4', 'd/a/tab\t.mp4', 'd/a/end.mp4 ', odd, 'd/a/notes.txt', 'd/a/.hidden.mp4');
    make('d/top.mp4', 'd/none/readme.md');
    list('d', 'out');
    const left = read('out/left-out.tsv').trimEnd().split('\n');
    expect(left.map((line) => line.split('\t').slice(0, 2).join(' '))).toEqual([
      'a/.hidden.mp4 hidden',
      'a/bad\\xff.mp4 not-listable',
      'a/end.mp4  not-listable',
      'a/notes.txt not-a-video',
      'a/tab\\u0009.mp4 not-listable',
      'a/two\\u000alines.mp4 not-listable',
      'none/readme.md not-a-video',
      'top.mp4 no-class',
    ]);
    expect(read('out/all.txt')).toBe('a/1.mp4 0\n');
    const all = said.join('');
    expect(all).toContain(`holds no clip that a list can take, so it is no class.`);
    expect(all).toContain(`mv -n -- $'${folder}/d/a/tab\\x09.mp4' ${folder}/d/a/tab_.mp4`);
    expect(all).toMatch(/8 files left out: .*left-out\.tsv/);
  });

  test('a video under another name is taken in, links are followed, and one in a circle ends', () => {
    make('d/a/1.mp4', 'elsewhere/2.mp4');
    writeFileSync(at('d/a/clip.dat'), '\0\0\0\x18ftypmp42');
    symlinkSync(at('elsewhere'), at('d/b'));
    symlinkSync(at('d'), at('d/a/again'));
    list('d', 'out');
    expect(read('out/all.txt')).toBe('a/1.mp4 0\na/clip.dat 0\nb/2.mp4 1\n');
    expect(said.join('')).toContain('"a/clip.dat"  taken in');
  });

  test('a folder keeps its own name where links or a hidden name lead to it too', () => {
    make('d/.store/run/1.mp4', 'd/a/2.mp4', 'd/b/3.mp4', 'd/b/c.mp4');
    symlinkSync(at('d/b'), at('d/a/link'));
    symlinkSync(at('d/.store/run'), at('d/run'));
    list('d', 'out');
    expect(read('out/all.txt')).toBe('a/2.mp4 0\nb/3.mp4 1\nb/c.mp4 1\nrun/1.mp4 2\n');
    const all = said.join('');
    for (const link of ['a/link', '.store/run'])
      expect(all).toContain(`d/${link}  is a link to a folder that is read under its own name or another`);
  });

  test('names that begin with # or a blank come through', async () => {
    const names = ['# a 1/1.mp4', '#b/# 2.mp4', 'c/ 3.mp4'];
    make(...names.map((name) => `d/${name}`));
    list('d', 'out');
    await checkList({ file: at('out/all.txt'), root: at('d'), numClasses: 3, writeTo: at('clean') });
    expect(read('clean')).toBe(
      names.map((name, label) => `${folder}/d/${name.startsWith('#') ? './' : ''}${name}\t${label}\n`).join(''),
    );
  });

  test('an existing file of names keeps its labels; a class that it lacks is named', () => {
    make('d/a/1.mp4', 'd/c/2.mp4');
    writeFileSync(at('classes.txt'), 'c\nb\na\n');
    list('d', 'out', at('classes.txt'));
    expect(read('out/all.txt')).toBe('a/1.mp4 2\nc/2.mp4 0\n');
    make('d/new/3.mp4', 'd/new too/4.mp4');
    const problems = problemsOf(() => list('d', 'more', at('classes.txt')));
    expect(problems.map((line) => /class "(.*)" is not in/.exec(line)?.[1])).toEqual(['new', 'new too']);
  });

  test('nothing is overwritten, and nothing but the lists is written', () => {
    make('d/a/1.mp4');
    list('d', 'out');
    expect(problemsOf(() => list('d', 'out'))).toEqual(
      ['all.txt', 'classes.txt'].map((name) =>
        expect.stringContaining(`out/${name}  exists, and nothing is overwritten`),
      ),
    );
    list('d', 'again', at('out/classes.txt'));
    expect(problemsOf(() => list('d', 'out', at('out/classes.txt')))).toHaveLength(1);
  });

  test.each([
    ['no folder', 'd', [], /no such file/],
    ['a file', 'd', ['d'], /is a file\. Give a folder/],
    ['no video', 'd', ['d/a/notes.txt'], /holds no video in a class folder/],
    ['frames', 'd', ['d/a/1.jpg', 'd/a/2.jpg'], /holds 2 pictures and no video\. .*ffmpeg/],
    ['two forms of a name', 'd', ['d/\u00e9/1.mp4', 'd/e\u0301/1.mp4'], /two Unicode forms/],
    ['a class that ends with a blank', 'd', ['d/a /1.mp4'], /blanks or line ends/],
  ])('refused: %s', (_, dir, files, message) => {
    make(...files);
    expect(problemsOf(() => list(dir, 'out')).join('\n')).toMatch(message);
  });
});

describe('names', () => {
  test.each([
    ['a/b c.mp4', undefined],
    ['a\nb.mp4', 'line feed'],
    ['a\rb.mp4', 'carriage return'],
    ['a/b.mp4 ', 'ends with a blank'],
    [Buffer.from([0x61, 0xff]), 'not valid UTF-8'],
    ['\ud800', 'half a character'],
  ])('%j', (name, why) => {
    if (why === undefined) expect(explainName(name)).toBeUndefined();
    else expect(explainName(name)).toContain(why);
  });

  test('a folder is renamed before what lies in it', () =>
    expect(adviseRename("it's\n/a\n.mp4", '/d')).toBe("mv -n -- $'/d/it\\'s\\x0a' '/d/it'\\''s_'"));

  const name = fc
    .string({ unit: 'grapheme', minLength: 1, maxLength: 20 })
    .filter((one) => explainName(one) === undefined && !/^\/|[/]/.test(one));

  test('what is printed is read again, whatever the names', async () => {
    const clip = fc.record({ path: name.filter((one) => !/^\.+$/.test(one)), label: fc.nat(999) });
    await fc.assert(
      fc.asyncProperty(fc.uniqueArray(clip, { minLength: 1, selector: ({ path }) => path }), async (clips) => {
        writeFileSync(at('list.txt'), printList(clips));
        await checkList({ file: at('list.txt'), root: '/d', numClasses: null, writeTo: at('clean'), skipFiles: true });
        const lines = read('clean').trimEnd().split('\n');
        expect(lines.map((line) => line.replace('/./', '/'))).toEqual(
          clips.map(({ path, label }) => `/d/${path}\t${label}`),
        );
      }),
      { numRuns: 60 },
    );
  });
});

describe('a split', () => {
  const split = async (clips: string[], output: string, more: Partial<SplitRequest> = {}) => {
    writeFileSync(at('all.txt'), clips.map((clip) => `${clip}\n`).join(''));
    rmSync(at(output), { recursive: true, force: true });
    const request = { shares: { val: 0.3, select: 0.2 }, seed: 1, root: folder, ...more };
    await splitList({ list: at('all.txt'), output: at(output), ...request }, new Report());
    const sides = new Map<string, string>();
    for (const side of ['train', 'val', 'select'])
      for (const line of read(output, `${side}.txt`).trimEnd().split('\n')) {
        expect(sides.has(line)).toBe(false);
        sides.set(line, side);
      }
    return sides;
  };

  const clips = fc.uniqueArray(
    fc
      .record({ group: fc.string(), number: fc.nat(9) })
      .map(({ group, number }) => ({ group, key: `${group}/${number}` })),
    { selector: ({ key }) => key },
  );

  test('is disjoint and complete, keeps groups whole, and stays when lines move or come', () => {
    const draw = fc.tuple(clips, clips).chain(([some, more]) => {
      const known = new Set(some.map(({ key }) => key));
      const all = [...some, ...more.filter(({ key }) => !known.has(key))];
      const grown = fc.shuffledSubarray(all, { minLength: all.length });
      const share = fc.double({ min: 0, max: 0.5, noNaN: true });
      return fc.record({ some: fc.constant(some), grown, seed: fc.nat(), val: share, select: share });
    });
    const sidesOf = (clips: { key: string; group: string }[], seed: number, shares: Shares): Map<string, string> => {
      const split = Object.entries(splitClips(clips, seed, shares));
      expect(split.flatMap(([, own]) => own.map(({ key }) => key)).sort()).toEqual(clips.map(({ key }) => key).sort());
      return new Map(split.flatMap(([side, own]) => own.map(({ key }) => [key, side] as const)));
    };
    fc.assert(
      fc.property(draw, ({ some, grown, seed, ...shares }) => {
        const [before, after] = [sidesOf(some, seed, shares), sidesOf(grown, seed, shares)];
        const ofGroup = new Map(grown.map(({ key, group }) => [group, after.get(key)]));
        for (const { key, group } of grown) expect(after.get(key)).toBe(ofGroup.get(group));
        for (const { key } of some) expect(before.get(key)).toBe(after.get(key));
      }),
    );
  });

  test('of a list keeps what a pattern finds together, and every line', async () => {
    const lines = Array.from({ length: 90 }, (_, index) => `g${index % 30}_${index}.mp4 ${index % 3}`);
    const sides = await split(lines, 'out', { pattern: '^(g\\d+)_' });
    expect([...sides.keys()].sort()).toEqual([...lines].sort());
    for (const [line, side] of sides) expect(side).toBe(sideOf(line.split('_')[0] ?? '', 1, { val: 0.3, select: 0.2 }));
  });

  test('leaves parts of videos and several labels as they are; the parts of one video stay together', async () => {
    const head = '# columns: path label start end';
    const lines = Array.from(
      { length: 60 },
      (_, index) => `a ${index % 20}.mp4 ${index % 2 ? '1,5' : '3'} ${index} ${index + 1.5}`,
    );
    writeFileSync(at('parts.txt'), [head, ...lines, ''].join('\n'));
    const request = {
      shares: { val: 0.3, select: 0.2 },
      seed: 1,
      root: folder,
      list: at('parts.txt'),
      output: at('out'),
    };
    await splitList(request, new Report());
    const texts = ['train', 'val', 'select'].map((side) => read('out', `${side}.txt`).trimEnd().split('\n'));
    expect(texts.map(([first]) => first)).toEqual([head, head, head]);
    expect(texts.flatMap(([, ...rest]) => rest).sort()).toEqual([...lines].sort());
    const videos = texts.flatMap(([, ...rest]) => [...new Set(rest.map((line) => line.split('.mp4')[0]))]);
    expect(videos).toHaveLength(20);
  });

  test('has the shares of its seed in every class, and the selection takes from training alone', () => {
    const many = Array.from({ length: 20_000 }, (_, index) => ({ group: `${index}`, class: index % 4 }));
    for (const counts of countSides(many, 5, { val: 0.2, select: 0.1 }).values()) {
      expect(counts.val / 5000).toBeCloseTo(0.2, 1);
      expect(counts.select / 5000).toBeCloseTo(0.1, 1);
    }
    for (const { group } of many.slice(0, 500)) {
      const [without, with_] = [0, 0.1].map((select) => sideOf(group, 5, { val: 0.2, select }));
      if (without !== with_) expect([without, with_]).toEqual(['train', 'select']);
    }
    expect(sideOf('a', 1, { val: 0.5, select: 0 })).not.toBe(sideOf('a', 4, { val: 0.5, select: 0 }));
  });

  test('of few clips says which class has none, and which seed gives each class some', async () => {
    const few = Array.from({ length: 40 }, (_, index) => `c${index % 8}/${index}.mp4 ${index % 8}`);
    await split(few, 'out', { seed: 0, shares: { val: 0.2, select: 0.1 } });
    const [, seed] = /Before anything is trained: `--seed (\d+)`/.exec(said.join('')) ?? [];
    const grouped = few.map((line) => ({ group: line.split(' ')[0] ?? '', class: line.split(' ')[1] ?? '' }));
    const shares = { val: 0.2, select: 0.1 };
    expect(Number(seed)).toBe(findSeed(grouped, shares));
    const lacking = (one: number) => findLacking(countSides(grouped, one, shares), shares);
    expect(lacking(Number(seed))).toMatchObject({ train: [], val: [] });
    expect(lacking(0).val.length).toBeGreaterThan(0);
  });

  test('takes groups from a table, and names what has none', async () => {
    make('groups.csv');
    const paths = Array.from({ length: 40 }, (_, index) => `${index}.mp4`);
    const rows = paths.slice(1).map((path, index) => `s${index % 12};"${path}"`);
    writeFileSync(at('groups.csv'), `\ufeffsource; Path\n${rows.join('\n')}\n`);
    const sides = await split(
      paths.map((path) => `${path} 0`),
      'out',
      { groups: at('groups.csv') },
    );
    for (const [index, path] of paths.slice(1).entries())
      expect(sides.get(`${path} 0`)).toBe(sideOf(`s${index % 12}`, 1, { val: 0.3, select: 0.2 }));
    expect(said.join('')).toContain('1 clip without a group, "0.mp4" the first');
  });

  test.each([
    ['shares that leave nothing', ['a 0'], { shares: { val: 0.6, select: 0.4 } }, /leave nothing to train on/],
    ['a pattern that is none', ['a 0'], { pattern: '(' }, /--group {2}found "\(": .*Allowed: a regular expression/],
    ['a pattern that fits nothing', ['a 0'], { pattern: 'x' }, /no path of .* "a" for one/],
    ['too few groups', ['a 0'], {}, /1 group of clips with this seed: nothing for/],
    ['bad lines', ['a', 'b x'], {}, /has no label(.|\n)*label "x" is not/],
  ])('refused: %s', async (_, lines, more, message) => {
    await expect(split(lines, 'out', more)).rejects.toThrow(message);
  });
});

test('labels of a table are numbers where all are, and a file of names takes both', () => {
  const clips = ['3', '0'].map((name, line) => ({ path: `${line}.mp4`, class: name, list: 'a.csv', line }));
  expect(numberClasses({ clips }, undefined)).toMatchObject({ names: null, numClasses: 4 });
  make('c/names.txt');
  writeFileSync(at('c/names.txt'), 'a\nb\n3\nd\n');
  const { labelOf } = numberClasses({ clips }, at('c/names.txt'));
  expect(clips.map(labelOf)).toEqual([2, 0]);
  expect(dirname(at('c/names.txt'))).toBe(at('c'));
});
