/** Files are written whole and on the disk, or not at all: what the system was asked for, and a disk that is full. */
import { execFileSync } from 'node:child_process';
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, test } from '@jest/globals';
import { asUserError, UserError } from '../src/base/errors.ts';
import { makeFolder, writeWhole } from '../src/base/files.ts';
import { RunFolder } from '../src/run/folder.ts';
import { Journal } from '../src/sweep/journal.ts';
import { PROJECT } from './support.ts';
import { fill, testOnDisk, tinyDisk, unmount } from './tiny-disk.ts';

const folder = realpathSync(mkdtempSync(join(tmpdir(), 'files-test-')));
afterAll(() => rmSync(folder, { recursive: true }));

describe('makeFolder', () => {
  test('makes what is missing, and says whether it did', () => {
    expect(makeFolder(join(folder, 'a', 'b', 'c'))).toBe(true);
    expect(makeFolder(join(folder, 'a', 'b', 'c'))).toBe(false);
    expect(readdirSync(join(folder, 'a', 'b'))).toEqual(['c']);
  });

  test('ends with an error where no folder can be made, and leaves nothing', () => {
    const file = join(folder, 'file');
    writeFileSync(file, 'mine');
    expect(() => makeFolder(join(file, 'run', 'lists'))).toThrow(expect.objectContaining({ code: 'ENOTDIR' }));
    expect(() => makeFolder(file)).toThrow(expect.objectContaining({ code: 'EEXIST', path: file }));
    expect(() => makeFolder('/proc/nope/run')).toThrow(expect.objectContaining({ code: 'ENOENT', path: '/proc/nope' }));
    expect(readFileSync(file, 'utf8')).toBe('mine');
  });
});

describe('an error of the file system', () => {
  const fail = (code: string, more: object): unknown =>
    asUserError(Object.assign(new Error(`${code}: words`), { code, errno: -1, syscall: 'open', ...more }));

  test.each([
    ['ENOSPC', 'the disk is full. Free some room there; the same command goes on.'],
    ['EROFS', 'lies on a read-only file system. Name a place that can be written.'],
    ['EACCES', 'may not be used: the permission is missing. Change its permissions, or name another place.'],
    ['ENOTDIR', 'lies below a file, and only a folder can hold it. Name another place.'],
    ['ELOOP', 'cannot be used: ELOOP: words. Mend it, or name another place.'],
  ])('%s is the user’s, with its path', (code, words) => {
    expect(fail(code, { path: '/data/run' })).toEqual(new UserError(`/data/run  ${words}`));
  });

  test('without a path is a bug, but for a disk; a program that cannot be started is none of them', () => {
    expect(fail('EBADF', {})).not.toBeInstanceOf(UserError);
    expect(fail('ENOENT', { syscall: 'spawn git', path: 'git' })).not.toBeInstanceOf(UserError);
    expect(fail('ENOSPC', { syscall: 'write' })).toBeInstanceOf(UserError);
  });
});

test('a file is synced before it takes its place, and the folder after that; a line of a journal before it counts', () => {
  const program = join(PROJECT, 'test', 'fixtures', 'trace-writes.mjs');
  const traced = execFileSync('node', ['--import', 'tsx', program, join(folder, 'a')], { encoding: 'utf8' });
  expect(JSON.parse(traced)).toEqual([
    ...['write status.json.partial', 'sync status.json.partial', 'rename status.json.partial', 'sync the folder'],
    ...['sync the folder', 'write journal.jsonl', 'sync journal.jsonl'],
  ]);
});

describe('on a full disk', () => {
  const disk = join(folder, 'disk');
  const filler = join(disk, 'filler');
  const isMounted = (): boolean => existsSync(filler);

  afterEach(() => {
    if (isMounted()) unmount(disk);
  });

  testOnDisk('what is written whole leaves the old file, and nothing of the new one', () => {
    tinyDisk(disk, '64k');
    const file = join(disk, 'status.json');
    writeWhole(file, 'old');
    fill(filler);
    // Of this the disk takes a part: the system reports how much, and no error.
    truncateSync(filler, statSync(filler).size - 4096);
    const error = catchError(() => writeWhole(file, 'x'.repeat(6000)));
    expect(asUserError(error)).toEqual(
      new UserError(`${file}  the disk is full. Free some room there; the same command goes on.`),
    );
    expect([readdirSync(disk).sort(), readFileSync(file, 'utf8')]).toEqual([['filler', 'status.json'], 'old']);
  });

  testOnDisk('events and journals hold whole lines, and go on when there is room', () => {
    tinyDisk(disk, '64k');
    const run = new RunFolder(join(disk, 'run'));
    const journal = new Journal(join(disk, 'journal.jsonl'));
    makeFolder(run.dir);
    const note = (n: number) => run.append({ time: '', kind: 'saved', step: n, path: 'x'.repeat(900) });
    const record = (n: number) => journal.append({ kind: 'finished', seconds: n }, { kind: 'finished', seconds: n });
    note(0);
    record(0);
    fill(filler);
    // Until the last page is full, and a line would lie across its end.
    const numNotes = countUntilFull(note);
    const numRecords = countUntilFull(record);
    expect(readLines(run.path('events.jsonl'))).toHaveLength(1 + numNotes);
    expect(readLines(join(disk, 'journal.jsonl'))).toHaveLength(2 + 2 * numRecords);
    rmSync(filler);
    note(1);
    record(1);
    expect(readLines(run.path('events.jsonl')).at(-1)).toMatchObject({ step: 1 });
    expect(run.readEvents('saved', 1)).toHaveLength(2 + numNotes);
    expect(readLines(join(disk, 'journal.jsonl')).at(-1)).toMatchObject({ seconds: 1 });
    journal.close();
    writeFileSync(filler, '');
  });
});

function catchError(work: () => void): unknown {
  try {
    work();
  } catch (error) {
    return error;
  }
  throw new Error('it went well');
}

function countUntilFull(write: (n: number) => void): number {
  for (let n = 0; ; n++) {
    try {
      write(0);
    } catch (error) {
      expect(error).toMatchObject({ code: 'ENOSPC', path: expect.stringMatching(/\.jsonl$/) });
      return n;
    }
  }
}

const readLines = (file: string): object[] =>
  readFileSync(file, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
