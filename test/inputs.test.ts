/** What is wrong with a run's inputs is said at once and together, and without Python. */
import { mkdtempSync, readdirSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, jest, test } from '@jest/globals';
import { loadInputs } from '../src/data/checks.ts';
import { coldframe } from './support.ts';

jest.setTimeout(120_000); // on a machine that others keep busy
const folder = realpathSync(mkdtempSync(join(tmpdir(), 'inputs-test-')));
afterAll(() => rmSync(folder, { recursive: true }));

const file = join(folder, 'my.yaml');
const write = (data: string, more = ''): void => {
  writeFileSync(join(folder, 'train.txt'), 'a.mp4 0\n#b.mp4 2\nc.mp4\n');
  writeFileSync(join(folder, 'val.txt'), 'a.mp4 x\n');
  writeFileSync(
    file,
    `data: {train_list: train.txt, val_list: val.txt, ${data}}\nmodel: {backbone: {preset: tiny}}\n${more}`,
  );
};
const problemsOf = async (wanted: ('train' | 'val')[]): Promise<string[]> => {
  const error = await loadInputs(file, [], wanted).then(
    () => new Error('nothing was refused'),
    (reason: Error) => reason,
  );
  return error.message.split('\n').map((line) => line.replaceAll(`${folder}/`, ''));
};

test('problems of a configuration and of its lists come at once', async () => {
  write('num_classes: 2', 'train: {stepps: 3}\n');
  expect(await problemsOf(['train', 'val'])).toEqual([
    expect.stringContaining('my.yaml:3:9  train.stepps: unknown key.'),
    expect.stringContaining('train.txt:2  label 2 is outside 0..1'),
    expect.stringContaining('train.txt:3  "c.mp4" has no label.'),
    expect.stringContaining('the only clip is not there'),
    expect.stringContaining('val.txt:1  label "x" is not a whole number from 0 to 1'),
  ]);
  expect(await problemsOf(['val'])).toHaveLength(2);
});

test('of a refused key nothing follows', async () => {
  write('num_classes: -2, root: 7');
  expect(await problemsOf(['train', 'val'])).toEqual([
    expect.stringContaining('data.root: found 7.'),
    expect.stringContaining('data.num_classes: found -2.'),
  ]);
  write('num_classes: -2, dummy: true');
  expect(await problemsOf(['train'])).toEqual([
    expect.stringContaining('data.num_classes: found -2.'),
    expect.stringContaining('train.txt:3  "c.mp4" has no label.'),
  ]);
});

const VERDICT = 'This cannot be trained: 3 problems. Dry run: nothing was written.';

test.each([
  ['train', '--dry-run'],
  ['evaluate', '--checkpoint', 'checkpoint-1.pth'],
  ['features', 'build', '--set', 'data.features=cache'],
  ['clips', 'prepare', '--output', 'clips'],
])('%s %s needs no Python to tell of a bad list', async (...words) => {
  write('num_classes: 3');
  writeFileSync(join(folder, 'checkpoint-1.pth'), '');
  const args = [...words.slice(0, words[1]?.startsWith('-') ? 1 : 2), '--config', 'my.yaml'];
  const env = { COLDFRAME_PYTHON: join(folder, 'no-python') };
  const ended = await coldframe([...args, ...words.slice(args.length - 2)], { cwd: folder, env });
  expect([ended.code, ended.stderr]).toEqual([2, expect.stringContaining('val.txt:1  label "x" is not a whole')]);
  expect(ended.stderr).not.toContain('no-python');
  if (words[1] === '--dry-run') expect(ended.stderr.split('\n')[0]).toBe(VERDICT);
  expect(readdirSync(folder).filter((name) => name === 'cache' || name === 'clips')).toEqual([]);
});

test('a head of 400 classes that nobody asked for is said', async () => {
  write('dummy: false');
  const { notes } = await loadInputs(file, [], ['train']);
  expect(notes).toEqual([expect.stringMatching(/data.num_classes: not set, nor data.classes: 400 classes/)]);
  write('num_classes: 400');
  expect((await loadInputs(file, [], ['train'])).notes).toEqual([]);
});

test('problems of a sweep file, its base and its lists come at once', async () => {
  write('num_classes: 2', 'train: {stepps: 3}\n');
  const sweep = join(folder, 'sweep.yaml');
  writeFileSync(sweep, 'base: my.yaml\nspace: {train.lrr: [1, 2]}\nselection: validation\n');
  const { code, stderr } = await coldframe(['sweep', '--config', sweep, '--dry-run']);
  expect(code).toBe(2);
  for (const problem of [
    'train.lrr: unknown key',
    'train.stepps: unknown key',
    'train.txt:2  label 2',
    'val.txt:1  label',
  ])
    expect(stderr).toContain(problem);
});
