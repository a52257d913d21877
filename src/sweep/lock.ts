/** Who may run a sweep in a folder: one runner, with the sweep that the folder was planned for. */

import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { showPath, UserError } from '../base/errors.ts';
import { tryLock } from '../base/process/lock.ts';
import { describeChanges } from '../config/effects.ts';
import type { Sweep } from './definition/types.ts';
import { compareSweeps } from './extend.ts';

/** Returns what lets go of the folder; one runner has it at a time. */
export function lockSweep(dir: string): () => void {
  const lock = tryLock(join(dir, 'runner'));
  if (typeof lock === 'function') return lock;
  throw new UserError(
    `${showPath(dir)}  process ${lock.pid} on ${lock.host} runs this sweep. Stop it first, or choose another --run-dir. ` +
      `If that machine is gone, remove ${join(dir, 'runner.lock')}.`,
  );
}

export function refuseForeign(dir: string): void {
  if (!existsSync(dir) || existsSync(join(dir, 'sweep.json'))) return;
  if (readdirSync(dir).every((name) => name.startsWith('runner.'))) return;
  throw new UserError(`${showPath(dir)}  is not empty and holds no sweep. Choose another --run-dir.`);
}

/** The folder when the user names none: runs/NAME, or NAME-2, -3 ... where another sweep or something else lies there. */
export function chooseSweepDir(sweep: Sweep, note: (text: string) => void): string {
  const passed: string[] = [];
  for (let n = 1; ; n++) {
    const dir = join('runs', n === 1 ? sweep.name : `${sweep.name}-${n}`);
    const isSweep = existsSync(join(dir, 'sweep.json'));
    const { refused } = compareSweeps(dir, sweep);
    if (isSweep && refused.length > 0) passed.push(`${dir} holds another sweep (${describeChanges(refused)})`);
    else if (!isSweep && existsSync(dir)) passed.push(`${dir} holds no sweep`);
    else {
      if (passed.length > 0) note(`Starting anew in ${dir}: ${passed.join('; ')}.`);
      return dir;
    }
  }
}
