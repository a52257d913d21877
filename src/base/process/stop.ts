/** The signals that ask a command to stop: the same for every command. */

import { Interrupted, UserError } from '../errors.ts';

/**
 * Calls `handler` at SIGINT, SIGTERM, SIGUSR1 (a scheduler's, before a time limit; another machine's of the same run) and, but
 * under nohup, SIGHUP (the terminal was closed); returns what ends that.
 *
 * Of one cancelled job SIGUSR1 and another one may both come, in either order: that is one request.
 */
export function onStop(handler: () => void): () => void {
  const names = ['SIGINT', 'SIGTERM', ...(process.env.COLDFRAME_IGNORE_HUP ? [] : (['SIGHUP'] as const))] as const;
  let asked: 'not yet' | 'by SIGUSR1' | 'outright' = 'not yet';
  const ask = (): void => {
    const isSame = asked === 'by SIGUSR1';
    asked = 'outright';
    if (!isSame) handler();
  };
  const remind = (): void => {
    if (asked !== 'not yet') return;
    asked = 'by SIGUSR1';
    handler();
  };
  for (const name of names) process.on(name, ask);
  process.on('SIGUSR1', remind);
  return () => {
    for (const name of names) process.off(name, ask);
    process.off('SIGUSR1', remind);
  };
}

/** Counts the requests to stop. */
export class StopCount {
  requested = 0;
  readonly release = onStop(() => {
    this.requested += 1;
  });
}

/** What a stoppable piece of work knows of the signals. */
export interface Stop {
  /** Aborted by the first signal. */
  readonly signal: AbortSignal;
  /** Ends what would keep the work waiting; the work sets it. */
  kill: () => void;
}

export interface StopRules {
  /** Which signal kills: the first, or only the second, so that the work can end in order. */
  killsAt: 'first' | 'second';
  /** What is said of work that was killed. */
  said: string;
}

/** Does work that signals stop. Throws Interrupted when it was killed by one. */
export async function stoppable<T>({ killsAt, said }: StopRules, work: (stop: Stop) => Promise<T>): Promise<T> {
  const abort = new AbortController();
  const stop: Stop = { signal: abort.signal, kill: () => {} };
  const release = onStop(() => {
    if (killsAt === 'first' || abort.signal.aborted) stop.kill();
    abort.abort();
  });
  try {
    return await work(stop);
  } catch (error) {
    if (!abort.signal.aborted || error instanceof UserError || error instanceof Interrupted) throw error;
    throw new Interrupted(said);
  } finally {
    release();
  }
}
