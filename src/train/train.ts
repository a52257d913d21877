/** `train`: checks everything before a run begins, and clears away one that could not begin. The loop is loop.ts. */

import { existsSync, renameSync, rmSync } from 'node:fs';
import { basename, extname } from 'node:path';
import { RuntimeFailure, UserError } from '../base/errors.ts';
import { makeFolder } from '../base/files.ts';
import type { Report } from '../base/printer.ts';
import { type CheckedList, type CheckedLists, checkLists, loadInputs } from '../data/checks.ts';
import { findKnownLists } from '../data/probe/lists.ts';
import { describeWorkers } from '../data/workers.ts';
import { firstSettings, plainCohort, readCohort } from '../run/cohort-file.ts';
import type { CohortFile } from '../run/cohort-types.ts';
import { RunFolder } from '../run/folder.ts';
import { describeOutcome, describeStart } from '../run/outcome.ts';
import { checkPlace, explainLack } from '../run/place.ts';
import type { Meeting } from '../runtime/nodes/meeting.ts';
import type { Session } from '../runtime/session.ts';
import { runAttempts } from './restarts.ts';
import { checkResume, checkStillSo } from './resume.ts';
import { StopRequest } from './stop-request.ts';
import { lockFolder } from './take-over.ts';
import { Training } from './training.ts';

export interface TrainRequest {
  cohort: CohortFile;
  runDir: string;
  /** auto: go on where the run folder stopped; never: start anew; else the path of a checkpoint. */
  resume: string;
  /** The number that a scheduler gave this start; it fences off lower ones. */
  attempt?: number | undefined;
  /** Of several machines. */
  meeting?: Meeting;
}

/** Work as the command line names it: a configuration, or a file of trials. */
export interface Work {
  cohort: CohortFile;
  /** Of the run folder, when the user gives none. */
  name: string;
}

export interface WorkArguments {
  config: string | undefined;
  cohort: string | undefined;
  set: string[];
  'dry-run': boolean;
  attempt: number | undefined;
}

export async function readWork(args: WorkArguments, note: (text: string) => void): Promise<Work> {
  const { config: file, cohort: cohortFile, set, attempt } = args;
  if (file === undefined && cohortFile === undefined)
    throw new UserError('Missing required argument: config (or cohort). See `coldframe train --help`.');
  if (file !== undefined && cohortFile !== undefined)
    throw new UserError('train  --config and --cohort were given. Give one of them.');
  if (attempt !== undefined && !(Number.isInteger(attempt) && attempt >= 0))
    throw new UserError(`--attempt  ${attempt} was given. A whole number is needed.`);
  if (file !== undefined) {
    const { config, notes } = await loadInputs(file, set, ['train', 'val']);
    for (const one of notes) note(one);
    const cohort = plainCohort(config);
    return { cohort, name: basename(file, extname(file)) };
  }
  if (set.length > 0) throw new UserError('--set  changes no cohort: its trials hold complete configurations.');
  if (args['dry-run']) throw new UserError('--dry-run  needs --config. `coldframe sweep --dry-run` plans cohorts.');
  const cohort = readCohort(cohortFile ?? '');
  return { cohort, name: cohort.name };
}

/** Trains until done. Throws Interrupted when asked to stop, after saving. */
export async function train(request: TrainRequest, report: Report): Promise<void> {
  const { cohort } = request;
  const lack = explainLack(firstSettings(cohort));
  if (lack !== undefined) throw new UserError(lack);
  const folder = new RunFolder(request.runDir, request.attempt);
  checkPlace(folder.dir);
  folder.refuseFenced();
  const resume = checkResume(request.resume, folder, cohort);
  if (resume === 'never') {
    const aside = folder.setAside();
    if (aside !== undefined) report.note(`The earlier run is kept in ${aside}`);
  }
  const isNew = !existsSync(folder.dir);
  folder.create();
  report.say(describeStart(folder, cohort));
  const stop = new StopRequest(folder, (text) => report.note(text));
  const run = new Training(cohort, folder, report, stop, request.meeting);
  try {
    await runAttempts(run, resume, (session) => prepare(run, session, resume));
    report.say(describeOutcome(folder, cohort));
  } catch (error) {
    run.recordFailure(error);
    // What never began leaves nothing; only a Python that fails leaves its log.
    const hasBegun = existsSync(folder.path('config.json'));
    if (isNew && !hasBegun && !(error instanceof RuntimeFailure)) rmSync(folder.dir, { recursive: true });
    throw error;
  } finally {
    report.endProgress();
    stop.release();
  }
}

/** What has to be right before the run begins. */
async function prepare(run: Training, session: Session, resume: string): Promise<void> {
  const { cohort, folder, report } = run;
  // Before `import torch`, for which nobody waits who may not write here; a bad list ends it.
  await lockFolder(run, session);
  checkStillSo(resume, folder, cohort);
  session.load().catch(() => {}); // goes on while the lists are read; whoever asks next is told
  run.lists = await checkIn(
    folder,
    (outDir) => checkLists(firstSettings(cohort), ['train', 'val'], outDir, report),
    resume,
  );
  run.known = findKnownLists(firstSettings(cohort), run.lists);
  run.refuseKnown();
  const workers = describeWorkers(firstSettings(cohort));
  if (workers !== undefined) report.note(workers);
}

/** Checks lists beside those of the run, and puts them in their place once the run may go on with them. */
async function checkIn(
  folder: RunFolder,
  check: (outDir: string) => Promise<CheckedLists>,
  resume: string,
): Promise<CheckedLists> {
  const aside = folder.path('lists', 'new');
  makeFolder(aside);
  try {
    const lists = await check(aside);
    if (resume === 'auto') refuseChangedList(folder, lists);
    const { train, val, ...rest } = lists;
    const take = (list: CheckedList | undefined): CheckedList | undefined => {
      if (list === undefined || list.checkedFile === null) return list;
      const checkedFile = folder.path('lists', basename(list.checkedFile));
      renameSync(list.checkedFile, checkedFile);
      return { ...list, checkedFile };
    };
    const [newTrain, newVal] = [take(train), take(val)];
    return { ...rest, ...(newTrain && { train: newTrain }), ...(newVal && { val: newVal }) };
  } finally {
    rmSync(aside, { recursive: true, force: true });
  }
}

/** The order of the clips follows from the list: another list would silently give other numbers. */
export function refuseChangedList(folder: RunFolder, lists: CheckedLists): void {
  if (!folder.hasCheckpoint()) return;
  const environment = folder.readJson('environment.json') as { lists?: { train?: { sha256: string } } } | undefined;
  const before = environment?.lists?.train?.sha256;
  const now = lists.train?.sha256;
  if (before === undefined || now === undefined || before === now) return;
  throw new UserError(
    `${lists.train?.file}  has changed since the run in ${folder.dir} began (SHA-256 ${before.slice(0, 16)}... then, ` +
      `${now.slice(0, 16)}... now). Put the old list back, choose another --run-dir, or start anew with --resume never.`,
  );
}
