/** `tail`: what a run said last, and what it says while it goes on. */

import { closeSync, existsSync, fstatSync, openSync, readdirSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { showPath, UserError } from '../base/errors.ts';
import type { StoredEvent } from '../base/events/event.ts';
import type { Report } from '../base/printer.ts';
import { quoteWord } from '../base/words.ts';
import { judgeRun, readSavedStep } from '../run/liveness.ts';
import { readStatus, type StoredStatus } from '../run/status.ts';
import { isSweepFolder } from '../sweep/folder.ts';

const LOOK_SECONDS = 0.5;
/** A run says in its status how it ended just before it says so in its journal. */
const MAX_LOOKS_AFTER_END = 2;

/** Prints the last `lines` events of a run, then each as it comes, until the run has ended. */
export async function tailRun(dir: string, lines: number, report: Report): Promise<void> {
  const file = findJournal(dir);
  const journal = new JournalReader(file);
  let group = takeLast(journal.readEvents(dir), lines).flat();
  for (let looksAfterEnd = 0; ; ) {
    const status = readStatus(join(dir, 'status.json'));
    const state = status === undefined ? 'unknown' : judgeRun(status);
    const events = journal.readEvents(dir);
    // Trials of a cohort say the same in turn: they are told together, once another thing is said or nothing more.
    const groups = groupEvents([...group, ...events]);
    group = events.length > 0 ? (groups.at(-1) ?? []) : [];
    tell((events.length > 0 ? groups.slice(0, -1) : groups).flat(), report);
    if (events.length === 0 && state !== 'running' && looksAfterEnd++ >= MAX_LOOKS_AFTER_END)
      return tellEnd(dir, state, status, report);
    if (state === 'running' && status !== undefined) showProgress(status, report);
    await sleep(LOOK_SECONDS * 1000);
  }
}

function findJournal(dir: string): string {
  const file = join(dir, 'events.jsonl');
  if (existsSync(file)) return file;
  const name = quoteWord(dir);
  if (!existsSync(dir)) throw new UserError(`${dir}  does not exist. Give a run folder, such as runs/NAME.`);
  if (!isSweepFolder(dir)) throw new UserError(`${dir}  holds no events.jsonl: no run has begun there.`);
  const [cohort = 'c0001'] = existsSync(join(dir, 'cohorts')) ? readdirSync(join(dir, 'cohorts')).sort() : [];
  throw new UserError(
    `${dir}  is a sweep. See where it stands: coldframe sweep status ${name} --watch; or one cohort's run: ` +
      `coldframe tail ${quoteWord(join(dir, 'cohorts', cohort))}.`,
  );
}

/** Reads the lines that have come since, whole ones only. */
export class JournalReader {
  readonly #file: string;
  #inode = 0;
  #offset = 0;
  #numLines = 0;

  constructor(file: string) {
    this.#file = file;
  }

  /** A journal in the place of the one before is read from its beginning. `where` is named with a line that is no event. */
  readEvents(where: string): StoredEvent[] {
    const lines = this.#readLines();
    return lines.map((line, index) => {
      try {
        return JSON.parse(line) as StoredEvent;
      } catch {
        const number = this.#numLines - lines.length + index + 1;
        throw new UserError(`${join(where, 'events.jsonl')}:${number}  is not valid JSON. Remove this line.`);
      }
    });
  }

  #readLines(): string[] {
    if (!existsSync(this.#file)) return [];
    const descriptor = openSync(this.#file, 'r');
    try {
      const { ino, size } = fstatSync(descriptor);
      if (ino !== this.#inode || size < this.#offset) [this.#inode, this.#offset, this.#numLines] = [ino, 0, 0];
      const bytes = Buffer.alloc(size - this.#offset);
      const numRead = readSync(descriptor, bytes, 0, bytes.length, this.#offset);
      const end = bytes.subarray(0, numRead).lastIndexOf(0x0a) + 1; // what follows is being written
      this.#offset += end;
      const lines = bytes.toString('utf8', 0, end).split('\n').slice(0, -1);
      this.#numLines += lines.length;
      return lines;
    } finally {
      closeSync(descriptor);
    }
  }
}

/** Returns events of one kind and step that follow each other together. */
function groupEvents(events: StoredEvent[]): StoredEvent[][] {
  const groups: StoredEvent[][] = [];
  for (const event of events) {
    const group = groups.at(-1);
    const [first] = group ?? [];
    if (group !== undefined && first?.kind === event.kind && first.step === event.step) group.push(event);
    else groups.push([event]);
  }
  return groups;
}

/** Returns the last groups: what all trials of a cohort say in turn counts as one. */
const takeLast = (events: StoredEvent[], count: number): StoredEvent[][] =>
  count === 0 ? [] : groupEvents(events).slice(-count);

function tell(events: StoredEvent[], report: Report): void {
  for (const group of groupEvents(events)) report.stored(group);
}

function showProgress(status: StoredStatus, report: Report): void {
  const { step, steps, eta_seconds: etaSeconds, loss, evaluating } = status;
  if (evaluating !== null) report.progress('evaluate', evaluating.num_seen ?? 0, evaluating.num_total ?? 0);
  else report.progress('train', step ?? 0, steps ?? 0, { ...(etaSeconds === null ? {} : { etaSeconds }), loss });
}

/** What the journal does not say: why a run failed, and that one was killed. */
function tellEnd(dir: string, state: string, status: StoredStatus | undefined, report: Report): void {
  report.endProgress();
  if (state === 'finished' || state === 'interrupted') return;
  const saved = readSavedStep(dir);
  const onwards =
    saved === null ? 'It has no checkpoint yet.' : `The same \`train\` command goes on from step ${saved}.`;
  const why =
    state === 'failed' ? `failed: ${status?.message ?? 'no reason is known'}` : `is ${state}: its process is gone`;
  report.note(`${showPath(dir)}  ${why}\n${onwards}`);
}
