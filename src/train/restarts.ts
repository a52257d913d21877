/** A run from its first attempt to its last: a runtime that dies is started again. */

import { Interrupted, RuntimeFailure } from '../base/errors.ts';
import { type Runtime, startRuntime } from '../runtime/runtime.ts';
import { Session } from '../runtime/session.ts';
import { trainOn } from './loop.ts';
import type { Training } from './training.ts';

export function startPython(run: Training): Promise<Runtime> {
  return startRuntime({
    logFile: run.folder.path('runtime.log'),
    stallSeconds: run.config.launch.stall_seconds,
  });
}

/** Runs to the end; a runtime that dies is started again, `launch.max_restarts` times, from the last checkpoint. */
export async function runAttempts(run: Training, first: Promise<Runtime>, resume: string): Promise<void> {
  let starting = first;
  for (let attempt = 0; ; attempt++) {
    try {
      await attemptOn(run, await starting, run.savedStep === null ? resume : 'auto');
      return;
    } catch (error) {
      run.folder.refuseFenced(); // whatever it was: it came of losing the folder
      if (run.stop.requested && error instanceof RuntimeFailure) {
        if (run.report.journal !== undefined) run.writeStatus('interrupted');
        throw new Interrupted('stopped at once; the last checkpoint stands');
      }
      const again = error instanceof RuntimeFailure && attempt < run.config.launch.max_restarts;
      if (!again) throw error;
      run.report.event({ kind: 'restarted', step: run.step, why: error.message });
    }
    starting = startPython(run); // one that dies at its own start is a restart, too
  }
}

/** What goes wrong in closing is told, and changes nothing in how the attempt ended: a finished run is finished. */
async function attemptOn(run: Training, runtime: Runtime, resume: string): Promise<void> {
  run.stop.runtime = runtime;
  try {
    await trainOn(run, new Session(runtime), resume);
  } finally {
    await close(run, runtime).catch(({ message }: Error) => {
      run.report.note(`${message}\nWhat was saved stands; the last of the curves may be missing.`);
    });
  }
}

async function close(run: Training, runtime: Runtime): Promise<void> {
  if (!run.folder.isFenced()) return runtime.close();
  runtime.kill(); // flushes nothing any more, and frees the folder's lock
  await runtime.close().catch(() => {});
}
