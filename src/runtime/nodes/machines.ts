/** Training on several machines: the first one has the run, the others lend it their devices. */

import { basename, dirname, join, resolve } from 'node:path';
import { asUserError, Interrupted, UserError } from '../../base/errors.ts';
import type { Report } from '../../base/printer.ts';
import type { Config } from '../../config/schema.ts';
import { Meeting } from './meeting.ts';
import { joinMeeting } from './member.ts';
import type { OVER } from './messages.ts';
import { findPlace, type Place } from './place.ts';

/** Does the work on the first machine, with where the others come; elsewhere returns when the first one is through. */
export async function withMachines(
  settings: Config,
  runDir: string,
  report: Report,
  work: (meeting: Meeting) => Promise<void>,
): Promise<void> {
  const { launch } = settings;
  const place = await findPlace(launch);
  const { nodes, devices, hang_seconds: hangSeconds, stall_seconds: waitSeconds } = launch;
  const about = { runDir: resolve(runDir), nodes, devices, settings, hangSeconds, waitSeconds };
  // Beside the run folder, which may not be there yet.
  const file = join(dirname(about.runDir), `.${basename(about.runDir)}.nodes.json`);
  const options = { ...about, file, note: (text: string) => report.note(text) };
  const meeting = isFirst(place) ? await Meeting.open(place, options) : undefined;
  if (meeting === undefined) return joinMeeting(place, options);
  try {
    await work(meeting);
  } catch (caught) {
    const error = asUserError(caught);
    await meeting.end(describe(error), error instanceof Error ? error.message : String(error));
    throw caught;
  }
  await meeting.end('finished', '');
}

const isFirst = (place: Place): boolean => (place.by === 'scheduler' ? place.node === 0 : place.isHere);

function describe(error: unknown): (typeof OVER)[number] {
  if (error instanceof Interrupted) return 'interrupted';
  return error instanceof UserError ? 'user' : 'failed';
}
