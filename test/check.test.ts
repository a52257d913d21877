/** `check`: what is found in lists, told by list and line. */
import { mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, expect, jest, test } from '@jest/globals';
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

const eventsOf = (stdout: string): Event[] =>
  stdout
    .trimEnd()
    .split('\n')
    .map((line) => checkEvent(JSON.parse(line)));

const run = (...words: string[]) => coldframe(['check', ...words], { cwd: folder });

test('every finding has its list and line, and of errors the exit code is 2', async () => {
  write(
    { 'a.mp4': 'a', 'b.mp4': 'b', 'c.mp4': 'c' },
    { 'train.txt': 'a.mp4 0\nb.mp4 1\na.mp4 1\n', 'val.txt': 'b.mp4 1\n' },
  );
  const good = await run('train.txt', 'val.txt', '--json');
  expect(good.code).toBe(0);
  const told = eventsOf(good.stdout).map(({ code, list, line, other_list, other_line }) =>
    [code, list, line, other_list, other_line].join(' '),
  );
  expect(told.slice(0, -1)).toEqual([
    'duplicate-path train.txt 3 train.txt 1',
    'label-conflict train.txt 3 train.txt 1',
    'leak val.txt 1 train.txt 2',
  ]);
  write({}, { 'val.txt': 'c.mp4 0\ngone.mp4 0\nc.mp4 x\n' });
  const bad = await run('train.txt', 'val.txt');
  expect([bad.code, bad.stderr]).toEqual([
    2,
    expect.stringMatching(/^check {2}2 errors, 2 warnings in 6 clips of 2 lists/),
  ]);
  expect(bad.stdout).toContain('error missing: 1 in val.txt\n  val.txt:2 ');
  expect(bad.stdout).toContain('error label-not-a-number: 1 in val.txt\n  val.txt:3 ');
});
