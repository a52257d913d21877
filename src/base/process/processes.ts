/** Processes of this machine, known by number and time of birth, as numbers are used again. Without /proc nothing is known of them. And its
 * processors, as they are shared out. */

import { readdirSync, readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';

/** Returns when a living process began (machine start and clock ticks since); undefined when it is gone or unknown. */
export function findBirth(pid: number): string | undefined {
  const { state, birth } = readStat(pid) ?? {};
  return state === 'Z' || state === 'X' ? undefined : birth; // one that nobody waits for stays as a zombie
}

function readStat(pid: number): { state: string; group: number; birth: string } | undefined {
  try {
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
    // /proc/PID/stat: pid (command) state ppid pgrp ... starttime is field 22; a command may hold spaces and brackets
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
      .replace(/^.*\) /s, '')
      .split(' ');
    return { state: fields[0] ?? '', group: Number(fields[2]), birth: `${boot}:${fields[19]}` };
  } catch {
    return undefined;
  }
}

/** Returns the living processes that have a variable in their environment, and which of them lead a group. */
export function findByVariable(name: string): { pid: number; isLeader: boolean; value: string }[] {
  const prefix = `${name}=`;
  return listProcesses().flatMap((pid) => {
    const value = readEnvironment(pid).find((text) => text.startsWith(prefix));
    const stat = value === undefined ? undefined : readStat(pid);
    if (value === undefined || stat === undefined || stat.state === 'Z') return [];
    return [{ pid, isLeader: stat.group === pid, value: value.slice(prefix.length) }];
  });
}

function listProcesses(): number[] {
  try {
    return readdirSync('/proc')
      .filter((name) => /^\d+$/.test(name))
      .map(Number);
  } catch {
    return [];
  }
}

function readEnvironment(pid: number): string[] {
  try {
    return readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0');
  } catch {
    return []; // another user's, or just gone
  }
}

/** Returns how many processes the kernel has killed so far because memory ran out, on the machine or in a group of
 * processes that has a limit; undefined where it does not tell. */
export function countMemoryKills(): number | undefined {
  try {
    const [, count] = /^oom_kill (\d+)$/m.exec(readFileSync('/proc/vmstat', 'utf8')) ?? [];
    return count === undefined ? undefined : Number(count);
  } catch {
    return undefined;
  }
}

/** Signals a process, or with a negative number its group; one that is gone already needs none. */
export function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

/** Returns the processors that this process may use: in a slot of a sweep, its share. Python counts the same. */
export function countCores(): number {
  const share = Number(process.env.COLDFRAME_CPUS ?? '');
  const all = availableParallelism();
  return Number.isInteger(share) && share > 0 ? Math.min(all, share) : all;
}

/** Returns the processors of each of so many slots, or processes of one. */
export const shareCores = (slots: number, cores = countCores()): number => Math.max(1, Math.floor(cores / slots));

/** Returns the threads of each of so many processes that compute together. A user's own number stands: on a CPU numbers
 * depend on it. Without one torch would take all processors in each. */
export function shareThreads(processes: number): Record<'OMP_NUM_THREADS' | 'MKL_NUM_THREADS', string> {
  const threads = process.env.OMP_NUM_THREADS ?? String(shareCores(processes));
  return { OMP_NUM_THREADS: threads, MKL_NUM_THREADS: process.env.MKL_NUM_THREADS ?? threads };
}
