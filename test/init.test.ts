/** `init`: what a folder holds, how it is split and fitted, and the whole way from a folder of traps to a prediction. */
import { execFileSync } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { loadConfig } from '../src/config/load.ts';
import { fitMemory, fitSampling, fitSchedule } from '../src/tools/init/fit.ts';
import { chooseSides } from '../src/tools/init/sides.ts';
import { readSource } from '../src/tools/init/source.ts';
import { type Plan, writeYaml } from '../src/tools/init/write-yaml.ts';
import { CLIPS, coldframe, type Event, FIXTURES, makeClips } from './support.ts';

const folder = realpathSync(mkdtempSync(join(tmpdir(), 'init-')));
const at = (...parts: string[]): string => join(folder, ...parts);

beforeEach(() => {
  rmSync(folder, { recursive: true });
  mkdirSync(folder);
});
afterAll(() => rmSync(folder, { recursive: true }));

function make(files: Record<string, string>): void {
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(at(name)), { recursive: true });
    writeFileSync(at(name), text);
  }
}

describe('what a folder holds', () => {
  test('lists count for more than a table, and a table for more than folders', async () => {
    make({ 'd/x/1.mp4': 'x', 'd/y/2.mp4': 'x' });
    expect(await readSource(at('d'))).toMatchObject({
      what: 'class folders',
      layout: { clips: [{ class: 'x' }, { class: 'y' }] },
    });
    make({ 'd/labels.csv': 'label;path\nb;x/1.mp4\na;y/2.mp4\n', 'd/other.csv': 'name,size\n' });
    const table = await readSource(at('d'));
    expect(table).toMatchObject({ what: 'labels.csv', layout: { clips: [{ class: 'b' }, { class: 'a' }] } });
    expect(await readSource(at('d/labels.csv'))).toEqual(table);
    make({ 'd/train.txt': '# a comment\nx/1.mp4 1\n', 'd/val.txt': 'y/2.mp4 0\n', 'd/notes.txt': 'bought 3\n' });
    const lists = await readSource(at('d'));
    expect(lists.what).toBe('train.txt, val.txt, and no classes.txt: classes are called by their labels');
    expect(lists.layout.clips.map(({ path, class: name, side }) => [path, name, side])).toEqual([
      ['x/1.mp4', '1', 'train'],
      ['y/2.mp4', '0', 'val'],
    ]);
    make({ 'd/classes.txt': 'sit\nrun\n' });
    expect((await readSource(at('d'))).layout).toMatchObject({
      classes: ['sit', 'run'],
      clips: [{ class: 'run' }, { class: 'sit' }],
    });
  });

  test('tables that are called by sides are lists; of several others one has to be named', async () => {
    make({
      'd/train.csv': 'path,label\n1.mp4,a\n',
      'd/val.csv': 'path,label\n2.mp4,a\n',
      'd/more.csv': 'path,label\n',
    });
    expect((await readSource(at('d'))).layout.clips.map(({ side }) => side)).toEqual(['train', 'val']);
    make({ 'e/a.csv': 'path,label\n', 'e/b.tsv': 'path\tlabel\n', 'e/c.txt': '' });
    await expect(readSource(at('e'))).rejects.toThrow(/holds 2 tables: a\.csv, b\.tsv\. Name one: `coldframe init/);
    await expect(readSource(at('gone'))).rejects.toThrow(/no such file/);
    await expect(readSource(at('e/c.txt'))).rejects.toThrow(/is a file\. Give a folder/);
  });
});

describe('sides', () => {
  const clip = (path: string, name = path.split('/')[0] ?? '', more: object = {}) => ({
    path,
    class: name,
    list: '',
    line: null,
    ...more,
  });
  const classes = ['a', 'b', 'c', 'd'];
  const sideOf = (lists: Map<string, { path: string }[]>, path: string): string | undefined =>
    [...lists].find(([, own]) => own.some((one) => one.path === path))?.[0];

  test('of a few clips each class gets some to train and to validate on, by a seed that is told', () => {
    const clips = classes.flatMap((name) => Array.from({ length: 6 }, (_, index) => clip(`${name}/${index}.mp4`)));
    const { lists, why, seed } = chooseSides(clips, [], undefined);
    for (const side of ['train', 'val'])
      expect(new Set(lists.get(side as 'val')?.map((one) => one.class))).toEqual(new Set(classes));
    expect(lists.get('select')?.length).toBeGreaterThan(0);
    expect([...lists.values()].flat()).toHaveLength(24);
    expect(why.join(' ')).toContain(`by seed ${seed}`);
  });

  test('clips with several labels are read with all of them, and each class is split', async () => {
    const labels = ['0', '1', '-', '1,2', '0'];
    const labelOf = (i: number): string => (i % 15 === 6 ? '0,3' : (labels[i % 5] ?? '')); // 3 is rare, and never alone
    make({ 'd/all.txt': Array.from({ length: 60 }, (_, i) => `${i}.mp4 ${labelOf(i)}\n`).join('') });
    const { layout, what } = await readSource(at('d'));
    expect([layout.isMulti, layout.classes, what]).toEqual([
      true,
      ['0', '1', '2', '3'],
      'all.txt, several labels a clip, and no classes.txt: classes are called by their labels',
    ]);
    const { lists } = chooseSides(layout.clips, [], undefined, true);
    for (const side of ['train', 'val'] as const) {
      const own = lists.get(side)?.map((clip) => clip.class) ?? [];
      for (const one of ['0', '1', '2', '3', '-'])
        expect([side, one, own.some((all) => all.split(',').includes(one))]).toEqual([side, one, true]);
    }
    make({ 'd/classes.txt': 'a\nb\nc\nd\n' });
    expect((await readSource(at('d'))).layout.classes).toEqual(['a', 'b', 'c', 'd']);
    make({ 'd/all.txt': 'a - b.mp4 1\n' });
    expect((await readSource(at('d'))).layout.isMulti).toBe(false);
  });

  test('copies stay together, through other copies and groups', () => {
    const clips = classes.flatMap((name) => Array.from({ length: 20 }, (_, index) => clip(`${name}/${index}.mp4`)));
    const pick = (...places: number[]) => places.map((place) => clips[place] as (typeof clips)[number]);
    const tens = Array.from({ length: 10 }, (_, index) => index);
    const copies = tens.flatMap((index) => [pick(20 + index, 40 + index), pick(index, 20 + index)]);
    const { lists } = chooseSides(clips, copies, undefined);
    for (const index of tens) {
      const sides = pick(index, 20 + index, 40 + index).map(({ path }) => sideOf(lists, path));
      expect([index, new Set(sides).size]).toEqual([index, 1]);
    }
  });

  test.each([
    ['v_x_g01_c02.avi', (name: string, video: number, cut: number) => `v_${name}_g${video}_c${cut}.avi`, true],
    [
      'ID_000010_000020.mp4',
      (name: string, video: number, cut: number) => `${name}${video}_00001${cut}_00002${cut}.mp4`,
      true,
    ],
    ['talk part 2.mp4', (name: string, video: number, cut: number) => `${name} ${video} part ${cut}.mp4`, true],
    [
      'run_clip_12.mp4, where all of a class would be one',
      (name: string, video: number, cut: number) => `${name}_clip_${video}${cut}.mp4`,
      false,
    ],
    ['0123.mp4', (_: string, video: number, cut: number) => `0${video}${cut}.mp4`, false],
  ])('groups by names such as %s', (_, nameIt, isGrouped) => {
    const clips = classes.flatMap((name) =>
      [1, 2, 3, 4, 5].flatMap((video) => [1, 2, 3].map((cut) => clip(`${name}/${nameIt(name, video, cut)}`))),
    );
    const { lists, why } = chooseSides(clips, [], undefined);
    const whole = classes.every((name) =>
      [1, 2, 3, 4, 5].every(
        (video) => new Set([1, 2, 3].map((cut) => sideOf(lists, `${name}/${nameIt(name, video, cut)}`))).size === 1,
      ),
    );
    expect([whole, /groups by the names/.test(why.join())]).toEqual([isGrouped, isGrouped]);
  });

  test('what the layout or the user says counts for more', () => {
    const given = classes.flatMap((name) =>
      Array.from({ length: 9 }, (_, index) =>
        clip(`${name}/${index}.mp4`, name, { side: index < 7 ? 'train' : 'val' }),
      ),
    );
    const { lists } = chooseSides(given, [], undefined);
    expect(lists.get('val')?.map(({ path }) => path)).toEqual(
      given.map(({ path }) => path).filter((path) => /[78]\.mp4$/.test(path)),
    );
    expect([lists.has('select'), (lists.get('train')?.length ?? 0) + (lists.get('select')?.length ?? 0)]).toEqual([
      true,
      28,
    ]);
    const clips = classes.flatMap((name) =>
      Array.from({ length: 30 }, (_, index) => clip(`${name}/${index % 10}-${index}.mp4`)),
    );
    const byPattern = chooseSides(clips, [], '/(\\d+)-').lists;
    expect(new Set(clips.filter(({ path }) => /\/3-/.test(path)).map(({ path }) => sideOf(byPattern, path))).size).toBe(
      1,
    );
    expect(() => chooseSides(clips, [], '(')).toThrow(/--group {2}found "\("/);
  });
});

describe('numbers that fit', () => {
  const clips = (frames: number, rate = 30, more = {}) =>
    Array.from({ length: 20 }, (_, i) => ({ facts: { num_frames: frames + i, rate }, ...more }));
  test.each([
    ['long clips: as the recipe', clips(300), 8, 16],
    ['short ones: as far as they reach', clips(50), 8, 7],
    ['60 frames a second: the same time', clips(600, 60), 8, 32],
    ['fewer frames than eight', clips(3), 5, 1],
    ['parts of long videos: by their own length', clips(3000, 30, { start: 10, end: 11 }), 8, 4],
  ])('frames of %s', (_, some, numFrames, stride) => expect(fitSampling(some)).toMatchObject({ numFrames, stride }));

  test('steps: about thirty times each clip, a batch never larger than the clips', () => {
    expect(fitSchedule(10_000)).toMatchObject({ batchSize: 32, steps: 9400 });
    expect(fitSchedule(20)).toMatchObject({ batchSize: 16, steps: 100 });
    expect(fitSchedule(1)).toMatchObject({ batchSize: 2, steps: 100 });
    expect(fitSchedule(1_000_000).steps).toBe(20_000);
  });

  test('memory: the fewest parts that leave a fifth free, else a word on it', () => {
    const forecasts = [1, 2, 4].map((parts) => ({ parts, bytes: 80 / parts }));
    expect(fitMemory(forecasts, 100, 'cpu').microBatches).toBe(1);
    expect(fitMemory(forecasts, 99, 'cpu').microBatches).toBe(2);
    expect(fitMemory(forecasts, 10, 'cpu')).toMatchObject({
      microBatches: 4,
      why: expect.stringContaining('more than fits'),
    });
  });

  test('the file is read as it was meant, whatever the names', () => {
    for (const name of ['train.txt', 'val.txt', 'classes.txt']) make({ [name]: 'a\n' });
    const root = at(`it's "a" # folder: \${NONE} ü`);
    const weights = at('w.pt');
    writeFileSync(weights, '');
    const plan: Plan = {
      ...{ command: "coldframe init 'a\nb'", root, isMulti: true, split: ['one\ntwo'], numClips: { train: 1 } },
      sampling: fitSampling(clips(50)),
      schedule: fitSchedule(20),
      cut: { microBatches: 4, why: 'so' },
      backbone: {
        keys: { preset: 'ViT-L/14@336px', activation: 'gelu' },
        size: 224,
        weights,
        sha256: 'a'.repeat(64),
        fetch: null,
        why: 'found',
      },
    };
    writeFileSync(at('my.yaml'), writeYaml({ ...plan, isMulti: false }, folder));
    expect(loadConfig(at('my.yaml')).config.data.labels).toBe('single');
    writeFileSync(at('my.yaml'), writeYaml(plan, folder));
    const { config } = loadConfig(at('my.yaml'));
    expect(config).toMatchObject({
      data: { root, labels: 'multi', train_list: at('train.txt'), num_frames: 8, stride: 7, size: 224 },
      model: { backbone: { preset: 'ViT-L/14@336px', activation: 'gelu', weights, weights_sha256: 'a'.repeat(64) } },
      train: { steps: 100, batch_size: 16, micro_batches: 4 },
    });
  });
});

describe('a folder of traps', () => {
  beforeAll(makeClips);

  /** Eight class folders with the 36 test clips and four copies of some, and what people have in such folders. */
  function makeTraps(): Record<string, string> {
    const names = readFileSync(join(CLIPS, 'classes.txt'), 'utf8').trimEnd().split('\n');
    const clips: string[] = [];
    for (const side of ['train', 'val'])
      for (const line of readFileSync(join(CLIPS, `${side}.txt`), 'utf8')
        .trimEnd()
        .split('\n')) {
        const [path = '', label] = line.split(' ');
        const target = at('clips', names[Number(label)] ?? '', `${side}-${basename(path)}`);
        mkdirSync(dirname(target), { recursive: true });
        copyFileSync(join(CLIPS, path), target);
        clips.push(target);
      }
    const take = (): string => clips.splice(3, 1)[0] ?? '';
    const move = (change: (name: string) => string): string => {
      const from = take();
      const to = join(dirname(from), change(basename(from)));
      renameSync(from, to);
      return to;
    };
    const [cut, halved, emptied, text, inClass, inTwo] = [take(), take(), take(), take(), take(), take()];
    truncateSync(cut, 3000);
    truncateSync(halved, Math.floor(statSync(halved).size / 2));
    truncateSync(emptied, 0);
    writeFileSync(text, 'this is no video\n');
    copyFileSync(inClass, inClass.replace('.mp4', ' (copy).mp4'));
    copyFileSync(inClass, inClass.replace('.mp4', ' (copy 2).mp4'));
    const other = at('clips', inTwo.includes('/up/') ? 'down' : 'up', 'other.mp4');
    copyFileSync(inTwo, other);
    make({ 'clips/left/notes.txt': 'notes', 'clips/Thumbs.db': 'x' });
    copyFileSync(inClass, at('clips/stray.mp4'));
    return {
      [cut]: 'unreadable',
      [halved]: 'unreadable',
      [emptied]: 'empty',
      [text]: 'not-a-video',
      [inTwo]: 'label-conflict',
      [other]: 'label-conflict',
      [at('clips/left/notes.txt')]: 'not-a-video',
      [at('clips/Thumbs.db')]: 'not-a-video',
      [at('clips/stray.mp4')]: 'no-class',
      [move((name) => name.replace('.', '\n.'))]: 'not-listable',
      [move((name) => `${name} `)]: 'not-listable',
      [move((name) => `.${name}`)]: 'hidden',
      [move(() => '# odd  "name" 1.mp4')]: 'listed',
      [move((name) => name.replace('mp4', 'avi'))]: 'listed',
      [move((name) => name.replace('.mp4', ' ümläut'))]: 'listed',
      [inClass]: 'listed',
    };
  }

  test('is told trap by trap, stays as it is, and trains and predicts with what is left', async () => {
    const traps = makeTraps();
    const look = (): string => execFileSync('find', [at('clips'), '-printf', '%P %s %T@ %i\n'], { encoding: 'latin1' });
    const before = look();
    mkdirSync(at('weights'));
    copyFileSync(join(FIXTURES, 'parity', 'clip_jit_archive.pt'), at('weights/tiny.pt'));
    const options = { cwd: folder, env: { XDG_CACHE_HOME: at('cache') } };

    const inside = await coldframe(['init', 'clips', '--output', 'clips/my'], options);
    expect([inside.code, inside.stderr]).toEqual([2, expect.stringContaining('lies in')]);
    const made = await coldframe(['init', 'clips', '--output', 'my', '--json'], options);
    expect([made.code, made.stderr]).toEqual([0, expect.stringContaining('taken in')]);
    const events: Event[] = made.stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
    const told = new Map(
      events.filter(({ kind }) => kind === 'finding').map(({ path, code }) => [at('clips', String(path)), code]),
    );
    const lists = ['train', 'val', 'select'].map((side) => readFileSync(at('my', `${side}.txt`), 'utf8'));
    for (const [path, code] of Object.entries(traps)) {
      if (code !== 'listed') expect([path, told.get(path)]).toEqual([path, code]);
      else
        expect([path, lists.filter((text) => text.includes(path.slice(at('clips/').length))).length]).toEqual([
          path,
          1,
        ]);
    }
    expect(events.filter(({ code }) => code === 'duplicate-content')).toHaveLength(2);
    expect(events.filter(({ code }) => code === 'leak')).toEqual([]);
    const { lists: counts, num_clips: numClips, next } = events.find(({ kind }) => kind === 'initialized') as Event;
    expect(Object.values(counts as object).reduce((sum, count) => sum + count, 0)).toBe(numClips);
    expect([numClips, next]).toEqual([30, ['coldframe train --config my/clips.yaml']]);
    expect(readdirSync(at('my')).sort()).toEqual([
      'classes.txt',
      'clips.yaml',
      'left-out.tsv',
      'select.txt',
      'train.txt',
      'val.txt',
    ]);

    const again = await coldframe(['init', 'clips', '--output', 'my'], options);
    expect([again.code, again.stderr.match(/exists, and nothing is overwritten/g)]).toEqual([
      2,
      Array(6).fill(expect.anything()),
    ]);
    // As it was written it takes its 100 steps, some minutes on two cores: here some of them, and all else as it stands.
    const short = ['train.steps=4', 'eval.every=4', 'run.save_every=4'].flatMap((pair) => ['--set', pair]);
    const trained = await coldframe(['train', '--config', 'my/clips.yaml', ...short], options);
    expect([trained.code, trained.stdout]).toEqual([0, expect.stringContaining('finished')]);
    const predicted = await coldframe(
      [
        'predict',
        '--checkpoint',
        'runs/clips',
        join(CLIPS, 'val.txt').replace('val.txt', readFileSync(join(CLIPS, 'val.txt'), 'utf8').split(' ')[0] ?? ''),
        '--top',
        '1',
      ],
      options,
    );
    expect([predicted.code, predicted.stdout]).toEqual([0, expect.stringMatching(/\d %/)]);
    expect(look()).toBe(before);
  });

  test('with too few clips says so, and writes nothing', async () => {
    make({ 'few/a/1.mp4': 'x', 'few/b/2.mp4': '' });
    const few = await coldframe(['init', 'few'], { cwd: folder, env: { XDG_CACHE_HOME: at('cache') } });
    expect([few.code, few.stderr]).toEqual([
      2,
      expect.stringMatching(/too few clips that can be read: none for train and val\. 2 files had to be left out/),
    ]);
    expect(existsSync(at('few-coldframe'))).toBe(false);
  });
});
