/** Locks of files: who has one, who may take it away, and what is left of one. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, expect, test } from '@jest/globals';
import { tryLock } from '../src/base/process/lock.ts';
import { findBirth } from '../src/base/process/processes.ts';
import { fill, testOnDisk, tinyDisk, unmount } from './tiny-disk.ts';

const folder = mkdtempSync(join(tmpdir(), 'lock-test-'));
const file = join(folder, 'file');
const lock = `${file}.lock`;
const living = spawn('sleep', ['1000']);
const LIVING = `${living.pid} ${hostname()} ${findBirth(living.pid ?? 0)}`;
const DEAD = `${living.pid} ${hostname()} another-birth:1`; // its number has gone to another process
const HELD = { pid: String(living.pid), host: hostname() };

beforeEach(() => {
  for (const name of readdirSync(folder)) rmSync(join(folder, name));
});
afterAll(async () => {
  living.kill();
  await once(living, 'exit');
  rmSync(folder, { recursive: true });
});

test('a lock is held until it is given back, and leaves nothing', () => {
  const release = tryLock(file);
  expect(tryLock(file)).toEqual({ pid: String(process.pid), host: hostname() });
  expect(readdirSync(folder)).toEqual(['file.lock']);
  (release as () => void)();
  expect(readdirSync(folder)).toEqual([]);
});

test.each([
  ['a living process', LIVING, HELD],
  ['a process elsewhere', '1 elsewhere boot:7', { pid: '1', host: 'elsewhere' }],
])('that of %s is not taken', (_, holder, expected) => {
  writeFileSync(lock, holder);
  expect(tryLock(file)).toEqual(expected);
  expect(readFileSync(lock, 'utf8')).toBe(holder);
});

test('a dead holder’s is taken over, and one that was never written after a while', () => {
  writeFileSync(lock, DEAD);
  const release = tryLock(file) as () => void;
  expect(readFileSync(lock, 'utf8')).toMatch(new RegExp(`^${process.pid} `));
  release();
  writeFileSync(lock, '');
  expect(tryLock(file)).toEqual({ pid: '', host: '' });
  utimesSync(lock, 0, 0);
  expect(tryLock(file)).toBeInstanceOf(Function);
});

test('of two that see a dead holder one takes it over, also where the one that began has died', () => {
  writeFileSync(lock, DEAD);
  writeFileSync(`${lock}.taking`, LIVING);
  expect(tryLock(file)).toEqual(HELD);
  expect(readFileSync(lock, 'utf8')).toBe(DEAD);
  writeFileSync(`${lock}.taking`, DEAD);
  expect(tryLock(file)).toBeInstanceOf(Function);
  expect(readdirSync(folder)).toEqual(['file.lock']);
});

test('giving back takes away no lock of another', () => {
  const release = tryLock(file) as () => void;
  writeFileSync(lock, LIVING); // someone has removed it by hand, and another has come
  release();
  expect(existsSync(lock)).toBe(true);
});

testOnDisk('a full disk takes no lock, and keeps nothing of one', () => {
  const disk = join(folder, 'disk');
  tinyDisk(disk, '16k');
  try {
    fill(join(disk, 'filler'));
    expect(() => tryLock(join(disk, 'file'))).toThrow(
      expect.objectContaining({ code: 'ENOSPC', path: join(disk, 'file.lock') }),
    );
    expect(readdirSync(disk)).toEqual(['filler']);
  } finally {
    unmount(disk);
    rmSync(disk, { recursive: true });
  }
});
