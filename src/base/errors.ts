/** What a run can end with besides success. `cli.ts` turns these into exit codes. */
import { isAbsolute, relative, resolve } from 'node:path';
import { keepLine } from './words.ts';

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

/** Another process holds what only one may write: a run folder, a cache. Exit code 2. */
export class InUse extends UserError {
  constructor(problems: string | string[]) {
    super(problems);
    this.name = 'InUse';
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

/** An error as Python tells it (py/coldframe/errors.py). `code` decides, the message is for people alone. */
export interface ToldError {
  kind: 'user' | 'bug';
  code: string;
  message: string;
  traceback: string;
}

export function fromPython({ kind, code, message, traceback }: ToldError): Error {
  // No bug: mostly the kernel killed it for lack of memory, and a restart goes on.
  if (code === 'worker_died')
    return new RuntimeFailure(`python  ${message} Lower data.num_workers, or give it more memory.`);
  // Of several processes one alone failed: what passed on the others may pass the next time.
  if (code === 'rank_failed' || code === 'peer_lost')
    return new RuntimeFailure(`python  ${message}`, { lines: traceback.trimEnd().split('\n') });
  if (kind === 'bug') return new PythonBug(message, traceback);
  const problems = message.split('\n');
  if (code === 'out_of_memory') return new OutOfMemory(problems);
  return code === 'in_use' ? new InUse(problems) : new UserError(problems);
}

/** The user or a scheduler asked the run to stop, and its state is saved. Exit code 130. */
export class Interrupted extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'Interrupted';
  }
}

export const FAILURE_CLASSES = ['user', 'bug', 'lost', 'out_of_memory'] as const;
export type FailureClass = (typeof FAILURE_CLASSES)[number];

/** What a scheduler decides by: `user` needs a person, `lost` may be tried again, `out_of_memory` with less at once. */
export function classifyFailure(caught: unknown): FailureClass {
  const error = asUserError(caught);
  if (error instanceof OutOfMemory || error instanceof MemoryKill) return 'out_of_memory';
  if (error instanceof UserError) return 'user';
  return error instanceof RuntimeFailure ? 'lost' : 'bug';
}

/** What is found, and what to do; any other code gives the system's own words. As in py/coldframe/errors.py. */
const FOUND: Record<string, string> = {
  ENOSPC: 'the disk is full. Free some room there; the same command goes on.',
  EDQUOT: 'the quota of this disk is used up. Free some room there; the same command goes on.',
  EROFS: 'lies on a read-only file system. Name a place that can be written.',
  EACCES: 'may not be used: the permission is missing. Change its permissions, or name another place.',
  EPERM: 'may not be changed: the system does not permit it. Change its permissions, or name another place.',
  ENOENT: 'does not exist, or cannot be made there. Name another place.',
  ENOTDIR: 'lies below a file, and only a folder can hold it. Name another place.',
  EISDIR: 'is a folder, and a file is needed. Name another place.',
  EEXIST: 'exists already, and is not what is needed there. Remove it, or name another place.',
  ENOTEMPTY: 'is not empty. Empty it, or name another place.',
  ENAMETOOLONG: 'is too long a name for this file system. Name a shorter place.',
  EFBIG: 'is larger than this file system or `ulimit -f` allows. Name another place.',
  EIO: 'cannot be read or written: the disk reports an error. Check the disk, or name another place.',
  EMFILE: 'cannot be opened: too many files are open. Raise `ulimit -n`.',
  ENFILE: 'cannot be opened: the machine has too many files open. Close other programs.',
  ESTALE: 'is gone from the network disk. Mount it again; the same command goes on.',
};
const DISK = ['ENOSPC', 'EDQUOT', 'EROFS']; // the user's also where nothing says which file it was

/** Returns an error of the file system as one that the user can mend, `path  what was found. What to do.`, and any other
 * as it is. */
export function asUserError(error: unknown): unknown {
  const { code, syscall, path, dest, message } = (error ?? {}) as NodeJS.ErrnoException & { dest?: string };
  if (code === undefined || syscall === undefined || syscall.startsWith('spawn')) return error;
  if (path === undefined && !DISK.includes(code)) return error;
  const found = FOUND[code] ?? `cannot be used: ${message}. Mend it, or name another place.`;
  return new UserError(`${path === undefined ? 'disk' : showPath(dest ?? path)}  ${found}`);
}

/**
 * Returns why a file could not be read, in words, and what to do; `wanted` says what should be there. `file` is null
 * where the line begins with its path already.
 */
export function explainReadError(error: unknown, file: string | null, wanted: string): string {
  const code = (error as NodeJS.ErrnoException).code;
  const begin = file === null ? '' : `${file} `;
  if (code === 'ENOENT' || code === 'ENOTDIR')
    return `no ${file === null ? 'such file' : `file at ${file}`}. Give the path of ${wanted}.`;
  if (code === 'EISDIR') return `${begin}is a folder. Give the path of ${wanted}.`;
  if (code === 'EACCES') return `${begin}may not be read. Change its permissions.`;
  return `${begin}cannot be read: ${(error as Error).message}.`;
}

/** Returns the path as the user would type it: relative below the current folder, else absolute. */
export function showPath(file: string): string {
  const short = relative(process.cwd(), resolve(file)) || '.';
  return keepLine(short.startsWith('..') || isAbsolute(short) ? resolve(file) : short);
}
