/** A session for one piece of work: Python is started before it and leaves after it, whatever happens. */

import { Interrupted, RuntimeFailure } from '../base/errors.ts';
import type { Stop } from '../base/stop.ts';
import { type RuntimeOptions, startRuntime } from './runtime.ts';
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
  let result: T;
  try {
    refuseStopped(stop);
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

function refuseStopped(stop: Stop | undefined): void {
  if (stop?.signal.aborted) throw new Interrupted('stopped');
}
