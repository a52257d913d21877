/** `features forecast` and `features build`: what a feature cache takes and saves, then the cache itself. */

import { Interrupted, UserError } from '../base/errors.ts';
import { withScratch } from '../base/files.ts';
import { formatBytes, formatDuration } from '../base/format.ts';
import type { Report } from '../base/printer.ts';
import { stoppable } from '../base/process/stop.ts';
import { plural } from '../base/words.ts';
import type { Config } from '../config/load.ts';
import { checkLists, filesOf, rootOf, type Which } from '../data/checks.ts';
import { type BadVideoRules, BadVideos } from '../data/probe/bad-videos.ts';
import { SaveClock } from '../run/save-clock.ts';
import type { FeaturesBuilt, FeaturesForecast } from '../runtime/replies.ts';
import type { OpenRequest, Session } from '../runtime/session.ts';
import { withSession } from '../runtime/with-session.ts';
import { describePace } from './pace.ts';
import { partsOf, refuseOtherCount } from './parts/job.ts';

const CALL_SECONDS = 1;

/** Says what the cache of a configuration takes and saves. Throws UserError when the disk has no room for it. */
export async function forecastFeatures(config: Config, report: Report): Promise<void> {
  await withForecast(config, report, async () => {});
}

/** Builds the cache in `data.features`, or goes on with it. Throws Interrupted when asked to stop, after saving. */
export async function buildFeatures(config: Config, report: Report): Promise<void> {
  const started = performance.now();
  refuseOtherCount(partsOf(findFeaturesFolder(config)), undefined);
  await withForecast(config, report, async (session, stop) => {
    const bad = watchLists(config, report);
    const clock = new SaveClock(config.run.save_minutes);
    for (;;) {
      const built = await session.buildFeatures(CALL_SECONDS);
      for (const { list, ...video } of built.bad) bad[list].count([video], built.num_videos[list]);
      const place = describePace(built);
      report.progress('features', built.num_done, built.num_total, place === undefined ? {} : { place });
      if (built.done) {
        report.endProgress();
        const seconds = (performance.now() - started) / 1000;
        return tellBuilt({ ...built, parts: 1, seconds }, config, report);
      }
      if (stop.aborted || clock.isDue) {
        await session.saveFeatures();
        clock.restart();
      }
      if (stop.aborted) {
        const place = `${built.num_done} of ${plural(built.num_total, 'record')} are in ${config.data.features}`;
        throw new Interrupted(`${place}; the same command goes on from there`);
      }
    }
  });
}

/** Each list counts its own, and the limit is one of training clips; a video that stands in both is told once. */
export function watchLists(config: Config, report: Pick<Report, 'event'>): Record<Which, BadVideos> {
  const told = new Set<string>();
  const watch = (which: Which): BadVideos => {
    const all = new Map<string, string>();
    const keep: BadVideoRules['keep'] = ({ path, reason }) => {
      const isNew = !told.has(path);
      told.add(path);
      all.set(path, reason);
      return { isNew, all };
    };
    const file = config.data[`${which}_list`];
    const lists = file === null ? [] : [{ file, root: rootOf(config.data, which) }];
    return new BadVideos({ report, limit: which === 'train' ? config.data : null, done: 'read', lists, keep });
  };
  return { train: watch('train'), val: watch('val') };
}

export interface Built extends Partial<Pick<FeaturesBuilt, 'clips_per_second' | 'waited_seconds'>> {
  num_total: number;
  num_bad: number;
  parts: number;
  seconds: number;
}

export function tellBuilt(built: Built, config: Config, report: Report): void {
  const { num_total, num_bad, parts, seconds, clips_per_second = null, waited_seconds = {} } = built;
  const { features: folder } = config.data;
  const bad = num_bad > 0 ? `; ${num_bad} of them could not be read and are left out` : '';
  const pace = describePace({ clips_per_second, waited_seconds });
  if (report.json) {
    const counts = { num_records: num_total, num_bad, parts, seconds, clips_per_second, waited_seconds };
    report.event({ kind: 'features_built', folder: folder ?? '', ...counts });
  } else report.print(`built ${folder}: ${plural(num_total, 'record')}${bad}${pace === undefined ? '' : `\n${pace}`}`);
}

