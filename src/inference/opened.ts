/** A session that is opened with one trial of a finished checkpoint. */

import type { Report } from '../base/printer.ts';
import { type Stop, type StopRules, stoppable } from '../base/process/stop.ts';
import type { Config } from '../config/load.ts';
import type { Opened } from '../runtime/replies.ts';
import type { OpenRequest, Session } from '../runtime/session.ts';
import { withSession } from '../runtime/with-session.ts';

export function describeOpen(
  mode: OpenRequest['mode'],
  trial: OpenRequest['trials'][number],
  checkpoint: string,
  classes: string[] | null,
  lists: OpenRequest['lists'],
): OpenRequest {
  return { mode, trials: [trial], lists, classes, run_dir: null, resume: checkpoint };
}

/** Opens a session for one trial and does the work. A signal to stop ends it at once, or lets the work end in order. */
export async function withOpened(
  { launch }: Config,
  request: OpenRequest,
  report: Report,
  work: (session: Session, opened: Opened, stop: Stop) => Promise<void>,
  killsAt: StopRules['killsAt'] = 'first',
): Promise<void> {
  await stoppable({ killsAt, said: 'stopped' }, (stop) =>
    withSession({ stallSeconds: launch.stall_seconds, stop }, async (session) => {
      const opened = await session.open(request);
      for (const note of opened.notes) report.note(note);
      await work(session, opened, stop);
    }),
  ).finally(() => report.endProgress());
}
