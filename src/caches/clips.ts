/** `clips prepare`: what re-encoding the clips of a configuration takes, then the clips, their lists and prepared.yaml. */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { stringify } from 'yaml';
import { Interrupted, UserError } from '../base/errors.ts';
import { writeWhole } from '../base/files.ts';
import { formatBytes, formatDuration } from '../base/format.ts';
import type { Report } from '../base/printer.ts';
import { onStop } from '../base/stop.ts';
import { plural } from '../base/words.ts';
import type { Config } from '../config/load.ts';
import { checkLists, filesOf } from '../data/checks.ts';
import { countAllowed } from '../data/list.ts';
import { type Runtime, startRuntime } from '../runtime/runtime.ts';
import { type BadVideo, type ClipsForecast, type OpenRequest, Session } from '../runtime/session.ts';

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
  if (config.data.dummy) throw new UserError('data.dummy  is true: there are no clips to prepare. Set it to false.');
  const stop = new AbortController();
  await withSession(config, stop, report, async (session, lists) => {
    tellForecast(await session.forecastClips(config, lists, output), report);
    if (isDryRun) return;
    const bad: BadVideo[] = [];
    for (;;) {
      if (stop.signal.aborted) throw new Interrupted(`stopped; the same command goes on with ${output}`);
      const made = await session.prepareClips(CALL_SECONDS);
      for (const video of made.bad) countBad(video, bad, made.num_total, config, report);
      report.progress('clips', made.num_done, made.num_total);
      if (!made.done) continue;
      const file = writeConfig(options, output, lists);
      const { num_total: num_clips, num_bad, size_bytes } = made;
      report.event({ kind: 'clips_prepared', folder: output, config: file, num_clips, num_bad, size_bytes });
      return;
    }
  });
}

/** Opens a session, does the work, leaves nothing running behind. A first signal asks to stop, a second one kills. */
async function withSession(
  config: Config,
  stop: AbortController,
  report: Report,
  work: (session: Session, lists: OpenRequest['lists']) => Promise<void>,
): Promise<void> {
  const scratch = mkdtempSync(join(tmpdir(), 'coldframe-'));
  let runtime: Runtime | undefined;
  const onSignal = (): void => {
    if (stop.signal.aborted) runtime?.kill();
    stop.abort();
  };
  const release = onStop(onSignal);
  try {
    const lists = await checkVideos(config, scratch, report);
    runtime = await startRuntime({ stallSeconds: config.launch.stall_seconds });
    await work(new Session(runtime), lists);
  } catch (error) {
    if (!stop.signal.aborted || error instanceof UserError || error instanceof Interrupted) throw error;
    throw new Interrupted('stopped at once; finished clips stay');
  } finally {
    report.endProgress();
    release();
    await runtime?.close().catch(() => {});
    rmSync(scratch, { recursive: true });
  }
}

/** The lists in the form that Python reads. Weights are not needed, and the videos are, other than with a feature cache. */
async function checkVideos(config: Config, scratch: string, report: Report): Promise<OpenRequest['lists']> {
  const { data, model } = config;
  const wanted = (['train', 'val'] as const).filter((which) => data[`${which}_list`] !== null);
  if (wanted.length === 0)
    throw new UserError('data.train_list  is not set, nor is data.val_list. Give a list of `<path> <label>` lines.');
  const backbone = { ...model.backbone, weights: 'random' };
  const plain = { ...config, data: { ...data, features: null }, model: { ...model, backbone } };
  return filesOf(await checkLists(plain, wanted, scratch, report));
}

function countBad(video: BadVideo, bad: BadVideo[], numVideos: number, config: Config, report: Report): void {
  bad.push(video);
  report.event({ kind: 'bad_video', ...video, num_bad: bad.length, num_videos: numVideos });
  const { on_bad_video: onBad, max_bad_fraction: limit } = config.data;
  const allowed = onBad === 'fail' ? 0 : countAllowed(limit, numVideos);
  if (bad.length <= allowed) return;
  throw new UserError(
    `${video.path}  ${video.reason}. ${bad.length} of ${plural(numVideos, 'video')} cannot be prepared, and data.on_bad_video: ${onBad} with ` +
      `data.max_bad_fraction: ${limit} allows ${allowed}. Mend or remove them, or raise the limit.`,
  );
}

function tellForecast(forecast: ClipsForecast, report: Report): void {
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
