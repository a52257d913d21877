/** Lists of parts: how a line is written, what is wrong with one, and which of two lists show the same moments. */
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from '@jest/globals';
import { UserError } from '../src/base/errors.ts';
import { Findings } from '../src/data/check/findings.ts';
import { findShared } from '../src/data/leaks.ts';
import { formatTime, readTime } from '../src/data/line.ts';
import { checkList, type ListOptions } from '../src/data/list.ts';

const folder = realpathSync(mkdtempSync(join(tmpdir(), 'parts-')));
const list = join(folder, 'list.txt');
const clean = join(folder, 'clean.txt');
const HEADER = '# columns: path label start end\n';

afterAll(() => rmSync(folder, { recursive: true }));

function check(content: string, options: Partial<ListOptions> = {}) {
  writeFileSync(list, content);
  return checkList({ file: list, root: '/clips', numClasses: 3, writeTo: clean, skipFiles: true, ...options });
}

async function problemsOf(content: string): Promise<string[]> {
  try {
    await check(content);
    return [];
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    return error.problems.map((line) => line.replace(list, 'list.txt'));
  }
}

test.each([
  ['tabs and spaces', `${HEADER}a b.mp4\t1 0\t 2.5\n/c 0\t10.25 11\n`, '/clips/a b.mp4\t1\t0\t2.5\n/c\t0\t10.25\t11\n'],
  ['a BOM, CRLF, blank lines', `\uFEFF${HEADER}\r\n a 1 2 3\r\n\r\nb 2 0 1`, '/clips/a\t1\t2\t3\n/clips/b\t2\t0\t1\n'],
  ['microseconds', `${HEADER}a 1 .1 0.3000000004\nb 1 1e-3 +2.\n`, '/clips/a\t1\t0.1\t0.3\n/clips/b\t1\t0.001\t2\n'],
  ['names that begin with #', `${HEADER}#a 1 2 3\n# b 1 2\n# c\n`, '/clips/#a\t1\t2\t3\n'],
  [
    'the header again, of lists joined',
    `${HEADER}a 1 2 3\n${HEADER}b 1 2 3\n`,
    '/clips/a\t1\t2\t3\n/clips/b\t1\t2\t3\n',
  ],
  ['no header: a path that holds numbers', 'clip 1 2 3 1\n', '/clips/clip 1 2 3\t1\n'],
  ['a comment about columns', '# columns: name, class\na 1\n', '/clips/a\t1\n'],
  ['the plain columns', '# columns: path label\na 1 2\n', '/clips/a 1\t2\n'],
])('%s', async (_, content, expected) => {
  await check(content);
  expect(readFileSync(clean, 'utf8')).toBe(expected);
});

const NOT_SECONDS = 'is not a number of seconds. Write seconds since the first frame, from 0 on, such as 12 or 12.5.';

test.each([
  ['a 1 3 3', 'list.txt:2  the part starts at 3 s and ends at 3 s. Its start must be before its end.'],
  ['a 1 5 3.5', 'list.txt:2  the part starts at 5 s and ends at 3.5 s. Its start must be before its end.'],
  ['a 1 0.0000001 0.0000002', 'list.txt:2  the part starts at 0.0000001 s and ends at 0.0000002 s.'],
  ['a 1 -1 3', 'list.txt:2  start -1 is negative. Write seconds since the first frame, from 0 on, such as 12 or 12.5.'],
  ['a 1 1:30 nan', `list.txt:2  start "1:30" ${NOT_SECONDS}`, `list.txt:2  end "nan" ${NOT_SECONDS}`],
  ['a 1 0 0x10', `list.txt:2  end "0x10" ${NOT_SECONDS}`],
  ['a 1 0 .', `list.txt:2  end "." ${NOT_SECONDS}`],
  ['a 1 0 1e12', `list.txt:2  end "1e12" ${NOT_SECONDS}`],
  ['a 1 0 1000000000', `list.txt:2  end "1000000000" ${NOT_SECONDS}`],
  ['a 1', 'list.txt:2  "a 1" has not all four columns. Write `<path> <label> <start> <end>`.'],
  ['a 0 1', 'list.txt:2  "a 0 1" has not all four columns. Write `<path> <label> <start> <end>`.'],
  ['a x 0 1', 'list.txt:2  label "x" is not a whole number from 0 to 2'],
  ['a 7 2 1', 'the part starts at 2 s', 'label 7 is outside 0..2'],
  [
    '# columns: path label',
    'list.txt:2  "# columns: path label" counts on line 1 alone. Move it there, or make a list of',
  ],
])('%j below the header is told', async (line, ...expected) => {
  expect(await problemsOf(`${HEADER}${line}\nok 1 2 3\n`)).toEqual(
    expected.map((text) => expect.stringContaining(text)),
  );
});

