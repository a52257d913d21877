/** A session for one piece of work: Python is started before it and leaves after it, whatever happens. */

import { Interrupted, RuntimeFailure } from '../base/errors.ts';
import type { Stop } from '../base/process/stop.ts';
import { type Runtime, type RuntimeOptions, startRuntime } from './runtime.ts';
import { Session } from './session.ts';

export interface SessionOptions extends RuntimeOptions {
  /** What may end it early; its `kill` ends Python. */
  stop?: Stop;
}

/** Does work in a session. Throws Interrupted when a signal came before it was there. */
export async function withSession<T>(options: SessionOptions, work: (session: Session) => Promise<T>): Promise<T> {
  const { stop, ...rest } = options;
  refuseStopped(stop);
  const runtime = await startRuntime(rest);
  if (stop !== undefined) stop.kill = () => runtime.kill();
  return withRuntime(runtime, (session) => {
    refuseStopped(stop);
    return work(session);
  });
}

/** The same with a Python that was started already. */
export async function withRuntime<T>(runtime: Runtime, work: (session: Session) => Promise<T>): Promise<T> {
  let result: T;
  try {
    result = await work(new Session(runtime));
  } catch (error) {
    await runtime.close().catch(() => {}); // the first error counts
    throw error;
  }
  await runtime.close().catch((error: unknown) => {
    if (!(error instanceof RuntimeFailure)) throw error; // what was asked for is done, and its log says the rest
  });
  return result;
}

/** Ends a Python at once that is not needed any more: what it may be importing takes seconds. */
export async function endRuntime(runtime: Runtime): Promise<void> {
  runtime.kill();
  await runtime.close().catch(() => {});
}

function refuseStopped(stop: Stop | undefined): void {
  if (stop?.signal.aborted) throw new Interrupted('stopped');
}
