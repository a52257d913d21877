/** How processes end, in words. */
import { constants } from 'node:os';
import { countMemoryKills } from '../../base/process/processes.ts';

export interface Ending {
  how: string;
  /** The kernel killed it because memory ran out. */
  lackedMemory?: boolean;
  /** What it wrote last and where, if that is not the log of the runtime. */
  output?: { path: string; lines: string[] };
}

export function describeExit(code: number | null, signal: string | null, killsBefore: number | undefined): Ending {
  return signal ? describeSignal(signal, killsBefore) : { how: `left with exit code ${code}` };
}

/** The kernel counts whom it kills for lack of memory, and names nobody: one more than before is taken for this one. */
function describeSignal(signal: string, killsBefore: number | undefined): Ending {
  if (signal !== 'SIGKILL') return { how: `was killed by ${signal}` };
  const kills = countMemoryKills();
  if (kills === undefined || killsBefore === undefined)
    return { how: 'was killed by SIGKILL (the kernel does so when memory runs out)' };
  return kills > killsBefore
    ? { how: 'was killed by the kernel (SIGKILL): memory ran out', lackedMemory: true }
    : { how: 'was killed by SIGKILL (not by the kernel for lack of memory)' };
}

/** The signal of an exit code as Python tells it, -9 for SIGKILL; null for one that is no signal's. */
export function nameSignal(code: number): string | null {
  const found = Object.entries(constants.signals).find(([, number]) => number === -code);
  return code < 0 ? (found?.[0] ?? `signal ${-code}`) : null;
}
