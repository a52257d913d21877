/**
 * The Python runtime seen from TypeScript: a verb and its arguments in, a checked result out, or one of three errors.
 * One process is embedded, several are started by torchrun (transports/); supervisor.ts watches both.
 */
import { accessSync, constants } from 'node:fs';
import { join, resolve } from 'node:path';
import type { z } from 'zod';
import { UserError } from '../base/errors.ts';
import { PROJECT } from '../base/paths.ts';
import { Log } from './log.ts';
import { Supervisor } from './supervisor.ts';
import { startEmbedded } from './transports/embedded.ts';
import type { Ranks } from './transports/torchrun.ts';

export interface RuntimeOptions {
  /** Python's stdout and stderr are appended here; without it a temporary file, deleted by a clean close. */
  logFile?: string;
  /** Python is killed when a call shows no progress (`serve.progress()` or output) for so long. */
  stallSeconds?: number;
  module?: string;
  python?: string;
  /** Several processes; without it one. */
  ranks?: Ranks | undefined;
}

export interface Runtime {
  readonly pid: number;
  /** How the process ended, once it has, also between two calls. */
  readonly ended: Promise<string>;
  /** Calls wait for each other. Throws UserError, PythonBug, or RuntimeFailure (then every later call does). */
  call<T>(verb: string, args: object, schema: z.ZodType<T>): Promise<T>;
  /** Ends Python at once; a pending call fails. */
  kill(): void;
  /** Lets the session close and Python leave, within bounds; afterwards nothing of it is left. Throws what went wrong
   * in closing unless a call failed before: that error counts, and this one is in the log. */
  close(): Promise<void>;
}

export async function startRuntime(options: RuntimeOptions = {}): Promise<Runtime> {
  const python = findPython(options.python);
  const log = new Log(options.logFile);
  const module = options.module ?? 'coldframe.serve';
  const transport = options.ranks
    ? await (await import('./transports/torchrun.ts')).startTorchrun(python, log.path, module, options.ranks)
    : await startEmbedded(python, log.path, module);
  const supervisor = new Supervisor(transport, log, options.stallSeconds ?? 900);
  try {
    await supervisor.run('start', () => transport.connect());
  } catch (error) {
    supervisor.fail('could not start');
    await supervisor.leave();
    throw error;
  }
  return {
    pid: transport.pid,
    ended: transport.ended.then(({ how }) => how),
    call: (verb, args, schema) => supervisor.call(verb, args, schema),
    kill: () => supervisor.fail('was stopped'),
    close: () => supervisor.close(),
  };
}

/** Returns the project's interpreter. Raises UserError when it is not there. */
export function findPython(given?: string): string {
  const python = given ?? process.env.COLDFRAME_PYTHON ?? join(PROJECT, '.venv', 'bin', 'python');
  if (!python.includes('/')) return python; // the shell looks it up in PATH
  try {
    accessSync(python, constants.X_OK);
  } catch {
    throw new UserError(
      `${python}  there is no Python interpreter here. Run \`make setup\`, or name one that has coldframe's requirements in COLDFRAME_PYTHON.`,
    );
  }
  return resolve(python);
}
