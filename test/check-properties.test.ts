/** Properties of lists: any bytes end in a report, and what is printed is read again. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { Findings } from '../src/data/check/findings.ts';
import { explainName } from '../src/data/layouts/names.ts';
import { printList } from '../src/data/layouts/write.ts';
import { findSharedPaths } from '../src/data/leaks.ts';
import { type ListOptions, type ListReport, readList } from '../src/data/list.ts';

const folder = mkdtempSync(join(tmpdir(), 'check-properties-'));
const [file, copy] = [join(folder, 'list.txt'), join(folder, 'copy.tsv')];
afterAll(() => rmSync(folder, { recursive: true }));

type Checked = ListReport & { findings: Findings; lines: (number | null)[] };

async function check(bytes: string | Uint8Array, options: Partial<ListOptions> = {}): Promise<Checked> {
  writeFileSync(file, bytes);
  const lines: (number | null)[] = [];
  const findings = new Findings(({ line }) => lines.push(line));
  const base = { file, root: '/clips', numClasses: null, skipFiles: true, writeTo: copy };
  return { ...(await readList({ ...base, ...options }, findings)), findings, lines };
}

/** Bytes that lists are made of come often, and so do lines that nearly are right. */
const soup = fc
  .array(
    fc.oneof(
      {
        weight: 4,
        arbitrary: fc.constantFrom(' ', '\t', '\n', '\r', '\r\n', '#', '0', '17', '.', '/', '..', ',', '\ufeff', '\0'),
      },
      {
        weight: 2,
        arbitrary: fc.constantFrom('a.mp4 0\n', '# columns: path label start end\n', 'é 1\n', 'b 1 0.5 2\n', '# x 3\n'),
      },
      fc.string({ unit: 'binary', maxLength: 8 }),
    ),
    { maxLength: 40 },
  )
  .map((parts) => Buffer.from(parts.join('')));
const anything = fc.oneof(
  soup,
  fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)),
);

/** Paths that a line can hold. */
const path = fc
  .oneof(
    fc.string({ unit: 'grapheme', minLength: 1, maxLength: 12 }),
    fc.stringMatching(/^[ #./a-z0-9-]{1,12}$/),
    fc.constantFrom('# a', '#a', '-a', './a', 'a  b', '\ufeffa', 'a,b', '"a"', 'a 1 2', '0'),
  )
  .filter((one) => explainName(one) === undefined && !one.endsWith('\u0000') && !/^[./ ]*$/.test(one));
const clip = fc.record({ path, label: fc.integer({ min: 0, max: 9 }) });

describe('any bytes as a list', () => {
  test('end in findings or in a clean list, each finding at a line that is there', async () => {
    await fc.assert(
      fc.asyncProperty(anything, anything, async (bytes, other) => {
        rmSync(copy, { force: true });
        const { numLines, paths, findings, lines, sizeBytes } = await check(bytes);
        const numFeeds = bytes.filter((byte) => byte === 10).length;
        for (const line of lines) if (line !== null) expect(line >= 1 && line <= numFeeds + 1).toBe(true);
        expect(sizeBytes <= bytes.length).toBe(true);
        if (findings.count('error') > 0) expect(() => readFileSync(copy)).toThrow('ENOENT');
        else expect(readFileSync(copy, 'utf8').split('\n')).toHaveLength(numLines + 1);
        expect([...paths.lines()]).toHaveLength(paths.length);
        const second = await check(other);
        findSharedPaths(
          { ...second, file: 'other' },
          { paths, numLines, file, found: [], sha256: '', root: '/' },
          'why',
          findings,
        );
        expect(findings.describeWarnings().every((text) => text.includes('  '))).toBe(true);
      }),
      { numRuns: 100 },
    );
  });

  test('are read alike with every end of line, and with blank lines and comments between', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(clip, { minLength: 1, maxLength: 8 }),
        fc.constantFrom('\r\n', '\n\n', '\n# x\n', ' \t\n'),
        async (clips, end) => {
          const text = printList(clips);
          await check(text);
          const plain = readFileSync(copy);
          const { findings } = await check(`\ufeff${text.replaceAll('\n', end)}`);
          expect([findings.count('error'), readFileSync(copy)]).toEqual([0, plain]);
        },
      ),
      { numRuns: 100 },
    );
  });
});

test('what is printed as a list is read again as it was', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(clip, { minLength: 1, maxLength: 8 }), async (clips) => {
      const { findings, perClass } = await check(printList(clips));
      expect(findings.describeErrors()).toEqual([]);
      const rows = readFileSync(copy, 'utf8')
        .trimEnd()
        .split('\n')
        .map((line) => line.split('\t'));
      expect(rows.map(([one = '', label]) => [resolve(one), label])).toEqual(
        clips.map((one) => [resolve('/clips', one.path), String(one.label)]),
      );
      expect(perClass.reduce((sum, count) => sum + count, 0)).toBe(clips.length);
    }),
    { numRuns: 100 },
  );
});
