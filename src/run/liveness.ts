/** Whether a run or sweep is alive: a process that was killed leaves "running" behind in its status.json. */

import { existsSync, readdirSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { findBirth } from '../base/process/processes.ts';

/** Who wrote a status, and when. */
export interface Writer {
  pid?: number | null;
  host?: string | null;
  /** Of the process, as findBirth tells it: its number may be another's by now. */
  birth?: string | null;
  updated?: string | null;
}

export function describeWriter(): Required<Writer> {
  return {
    ...{ pid: process.pid, host: hostname(), birth: findBirth(process.pid) ?? null },
    updated: new Date().toISOString(),
  };
}

/** A writer on another machine is gone when it has been silent for so long; a runner writes each second. */
const SILENCE_SECONDS = 60;

/**
 * Returns whether the writer of a status is still there: on this machine by its process, else by its silence. A process
 * that is not known by its birth counts as there only while it is not silent, since its number may live on.
 */
export function isWriterAlive({ pid, host, birth, updated }: Writer, silenceSeconds = SILENCE_SECONDS): boolean {
  const isHere = host === hostname() && pid != null;
  if (isHere && birth != null) return findBirth(pid) === birth;
  if (isHere && !isAlive(pid)) return false;
  return (Date.now() - Date.parse(updated ?? '')) / 1000 < silenceSeconds;
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** Returns the step of the newest checkpoint of a run folder, where the next start goes on; null without one. */
export function readSavedStep(dir: string): number | null {
  const folder = join(dir, 'checkpoints');
  const names = existsSync(folder) ? readdirSync(folder) : [];
  const whole = names.filter((name) => /^step-\d+$/.test(name) && existsSync(join(folder, name, 'checkpoint.json')));
  return whole.length === 0 ? null : Math.max(...whole.map((name) => Number(name.slice('step-'.length))));
}

/** A call of a run may take minutes; a run elsewhere that is silent for longer is gone. */
const RUN_SILENCE_SECONDS = 600;

/** Returns the state that is true of a run now: one that says it runs, and whose process is gone, is `stopped`. */
export function judgeRun({ state, ...writer }: Writer & { state?: string | null }): string {
  const isGone = state === 'running' && !isWriterAlive(writer, RUN_SILENCE_SECONDS);
  return isGone ? 'stopped' : (state ?? 'unknown');
}
