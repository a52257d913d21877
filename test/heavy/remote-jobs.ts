/** What the tests of executors on real clusters share: jobs of a line of shell, and sweeps with the fake program. */
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { findByVariable, signal } from '../../src/base/process/processes.ts';
import type { Executor, Job, JobState } from '../../src/executors/executor.ts';

export const own = mkdtempSync(join(tmpdir(), 'remote-test-'));
let numJobs = 0;

export function shell(script: string): Job {
  const key = `shell-${process.pid}-${++numJobs}`;
  const command = ['sh', '-c', script];
  return { key, command, cwd: own, env: { GIVEN: "it's" }, logFile: join(own, 'logs of jobs', `${key}.log`) };
}

export const logOf = (job: Job): string => (existsSync(job.logFile) ? readFileSync(job.logFile, 'utf8') : '');

export async function waitFor(executor: Executor, handle: string, wanted: JobState['state']): Promise<JobState> {
  for (const end = Date.now() + 60_000; Date.now() < end; await sleep(50)) {
    const state = (await executor.watch([handle])).get(handle);
    if (state?.state === wanted) return state;
    if (state?.state === 'ended') throw new Error(`${handle} ended instead: ${state.why}`);
  }
  throw new Error(`${handle} is not ${wanted} after a minute`);
}

/** Ends what a job has left: also where a cluster has lost sight of it. */
export function killLeft(variable: string): void {
  for (const { pid, value } of findByVariable(variable)) if (/^(shell|fake|grid)-/.test(value)) signal(pid, 'SIGKILL');
}

export function removeOwn(): void {
  rmSync(own, { recursive: true, force: true });
}
