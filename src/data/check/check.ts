/** `check`: everything that can be known of lists before a run, each thing found with its list and line. */
import { basename, resolve } from 'node:path';
import { UserError } from '../../base/errors.ts';
import type { Report } from '../../base/printer.ts';
import { plural } from '../../base/words.ts';
import { readClasses } from '../../config/class-names.ts';
import { loadConfig, UnfitConfig } from '../../config/load.ts';
import type { Config } from '../../config/schema.ts';
import { LEAK, maxMissing, rootOf } from '../checks.ts';
import { type ComparedList, findSharedPaths } from '../leaks.ts';
import { type ListOptions, readList } from '../list.ts';
import { describeUnkept } from '../probe/kept.ts';
import { type ProbeOptions, probeLists } from '../probe/lists.ts';
import { findCountFaults, findNameFaults, type NamedClasses } from './classes.ts';
import { type Cleaned, Quarantine, refuseFolder, writeClean } from './clean.ts';
import { findSameContent } from './contents.ts';
import { Findings } from './findings.ts';
import { describeChecked, describeCleaned } from './tell.ts';

export interface CheckRequest {
  /** None: those of the configuration. */
  lists: string[];
  config: string | undefined;
  numClasses: number | undefined;
  root: string | undefined;
  /** Look into every clip, each for so many seconds at most; undefined: do not. */
  probeSeconds: number | undefined;
  /** Does that in parts. */
  probeBefore?: ProbeOptions['probeBefore'];
  /** Where clean lists go. */
  writeClean: string | undefined;
  /** Returns the class names that a checkpoint holds, null where it has none: of `run.init_from`. */
  readTrained: (checkpoint: string) => string[] | null;
}

/** What the lists are checked by. */
interface Given {
  options: ListOptions[];
  config: Config | undefined;
  numClasses: number | null;
  classes: NamedClasses | null;
}

/** A list as it was checked, with where its clips lie. */
export interface CheckedSide extends ComparedList {
  options: ListOptions;
  sizeBytes: number;
  perClass: Uint32Array;
}

/** Checks lists, alone and against each other. Throws UserError at the end when there are errors. */
export async function checkClips(request: CheckRequest, report: Report): Promise<void> {
  const started = performance.now();
  const given = readGiven(request, report);
  if (request.writeClean !== undefined) refuseFolder(request.writeClean);
  const quarantine = new Quarantine();
  const findings = new Findings((finding) => {
    if (request.writeClean !== undefined) quarantine.add(finding);
    if (report.json) report.event({ kind: 'finding', ...finding });
  });
  const sides = await readSides(given.options, findings, report);
  const trained = readTrained(given.config, request.readTrained);
  findCountFaults(sides, given, findings);
  const mappings = findNameFaults(sides, { ...given, trained }, findings);
  const { probeSeconds: limitSeconds, probeBefore } = request;
  if (limitSeconds !== undefined)
    await probeLists(sides, { config: given.config ?? null, limitSeconds, probeBefore }, findings, report);
  report.endProgress();
  const checked = describe(sides, findings, (performance.now() - started) / 1000);
  if (!report.json) report.print(describeChecked(sides, findings));
  if (request.writeClean !== undefined) {
    const folder = request.writeClean;
    const lists = sides.filter(({ paths }) => paths.length > 0).map((side) => ({ ...side, root: side.options.root }));
    const options = { folder, quarantine, mappings, classNames: given.classes?.names ?? null };
    tellCleaned(folder, await writeClean(lists, options), report);
  }
  tellVerdict(checked, report);
}

