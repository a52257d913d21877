/** One part of a job, as an executor starts it: does its share in a folder of its own, and leaves when a later attempt has
 * the folder. */

import { basename, dirname } from 'node:path';
import { Fenced, Interrupted, InUse, RuntimeFailure, UserError } from '../../base/errors.ts';
import type { Report } from '../../base/printer.ts';
import { watchFence } from '../../base/process/fence.ts';
import { type Stop, stoppable } from '../../base/process/stop.ts';
import { RunFolder } from '../../run/folder.ts';
import type { Share } from '../../runtime/session.ts';
import { type PartStatus, readJob, type Work } from './job.ts';

/** What a part is asked to do. */
export interface PartRequest extends Share {
  stop: Stop;
  report: Report;
  /** Tells how far it is. Throws Fenced when a later attempt has the folder. */
  tell: (status: Omit<PartStatus, 'attempt' | 'result'>) => void;
}

type WorkOf<Kind> = Extract<Work, { kind: Kind }>;
const isOf = <Kind extends Work['kind']>(work: Work | undefined, kind: Kind): work is WorkOf<Kind> =>
  work?.kind === kind;

/** Does a part of a kind of work. What it returns is there once `part.json` of its folder says so. */
export async function runPart<Kind extends Work['kind']>(
  kind: Kind,
  { dir, attempt }: { dir: string; attempt: number },
  doPart: (work: WorkOf<Kind>, request: PartRequest) => Promise<object>,
  report: Report,
): Promise<void> {
  const { parts = 0, work } = readJob(dirname(dir)) ?? {};
  const index = Number(basename(dir).slice(1)) - 1;
  if (!isOf(work, kind) || !(index >= 0 && index < parts))
    throw new UserError(`--part  ${dir} is no part of such a job. It is for the command that --parts starts.`);
  const folder = new RunFolder(dir, attempt);
  folder.create();
  let told: Omit<PartStatus, 'attempt' | 'result'> = NOTHING;
  const write = (result: object | null): void => folder.writeJson('part.json', { attempt, result, ...told });
  const said = 'stopped at once; what was saved stays';
  await stoppable({ killsAt: 'second', said }, async (stop) => {
    const endFence = watchFence(folder, () => stop.kill());
    const tell: PartRequest['tell'] = (status) => {
      told = status;
      write(null);
    };
    try {
      write(await doPart(work, { dir, index, count: parts, stop, report, tell }));
    } catch (error) {
      folder.refuseFenced(); // whatever it was: it came of losing the folder
      // The attempt before this one should have left by now: a scheduler tries again, no person is needed.
      throw error instanceof InUse ? new RuntimeFailure(error.message) : error;
    } finally {
      endFence();
    }
  }).catch((error: unknown) => {
    if (error instanceof Interrupted && folder.isFenced()) throw new Fenced(`${dir}  a later attempt has taken over.`);
    throw error;
  });
}

const NOTHING = { num_done: 0, num_total: 0, num_saved: 0, clips_per_second: null, waited_seconds: {} };
