/** `clips prepare`: what re-encoding the clips of a configuration takes, then the clips, their lists and prepared.yaml. */

import { join, resolve } from 'node:path';
import { stringify } from 'yaml';
import { Interrupted, UserError } from '../base/errors.ts';
import { withScratch, writeWhole } from '../base/files.ts';
import { formatBytes, formatDuration } from '../base/format.ts';
import type { Report } from '../base/printer.ts';
import { stoppable } from '../base/process/stop.ts';
import { plural } from '../base/words.ts';
import type { Config } from '../config/load.ts';
import { checkLists, filesOf, listPlaces } from '../data/checks.ts';
import { BadVideos } from '../data/probe/bad-videos.ts';
import type { ClipsForecast, ClipsPrepared } from '../runtime/replies.ts';
import type { OpenRequest, Session } from '../runtime/session.ts';
import { withSession } from '../runtime/with-session.ts';
import { partsOf, refuseOtherCount } from './parts/job.ts';

const CALL_SECONDS = 1;

export interface PrepareOptions {
  config: Config;
  /** The file it was read from: prepared.yaml extends it. */
  file: string;
  output: string;
  isDryRun: boolean;
}

/** Prepares the clips in `output`, or goes on with it. Throws UserError when the disk has no room, Interrupted when
 * asked to stop: what is finished stays. */
export async function prepareClips(options: PrepareOptions, report: Report): Promise<void> {
  const { config, isDryRun } = options;
  const output = resolve(options.output);
  if (!isDryRun) refuseOtherCount(partsOf(output), undefined);
  if (config.data.dummy) throw new UserError('data.dummy  is true: there are no clips to prepare. Set it to false.');
  const said = 'stopped at once; finished clips stay';
  await stoppable({ killsAt: 'second', said }, (stop) =>
    withScratch(async (scratch) => {
      const lists = await checkVideos(config, scratch, report);
      await withSession({ stallSeconds: config.launch.stall_seconds, stop }, async (session) => {
        tellForecast(await session.forecastClips(config, lists, output), report);
        if (isDryRun) return;
        const bad = watchVideos(config, report);
        const made = await prepareRest(session, { output, bad, stop: stop.signal }, report);
        finish({ ...options, output }, lists, made, report);
      });
    }),
  );
}

export const watchVideos = (config: Config, report: Pick<Report, 'event'>): BadVideos =>
  new BadVideos({ report, limit: config.data, done: 'prepared', lists: listPlaces(config) });

/** Prepares what a session has begun with. */
export async function prepareRest(
  session: Session,
  { output, bad, stop }: { output: string; bad: BadVideos; stop: AbortSignal },
  report: Report,
): Promise<ClipsPrepared> {
  try {
    for (;;) {
      if (stop.aborted) throw new Interrupted(`stopped; the same command goes on with ${output}`);
      const made = await session.prepareClips(CALL_SECONDS);
      bad.count(made.bad, made.num_clips);
      report.progress('clips', made.num_done, made.num_total);
      if (made.done) return made;
    }
  } finally {
    report.endProgress();
  }
}

/** Writes the configuration that trains on the prepared clips, and says where it is. */
export function finish(
  options: PrepareOptions,
  lists: OpenRequest['lists'],
  { num_clips, num_bad, size_bytes }: ClipsPrepared,
  report: Report,
): void {
  const { output: folder } = options;
  const config = writeConfig(options, folder, lists);
  report.event({ kind: 'clips_prepared', folder, config, num_clips, num_bad, size_bytes });
}

/** The lists in the form that Python reads. Weights are not needed, and the videos are, other than with a feature cache. */
export async function checkVideos(config: Config, scratch: string, report: Report): Promise<OpenRequest['lists']> {
  const { data, model } = config;
  const wanted = (['train', 'val'] as const).filter((which) => data[`${which}_list`] !== null);
  if (wanted.length === 0)
    throw new UserError('data.train_list  is not set, nor is data.val_list. Give a list of `<path> <label>` lines.');
  const backbone = { ...model.backbone, weights: 'random' };
  const plain = { ...config, data: { ...data, features: null }, model: { ...model, backbone } };
  return filesOf(await checkLists(plain, wanted, scratch, report));
}

export function tellForecast(forecast: ClipsForecast, report: Report): void {
  if (report.json) report.event({ kind: 'clips_forecast', ...forecast });
  else report.print(describeForecast(forecast));
  const { bytes, folder, free_bytes: free } = forecast;
  if (!forecast.fits)
    throw new UserError(
      `--output  ${folder}: about ${formatBytes(bytes.estimate)} are needed (${Math.round(bytes.estimate)} bytes), and its disk has ` +
        `${formatBytes(free)} free (${free} bytes). Free some, take another disk, a smaller prepare.short_side or a larger prepare.crf.`,
    );
  if (bytes.high > free)
    report.note(`${folder}  may not fit: up to ${formatBytes(bytes.high)}, and ${formatBytes(free)} are free.`);
}

function describeForecast({ encoding, seconds, bytes, ...forecast }: ClipsForecast): string {
  const side = encoding.short_side === null ? 'full size' : `short side ${encoding.short_side}`;
  const lines = [
    `clips     ${forecast.num_clips}, ${forecast.num_todo} of them still to be prepared from ${formatBytes(forecast.source_bytes)}: ` +
      `${side}, an I frame every ${encoding.gop}, CRF ${encoding.crf}, ${encoding.preset}`,
  ];
  if (forecast.num_todo === 0) return lines.join('\n');
  const range = ({ low, high }: { low: number; high: number }, show: (value: number) => string): string =>
    `(${show(low)} to ${show(high)})`;
  return [
    ...lines,
    `disk      about ${formatBytes(bytes.estimate)} ${range(bytes, formatBytes)}; ${formatBytes(forecast.free_bytes)} free in ${forecast.folder}`,
    `time      about ${formatDuration(seconds.estimate)} ${range(seconds, formatDuration)} with ${forecast.num_workers} workers`,
    `measured  on ${plural(forecast.measured_clips, 'clip')}; the worst frame has ${(forecast.psnr ?? 0).toFixed(1)} dB`,
  ].join('\n');
}

/** Writes the configuration that trains on the prepared clips: the user's, with the new lists. */
function writeConfig({ config, file }: PrepareOptions, output: string, lists: OpenRequest['lists']): string {
  const { classes, features } = config.data;
  const data = {
    ...(lists.train === null ? {} : { train_list: 'train.txt' }),
    ...(lists.val === null ? {} : { val_list: 'val.txt' }),
    ...{ root: null, train_root: null, val_root: null }, // the paths of the lists begin in their own folder
    ...(classes === null ? {} : { classes: 'classes.txt' }),
    ...(features === null ? {} : { features: null }), // of the original clips
  };
  const base = resolve(file).replaceAll('${', '$${');
  const path = join(output, 'prepared.yaml');
  writeWhole(path, stringify({ extends: base, data }));
  return path;
}
