/** A run from its first attempt to its last: a runtime that dies is started again. */

import { Interrupted, RuntimeFailure } from '../base/errors.ts';
import { type Runtime, startRuntime } from '../runtime/runtime.ts';
import { Session } from '../runtime/session.ts';
import type { Ranks } from '../runtime/transports/torchrun.ts';
import { endRuntime } from '../runtime/with-session.ts';
import { trainOn } from './loop.ts';
import type { Training } from './training.ts';

const LONGEST_PAUSE_SECONDS = 60;

/** One process is embedded; for several there is torchrun. */
function chooseRanks({ config: { launch }, meeting }: Training): Ranks | undefined {
  const { devices, nodes, hang_seconds: hangSeconds } = launch;
  return devices * nodes === 1 ? undefined : { devices, hangSeconds, meeting };
}

function startPython(run: Training): Promise<Runtime> {
  return startRuntime({
    logFile: run.folder.path('runtime.log'),
    stallSeconds: run.config.launch.stall_seconds,
    ranks: chooseRanks(run),
  });
}

/**
 * Runs to the end; a runtime that dies is started again from the last checkpoint, `launch.max_restarts` times in a row: what
 * ended a run once may last for a while, so each pause is twice as long as the one before, and what has moved on since the last
 * failure begins to count anew. What `prepare` does is done once, in the first runtime that lives for so long.
 */
export async function runAttempts(
  run: Training,
  resume: string,
  prepare: (session: Session) => Promise<void>,
): Promise<void> {
  let isPrepared = false;
  let [numFailures, failedAt] = [0, -1];
  for (;;) {
    try {
      const runtime = await startPython(run); // one that dies at its own start is a failure, too
      run.stop.runtime = runtime;
      if (!isPrepared) await prepareOn(runtime, prepare);
      isPrepared = true;
      await attemptOn(run, runtime, run.savedStep === null ? resume : 'auto');
      return;
    } catch (error) {
      run.folder.refuseFenced(); // whatever it was: it came of losing the folder
      if (!(error instanceof RuntimeFailure)) throw error;
      refuseStopped(run);
      if (run.step > failedAt) [numFailures, failedAt] = [0, run.step];
      if (numFailures === run.config.launch.max_restarts) throw error;
      run.report.event({ kind: 'restarted', step: run.step, why: error.message });
    }
    await run.stop.pause(Math.min(LONGEST_PAUSE_SECONDS, 2 ** numFailures));
    refuseStopped(run);
    numFailures += 1;
  }
}

function refuseStopped(run: Training): void {
  if (!run.stop.requested) return;
  if (run.report.journal !== undefined) run.writeStatus('interrupted');
  throw new Interrupted('stopped at once; the last checkpoint stands');
}

async function prepareOn(runtime: Runtime, prepare: (session: Session) => Promise<void>): Promise<void> {
  try {
    await prepare(new Session(runtime));
  } catch (error) {
    await endRuntime(runtime).catch(() => {});
    throw error;
  }
}

/** What goes wrong in closing is told, and changes nothing in how the attempt ended: a finished run is finished. */
async function attemptOn(run: Training, runtime: Runtime, resume: string): Promise<void> {
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
