/** `--resume never` puts an earlier run aside, and never one that somebody is training. */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterAll, expect, test } from '@jest/globals';
import { findBirth } from '../src/base/process/processes.ts';
import { RunFolder } from '../src/run/folder.ts';

const folder = mkdtempSync(join(tmpdir(), 'aside-test-'));
afterAll(() => rmSync(folder, { recursive: true }));

const HOUR = 3600;
const birth = findBirth(process.pid) ?? null;
test.each([
  ['that runs here', { state: 'running', host: hostname(), pid: process.pid, birth }, HOUR, /process \d+ is training/],
  ['that was killed here', { state: 'running', host: hostname(), pid: 2 ** 30 }, 0, undefined],
  [
    'that runs elsewhere',
    { state: 'running', host: 'elsewhere', pid: 1 },
    60,
    /process 1 is training there, on elsewhere/,
  ],
  ['whose machine is gone', { state: 'running', host: 'elsewhere', pid: 1 }, HOUR, undefined],
  ['that has ended elsewhere', { state: 'finished', host: 'elsewhere', pid: 1 }, 0, undefined],
])('a run %s', (name, status, seconds, refusal) => {
  const dir = join(folder, name);
  mkdirSync(dir);
  const then = Date.now() / 1000 - seconds;
  const texts = {
    'config.json': '{}',
    'status.json': JSON.stringify({ ...status, updated: new Date((then - HOUR) * 1000).toISOString() }),
    'events.jsonl': '',
    'runtime.log': '',
  };
  for (const [file, text] of Object.entries(texts)) {
    writeFileSync(join(dir, file), text);
    utimesSync(join(dir, file), then - HOUR, then - HOUR);
  }
  utimesSync(join(dir, 'runtime.log'), then, then); // the last to change: Python touches it while it works
  if (refusal !== undefined) {
    expect(() => new RunFolder(dir).setAside()).toThrow(refusal);
    expect(existsSync(join(dir, 'config.json'))).toBe(true);
  } else {
    const aside = new RunFolder(dir).setAside() ?? '';
    expect(basename(aside)).toMatch(new RegExp(`^${name}\\.before-\\d{8}-\\d{6}$`));
    expect(readdirSync(aside).sort()).toEqual(Object.keys(texts).sort());
    expect(existsSync(dir)).toBe(false);
  }
});