test('columns in another order, and a header that is not on line 1, are told', async () => {
  expect(await problemsOf('# columns: path start end label\na 1 2 1\n')).toEqual([
    'list.txt:1  "# columns: path start end label" is not known as the columns of a list. Write `# columns: path label start end`, in this order.',
  ]);
  const late = await problemsOf(`a 1\n${HEADER}b 1 2 1\n`);
  expect(late).toEqual([
    expect.stringContaining('list.txt:2  "# columns: path label start end" counts on line 1 alone.'),
  ]);
});

test('a time is read as a number is, to the microsecond, and written back the same', () => {
  const words = ['0', '00012.50', '.000001', '3.9999995', '999999999.999999', '2e2', '1.0000004', '12345.678901'];
  const times = words.map((word) => readTime(Buffer.from(`x${word} `), 1, word.length + 1));
  expect(times).toEqual([0, 12_500_000, 1, 4_000_000, 999_999_999_999_999, 200_000_000, 1_000_000, 12_345_678_901]);
  for (const time of times) expect(readTime(Buffer.from(formatTime(time)), 0, formatTime(time).length)).toBe(time);
});

describe('the same moment twice', () => {
  test('is a duplicate within a list where the whole part is the same, and a conflict with two labels', async () => {
    const { warnings } = await check(`${HEADER}a 0 1 2\na 1 1.5 2\nb 2 1 2\na 0 1.0 2.0\n./b 1 1 2\n`);
    expect(warnings).toEqual([
      `${list}  2 parts listed more than once, the first on lines 2 and 5 (duplicate-path)`,
      `${list}  1 part with two labels: label 2 on line 4, 1 on line 6 (label-conflict)`,
    ]);
  });

  const other = join(folder, 'other.txt');
  const compare = async (content: string, otherContent: string, options: Partial<ListOptions> = {}) => {
    const first = await check(content, options);
    writeFileSync(other, otherContent);
    const second = await checkList({ file: other, root: '/clips', numClasses: 3, skipFiles: true, ...options });
    const findings = new Findings();
    await findShared({ ...first, file: list }, { ...second, file: other }, 'why', findings);
    return findings.describeWarnings().map((line) => line.replaceAll(`${folder}/`, ''));
  };

  test.each([
    [
      'a 0 2 3\na 0 1.999999 5\n',
      ['3 clips overlap clips of other.txt, the first on line 2, there on line 3: why (leak)'],
    ],
    [
      'a 0 0.5 9\na 0 0.6 0.7\n',
      ['3 clips overlap clips of other.txt, the first on line 2, there on line 2: why (leak)'],
    ],
  ])('in two lists is a leak: %j', async (others, expected) => {
    const found = await compare(`${HEADER}a 0 1 2\nc 1 0 9\na 0 1 2\n`, `${HEADER}${others}`);
    expect(found).toEqual(expected.map((text) => `list.txt  1 of its ${text}`));
  });

  test.each([
    ['a 0 3 4\n', 2],
    ['b 0 1 2\na 0 2 3\n', 3], // half-open: neither holds the other's first frame
    ['a 0 2 3\na 0 0 1\nb 0 1 2\n', 3],
  ])('is not there in two lists that have other moments of a video, which look alike: %j', async (others, line) => {
    const found = await compare(`${HEADER}a 0 1 2\nc 1 0 9\na 0 1 2\n`, `${HEADER}${others}`);
    const what = `1 video with other moments in other.txt, the first on line 2, there on line ${line}`;
    expect(found).toEqual([`list.txt  ${what}: they look alike, and why (same-source)`]);
  });

  test('is one with a whole file on the other side, whichever it is', async () => {
    const parts = `${HEADER}c 0 5 6\na 0 1 2\na 1 7 8\n`;
    expect(await compare(parts, 'b 0\na 0\n')).toEqual([
      'list.txt  2 of its 3 clips overlap clips of other.txt, the first on line 3, there on line 2: why (leak)',
    ]);
    expect(await compare('b 0\na 0\n', parts)).toEqual([
      'list.txt  1 of its 2 clips overlap clips of other.txt, the first on line 2, there on line 4: why (leak)',
    ]);
  });

  test('has two labels where both have the same part', async () => {
    expect(await compare(`${HEADER}a 0 1 2\na 1 3 4\na 2 5 6\n`, `${HEADER}a 0 3 4\na 0 5 7\na 1 3.5 6\n`)).toEqual([
      'list.txt  2 of its 3 clips overlap clips of other.txt, the first on line 3, there on line 2: why (leak)',
      'list.txt  1 clip with another label than in other.txt: label 1 on line 3, 0 on line 2 there (label-conflict)',
    ]);
  });

  test('shows in files of the same content, too', async () => {
    for (const name of ['a', 'b']) writeFileSync(join(folder, name), 'same');
    const options = { root: folder, skipFiles: false };
    expect(await compare(`${HEADER}a 0 1 2\n`, `${HEADER}b 0 2 3\n`, options)).toEqual([]);
    expect(await compare(`${HEADER}a 0 1 2\n`, `${HEADER}b 0 1.5 3\n`, options)).toEqual([
      expect.stringContaining('1 clip with the same content as one in other.txt'),
    ]);
  });

  test('is found among many parts of one file as by comparing all', async () => {
    const numbers = Uint32Array.from({ length: 2000 }, (_, i) =>
      createHash('md5').update(`${i}`).digest().readUInt32LE(),
    );
    const random = (index: number) => (numbers[index] ?? 0) % 4000;
    // Some are ten times as long, and reach over those behind them.
    const last = (index: number) => 1 + (random(index) % 40) * (index % 9 === 0 ? 10 : 1);
    const make = (count: number, offset: number) =>
      Array.from({ length: count }, (_, i) => [random(2 * i + offset), last(2 * i + 1 + offset)] as const);
    const [ours, theirs] = [make(300, 0), make(40, 900)];
    const print = (parts: ReturnType<typeof make>) =>
      HEADER + parts.map(([start, length], i) => `f${i % 2} 0 ${start} ${start + length}\n`).join('');
    const hit = ours.filter(([start, length], i) =>
      theirs.some(([from, lasts], j) => i % 2 === j % 2 && start < from + lasts && from < start + length),
    );
    expect(hit.length).toBeGreaterThan(20);
    expect(hit.length).toBeLessThan(280);
    expect(new Set(ours.map((part, i) => `${part} ${i % 2}`)).size).toBe(ours.length); // none twice
    const [warning] = await compare(print(ours), print(theirs));
    expect(warning).toMatch(new RegExp(`^list.txt  ${hit.length} of its 300 clips overlap`));
    // The same of copies: f0 there is c0 here, and f1 is c1.
    for (const name of ['f0', 'c0']) writeFileSync(join(folder, name), 'zero');
    for (const name of ['f1', 'c1']) writeFileSync(join(folder, name), 'one');
    const options = { root: folder, skipFiles: false };
    expect(await compare(print(ours), print(theirs).replaceAll('\nf', '\nc'), options)).toEqual([
      expect.stringMatching(new RegExp(`^list.txt  ${hit.length} clips with the same content as one in other.txt`)),
    ]);
  });
});
