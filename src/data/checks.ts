/** What a run reads besides its configuration, checked as a whole before anything starts: lists, class names, weights. */

import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from '../base/errors.ts';
import { PROJECT } from '../base/paths.ts';
import type { Report } from '../base/printer.ts';
import { readClasses } from '../config/class-names.ts';
import { type Config, loadConfig, UnfitConfig } from '../config/load.ts';
import { adviseFetch, explainWeightsFile } from '../config/weights-file.ts';
import type { Opened } from '../runtime/replies.ts';
import { findNameFaults } from './check/classes.ts';
import { findSameContent } from './check/contents.ts';
import { Findings } from './check/findings.ts';
import { type ComparedList, findSharedPaths, MAX_READ_BYTES } from './leaks.ts';
import { readList } from './list.ts';
import type { ListPlace } from './probe/bad-videos.ts';

export interface CheckedList {
  /** The user's file, and the hash of its bytes. */
  file: string;
  sha256: string;
  sizeBytes: number;
  numLines: number;
  /** The same in the form that Python reads, where it was asked for. */
  checkedFile: string | null;
}

export interface CheckedLists {
  train?: CheckedList;
  val?: CheckedList;
  classes?: string[];
}

export type Which = 'train' | 'val';

/** The lists of a run as others are compared with them. */
export type Compared = Partial<Record<Which, ComparedList>>;

export const LEAK = 'what is trained on says little of new clips';

/** The lists in the form that Python reads. */
export const filesOf = ({ train, val }: CheckedLists) => ({
  train: train?.checkedFile ?? null,
  val: val?.checkedFile ?? null,
});

/** Checks lists, class names and weights; all problems come at once. `outDir` takes the lists in normalised form. */
export async function checkLists(
  config: Config,
  wanted: Which[],
  outDir: string | null,
  report: Pick<Report, 'warn'>,
): Promise<CheckedLists> {
  return (await compareLists(config, wanted, outDir, report)).lists;
}

/** The same for whoever compares them with more lists. */
export async function compareLists(
  config: Config,
  wanted: Which[],
  outDir: string | null,
  report: Pick<Report, 'warn'>,
): Promise<{ lists: CheckedLists; compared: Compared }> {
  const problems: string[] = [];
  const lists: CheckedLists = {};
  const { classes } = config.data;
  if (classes !== null) collect(problems, () => (lists.classes = readClasses(classes)));
  const compared: Compared = {};
  const findings = new Findings();
  for (const which of wanted) {
    const classNames = lists.classes ?? null;
    const numClasses = config.data.num_classes;
    const list = await readOne({ config, which, numClasses, classNames, outDir, problems, findings });
    if (list === undefined) continue;
    const { paths, found, root, ...checked } = list;
    lists[which] = checked;
    compared[which] = list;
  }
  const { train, val } = compared;
  if (train !== undefined && val !== undefined) {
    findSharedPaths(val, train, LEAK, findings);
  }
  const read = [train, val].filter((list) => list !== undefined);
  if (train?.file !== val?.file) await findSameContent(read, findings, { why: LEAK, maxBytes: MAX_READ_BYTES });
  const named = lists.classes && classes !== null ? { source: classes, names: lists.classes } : null;
  findNameFaults(read, { classes: named, trained: null }, findings);
  for (const warning of findings.describeWarnings()) report.warn(warning);
  problems.push(...findings.describeErrors());
  const { weights, preset } = config.model.backbone;
  const fault = weights === 'random' ? undefined : explainWeightsFile(weights);
  if (fault !== undefined) problems.push(`model.backbone.weights  ${fault} ${adviseFetch(preset)}`);
  if (problems.length > 0) throw new UserError(problems);
  return { lists, compared };
}

/** Returns a configuration, and notes on it. Throws UserError with its problems and those of the wanted lists at once. */
export async function loadInputs(
  file: string,
  set: string[],
  wanted: Which[],
): Promise<{ config: Config; notes: string[] }> {
  try {
    return loadConfig(file, { set });
  } catch (error) {
    throw await addListProblems(error, wanted);
  }
}

/** Returns the error, with the problems of the wanted lists if it is of a configuration. */
export async function addListProblems(error: unknown, wanted: Which[]): Promise<unknown> {
  if (!(error instanceof UnfitConfig)) return error;
  return new UserError([...error.problems, ...(await findListProblems(error, wanted))]);
}

