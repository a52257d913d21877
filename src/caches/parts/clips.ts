/** `clips prepare --parts N`: every N-th clip by a process of its own, then the lists of them all. */

import { resolve } from 'node:path';
import { Interrupted } from '../../base/errors.ts';
import { makeFolder } from '../../base/files.ts';
import type { Report } from '../../base/printer.ts';
import { stoppable } from '../../base/process/stop.ts';
import type { BadVideo } from '../../runtime/replies.ts';
import { withSession } from '../../runtime/with-session.ts';
import { checkVideos, finish, type PrepareOptions, prepareRest, tellForecast, watchVideos } from '../clips.ts';
import { type ClipsWork, listsOf, partsOf, refuseOtherSettings } from './job.ts';
import type { PartRequest } from './part.ts';
import { type InParts, runParts } from './run-parts.ts';

const CALL_SECONDS = 1;

/** Prepares the clips in so many parts, or goes on with them. */
export async function prepareClipsInParts(given: PrepareOptions, inParts: InParts, report: Report): Promise<void> {
  const { config } = given;
  const options = { ...given, output: resolve(given.output) };
  const { output } = options;
  const dir = partsOf(output);
  const { stall_seconds: stallSeconds } = config.launch;
  const bad = watchVideos(config, report);
  await runParts(
    {
      ...{ dir, ...inParts, verb: ['clips', 'prepare'], unit: 'clips', launch: config.launch },
      plan: () => planClips(options, dir, report),
      isOpen: (result) => (result as { bad: BadVideo[] }).bad.length > 0, // videos are mended
      merge: async ({ lists }, folders, results) => {
        const found = (results as { bad: BadVideo[] }[]).flatMap((result) => result.bad);
        const reasons = Object.fromEntries(found.map(({ path, reason }) => [path, reason]));
        const said = 'stopped at once; finished clips stay';
        await stoppable({ killsAt: 'second', said }, (stop) =>
          withSession({ stallSeconds, stop }, async (session) => {
            const merged = await session.mergeClips(config, lists, output, folders, reasons);
            bad.count(merged.bad, merged.num_clips);
            const made = merged.done ? merged : await prepareRest(session, { bad, output, stop: stop.signal }, report);
            finish(options, lists, made, report);
          }),
        );
        return 0; // what was missing is prepared now
      },
    },
    report,
  );
}

async function planClips({ config, output }: PrepareOptions, dir: string, report: Report): Promise<ClipsWork> {
  refuseOtherSettings(dir, { kind: 'clips', config });
  makeFolder(listsOf(dir));
  const lists = await checkVideos(config, listsOf(dir), report);
  await stoppable({ killsAt: 'first', said: 'stopped' }, (stop) =>
    withSession({ stallSeconds: config.launch.stall_seconds, stop }, async (session) => {
      tellForecast(await session.forecastClips(config, lists, output), report);
    }),
  );
  return { kind: 'clips', config, lists, output };
}

/** Prepares one share, as a process of an executor. */
export async function prepareClipsPart(
  { config, lists, output }: ClipsWork,
  { stop, report, tell, ...share }: PartRequest,
): Promise<object> {
  return withSession({ stallSeconds: config.launch.stall_seconds, stop }, async (session) => {
    await session.shareClips(config, lists, output, share);
    const limits = watchVideos(config, report);
    const bad: BadVideo[] = [];
    const started = performance.now();
    let before: number | undefined;
    for (;;) {
      const made = await session.prepareClips(CALL_SECONDS);
      limits.count(made.bad, made.num_clips);
      bad.push(...made.bad);
      before ??= made.num_done;
      const { num_done, num_total } = made;
      const rate = (num_done - before) / ((performance.now() - started) / 1000);
      tell({ num_done, num_total, num_saved: num_done, clips_per_second: rate || null, waited_seconds: {} });
      if (made.done) return { bad };
      if (stop.signal.aborted) throw new Interrupted(`${num_done} of ${num_total} clips are in ${output}`);
    }
  });
}
