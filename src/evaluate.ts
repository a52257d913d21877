/** What is done with a finished checkpoint: test it on a list, or name the classes of videos. */

import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { type Config, loadConfig } from './config.ts';
import { readStoredConfig } from './config-migrate.ts';
import { Interrupted, showPath, UserError } from './errors.ts';
import { writeWhole } from './files.ts';
import { type CheckedList, checkLists, describeList } from './inputs.ts';
import { guessDevice } from './outcome.ts';
import type { Report } from './report.ts';
import { type CheckpointHeader, chooseTrial, findCheckpoint, isUpstreamFile, readCheckpoint } from './runs.ts';
import { startRuntime } from './runtime.ts';
import { type Opened, type OpenRequest, type Result, Session } from './session.ts';
import { onStop } from './stop-signals.ts';

const CALL_SECONDS = 1;

type Results = Record<string, Result>;

/**
 * Evaluates a checkpoint with a configuration's model, validation list and views. `output` takes `result.json` and
 * `scores.npz`; by default a folder in the checkpoint's run, named after the step, the views and the list.
 */
export async function evaluate(
  config: Config,
  checkpoint: string,
  trial: string | undefined,
  output: string | undefined,
  report: Report,
): Promise<void> {
  if (config.data.val_list === null) throw new UserError('data.val_list  is not set. `evaluate` needs it.');
  const folder = findCheckpoint(checkpoint);
  const header = isUpstreamFile(checkpoint) ? null : readCheckpoint(checkpoint).header;
  const name = header === null ? 'main' : chooseTrial(checkpoint, header, trial);
  const { val_list: list, dummy } = config.data;
  const on = dummy ? 'generated clips' : showPath(list);
  report.say(
    `Evaluating ${showPath(folder)} on ${on}\nDevice: ${guessDevice(config.launch.device)}. Loading PyTorch ...`,
  );
  await withScratch(async (scratch) => {
    const starting = startRuntime({ stallSeconds: config.launch.stall_seconds });
    starting.then((runtime) => new Session(runtime).warm()).catch(() => {});
    const lists = await checkLists(config, ['val'], scratch, report).catch(async (error: unknown) => {
      await starting.then((runtime) => runtime.close());
      throw error;
    });
    const classes = lists.classes ?? header?.classes ?? null;
    const files = { train: null, val: lists.val?.checkedFile ?? null };
    const request = describeOpen('evaluate', { name, settings: config }, folder, classes, files);
    await withSession(starting, request, report, async (session, opened) => {
      const target = resolve(output ?? nameOutput(folder, opened.step, name, config, lists.val));
      const results = await runEvaluation(session, opened.step, target, report);
      const about = { step: opened.step, checkpoint: folder, list: describeList(lists.val), classes, results };
      writeWhole(join(target, 'result.json'), `${JSON.stringify(about, null, 2)}\n`);
      reportResults(results, opened.step, target, lists.val, report);
    });
  });
}

function nameOutput(
  checkpoint: string,
  step: number,
  trial: string,
  config: Config,
  list: CheckedList | undefined,
): string {
  const { spatial_views, temporal_views } = config.eval;
  const of = trial === 'main' ? '' : `${trial}-`;
  const name = `step-${step}-${of}${spatial_views}x${temporal_views}-${list?.sha256.slice(0, 8) ?? 'dummy'}`;
  const parent = dirname(checkpoint);
  const run = basename(parent) === 'checkpoints' ? dirname(parent) : parent;
  return join(run, 'evaluations', name);
}

async function runEvaluation(session: Session, step: number, output: string, report: Report): Promise<Results> {
  const known = new Set<string>();
  for (;;) {
    const { results, bad, num_seen, num_total } = await session.evaluate(CALL_SECONDS, output);
    for (const video of bad) {
      if (known.has(video.path)) continue; // listed twice
      known.add(video.path);
      report.event({ kind: 'bad_video', step, ...video, num_bad: known.size, num_videos: num_total });
    }
    report.progress('evaluate', num_seen, num_total);
    if (results !== null) return results;
  }
}