/** What does not depend on a key that was refused. */
async function findListProblems({ config, refused }: UnfitConfig, wanted: Which[]): Promise<string[]> {
  const { data } = config;
  const problems: string[] = [];
  const names: string[] = [];
  const isRead = data.classes === null || collect([], () => names.push(...readClasses(data.classes ?? '')));
  const isCounted = isRead && !refused.has('data.classes') && !refused.has('data.num_classes');
  const numClasses = isCounted ? names.length || data.num_classes : null;
  const findings = new Findings();
  for (const which of wanted) {
    const keys = [`data.${which}_list`, `data.${which}_root`, 'data.root'];
    if (!keys.some((key) => refused.has(key)))
      await readOne({ config, which, numClasses, classNames: null, outDir: null, problems, findings });
  }
  return [...problems, ...findings.describeErrors()];
}

interface OneList {
  config: Config;
  which: Which;
  numClasses: number | null;
  classNames: string[] | null;
  outDir: string | null;
  /** What is wrong with the configuration; what is wrong with the list goes to the findings. */
  problems: string[];
  findings: Findings;
}

async function readOne(one: OneList): Promise<(CheckedList & ComparedList) | undefined> {
  const { config, which, numClasses, classNames, outDir, problems, findings } = one;
  const { data } = config;
  const file = which === 'train' ? data.train_list : data.val_list;
  if (file === null) {
    if (which === 'train' && !data.dummy)
      problems.push('data.train_list  is not set. Training needs a list of `<path> <label>` lines.');
    return undefined;
  }
  const checkedFile = outDir === null ? null : join(outDir, `${which}.tsv`);
  const options = {
    file,
    root: rootOf(data, which),
    numClasses,
    labels: data.labels,
    classNames,
    skipFiles: data.dummy || data.features !== null, // a cache needs no videos
    maxMissingFraction: maxMissing(data),
    ...(checkedFile === null ? {} : { writeTo: checkedFile }),
  };
  const { sha256, sizeBytes, numLines, paths, found, root } = await readList(options, findings);
  return { file, sha256, sizeBytes, numLines, checkedFile, paths, found, root };
}

/** Share of a list's clips that may be missing. */
export const maxMissing = (data: Config['data']): number => (data.on_bad_video === 'skip' ? data.max_bad_fraction : 0);

/** Folder of a list's relative paths; null: the list's own. */
export function rootOf(data: Config['data'], which: Which): string | null {
  return (which === 'train' ? data.train_root : data.val_root) ?? data.root;
}

/** The lists of a configuration that videos are read from, with their folders. */
export function listPlaces({ data }: Config): ListPlace[] {
  return (['train', 'val'] as const).flatMap((which) => {
    const file = data[`${which}_list`];
    return file === null ? [] : [{ file, root: rootOf(data, which) }];
  });
}

/** Returns whether it could be read. */
function collect(problems: string[], read: () => void): boolean {
  try {
    read();
    return true;
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    problems.push(...error.problems);
    return false;
  }
}

export interface ListIdentity {
  file: string;
  sha256: string;
  size_bytes: number;
  num_lines: number;
}

/** A list as results name it: two results can be compared when these agree. */
export function describeList(list: CheckedList | undefined): ListIdentity | null {
  if (list === undefined) return null;
  return { file: list.file, sha256: list.sha256, size_bytes: list.sizeBytes, num_lines: list.numLines };
}

/** environment.json: enough to tell two results apart honestly. */
export function describeRun(opened: Opened, lists: CheckedLists): object {
  const { train, val } = lists;
  return {
    node: process.version,
    git_commit: readCommit(),
    device: opened.device,
    precision: opened.precision,
    ...opened.environment,
    backbone_sha256: opened.backbone_sha256,
    parameters: opened.parameters,
    lists: { train: describeList(train), val: describeList(val) },
  };
}

/** The commit of coldframe itself, null outside a checkout. */
export function readCommit(): string | null {
  if (!existsSync(join(PROJECT, '.git'))) return null;
  try {
    return execFileSync('git', ['rev-parse', 'HEAD'], { cwd: PROJECT, encoding: 'utf8', stdio: 'pipe' }).trim();
  } catch {
    return null; // no git here, or no commit yet: the run does not need it
  }
}