/** Returns the folder of the cache. Throws UserError where none is named. */
export function findFeaturesFolder({ data }: Config): string {
  if (data.features !== null) return data.features;
  throw new UserError('data.features  is not set. Name the folder of the feature cache.');
}

/** Opens a session, tells the forecast, does the work. */
async function withForecast(
  config: Config,
  report: Report,
  work: (session: Session, stop: AbortSignal) => Promise<void>,
): Promise<void> {
  findFeaturesFolder(config);
  const said = 'stopped at once; finished shards stay';
  await stoppable({ killsAt: 'second', said }, (stop) =>
    withScratch(async (scratch) => {
      const lists = await checkVideos(config, scratch, report);
      await withSession({ stallSeconds: config.launch.stall_seconds, stop }, async (session) => {
        tellForecast(await session.forecastFeatures(config, lists), report);
        if (stop.signal.aborted) throw new Interrupted('stopped');
        await work(session, stop.signal);
      });
    }),
  ).finally(() => report.endProgress());
}

/** The lists in the form that Python reads. The videos are looked for, other than in training from a cache. */
export async function checkVideos(config: Config, scratch: string, report: Report): Promise<OpenRequest['lists']> {
  const wanted = config.data.val_list === null ? (['train'] as const) : (['train', 'val'] as const);
  const uncached = { ...config, data: { ...config.data, features: null } };
  return filesOf(await checkLists(uncached, [...wanted], scratch, report));
}

export function tellForecast(forecast: FeaturesForecast, report: Report): void {
  const { notes, ...facts } = forecast;
  for (const note of notes) report.note(note);
  if (report.json) report.event({ kind: 'features_forecast', ...facts });
  else report.print(describeForecast(forecast));
  if (forecast.fits) return;
  throw new UserError(
    `data.features  ${forecast.folder}: ${formatBytes(forecast.remaining_bytes)} more are needed (${forecast.remaining_bytes} bytes), and its disk has ` +
      `${formatBytes(forecast.free_bytes)} free (${forecast.free_bytes} bytes). Free some, take another disk, or less: ${listSmaller(forecast)}.`,
  );
}

function listSmaller({ precision, form }: FeaturesForecast): string {
  const smaller = ['fewer features.train_views'];
  if (precision === 'fp32') smaller.push('features.precision: fp16');
  if (form !== 'one') smaller.push('features.form: one');
  return smaller.join(', ');
}

function describeForecast(forecast: FeaturesForecast): string {
  const { bytes, seconds, num_clips: clips } = forecast;
  const views = Object.entries(clips).map(([name, count]) => `${plural(count, `${name} clip`)}`);
  const what = `${forecast.form} of ${plural(forecast.num_layers, 'layer')}, ${forecast.precision}`;
  const lines = [
    `features  ${what}: ${formatBytes(forecast.clip_bytes)} a clip, ${views.join(', ')}`,
    `disk      ${formatBytes(bytes.total)} (train ${formatBytes(bytes.train)}, val ${formatBytes(bytes.val)}), ` +
      `${formatBytes(forecast.remaining_bytes)} of it still to be built; ${formatBytes(forecast.free_bytes)} free in ${forecast.folder}`,
  ];
  if (seconds === null)
    return [...lines, ...(forecast.remaining_bytes === 0 ? ['build     everything is there'] : [])].join('\n');
  const { pay_back_epochs: epochs } = seconds;
  lines.push(
    `build     about ${formatDuration(seconds.build)}, measured on ${plural(seconds.measured_clips, 'clip')}`,
    `epoch     about ${formatDuration(seconds.epoch_without)} without the cache, ${formatDuration(seconds.epoch_with)} with it; ` +
      (epochs === null ? 'it does not pay here' : `it pays back after ${epochs.toFixed(1)} epochs`),
  );
  return lines.join('\n');
}
