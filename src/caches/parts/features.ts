/** `features build --parts N`: shares of a feature cache, and the cache that they make. */

import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { Interrupted } from '../../base/errors.ts';
import { makeFolder } from '../../base/files.ts';
import type { Report } from '../../base/printer.ts';
import { stoppable } from '../../base/process/stop.ts';
import type { Config } from '../../config/load.ts';
import { hashFile } from '../../run/changes.ts';
import { SaveClock } from '../../run/save-clock.ts';
import type { OpenRequest } from '../../runtime/session.ts';
import { withSession } from '../../runtime/with-session.ts';
import { checkVideos, findFeaturesFolder, tellBuilt, tellForecast, watchLists } from '../features.ts';
import { type FeaturesWork, listsOf, partsOf, refuseOtherSettings } from './job.ts';
import type { PartRequest } from './part.ts';
import { type InParts, runParts } from './run-parts.ts';

const CALL_SECONDS = 1;

/** Builds the cache in so many parts, or goes on with them. */
export async function buildFeaturesInParts(config: Config, inParts: InParts, report: Report): Promise<void> {
  const folder = resolve(findFeaturesFolder(config));
  const dir = partsOf(folder);
  const started = performance.now();
  const bad = watchLists(config, report);
  let numBad = 0;
  let numRecords = 0;
  await runParts(
    {
      ...{ dir, ...inParts, verb: ['features', 'build'], unit: 'features', launch: config.launch },
      plan: () => planFeatures(config, dir, report),
      merge: async ({ lists }, folders, results) => {
        const mostClips = Math.max(1, ...(results as { most_clips: number }[]).map(({ most_clips }) => most_clips));
        const merged = await mergeFeatures(config, lists, folders, mostClips, report);
        if (merged.num_missing > 0) return merged.num_missing;
        for (const { list, ...video } of merged.bad) bad[list].count([video], merged.num_videos[list]);
        numBad = merged.bad.length;
        numRecords = merged.num_records;
        return 0;
      },
    },
    report,
  );
  const seconds = (performance.now() - started) / 1000;
  tellBuilt({ num_total: numRecords, num_bad: numBad, parts: inParts.parts, seconds }, config, report);
}

async function planFeatures(config: Config, dir: string, report: Report): Promise<FeaturesWork> {
  const hash = (file: string | null): string | null => (file !== null && existsSync(file) ? hashFile(file) : null);
  const hashes = { train: hash(config.data.train_list), val: hash(config.data.val_list) };
  refuseOtherSettings(dir, { kind: 'features', config, hashes });
  makeFolder(listsOf(dir));
  const lists = await checkVideos(config, listsOf(dir), report);
  await stoppable({ killsAt: 'first', said: 'stopped' }, (stop) =>
    withSession({ stallSeconds: config.launch.stall_seconds, stop }, async (session) => {
      tellForecast(await session.planFeatures(config, lists), report);
    }),
  );
  return { kind: 'features', config, lists, hashes };
}

function mergeFeatures(
  config: Config,
  lists: OpenRequest['lists'],
  folders: string[],
  mostClips: number,
  report: Report,
) {
  const said = 'stopped while its parts were being merged; the same command goes on';
  return stoppable({ killsAt: 'second', said }, (stop) =>
    withSession({ stallSeconds: config.launch.stall_seconds, stop }, async (session) => {
      for (;;) {
        if (stop.signal.aborted) throw new Interrupted(said);
        const merged = await session.mergeFeatures(config, lists, folders, mostClips, CALL_SECONDS);
        report.progress('shards', merged.num_done, merged.num_total);
        if (merged.done) return merged;
      }
    }),
  );
}

/** Builds one share, as a process of an executor. */
export async function buildFeaturesPart(
  { config, lists }: FeaturesWork,
  { stop, report, tell, ...share }: PartRequest,
): Promise<object> {
  return withSession({ stallSeconds: config.launch.stall_seconds, stop }, async (session) => {
    const { notes } = await session.shareFeatures(config, lists, share);
    for (const note of notes) report.note(note);
    const bad = watchLists(config, report);
    const clock = new SaveClock(config.run.save_minutes);
    let saved = 0;
    for (;;) {
      const built = await session.buildFeatures(CALL_SECONDS);
      for (const { list, ...video } of built.bad) bad[list].count([video], built.num_videos[list]);
      if (stop.signal.aborted || clock.isDue || built.done) {
        await session.saveFeatures();
        clock.restart();
        saved = built.num_done;
      }
      const { num_done, num_total, clips_per_second, waited_seconds } = built;
      tell({ num_done, num_total, num_saved: saved, clips_per_second, waited_seconds });
      if (built.done) return { most_clips: built.most_clips };
      if (stop.signal.aborted) throw new Interrupted(`${num_done} of ${num_total} records are in ${share.dir}`);
    }
  });
}
