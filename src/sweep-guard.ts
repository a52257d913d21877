/** Who may run a sweep in a folder: one runner, with the sweep that the folder was planned for. */

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Change, listChanges } from './config-effects.ts';
import { showPath, UserError } from './errors.ts';
import { tryLock } from './file-lock.ts';
import type { Sweep } from './sweep-types.ts';
import { plural } from './words.ts';

const MAX_TOLD = 20;

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

/** Where and how fast a sweep runs may change; what it computes may not. */
function findChanges(dir: string, sweep: Sweep): Change[] {
  const file = join(dir, 'sweep.json');
  if (!existsSync(file)) return [];
  const before = JSON.parse(readFileSync(file, 'utf8'));
  const changes = listChanges(before, JSON.parse(JSON.stringify(sweep)), '');
  const counting = changes.filter(({ key }) => !/^(executor\.|file$|name$)/.test(key));
  const resolved = counting.filter(({ key }) => !key.startsWith('draft.')); // the same again, as it was written
  return resolved.length > 0 ? resolved : counting;
}

export function refuseChangedSweep(dir: string, sweep: Sweep): void {
  const changes = findChanges(dir, sweep);
  if (changes.length === 0) return;
  const told = changes.slice(0, MAX_TOLD).map(({ key, before, after }) => {
    const name = key.replace(/^config\./, '');
    return `${name}  is ${after}; the sweep in ${showPath(dir)} was planned with ${before}.`;
  });
  const more = changes.length > MAX_TOLD ? [`${plural(changes.length - MAX_TOLD, 'key')} more differ.`] : [];
  throw new UserError([...told, ...more, 'Take the old values back, or choose another --run-dir.']);
}

/** The folder when the user names none: runs/NAME, or NAME-2, -3 ... where something else lies there. */
export function chooseSweepDir(sweep: Sweep): string {
  for (let n = 1; ; n++) {
    const dir = join('runs', n === 1 ? sweep.name : `${sweep.name}-${n}`);
    const isOurs = existsSync(join(dir, 'sweep.json')) && findChanges(dir, sweep).length === 0;
    if (!existsSync(dir) || isOurs) return dir;
  }
}
