/** `check`: what is found in lists, told by list and line. */
import { linkSync, mkdirSync, mkdtempSync, realpathSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { type ContentList, findSameContent } from '../src/data/check/contents.ts';
import { type Finding, Findings } from '../src/data/check/findings.ts';
import { type ComparedList, findSharedPaths } from '../src/data/leaks.ts';
import { type ListOptions, readList } from '../src/data/list.ts';
import { checkEvent, coldframe, type Event } from './support.ts';

jest.setTimeout(120_000); // on a machine that others keep busy
const folder = realpathSync(mkdtempSync(join(tmpdir(), 'check-test-')));
beforeEach(() => {
  rmSync(folder, { recursive: true });
  mkdirSync(folder);
});
afterAll(() => rmSync(folder, { recursive: true }));

/** Writes clips with such contents, and lists with such lines. */
function write(clips: Record<string, string>, lists: Record<string, string>): void {
  for (const [name, content] of Object.entries({ ...clips, ...lists })) writeFileSync(join(folder, name), content);
}

/** What passes for a video until it is decoded. */
const clip = (text: string): string => `\0\0\0\x18ftyp${text}`;

/** Returns the findings of lists as checked together, without the folder's name. */
async function find(names: string[], options: Partial<ListOptions> = {}): Promise<Finding[]> {
  const found: Finding[] = [];
  const findings = new Findings((finding) => found.push(finding));
  const lists: ContentList[] = [];
  for (const name of names) {
    const file = join(folder, name);
    lists.push({
      ...(await readList({ file, root: null, numClasses: null, everyFile: true, ...options }, findings)),
      file,
    });
  }
  await findSameContent(lists, findings, { why: 'why' });
  const text = JSON.stringify(found).replaceAll(`${folder}/`, '').replaceAll(folder, 'FOLDER');
  return JSON.parse(text);
}

/** The same of what two lists share by path. */
async function compareLists(names: string[], options: Partial<ListOptions>): Promise<Finding[]> {
  const found: Finding[] = [];
  const findings = new Findings((finding) => found.push(finding));
  const lists: ComparedList[] = [];
  for (const name of names) {
    const file = join(folder, name);
    const list = { ...(await readList({ file, root: null, numClasses: null, ...options }, findings)), file };
    for (const other of lists) findSharedPaths(list, other, 'why', findings);
    lists.push(list);
  }
  return found.map((one) => ({ ...one, ...(one.path && { path: one.path.replace(`${folder}/`, '') }) }));
}

const placesOf = (found: Finding[]): string[] =>
  found.map(({ code, line, did_you_mean: meant }) => [code, line, meant].filter((one) => one !== undefined).join(' '));

const eventsOf = (stdout: string): Event[] =>
  stdout
    .trimEnd()
    .split('\n')
    .map((line) => checkEvent(JSON.parse(line)));

const run = (...words: string[]) => coldframe(['check', ...words], { cwd: folder });

test('every finding has its list and line, and of errors the exit code is 2', async () => {
  write(
    { 'a.mp4': clip('a'), 'b.mp4': clip('b'), 'c.mp4': clip('c') },
    { 'train.txt': 'a.mp4 0\nb.mp4 1\na.mp4 1\n', 'val.txt': 'b.mp4 1\n' },
  );
  const good = await run('train.txt', 'val.txt', '--json');
  expect(good.code).toBe(0);
  const told = eventsOf(good.stdout).map(({ code, list, line, other_list, other_line, path = '' }) =>
    [code, list, line, other_list, other_line, `${path}`.replace(`${folder}/`, '')].join(' '),
  );
  expect(told.slice(0, -1)).toEqual([
    'duplicate-path train.txt 3 train.txt 1 a.mp4',
    'label-conflict train.txt 3 train.txt 1 a.mp4',
    'leak val.txt 1 train.txt 2 b.mp4',
    'class-few train.txt    ',
    'class-empty val.txt    ',
    'class-few val.txt    ',
  ]);
  write({}, { 'val.txt': 'c.mp4 0\ngone.mp4 0\nc.mp4 x\n' });
  const bad = await run('train.txt', 'val.txt');
  expect([bad.code, bad.stderr]).toEqual([
    2,
    expect.stringMatching(/^check {2}2 errors, 2 warnings, 2 notes in 6 clips of 2 lists/),
  ]);
  expect(bad.stdout).toContain('error missing: 1 in val.txt\n  val.txt:2 ');
  expect(bad.stdout).toContain('error label-not-a-number: 1 in val.txt\n  val.txt:3 ');
});

test('a path that stands twice is told as it was listed, in lists of any form', async () => {
  write({}, { 'plain.txt': '\ufeffa b.mp4\t0\n\n ./a b.mp4 0 \r\n/x/c.mp4 0\n', 'other.txt': '/x/../x/c.mp4 1' });
  write(
    {},
    { 'parts.txt': '# columns: path label start end\na b.mp4 1 0 1\n#c.mp4 0 2 3\n', 'more.txt': 'a b.mp4 1\n' },
  );
  const told = (found: Finding[]) =>
    found.filter(({ line }) => line !== null).map(({ code, line, path }) => `${code} ${line} ${path}`);
  const options = { skipFiles: true };
  expect(told(await find(['plain.txt'], options))).toEqual(['duplicate-path 3 a b.mp4']);
  expect(told(await compareLists(['plain.txt', 'other.txt'], options))).toEqual([
    'duplicate-path 3 a b.mp4',
    'leak 1 /x/c.mp4',
    'label-conflict 1 /x/c.mp4',
  ]);
  expect(told(await compareLists(['more.txt', 'parts.txt'], options))).toEqual(['leak 2 a b.mp4']);
});

describe('a clip that is not there', () => {
  test.each([
    ['in other letters', 'B.MP4', 'case-mismatch 1 b.mp4'],
    ['in a folder of other letters', 'Sub/c.mp4', 'case-mismatch 1 sub/c.mp4'],
    ['in another Unicode form', 'u\u0308.mp4', 'unicode-mismatch 1 \u00fc.mp4'],
    ['with another extension', 'b.avi', 'missing 1 b.mp4'],
    ['without its extension', 'sub/c', 'missing 1 sub/c.mp4'],
    ['with a letter too many', 'running_mann.mp4', 'missing 1 running_man.mp4'],
    ['with another number', 'clip_000013.mp4', 'missing 1'],
    ['as Windows writes it', 'D:\\sub\\c.mp4', 'windows-path 1 sub/c.mp4'],
    ['as Windows writes it, and not here', 'D:\\x\\y.mp4', 'windows-path 1'],
    ['of another machine', '/data/other/sub/c.mp4', 'outside-root 1 sub/c.mp4'],
    ['below a folder that is the root', 'videos/sub/c.mp4', 'outside-root 1 sub/c.mp4'],
    ['and nothing like it', 'zebra.mp4', 'missing 1'],
  ])('%s is told with what may be meant', async (_what, listed, told) => {
    mkdirSync(join(folder, 'sub'));
    const names = ['a.mp4', 'b.mp4', 'sub/c.mp4', '\u00fc.mp4', 'running_man.mp4', 'clip_000012.mp4'];
    write(Object.fromEntries(names.map((name) => [name, clip(name)])), { 'l.txt': `${listed} 0\na.mp4 1\n` });
    expect(placesOf(await find(['l.txt']))).toEqual([told]);
  });

  test('since the root is another one is told with the right one', async () => {
    mkdirSync(join(folder, 'root'));
    write({ 'a.mp4': clip('a'), 'b.mp4': clip('b') }, { 'l.txt': 'a.mp4 0\nb.mp4 1\n' });
    const found = await find(['l.txt'], { root: join(folder, 'root') });
    expect(placesOf(found)).toEqual(['outside-root 1 a.mp4']);
    expect(found[0]?.message).toContain('none of the 2 clips looked for is there');
    expect(found[0]?.message).toContain('Give --root FOLDER,');
  });
});

test('files that are no videos, empty, folders or may not be read are told apart', async () => {
  mkdirSync(join(folder, 'd.mp4'));
  const files = {
    'empty.mp4': '',
    'page.mp4': '<!DOCTYPE html><p>404',
    'lfs.mp4': 'version https://git-lfs.github.com/spec/v1\n',
  };
  write({ ...files, 'zeros.mp4': '\0'.repeat(99), 'a.mp4': clip('a') }, {});
  write({}, { 'l.txt': ['a', 'd', 'empty', 'page', 'lfs', 'zeros'].map((name) => `${name}.mp4 0\n`).join('') });
  const found = await find(['l.txt']);
  expect(placesOf(found)).toEqual(['not-a-file 2', 'empty 3', 'not-a-video 4', 'not-a-video 5', 'not-a-video 6']);
  expect(found.map(({ message }) => message)).toContainEqual(expect.stringContaining('git lfs pull'));
});

test('clips of one content are found across lists and names, and those of one size alone are none', async () => {
  const long = 'x'.repeat(20_000);
  const near = `${long.slice(0, 5000)}y${long.slice(5001)}`; // differs where no piece is looked at
  write({ 'a.mp4': clip(long), 'copy.mp4': clip(long), 'near.mp4': clip(near), 'short.mp4': clip('x') }, {});
  linkSync(join(folder, 'short.mp4'), join(folder, 'link.mp4'));
  write({}, { 'one.txt': 'near.mp4 0\na.mp4 0\nshort.mp4 1\ncopy.mp4 0\n', 'two.txt': 'link.mp4 0\na.mp4 0\n' });
  const found = await find(['one.txt', 'two.txt']);
  const places = found.map(({ code, list, line, other_list, other_line }) => [
    code,
    list,
    line,
    other_list,
    other_line,
  ]);
  expect(places.map((place) => place.join(' '))).toEqual([
    'duplicate-content one.txt 4 one.txt 2',
    'leak two.txt 1 one.txt 3',
    'label-conflict two.txt 1 one.txt 3',
  ]);
});

test.each([9, 20_000])(
  'contents of %i bytes are read once, as long as size and time of change stay',
  async (length) => {
    const touch = (name: string, seconds: number): void => utimesSync(join(folder, name), seconds, seconds);
    write({ 'a.mp4': clip('x'.repeat(length)), 'b.mp4': clip('x'.repeat(length)) }, { 'l.txt': 'a.mp4 0\nb.mp4 0\n' });
    for (const name of ['a.mp4', 'b.mp4']) touch(name, 5);
    expect(placesOf(await find(['l.txt']))).toEqual(['duplicate-content 2']);
    write({ 'b.mp4': clip('y'.repeat(length)) }, {});
    touch('b.mp4', 5);
    expect(placesOf(await find(['l.txt']))).toEqual(['duplicate-content 2']); // as it was known
    touch('b.mp4', 6);
    expect(placesOf(await find(['l.txt']))).toEqual([]);
  },
);

test.each([
  ['no list at all', null, 'list-unreadable'],
  ['a list without a clip', '# nothing yet\n', 'no-clips'],
  ['a line without a label', 'a.mp4\n', 'line-format 1'],
  ['a label that is no number', 'a.mp4 one\n', 'label-not-a-number 1'],
  ['commas', 'a.mp4,0\n', 'separator 1'],
  ['a part that ends before it begins', '# columns: path label start end\na.mp4 0 3 2\n', 'part-times 2'],
])('%s has a code of its own', async (_, text, place) => {
  write({ 'a.mp4': clip('a') }, text === null ? {} : { 'list.txt': text });
  expect(placesOf(await find(['list.txt'])).map((one) => one.trim())).toContain(place);
});
