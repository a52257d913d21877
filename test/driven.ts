/** A runtime driven by a Node process of its own, for the tests of the bridge (fixtures/runtime-driver.ts). */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterEach, beforeAll, beforeEach, expect } from '@jest/globals';
import { findByVariable, signal } from '../src/base/process/processes.ts';
import type { Outcome, Step } from './fixtures/runtime-driver.ts';
import { bundle, FIXTURES } from './support.ts';

const NEXT_SECONDS = 90;
export const START: Step = { do: 'start' };
export const CLOSE: Step = { do: 'close' };
export const call = (verb: string, args: object = {}): Step => ({ do: 'call', verb, args });

let program: string;
beforeAll(() => {
  program = bundle('runtime-driver');
});

export let folder: string;
let leftOver: number[] = []; // what a failing test may have left running
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'runtime-test-'));
});
afterEach(() => {
  for (const pid of leftOver.filter(isAlive)) signal(pid, 'SIGKILL');
  leftOver = [];
  rmSync(folder, { recursive: true });
});

/** A running driver: `next()` is its next line on stdout; every line must be one of its own. */
export function drive(steps: Step[], env: NodeJS.ProcessEnv = {}) {
  const driver = spawn(process.execPath, [program, JSON.stringify(steps)], {
    detached: true, // a process group of its own, as a terminal gives it
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, NODE_OPTIONS: '', COLDFRAME_PYTHONPATH: FIXTURES, TMPDIR: folder, ...env },
  });
  const lines = createInterface({ input: driver.stdout })[Symbol.asyncIterator]();
  const next = async (): Promise<Outcome> => {
    // A call that never settles is the fault that these tests look for: what hangs is ended by `afterEach`.
    const limit = AbortSignal.timeout(NEXT_SECONDS * 1000);
    const late = once(limit, 'abort').then(() => Promise.reject(new Error(`nothing within ${NEXT_SECONDS} s`)));
    const outcome: Outcome = JSON.parse((await Promise.race([lines.next(), late])).value);
    const { pid, pids = [] } = (outcome.value ?? {}) as { pid?: number; pids?: number[] };
    leftOver.push(...pids, ...(pid ? [pid] : []));
    return outcome;
  };
  if (driver.pid) leftOver.push(driver.pid);
  return { driver, next };
}

/** Plays the steps to the end; the driver leaves by itself, so no handle of the runtime keeps it. */
export async function play(steps: Step[], env: NodeJS.ProcessEnv = {}): Promise<Outcome[]> {
  const { driver, next } = drive(steps, env);
  const exit = once(driver, 'exit');
  const outcomes: Outcome[] = [];
  for (const _ of steps) outcomes.push(await next());
  const begin = performance.now();
  expect(await exit).toEqual([0, null]);
  expect(performance.now() - begin).toBeLessThan(2000);
  return outcomes;
}

export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return !/^\d+ \(.*\) Z/.test(readFileSync(`/proc/${pid}/stat`, 'utf8')); // nobody may have reaped it yet
  } catch {
    return false;
  }
}

export function contentOf<T>(outcome: Outcome | undefined): T {
  if (outcome?.value === undefined) throw new Error(`no value: ${JSON.stringify(outcome)}`);
  return outcome.value as T;
}
export const pidOf = (outcome: Outcome | undefined): number => contentOf<{ pid: number }>(outcome).pid;
export const pidsOf = (outcome: Outcome | undefined): number[] => contentOf<{ pids: number[] }>(outcome).pids;
export const signalGroup = (driver: ChildProcess, name: NodeJS.Signals): boolean =>
  process.kill(-(driver.pid ?? 0), name);

/** The processes that a test has started and that still live, however they were started: all have its folder for TMPDIR. */
export const findLeft = (): number[] =>
  findByVariable('TMPDIR').flatMap(({ pid, value }) => (value === folder ? [pid] : []));
