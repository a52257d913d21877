/** The processes of a training on several ranks, found by the run folder that their log lies in. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { findByVariable } from '../src/base/process/processes.ts';

export interface Member {
  pid: number;
  kind: 'agent' | 'rank' | 'worker';
  /** null: the agent. */
  rank: number | null;
}

/** Loader workers are forked: they have the command and the environment of their rank. */
export function findMembers(runDir: string): Member[] {
  const log = join(runDir, 'runtime.log');
  const found = findByVariable('COLDFRAME_LOG').flatMap(({ pid, value }) => (value === log ? describe(pid) : []));
  const ranks = new Set(found.filter(({ kind }) => kind === 'rank').map(({ pid }) => pid));
  return found.map(({ parent, ...one }) => (ranks.has(parent) ? { ...one, kind: 'worker' } : one));
}

function describe(pid: number): (Member & { parent: number })[] {
  try {
    const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8');
    const parent = Number(/\) \S (\d+) /.exec(readFileSync(`/proc/${pid}/stat`, 'utf8'))?.[1]);
    if (command.includes('coldframe.serve.agent')) return [{ pid, parent, kind: 'agent', rank: null }];
    const rank = /(?:^|\0)RANK=(\d+)/.exec(readFileSync(`/proc/${pid}/environ`, 'utf8'))?.[1];
    return [{ pid, parent, kind: 'rank', rank: Number(rank) }];
  } catch {
    return []; // it has just ended
  }
}

/** Kills one of them; undefined: there is none just now. */
export function killMember(runDir: string, kind: Member['kind'], rank: number | null): number | undefined {
  const found = findMembers(runDir).find((one) => one.kind === kind && one.rank === rank);
  if (found === undefined) return undefined;
  process.kill(found.pid, 'SIGKILL');
  return found.pid;
}