function reportResults(
  results: Results,
  step: number,
  output: string,
  list: CheckedList | undefined,
  report: Report,
): void {
  report.endProgress();
  for (const [trial, { per_class, ...result }] of Object.entries(results)) {
    const about = { list: describeList(list), list_sha256: list?.sha256, output };
    report.event({ kind: 'evaluated', step, trial, ...result, ...about, per_class: describeClasses(per_class) });
  }
}

function describeClasses(perClass: Result['per_class']): object[] {
  return perClass.map(([label, videos, correct]) => ({ label, num_videos: videos, top1: correct / videos }));
}

/** Names the classes of video files. Files that cannot be read are told after the others: UserError. */
export async function predict(
  checkpoint: string,
  videos: string[],
  trial: string | undefined,
  top: number,
  set: string[],
  report: Report,
): Promise<void> {
  const { folder, header } = readCheckpoint(checkpoint);
  const name = chooseTrial(checkpoint, header, trial);
  const config = readTrainedConfig(header, name, folder, set);
  const missing = videos.filter((path) => !existsSync(path)).map((path) => `${path}  does not exist.`);
  if (missing.length > 0) throw new UserError(missing);
  if (config.data.dummy)
    report.warn(`${checkpoint}  was trained on noise (data.dummy: true): what it says of a video means nothing.`);
  const request = describeOpen('predict', { name, settings: config }, folder, header.classes, {
    train: null,
    val: null,
  });
  report.enableProgress();
  report.waiting(`loading PyTorch and ${showPath(folder)} ...`);
  await withSession(startRuntime({ stallSeconds: config.launch.stall_seconds }), request, report, async (session) => {
    const unreadable: string[] = [];
    for (const path of videos) {
      // One call a video: what is done is printed, whatever comes later.
      const { predictions } = await session.predict([resolve(path)], top);
      for (const { classes, reason } of predictions) {
        if (classes === null) unreadable.push(`${path}  ${reason}`);
        else report.event({ kind: 'predicted', path, classes });
      }
    }
    if (unreadable.length > 0) throw new UserError(unreadable);
  });
}

function describeOpen(
  mode: OpenRequest['mode'],
  trial: OpenRequest['trials'][number],
  checkpoint: string,
  classes: string[] | null,
  lists: OpenRequest['lists'],
): OpenRequest {
  return { mode, trials: [trial], lists, classes, run_dir: null, resume: checkpoint };
}

/** The configuration a checkpoint was trained with; `--set` changes it, for example where the weights lie here. */
function readTrainedConfig(header: CheckpointHeader, trial: string, folder: string, set: string[]): Config {
  const config = readStoredConfig(header.config[trial], {
    file: join(folder, 'checkpoint.json'),
    format: header.format,
  });
  if (set.length === 0) return config;
  const scratch = mkdtempSync(join(tmpdir(), 'coldframe-'));
  try {
    const file = join(scratch, 'config.yaml'); // JSON is YAML
    writeFileSync(file, JSON.stringify(config));
    return loadConfig(file, { set }).config;
  } finally {
    rmSync(scratch, { recursive: true });
  }
}

async function withScratch(work: (scratch: string) => Promise<void>): Promise<void> {
  const scratch = mkdtempSync(join(tmpdir(), 'coldframe-'));
  try {
    await work(scratch);
  } finally {
    rmSync(scratch, { recursive: true });
  }
}

/** Opens a session, does the work and leaves nothing behind. A signal to stop ends it at once. */
async function withSession(
  starting: ReturnType<typeof startRuntime>,
  request: OpenRequest,
  report: Report,
  work: (session: Session, opened: Opened) => Promise<void>,
): Promise<void> {
  const runtime = await starting;
  let stopped = false;
  const release = onStop(() => {
    stopped = true;
    runtime.kill();
  });
  try {
    const session = new Session(runtime);
    const opened = await session.open(request);
    for (const note of opened.notes) report.note(note);
    await work(session, opened);
  } catch (error) {
    throw stopped ? new Interrupted('stopped') : error;
  } finally {
    report.endProgress();
    release();
    await runtime.close();
  }
}
