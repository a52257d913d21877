/** Jobs as processes of this machine. They outlive their runner: the next one finds them again. */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { dirname } from 'node:path';
import { UserError } from '../base/errors.ts';
import { makeFolder } from '../base/files.ts';
import { findBirth, findByVariable, shareCores, signal } from '../base/process/processes.ts';
import type { Executor, Job, JobState } from './executor.ts';

/** In the environment of a job and of all that it starts: `KEY SLOT`. */
const MARK = 'COLDFRAME_JOB';
const GRACE_SECONDS = 60; // a call of the training loop is about a second long, saving may take some

export interface LocalOptions {
  slots: number;
  /** CUDA devices to share out among the slots; none on a CPU. */
  devices: string[];
  graceSeconds?: number;
}

/**
 * Returns what gives a slot its share of the machine, whose cores the processes of a job share. One slot alone has all of
 * it: numbers on a CPU depend on the threads.
 */
export function leaseSlot(
  slot: number,
  slots: number,
  devices: string[],
  processes = 1,
  cores = shareCores(slots),
): Record<string, string> {
  if (slots === 1) return {};
  const threads = process.env.OMP_NUM_THREADS ?? String(shareCores(processes, cores));
  const lease = { OMP_NUM_THREADS: threads, MKL_NUM_THREADS: threads, COLDFRAME_CPUS: String(cores) };
  if (devices.length === 0) return lease;
  const share = Math.floor(devices.length / slots);
  const first = (slot % slots) * share;
  const mine = share > 0 ? devices.slice(first, first + share) : [devices[slot % devices.length]];
  return { ...lease, CUDA_VISIBLE_DEVICES: mine.join(',') };
}

/** A handle is `PID BIRTH SLOT KEY`: a number that another process has by now is not taken for the job. */
const parseHandle = (handle: string): { pid: number; birth: string; slot: number; key: string } => {
  const [pid = '', birth = '', slot = '', key = ''] = handle.split(' ');
  return { pid: Number(pid), birth, slot: Number(slot), key };
};

export class LocalExecutor implements Executor {
  readonly kind = 'local';
  readonly slots: number;
  readonly #devices: string[];
  readonly #graceSeconds: number;
  /** Handles that hold a slot; how it ended, of those that are children of this process. */
  readonly #running = new Map<string, { child?: true; ended?: JobState & { state: 'ended' } }>();
  readonly #cancelled = new Map<string, NodeJS.Timeout>();

  constructor({ slots, devices, graceSeconds }: LocalOptions) {
    this.slots = slots;
    this.#devices = devices;
    this.#graceSeconds = graceSeconds ?? GRACE_SECONDS;
  }

  async start(job: Job): Promise<string> {
    const [program = '', ...args] = job.command;
    const slot = this.#freeSlot();
    makeFolder(dirname(job.logFile));
    const lease = leaseSlot(slot, this.slots, this.#devices, job.devices);
    const log = openSync(job.logFile, 'a'); // a pipe would break with the runner
    const child = spawn(program, args, {
      cwd: job.cwd,
      env: { ...process.env, ...job.env, ...lease, [MARK]: `${job.key} ${slot}` },
      detached: true,
      stdio: ['ignore', log, log],
    });
    closeSync(log);
    if (child.pid === undefined) {
      const [error] = await once(child, 'error');
      throw new UserError(`${program}  cannot be started: ${(error as Error).message}.`);
    }
    const handle = `${child.pid} ${findBirth(child.pid) ?? '-'} ${slot} ${job.key}`;
    this.#running.set(handle, { child: true });
    child.unref();
    child.on('exit', (code, name) => {
      const why = name === null ? `ended with exit code ${code}` : `was killed by ${name}`;
      this.#running.set(handle, { child: true, ended: { state: 'ended', code, why } });
    });
    return handle;
  }

  async find(key: string): Promise<string | undefined> {
    const found = findByVariable(MARK).find(({ isLeader, value }) => isLeader && value.split(' ')[0] === key);
    const birth = found === undefined ? undefined : findBirth(found.pid);
    if (found === undefined || birth === undefined) return undefined;
    return `${found.pid} ${birth} ${found.value.split(' ')[1]} ${key}`;
  }

  async watch(handles: string[]): Promise<Map<string, JobState>> {
    return new Map(handles.map((handle): [string, JobState] => [handle, this.#look(handle)]));
  }

  #look(handle: string): JobState {
    const { pid, birth, key } = parseHandle(handle);
    const known = this.#running.get(handle);
    if (known === undefined) this.#running.set(handle, {}); // an earlier runner's holds its slot, too
    const isRunning = known?.child ? known.ended === undefined : findBirth(pid) === birth;
    if (isRunning) return { state: 'running' };
    this.#running.delete(handle);
    clearTimeout(this.#cancelled.get(handle));
    const state = known?.ended ?? { state: 'ended', code: null, why: 'is gone; its runner was gone before it' };
    // A program that was killed may leave workers behind that hold memory, and the lock of the run folder.
    if (state.code !== 0) killMarked(key);
    return state;
  }

  async cancel(handle: string): Promise<void> {
    const { pid, birth, key } = parseHandle(handle);
    if (this.#cancelled.has(handle)) return killMarked(key);
    const kill = setTimeout(() => killMarked(key), this.#graceSeconds * 1000);
    this.#cancelled.set(handle, kill.unref());
    if (this.#running.get(handle)?.child || findBirth(pid) === birth) signal(-pid, 'SIGTERM');
  }

  async close(): Promise<void> {
    for (const timer of this.#cancelled.values()) clearTimeout(timer);
  }

  #freeSlot(): number {
    const taken = new Set([...this.#running.keys()].map((handle) => parseHandle(handle).slot));
    for (let slot = 0; ; slot++) if (!taken.has(slot)) return slot;
  }
}

/** Kills all that belongs to a job, in whatever process group it is. */
function killMarked(key: string): void {
  for (const { pid, value } of findByVariable(MARK)) {
    if (value.split(' ')[0] === key) signal(pid, 'SIGKILL');
  }
}
