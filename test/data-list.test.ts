import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, describe, expect, test } from '@jest/globals';
import { readClasses } from '../src/class-names.ts';
import { checkList, type ListOptions } from '../src/data-list.ts';
import { UserError } from '../src/errors.ts';

const folder = realpathSync(mkdtempSync(join(tmpdir(), 'list-')));
const list = join(folder, 'list.txt');
const clean = join(folder, 'clean.txt');

beforeEach(() => {
  rmSync(folder, { recursive: true });
  mkdirSync(folder);
});
afterAll(() => rmSync(folder, { recursive: true }));

/** Checks a list of three classes below /clips, without looking for its clips. */
function check(content: string | Buffer, options: Partial<ListOptions> = {}) {
  writeFileSync(list, content);
  return checkList({ file: list, root: '/clips', numClasses: 3, writeTo: clean, skipFiles: true, ...options });
}

async function problemsOf(checked: Promise<unknown>): Promise<string[]> {
  const error = await checked.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (error instanceof UserError) return error.problems.map((line) => line.replace(list, 'list.txt'));
  if (error !== undefined) throw error;
  return [];
}

describe('a good list', () => {
  test.each([
    ['the label follows the last white space', 'a b  c.mp4 1\n/d.mp4\t 2\n', '/clips/a b  c.mp4\t1\n/d.mp4\t2\n'],
    ['blank lines, comments and outer blanks do not count', '# x\n\n  a 1 \n \t\n', '/clips/a\t1\n'],
    ['BOM, CRLF and a last line without its end', '\uFEFFa 1\r\n\r\nb 02', '/clips/a\t1\n/clips/b\t2\n'],
    ['names outside ASCII', 'é/跑.mp4 0\n', '/clips/é/跑.mp4\t0\n'],
  ])('%s', async (_, content, expected) => {
    await check(content);
    expect(readFileSync(clean, 'utf8')).toBe(expected);
    expect(readdirSync(folder).sort()).toEqual(['clean.txt', 'list.txt']);
  });

  test('is counted by class, and named by the hash of its own bytes', async () => {
    const content = '# x\r\na 2\r\nb 0\r\nc 2\r\n';
    const report = await check(content);
    expect(report).toMatchObject({ numLines: 3, sizeBytes: 20, perClass: Uint32Array.of(1, 0, 2) });
    expect(report.sha256).toBe(createHash('sha256').update(content).digest('hex'));
  });

  test('without a root is relative to its own folder', async () => {
    await check('a 1\n', { root: null });
    expect(readFileSync(clean, 'utf8')).toBe(`${folder}/a\t1\n`);
  });

  test('reads the same wherever the reading buffer ends', async () => {
    const path = 'x'.repeat(1000);
    const lines = Array.from({ length: 3000 }, (_, index) => `${path.slice(index % 97)}${index}`);
    const report = await check(lines.map((line, index) => `${line} ${index % 3}\r\n`).join(''));
    expect(report.numLines).toBe(3000);
    expect(readFileSync(clean, 'utf8')).toBe(lines.map((line, index) => `/clips/${line}\t${index % 3}\n`).join(''));
  });

  test('of 100,000 lines takes under four seconds', async () => {
    const lines = Array.from({ length: 100_000 }, (_, index) => `class_${index % 3}/clip_${index}.mp4 ${index % 3}\n`);
    const start = performance.now();
    const report = await check(lines.join(''));
    expect(performance.now() - start).toBeLessThan(4000);
    expect(report).toMatchObject({ numLines: 100_000, warnings: [] });
  });
});

describe('a bad line', () => {
  test.each([
    ['a.mp4', 'list.txt:2  "a.mp4" has no label. Write `<path> <label>`.'],
    ['a.mp4 x', 'list.txt:2  label "x" is not a whole number from 0 to 2'],
    ['a.mp4 1.0', 'list.txt:2  label "1.0" is not a whole number from 0 to 2'],
    ['a.mp4 +1', 'list.txt:2  label "+1" is not a whole number from 0 to 2'],
    ['a.mp4 -1', 'list.txt:2  label "-1" is not a whole number from 0 to 2'],
    ['a.mp4 1e0', 'list.txt:2  label "1e0" is not a whole number from 0 to 2'],
    ['a.mp4 1234567890', 'list.txt:2  label "1234567890" is not a whole number from 0 to 2'],
    ['a.mp4 3', 'list.txt:2  label 3 is outside 0..2 (data.num_classes is 3; labels start at 0)'],
    ['a\tb.mp4 1', 'list.txt:2  the path holds a tab or a NUL byte.'],
    ['a\0b.mp4 1', 'list.txt:2  the path holds a tab or a NUL byte.'],
    [Buffer.from([0x61, 0xff, 0x20, 0x31]), 'list.txt:2  is not valid UTF-8.'],
  ])('%j is named with its line', async (line, problem) => {
    const content = Buffer.concat([Buffer.from('ok.mp4 0\n'), Buffer.from(line), Buffer.from('\nok2.mp4 0\n')]);
    expect(await problemsOf(check(content))).toEqual([expect.stringContaining(problem)]);
    expect(readdirSync(folder)).toEqual(['list.txt']);
  });

  test('is counted, but only the first fifty are printed', async () => {
    const problems = await problemsOf(check('a x\n'.repeat(70)));
    expect(problems).toHaveLength(51);
    expect(problems.at(-1)).toBe('list.txt  and 20 more problems.');
  });
});

