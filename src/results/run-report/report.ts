/** `report`: one HTML page of a training that works offline, the same as JSON, and the labels that are likely wrong as CSV. */

import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { csvFormat } from 'd3-dsv';
import { showPath, UserError } from '../../base/errors.ts';
import { writeWhole } from '../../base/files.ts';
import { mainMetric } from '../../base/intervals.ts';
import { getAt } from '../../base/objects.ts';
import type { Report } from '../../base/printer.ts';
import type { Analysis, Picture } from '../../runtime/analysis-replies.ts';
import type { Session } from '../../runtime/session.ts';
import { withSession } from '../../runtime/with-session.ts';
import { readPageScript } from '../report-page/build.ts';
import { readHistory } from './history.ts';
import { listWarnings } from './honesty.ts';
import { describeMetrics, listLabelErrors } from './metrics.ts';
import { renderRunPage } from './page.ts';
import { type Evaluation, readSource, type Source } from './source.ts';
import { summarizeRun } from './summary.ts';
import { type BadVideo, listPictured, type RunView } from './view.ts';

const NUM_CLIPS = 12;
const NUM_FRAMES = 4;
const FRAME_HEIGHT = 84;
/** Videos that one call takes frames of. */
const PICTURED_AT_ONCE = 8;

export interface ReportArguments {
  run: string;
  evaluation: string | undefined;
  output: string | undefined;
}

/** Writes report.html (or `output`), metrics.json and label-errors.csv beside it, and tells the most of it. */
export async function reportRun(args: ReportArguments, report: Report): Promise<void> {
  const source = readSource(args.run, args.evaluation);
  const file = resolve(args.output ?? join(source.target, 'report.html'));
  const folder = dirname(file);
  if (args.output !== undefined && !existsSync(folder))
    throw new UserError(`${showPath(file)}  its folder does not exist. Make it, or leave --output away.`);
  const view = await readView(source, report);
  const page = renderRunPage(view, await readPageScript('run'));
  const files = { path: file, json: join(folder, 'metrics.json'), csv: join(folder, 'label-errors.csv') };
  const metrics = describeMetrics(view);
  writeWhole(files.path, page);
  writeWhole(files.json, `${JSON.stringify(metrics, null, 2)}\n`);
  writeWhole(files.csv, `${csvFormat(...listLabelErrors(view))}\n`);
  if (!report.json) report.print(summarizeRun(view));
  const { trial, step, evaluation, num_videos, top1, top5, map, ece } = metrics;
  report.event({
    kind: 'reported',
    ...{ run_dir: source.run.dir, trial, step, evaluation, num_videos, top1, top5, map, ece },
    ...{ num_label_errors: view.analysis.label_errors.length, ...files, size_bytes: Buffer.byteLength(page) },
  });
}

async function readView(source: Source, report: Report): Promise<RunView> {
  const { run, trial, evaluation } = source;
  const fit = chooseFit(source);
  const history = await readHistory(run.path('events.jsonl'), trial, mainMetric(evaluation.result) as 'top1' | 'map');
  const { analysis, pictures } = await withSession({}, async (session) => {
    const found = await session.analyse({
      ...{ file: evaluation.scores, listed: findList(source), fit: fit?.scores ?? null },
      num_clips: NUM_CLIPS,
    });
    return { analysis: found, pictures: await takePictures(session, found, report) };
  });
  return {
    ...{ source, analysis, history, pictures, fit: analysis.calibration.temperature === null ? null : fit },
    ...{ badVideos: readBadVideos(source), warnings: listWarnings(source), written: new Date().toISOString() },
  };
}

/** The list of the training as Python reads it, where the evaluation is of it: older scores do not name their videos. */
function findList({ run, environment, evaluation }: Source): string | null {
  const file = run.path('lists', 'val.tsv');
  const isSame = evaluation.list !== null && evaluation.list.sha256 === getAt(environment, 'lists.val.sha256');
  return isSame && existsSync(file) ? file : null;
}

/** Another list of the same step that was not trained on: a temperature that is fitted there is honest here. */
function chooseFit({ evaluation, evaluations, environment }: Source): Evaluation | null {
  const trained = getAt(environment, 'lists.train.sha256');
  const others = evaluations.filter(
    ({ list, step, scores }) =>
      scores !== null && step === evaluation.step && list !== null && list.sha256 !== evaluation.list?.sha256,
  );
  return others.findLast(({ list }) => list?.sha256 !== trained) ?? null;
}

async function takePictures(session: Session, found: Analysis, report: Report): Promise<Map<string, Picture>> {
  const names = listPictured(found);
  const taken = new Map<string, Picture>();
  for (let at = 0; at < names.length; at += PICTURED_AT_ONCE) {
    const some = names.slice(at, at + PICTURED_AT_ONCE);
    const { pictures } = await session.picture(some, NUM_FRAMES, FRAME_HEIGHT);
    for (const [index, picture] of pictures.entries()) if (picture !== null) taken.set(some[index] ?? '', picture);
    report.progress('frames', Math.min(names.length, at + some.length), names.length);
  }
  report.endProgress();
  return taken;
}

function readBadVideos({ run }: Source): BadVideo[] {
  const file = run.path('bad-videos.tsv');
  const lines = existsSync(file) ? readFileSync(file, 'utf8').split('\n').filter(Boolean) : [];
  return lines.map((line): BadVideo => {
    const [path = '', reason = '', list] = line.split('\t');
    return { path, reason, list: list === 'val' ? 'val' : 'train' };
  });
}
