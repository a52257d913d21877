import { createHash } from 'node:crypto';
import {
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, describe, expect, test } from '@jest/globals';
import { UserError } from '../src/base/errors.ts';
import { readClasses } from '../src/config/class-names.ts';
import { Findings } from '../src/data/check/findings.ts';
import { findShared } from '../src/data/leaks.ts';
import { checkList, countAllowed, type ListOptions } from '../src/data/list.ts';

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
    ['a name that begins with #', '#20_clap.mp4 0\n./# b 1\n', '/clips/#20_clap.mp4\t0\n/clips/./# b\t1\n'],
    ['comments', '#\n# a 1\n## b 2\n\t# c\na 1\n', '/clips/a\t1\n'],
    ['a BOM in the middle, of files joined to one', 'a 1\n\uFEFFb 2\n', '/clips/a\t1\n/clips/b\t2\n'],
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
    ['#a.mp4 3', 'label 3 is outside 0..2 (data.num_classes is 3; labels start at 0). A line that begins with `#` and'],
    ['a.mp4 0\rb.mp4 1', 'list.txt:2  has a carriage return within the line ("a.mp4 0\\rb.mp4 1").'],
    ['# a\rb.mp4 1', 'list.txt:2  has a carriage return within the line'],
    ['a.mp4\r 1', 'list.txt:2  has a carriage return within the line'],
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
    ['line ends of old Macs', 'a 1\rb 2\r', 'list.txt:1  has the line ends of old Macs (CR alone: "a 1\\rb 2");'],
    ['the same behind a comment', '# x\ra 1\rb 2', 'list.txt:1  has the line ends of old Macs'],
    ['UTF-16', Buffer.from('\uFEFFa 1\n', 'utf16le'), 'is in UTF-16'],
    ['one endless line', 'x'.repeat(3_000_000), 'has a line of more than a megabyte'],
  ])('%s', async (_, content, problem) => {
    expect(await problemsOf(check(content))).toEqual([expect.stringContaining(problem)]);
    expect(readdirSync(folder)).toEqual(['list.txt']);
  });

  test('a missing file and a folder are named', async () => {
    const options = { root: null, numClasses: 3 };
    expect(await problemsOf(checkList({ file: list, ...options }))).toEqual([
      'list.txt  no such file. Give the path of a list of `<path> <label>` lines.',
    ]);
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
    expect(warnings).toEqual([`${list}  2 of 3 classes have no clip: 0 "run", 2 "swim" (class-empty)`]);
  });

  test('labels that end before the classes do, where nobody named them, are told with the number to set', async () => {
    const { warnings } = await check('a 0\nb 1\n', { numClasses: 400 });
    expect(warnings).toEqual([
      expect.stringMatching(/398 of 400 .*highest label is 1: .*set data.num_classes: 2 \(class-empty\)$/),
    ]);
  });

  test('a path that is listed twice is named by its lines', async () => {
    const { warnings } = await check('b 1\na 0\n#\nc 2\n./b 1\n/clips/x/../a 0\nb 1\n');
    expect(warnings).toEqual([`${list}  2 paths listed more than once, the first on lines 1 and 5 (duplicate-path)`]);
  });

  test('a path with two labels is a conflict, told with both lines', async () => {
    const { warnings } = await check('a 0\nb 1\nc 2\nb 1\na 1\na 2\n');
    expect(warnings).toEqual([
      `${list}  2 paths listed more than once, the first on lines 2 and 4 (duplicate-path)`,
      `${list}  1 path with two labels: label 0 on line 1, 1 on line 5 (label-conflict)`,
    ]);
  });

  test('a comment that may be a clip without its label is told', async () => {
    const { warnings, numLines } = await check('#a.mp4\na 0\nb 1\nc 2\n#b\n# c\n');
    expect(numLines).toBe(3);
    expect(warnings).toEqual([expect.stringContaining(':1  2 lines without a label taken for comments ("#a.mp4").')]);
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
    expect(warnings).toEqual([
      `${list}  2 paths listed more than once, the first on lines 70001 and ${numLines + 4} (duplicate-path)`,
    ]);
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

  test('that begin with # are looked for, also where the line looks like a comment', async () => {
    for (const name of ['#a.mp4', '# b.mp4']) writeFileSync(join(folder, name), 'x');
    const content = '#a.mp4 0\n# b.mp4 1\n# c.mp4 1\n#d.mp4 2\n';
    expect(await problemsOf(check(content, { root: folder, skipFiles: false }))).toEqual([
      `list.txt:2  is a comment, and ${folder}/# b.mp4 exists. Write \`./# b.mp4\` if it is a clip; else begin the comment with \`## \`.`,
      expect.stringMatching(/^list.txt:4 .*#d.mp4 does not exist \(A line that begins with `#` and ends with a number/),
    ]);
  });

  test('of which the only one is missing are none', async () => {
    const options = { skipFiles: false, root: '/nowhere', maxMissingFraction: 0.01 };
    expect(await problemsOf(check('a.mp4 0\n', options))).toEqual([
      'list.txt:1  the only clip is not there. The data root is /nowhere; first /nowhere/a.mp4 does not exist.',
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
    expect(() => readClasses(join(folder, 'none.txt'))).toThrow('no such file.');
  });
});

test('a share of videos is rounded down, at least to one, and not by a product that is a little less', () => {
  const shares = [0, 0.15, 0.28, 0.29, 0.57, 0.001].map((fraction) => countAllowed(fraction, 100));
  expect(shares).toEqual([0, 15, 28, 29, 57, 1]);
  expect([countAllowed(0.15, 10), countAllowed(0.19, 10), countAllowed(0.999, 10)]).toEqual([1, 1, 9]);
});

describe('two lists', () => {
  const other = join(folder, 'other.txt');
  const compare = async (content: string, otherContent: string, options: Partial<ListOptions> = {}) => {
    const first = await check(content, options);
    writeFileSync(other, otherContent);
    const second = await checkList({ file: other, root: folder, numClasses: 3, ...options });
    const findings = new Findings();
    await findShared({ ...first, file: list }, { ...second, file: other }, 'why', findings);
    return findings.describeWarnings().map((line) => line.replaceAll(`${folder}/`, ''));
  };

  test('that differ are nothing to tell', async () => {
    expect(await compare('a 0\nb 1\n', 'a 0\nb 1\n', { skipFiles: true })).toEqual([]); // below other roots
  });

  test('that share clips below different roots are told, with lines and labels', async () => {
    const others = `x 0\n/clips/c 1\n../..//clips/./a 1\n${folder}/y 2\n`.replace('../..', '../'.repeat(9));
    expect(await compare('b 2\na 0\nc 1\na 0\n', others, { skipFiles: true })).toEqual([
      'list.txt  2 of its 4 clips are in other.txt too, the first on line 3, there on line 2: why (leak)',
      'list.txt  1 clip with another label than in other.txt: label 0 on line 2, 1 on line 3 there (label-conflict)',
    ]);
  });

  test('of the same clips in another order are told', async () => {
    const options = { skipFiles: true, root: folder };
    expect(await compare('b 2\na 0\n', '# x\na 0\nb 2\n', options)).toEqual([
      'list.txt  all 2 of its 2 clips are in other.txt too, the first on line 2, there on line 2: why (leak)',
    ]);
  });

  test('that name one file by a link, or a copy of it, are told', async () => {
    writeFileSync(join(folder, 'a.mp4'), 'one');
    writeFileSync(join(folder, 'copy.mp4'), 'one');
    writeFileSync(join(folder, 'of-equal-size.mp4'), 'two');
    linkSync(join(folder, 'of-equal-size.mp4'), join(folder, 'link.mp4'));
    const options = { skipFiles: false, root: folder };
    expect(await compare('copy.mp4 0\n', 'of-equal-size.mp4 1\n', options)).toEqual([]);
    expect(await compare('copy.mp4 0\nlink.mp4 1\n', 'of-equal-size.mp4 1\na.mp4 0\n', options)).toEqual([
      'list.txt  2 clips with the same content as one in other.txt, the first on line 1, there a.mp4 on line 2: why (leak)',
    ]);
  });

  test('of 100,000 clips each, a third of them shared, are told in the order of the first', async () => {
    const lines = Array.from({ length: 250_000 }, (_, index) => `clip_${index}.mp4 ${index % 3}`);
    const options = { skipFiles: true, root: folder };
    const [told, ...more] = await compare(
      lines.slice(0, 150_000).join('\n'),
      lines.slice(100_000).reverse().join('\n'),
      options,
    );
    expect(told).toBe(
      'list.txt  50000 of its 150000 clips are in other.txt too, the first on line 150000, there on line 100001: why (leak)',
    );
    expect(more).toEqual([]);
  });
});
