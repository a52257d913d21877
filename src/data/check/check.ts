/** `check`: everything that can be known of lists before a run, each thing found with its list and line. */
import { basename, resolve } from 'node:path';
import { UserError } from '../../base/errors.ts';
import type { Report } from '../../base/printer.ts';
import { plural } from '../../base/words.ts';
import { readClasses } from '../../config/class-names.ts';
import { loadConfig } from '../../config/load.ts';
import type { Config } from '../../config/schema.ts';
import { LEAK, maxMissing, rootOf } from '../checks.ts';
import { type ComparedList, findSharedPaths } from '../leaks.ts';
import { type ListOptions, readList } from '../list.ts';
import { findSameContent } from './contents.ts';
import { Findings } from './findings.ts';
import { describeChecked } from './tell.ts';

export interface CheckRequest {
  /** None: those of the configuration. */
  lists: string[];
  config: string | undefined;
  numClasses: number | undefined;
  root: string | undefined;
}

/** A list as it was checked, with where its clips lie. */
export interface CheckedSide extends ComparedList {
  options: ListOptions;
  sizeBytes: number;
}

/** Checks lists, alone and against each other. Throws UserError at the end when there are errors. */
export async function checkClips(request: CheckRequest, report: Report): Promise<void> {
  const started = performance.now();
  const listener = report.json
    ? (finding: object) => report.event({ kind: 'finding', ...finding } as never)
    : undefined;
  const findings = new Findings(listener);
  const sides: CheckedSide[] = [];
  for (const options of findLists(request, report)) {
    const { file } = options;
    const side = {
      ...(await readList({ ...options, tell: showProgress(options.file, report) }, findings)),
      file,
      options,
    };
    for (const other of sides) findSharedPaths(side, other, LEAK, findings);
    sides.push(side);
  }
  const sameFile = new Set(sides.map(({ file }) => resolve(file))).size < sides.length;
  const begun = performance.now();
  const tell = (done: number, all: number): void => {
    const etaSeconds = ((performance.now() - begun) / 1000) * (all / done - 1);
    report.progress('contents', done, all, { etaSeconds });
  };
  if (!sameFile) await findSameContent(sides, findings, { why: LEAK, tell });
  report.endProgress();
  tellResult(sides, findings, (performance.now() - started) / 1000, report);
}

/** Shows how far a list is, and how long its rest will take. */
function showProgress(file: string, report: Report): (numLooked: number, share: number) => void {
  const started = performance.now();
  return (numLooked, share) => {
    const etaSeconds = ((performance.now() - started) / 1000) * (1 / share - 1);
    const total = Math.round(numLooked / share);
    report.progress('files', numLooked, total, { share, etaSeconds, place: basename(file) });
  };
}

function tellResult(sides: CheckedSide[], findings: Findings, seconds: number, report: Report): void {
  const [errors, warnings, notes] = (['error', 'warning', 'note'] as const).map((one) => findings.count(one));
  const checked = {
    lists: sides.map(({ file, sha256, sizeBytes, numLines }) => {
      return { file, sha256: sha256 || null, size_bytes: sizeBytes, num_lines: numLines };
    }),
    num_lines: sides.reduce((sum, { numLines }) => sum + numLines, 0),
    ...{ errors: errors ?? 0, warnings: warnings ?? 0, notes: notes ?? 0 },
    codes: findings.countCodes(),
    seconds,
  };
  if (report.json) report.event({ kind: 'checked', ...checked });
  else report.print(describeChecked(sides, findings));
  const counts = [plural(checked.errors, 'error'), plural(checked.warnings, 'warning')].join(', ');
  const verdict = `${counts} in ${plural(checked.num_lines, 'clip')} of ${plural(sides.length, 'list')}, ${seconds.toFixed(1)} s`;
  if (checked.errors > 0) throw new UserError(`check  ${verdict}. Mend the lists or the clips.`);
  report.say(`${verdict}.`);
}

/** Returns the lists with what they are checked by. Throws UserError where there is none, or the configuration is unfit. */
function findLists(request: CheckRequest, report: Report): ListOptions[] {
  const { lists, config: file } = request;
  if (lists.length === 0 && file === undefined)
    throw new UserError('check  found no list. Name lists, or a configuration that has some with --config.');
  const { config, notes } = file === undefined ? { config: undefined, notes: [] } : loadConfig(file, { set: [] });
  for (const note of notes) report.note(note);
  const { train_list, val_list } = config?.data ?? {};
  const named = lists.length > 0 ? lists : [train_list, val_list].filter((one) => one != null);
  if (named.length === 0) throw new UserError(`${file}  has neither data.train_list nor data.val_list. Name a list.`);
  const classes = config?.data.classes ?? null;
  const classNames = classes === null ? null : readClasses(classes);
  const numClasses = request.numClasses ?? config?.data.num_classes ?? null;
  return named.map((list) => {
    const data = config?.data;
    const root = request.root ?? (data === undefined ? null : rootOf(data, list === train_list ? 'train' : 'val'));
    return { file: list, root, numClasses, classNames, everyFile: true, maxMissingFraction: allowMissing(data) };
  });
}

const allowMissing = (data: Config['data'] | undefined): number => (data === undefined ? 0 : maxMissing(data));
