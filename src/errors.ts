/** What a run can end with besides success. `cli.ts` turns these into exit codes. */
import { isAbsolute, relative, resolve } from 'node:path';

/** The user can fix it: every problem found, one per line. Exit code 2. */
export class UserError extends Error {
  readonly problems: string[];

  constructor(problems: string | string[]) {
    const list = typeof problems === 'string' ? [problems] : problems;
    super(list.join('\n'));
    this.name = 'UserError';
    this.problems = list;
  }
}

export interface RuntimeFailureDetail {
  /** Last lines of the child's stderr. */
  lines?: string[];
}

/** The Python runtime died, hung or could not start. Exit code 3. */
export class RuntimeFailure extends Error {
  readonly lines: string[];

  constructor(message: string, detail: RuntimeFailureDetail = {}) {
    super(message);
    this.name = 'RuntimeFailure';
    this.lines = detail.lines ?? [];
  }
}

/** The kernel killed the Python runtime because memory ran out. Exit code 3, as of other deaths: what else the machine
 * did may have been the cause. */
export class MemoryKill extends RuntimeFailure {
  constructor(message: string, detail: RuntimeFailureDetail = {}) {
    super(
      `${message}. Lower what it takes: \`coldframe fit\` finds train.micro_batches; data.num_workers counts, too.`,
      detail,
    );
    this.name = 'MemoryKill';
  }
}

/** Torch found no memory for what the configuration asks. Exit code 2: a smaller micro-batch fits. */
export class OutOfMemory extends UserError {
  constructor(problems: string | string[]) {
    super(problems);
    this.name = 'OutOfMemory';
  }
}

/** A later attempt has taken the run folder over; this one must not write there any more. Exit code 3. */
export class Fenced extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'Fenced';
  }
}

/** An exception in Python that is not the user's to fix. Exit code 1, with its traceback. */
export class PythonBug extends Error {
  readonly traceback: string;

  constructor(message: string, traceback: string) {
    super(message);
    this.name = 'PythonBug';
    this.traceback = traceback;
  }
}

/** The user or a scheduler asked the run to stop, and its state is saved. Exit code 130. */
export class Interrupted extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'Interrupted';
  }
}

export type FailureClass = 'user' | 'bug' | 'lost' | 'out_of_memory';

/** What a scheduler decides by: `user` needs a person, `lost` may be tried again, `out_of_memory` with less at once. */
export function classifyFailure(error: unknown): FailureClass {
  if (error instanceof OutOfMemory || error instanceof MemoryKill) return 'out_of_memory';
  if (error instanceof UserError) return 'user';
  return error instanceof RuntimeFailure ? 'lost' : 'bug';
}

/** Returns why a file could not be read, in words, and what to do; `wanted` says what should be there. */
export function explainReadError(error: unknown, file: string, wanted: string): string {
  const code = (error as NodeJS.ErrnoException).code;
  if (code === 'ENOENT' || code === 'ENOTDIR') return `no file at ${file}. Give the path of ${wanted}.`;
  if (code === 'EISDIR') return `${file} is a folder. Give the path of ${wanted}.`;
  if (code === 'EACCES') return `${file} may not be read. Change its permissions.`;
  return `${file} cannot be read: ${(error as Error).message}.`;
}

/** Returns the path as the user would type it: relative below the current folder, else absolute. */
export function showPath(file: string): string {
  const short = relative(process.cwd(), resolve(file));
  return short.startsWith('..') || isAbsolute(short) ? resolve(file) : short;
}
