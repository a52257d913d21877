/** What ends a run from outside: signals are in train.test.ts and signals.test.ts; here is a later attempt at the same work. */
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from '@jest/globals';
import { RunFolder } from '../src/run/folder.ts';
import { StopRequest } from '../src/train/stop-request.ts';
import { until } from './support.ts';

const folder = mkdtempSync(join(tmpdir(), 'stop-test-'));
afterAll(() => rmSync(folder, { recursive: true }));

test('a later attempt ends what is under way in a long call, and an equal one does not', async () => {
  const python = spawn('sleep', ['1000']);
  const fence = join(folder, 'attempt.json');
  writeFileSync(fence, JSON.stringify({ attempt: 1 }));
  const runFolder = new RunFolder(folder, 1);
  let numBeats = 0;
  const beats = { isFenced: () => runFolder.isFenced(), beat: () => void numBeats++ };
  const stop = new StopRequest(beats, () => {});
  stop.runtime = { kill: () => python.kill('SIGKILL') };
  try {
    await until(() => numBeats > 0, 60); // it has looked
    expect(python.signalCode).toBeNull();
    writeFileSync(fence, JSON.stringify({ attempt: 2 }));
    await until(() => python.signalCode === 'SIGKILL', 60);
  } finally {
    stop.release();
    python.kill('SIGKILL');
  }
});

test('a cluster that starts the same attempt again fences off the earlier start', () => {
  const other = mkdtempSync(join(folder, 'cluster-'));
  const first = new RunFolder(other, 3);
  first.create();
  writeFileSync(join(other, 'attempt.json'), JSON.stringify({ attempt: 3 }));
  expect(first.isFenced()).toBe(false);
  process.env.COLDFRAME_RESTART = '1';
  try {
    const again = new RunFolder(other, 3);
    again.create();
    expect([again.isFenced(), first.isFenced()]).toEqual([false, true]);
  } finally {
    delete process.env.COLDFRAME_RESTART;
  }
});