async function readSides(all: ListOptions[], findings: Findings, report: Report): Promise<CheckedSide[]> {
  const sides: CheckedSide[] = [];
  for (const options of all) {
    const { file } = options;
    const read = await readList({ ...options, tell: showProgress(file, report) }, findings);
    const side = { ...read, file, options };
    for (const other of sides) findSharedPaths(side, other, LEAK, findings);
    sides.push(side);
  }
  const begun = performance.now();
  const tell = (done: number, numGroups: number): void => {
    const etaSeconds = ((performance.now() - begun) / 1000) * (numGroups / done - 1);
    report.progress('contents', done, numGroups, { etaSeconds });
  };
  const isOneTwice = new Set(sides.map(({ file }) => resolve(file))).size < sides.length;
  const unkept = isOneTwice ? undefined : await findSameContent(sides, findings, { why: LEAK, tell });
  if (unkept !== undefined) report.note(describeUnkept(unkept));
  return sides;
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

function readTrained(config: Config | undefined, read: CheckRequest['readTrained']): NamedClasses | null {
  const checkpoint = config?.run.init_from ?? null;
  if (checkpoint === null) return null;
  const names = read(checkpoint);
  return names === null ? null : { source: checkpoint, names };
}

function describe(sides: CheckedSide[], findings: Findings, seconds: number) {
  return {
    lists: sides.map(({ file, sha256, sizeBytes, numLines }) => {
      return { file, sha256: sha256 || null, size_bytes: sizeBytes, num_lines: numLines };
    }),
    num_lines: sides.reduce((sum, { numLines }) => sum + numLines, 0),
    errors: findings.count('error'),
    warnings: findings.count('warning'),
    notes: findings.count('note'),
    codes: findings.countCodes(),
    seconds,
  };
}

function tellCleaned(folder: string, lists: Cleaned[], report: Report): void {
  if (report.json) report.event({ kind: 'cleaned', folder, lists });
  else report.print(`\n${describeCleaned(folder, lists)}`);
}

function tellVerdict(checked: ReturnType<typeof describe>, report: Report): void {
  const { lists, num_lines, errors, warnings, notes, seconds } = checked;
  if (report.json) report.event({ kind: 'checked', ...checked });
  const counts = [plural(errors, 'error'), plural(warnings, 'warning'), plural(notes, 'note')].join(', ');
  const verdict = `${counts} in ${plural(num_lines, 'clip')} of ${plural(lists.length, 'list')}, ${seconds.toFixed(1)} s`;
  if (errors > 0) throw new UserError(`check  ${verdict}. Mend the lists or the clips.`);
  report.say(`\n${verdict}.`);
}

/** Returns the lists with what they are checked by. Throws UserError where there is none, or the configuration is unfit. */
function readGiven(request: CheckRequest, report: Report): Given {
  const { lists, config: file } = request;
  if (lists.length === 0 && file === undefined)
    throw new UserError('check  found no list. Name lists, or a configuration that has some with --config.');
  const config = file === undefined ? undefined : readConfig(file, report);
  const data = config?.data;
  const named = lists.length > 0 ? lists : [data?.train_list, data?.val_list].filter((one) => one != null);
  if (named.length === 0) throw new UserError(`${file}  has neither data.train_list nor data.val_list. Name a list.`);
  const classes = data?.classes == null ? null : { source: data.classes, names: readClasses(data.classes) };
  const numClasses = request.numClasses ?? data?.num_classes ?? null;
  const options = named.map((list) => {
    const own = data === undefined ? null : rootOf(data, list === data.train_list ? 'train' : 'val');
    const maxMissingFraction = data === undefined ? 0 : maxMissing(data);
    const root = request.root ?? own;
    const meaning = { numClasses, classNames: classes?.names ?? null, labels: data?.labels ?? 'single' };
    return { file: list, root, ...meaning, everyFile: true, maxMissingFraction };
  });
  return { options, config, numClasses, classes };
}

/** What is wrong with a configuration, and does not concern its lists, is told and does not keep them from being checked. */
function readConfig(file: string, report: Report): Config {
  try {
    const { config, notes } = loadConfig(file, { set: [] });
    for (const note of notes) report.note(note);
    return config;
  } catch (error) {
    if (!(error instanceof UnfitConfig) || [...error.refused].some((key) => key.startsWith('data.'))) throw error;
    for (const problem of error.problems) report.warn(problem);
    return error.config;
  }
}
