/** The only file that prints: events as lines for people or as JSON lines, notes and progress on stderr. What comes from
 * outside is made safe for a terminal here (`makeSafe`), so that no caller has to think of it. */

import { Fenced, Interrupted, PythonBug, RuntimeFailure, UserError } from './errors.ts';
import { describeEvent, summarizeEvents } from './events/describe.ts';
import { type Kind, type RunEvent, type StoredEvent, stampEvent, type TimedEvent } from './events/event.ts';
import { type Colour, canMove, MovingLine, type Progress, paint, paintPlaces } from './terminal.ts';
import { makeSafe } from './words.ts';

export interface ReportOptions {
  json?: boolean;
  /** The run folder's journal, when there is one. */
  journal?: (event: TimedEvent) => void;
}

export class Report {
  readonly json: boolean;
  journal: ((event: TimedEvent) => void) | undefined;
  private line: MovingLine | undefined;
  private screen: ((text: string) => void) | undefined;

  constructor(options: ReportOptions = {}) {
    this.json = options.json ?? false;
    this.journal = options.journal;
  }

  event(event: RunEvent): void {
    const timed = stampEvent(event);
    this.journal?.(timed);
    const line = this.json ? JSON.stringify(timed) : describeEvent(timed);
    if (line !== undefined) this.print(line, this.json ? undefined : COLOURS[timed.kind]);
  }

  /** Events of one kind, one a trial; of many trials people get one line. */
  events(events: RunEvent[]): void {
    const [first, ...more] = events;
    if (first === undefined) return;
    const summary = this.json || more.length === 0 ? undefined : summarizeEvents(events);
    if (summary === undefined) {
      for (const event of events) this.event(event);
      return;
    }
    for (const event of events) this.journal?.(stampEvent(event));
    this.print(summary);
  }

  /** Events of one kind and step that a run has written down, perhaps of another version: as they were told then. */
  stored(events: StoredEvent[]): void {
    const told = this.json ? events.map((event) => JSON.stringify(event)) : describeStored(events);
    const colour = this.json ? undefined : COLOURS[events[0]?.kind as Kind];
    for (const line of told) this.print(line, colour);
  }

  /** What the user asked for, on stdout. */
  print(text: string, colour?: Colour): void {
    this.line?.clear();
    const safe = makeSafe(text);
    process.stdout.write(`${colour === undefined ? safe : paint(safe, colour, process.stdout)}\n`);
  }

  /** Characters of a line on stdout; of a pipe nothing is known. */
  get width(): number {
    return process.stdout.columns ?? Number.POSITIVE_INFINITY;
  }

  /** What only a person wants to know, on stdout. */
  say(text: string): void {
    if (!this.json) this.print(text);
  }

  /** The same over what was drawn last. */
  async redraw(text: string): Promise<void> {
    this.screen ??= (await import('log-update')).createLogUpdate(process.stdout, { showCursor: true });
    this.screen(makeSafe(text));
  }

  /** What the user should know besides, on stderr. */
  note(text: string): void {
    this.line?.clear();
    process.stderr.write(`${makeSafe(text)}\n`);
  }

  /** The same of what may be wrong. */
  warn(text: string): void {
    this.line?.clear();
    process.stderr.write(`${paintPlaces(makeSafe(text), 'yellow', process.stderr)}\n`);
  }

  /** From here on a line moves at the bottom of the terminal; elsewhere there is none. */
  enableProgress(): void {
    if (!this.json && canMove(process.stderr)) this.line = new MovingLine(process.stderr);
  }

  progress(what: string, value: number, total: number, more: Omit<Progress, 'what' | 'value' | 'total'> = {}): void {
    this.line?.show({ what, value, total, ...more });
  }

  /** What is being waited for, until something else is shown. */
  waiting(text: string): void {
    this.line?.tell(makeSafe(text));
  }

  endProgress(): void {
    this.line?.clear();
  }
}

/** Where a later version needs fields that an earlier one did not write, the event itself. */
function describeStored(events: StoredEvent[]): string[] {
  const known = events as unknown as RunEvent[];
  try {
    const summary = events.length > 1 ? summarizeEvents(known) : undefined;
    return summary === undefined ? known.flatMap((event) => describeEvent(event) ?? []) : [summary];
  } catch {
    return events.map((event) => JSON.stringify(event));
  }
}

/** Events on stdout that a person should not overlook. */
const COLOURS: Partial<Record<Kind, Colour>> = {
  bad_video: 'yellow',
  restarted: 'yellow',
  dropped: 'yellow',
  left_out: 'yellow',
  split: 'yellow',
};

/** Prints how a command failed: on stderr for people, and as a `failed` event on stdout under `--json`. */
export function reportError(error: unknown, json: boolean): void {
  const known = error instanceof Error ? error : new Error(String(error));
  if (json && !(known instanceof Interrupted)) {
    const event = stampEvent({ kind: 'failed', where: known.name, message: known.message });
    process.stdout.write(`${makeSafe(JSON.stringify(event))}\n`);
  }
  const colour = known instanceof Interrupted ? 'yellow' : 'red';
  process.stderr.write(`${paintPlaces(makeSafe(describeError(known)), colour, process.stderr)}\n`);
}

function describeError(error: Error): string {
  if (error instanceof UserError || error instanceof Interrupted || error instanceof Fenced) return error.message;
  if (error instanceof RuntimeFailure) {
    const lines = error.lines.length > 0 ? ['The last lines it wrote:', ...error.lines.map((line) => `  ${line}`)] : [];
    return [error.message, ...lines].join('\n');
  }
  const trace = error instanceof PythonBug ? `${error.message}\n${error.traceback}` : error.stack;
  return `${trace}\nThis is a bug in coldframe. Please report it with the lines above and what \`coldframe doctor\` prints.`;
}