describe('a list that is none', () => {
  test.each([
    ['empty', '', 'list.txt  holds no clips.'],
    ['comments only', '# a\n\n', 'list.txt  holds no clips.'],
    ['CSV', 'a b.mp4,1\nc.mp4,2\n', 'list.txt:1  is separated by commas ("a b.mp4,1")'],
    ['CSV with a header', 'path,label\na.mp4,1\n', 'list.txt:1  is separated by commas ("path,label")'],
    ['UTF-16', Buffer.from('\uFEFFa 1\n', 'utf16le'), 'is in UTF-16'],
    ['one endless line', 'x'.repeat(3_000_000), 'has a line of more than a megabyte'],
  ])('%s', async (_, content, problem) => {
    expect(await problemsOf(check(content))).toEqual([expect.stringContaining(problem)]);
    expect(readdirSync(folder)).toEqual(['list.txt']);
  });

  test('a missing file and a folder are named', async () => {
    const options = { root: null, numClasses: 3 };
    expect(await problemsOf(checkList({ file: list, ...options }))).toEqual([expect.stringContaining('no file at')]);
    expect(await problemsOf(checkList({ file: folder, ...options }))).toEqual([
      expect.stringContaining('is a folder.'),
    ]);
  });

  test('labels that start at 1 are recognised', async () => {
    expect(await problemsOf(check('a 1\nb 2\nc 3\n'))).toEqual([
      expect.stringContaining('list.txt:3  label 3 is outside 0..2'),
      'list.txt  labels run from 1 to 3, but must start at 0. Subtract 1 from each.',
    ]);
  });
});

describe('warnings', () => {
  test('classes without a clip are named', async () => {
    const { warnings } = await check('a 1\n', { classNames: ['run', 'jump', 'swim'] });
    expect(warnings).toEqual([`${list}  2 of 3 classes have no clip: 0 "run", 2 "swim"`]);
  });

  test('a path that is listed twice is named by its lines', async () => {
    const { warnings } = await check('a 0\nb 1\n#\nc 2\nb 2\na 1\n');
    expect(warnings).toEqual([`${list}  2 paths are listed more than once, the first on lines 1 and 6`]);
  });
});

describe('a long list', () => {
  const numLines = 150_000; // more than two blocks of hashes
  const lines = Array.from({ length: numLines }, (_, index) => `clip_${index}.mp4 ${index % 3}`);

  test('has no path twice when all differ', async () => {
    expect((await check(lines.join('\n'))).warnings).toEqual([]);
  });

  test('with paths listed twice, blocks apart, and comments between names their lines', async () => {
    const twice = ['# one', ...lines.slice(0, 70_000), '', '# two', ...lines.slice(70_000), lines[69_999], lines[7]];
    const { warnings } = await check(twice.join('\n'));
    expect(warnings).toEqual([`${list}  2 paths are listed more than once, the first on lines 9 and ${numLines + 5}`]);
  });
});

describe('the clips themselves', () => {
  test('that are missing, empty or folders are named with their lines', async () => {
    writeFileSync(join(folder, 'good.mp4'), 'x');
    writeFileSync(join(folder, 'empty.mp4'), '');
    mkdirSync(join(folder, 'folder.mp4'));
    const content = `none.mp4 0\ngood.mp4 0\nempty.mp4 1\nfolder.mp4 2\n${folder}/good.mp4/x 2\n`;
    expect(await problemsOf(check(content, { root: folder, skipFiles: false }))).toEqual([
      `list.txt:1  ${folder}/none.mp4 does not exist.`,
      `list.txt:3  ${folder}/empty.mp4 is empty.`,
      `list.txt:4  ${folder}/folder.mp4 is a folder, not a video.`,
      `list.txt:5  ${folder}/good.mp4/x does not exist.`,
    ]);
  });

  test('that are all missing point to the root', async () => {
    expect(await problemsOf(check('a.mp4 0\nb.mp4 1\n', { skipFiles: false, root: '/nowhere' }))).toEqual([
      'list.txt:1  none of the 2 clips looked for is there. The data root is /nowhere; first /nowhere/a.mp4 does not exist.',
    ]);
  });

  test('of a long list are looked for in an even sample', async () => {
    const lines = Array.from({ length: 9000 }, (_, index) => `${index}.mp4 ${index % 3}\n`).join('');
    const [problem] = await problemsOf(check(lines, { skipFiles: false, root: '/nowhere' }));
    expect(problem).toContain('list.txt:8  none of the 1125 clips looked for is there.');
  });
});

describe('class names', () => {
  const read = (content: string | Buffer) => {
    writeFileSync(list, content);
    return readClasses(list);
  };

  test('are one a line, with BOM, CRLF and blank lines at the end', () => {
    expect(read('\uFEFFair drumming\r\npush left \r\n\r\n\n')).toEqual(['air drumming', 'push left']);
  });

  test.each([
    ['a\nb\na\n', 'list.txt:3  "a" is on line 1 too. A class has one line.'],
    ['a\n\nb\n', 'list.txt:2  is blank.'],
    ['\n \n', 'list.txt  is empty.'],
    [Buffer.from([0xff, 0x61]), 'list.txt  is not valid UTF-8.'],
  ])('%j is an error', async (content, problem) => {
    expect(await problemsOf(Promise.resolve().then(() => read(content)))).toEqual([expect.stringContaining(problem)]);
  });

  test('a missing file is named', () => {
    expect(() => readClasses(join(folder, 'none.txt'))).toThrow('no file at');
  });
});
