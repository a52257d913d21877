/**
 * The Python runtime seen from TypeScript: a verb and its arguments in, a checked result out, or one of three errors.
 * Here are the interface and the embedded transport (pythonia, imported nowhere else); `supervisor.ts` watches any.
 */
import type { ChildProcess } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { join, resolve } from 'node:path';
import type { z } from 'zod';
import { PythonBug, RuntimeFailure, UserError } from '../base/errors.ts';
import { PROJECT } from '../base/paths.ts';
import { countMemoryKills } from '../base/process/processes.ts';
import { type Ending, Log, Supervisor, type Transport } from './supervisor.ts';

const SETTLE_SECONDS = 1; // between losing the channel (or SIGKILL) and giving the process up; errors are due within 2 s

export interface RuntimeOptions {
  /** Python's stdout and stderr are appended here; without it a temporary file, deleted by a clean close. */
  logFile?: string;
  /** Python is killed when a call shows no progress (`serve.progress()` or output) for so long. */
  stallSeconds?: number;
  module?: string;
  python?: string;
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
  if (isEmbedded) throw new Error('a Python runtime is running in this process already');
  const python = findPython(options.python);
  const log = new Log(options.logFile);
  const transport = await startEmbedded(python, log.path, options.module ?? 'coldframe.serve');
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

/** What is used of pythonia: its child process and its messages, not its proxies (live objects, coloured errors that
 * it may print on stdout, a limit of 100 s). A request names an object, an attribute path and arguments. */
interface Pythonia {
  com: {
    proc: ChildProcess | null;
    start(): void;
    write(message: object, onReply: (reply: PythonReply) => void): void;
  };
  python: { exit(): void };
}
interface PythonReply {
  key: string;
  val: unknown;
  sig: string;
}

let isEmbedded = false; // one interpreter at a time: pythonia has one channel
let numRequests = 0;

async function startEmbedded(python: string, logFile: string, module: string): Promise<Transport> {
  isEmbedded = true;
  const wrapper = join(PROJECT, 'py', 'python.sh');
  // DEBUG would make pythonia print every message on stdout.
  const environment = { PYTHON_BIN: wrapper, COLDFRAME_PYTHON: python, COLDFRAME_LOG: logFile, DEBUG: undefined };
  const pythonia = await withEnvironment(environment, async () => {
    const { default: imported } = (await import('pythonia')) as unknown as { default: Pythonia };
    if (!imported.com.proc) imported.com.start(); // the import itself starts the first one
    return imported;
  });
  const proc = pythonia.com.proc;
  if (!proc) throw new Error('pythonia started no process');
  return talkTo(pythonia, proc, module);
}

async function withEnvironment<T>(values: Record<string, string | undefined>, run: () => Promise<T>): Promise<T> {
  const before = Object.fromEntries(Object.keys(values).map((name) => [name, process.env[name]]));
  const assign = (all: Record<string, string | undefined>): void => {
    for (const [name, value] of Object.entries(all)) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
  };
  assign(values);
  return run().finally(() => assign(before));
}

function talkTo(pythonia: Pythonia, proc: ChildProcess, module: string): Transport {
  const invoke = (object: unknown, name: string, argument: string): Promise<unknown> =>
    new Promise((settle, reject) => {
      const r = `call-${numRequests++}`;
      pythonia.com.write({ r, action: 'pcall', ffid: object, key: [name], val: [[argument], {}] }, (reply) => {
        if (reply.key === 'error') reject(new Error(reply.sig));
        else settle(reply.val);
      });
    });
  let killsBefore = countMemoryKills();
  const { ended, giveUp } = watchProcess(proc, () => killsBefore);
  let imported: unknown;
  return {
    pid: proc.pid ?? 0,
    ended: ended.finally(() => {
      pythonia.python.exit(); // its timer would keep Node alive, and the next runtime needs a new process
      isEmbedded = false;
    }),
    connect: async () => {
      try {
        imported = await invoke(0, 'python', module);
        await invoke(imported, 'start', JSON.stringify({ parent: process.pid }));
      } catch (error) {
        const lines = error instanceof Error ? error.message.trimEnd().split('\n') : [];
        throw new RuntimeFailure(`python  cannot load ${module}: ${lines.at(-1)}. Run \`make setup\`.`, { lines });
      }
    },
    request: async (text) => {
      killsBefore = countMemoryKills(); // a run takes days: only a kill during this call can be its own
      const reply = await invoke(imported, 'handle', text);
      if (typeof reply !== 'string') throw new PythonBug(`${module}.handle returned ${typeof reply}, not a string`, '');
      return reply;
    },
    hangUp: () => {
      proc.removeAllListeners('disconnect');
      if (proc.connected) proc.disconnect();
    },
    kill: (signal) => {
      proc.kill(signal);
      if (signal === 'SIGKILL') giveUp('does not react to SIGKILL'); // it hangs in a driver or a network disk
    },
  };
}

/** How the process ended, or how it was lost: then it is killed, and its real end, where there is one, has precedence. */
function watchProcess(
  proc: ChildProcess,
  killsBefore: () => number | undefined,
): { ended: Promise<Ending>; giveUp: (how: string) => void } {
  let settle: (ending: Ending) => void = () => {};
  const ended = new Promise<Ending>((resolveEnded) => {
    settle = resolveEnded;
  });
  const lose = (how: string): void => {
    proc.kill('SIGKILL');
    settle({ how });
  };
  const giveUp = (how: string): void => void setTimeout(() => lose(how), SETTLE_SECONDS * 1000).unref();
  proc.once('exit', (code, signal) =>
    settle(signal ? describeSignal(signal, killsBefore()) : { how: `left with exit code ${code}` }),
  );
  proc.on('error', (error) => (proc.pid ? giveUp(`lost its channel (${error.message})`) : lose(error.message)));
  proc.once('disconnect', () => giveUp('closed its channel'));
  guardChannel(proc, (error) => lose(`sent what is not JSON (${error})`));
  return { ended, giveUp };
}

/** The kernel counts whom it kills for lack of memory, and names nobody: one more than before is taken for this one. */
function describeSignal(signal: string, killsBefore: number | undefined): Ending {
  if (signal !== 'SIGKILL') return { how: `was killed by ${signal}` };
  const kills = countMemoryKills();
  if (kills === undefined || killsBefore === undefined)
    return { how: 'was killed by SIGKILL (the kernel does so when memory runs out)' };
  return kills > killsBefore
    ? { how: 'was killed by the kernel (SIGKILL): memory ran out', lackedMemory: true }
    : { how: 'was killed by SIGKILL (not by the kernel for lack of memory)' };
}

/** Node parses a message inside the channel's read callback and offers no event for invalid JSON (Python's bare NaN): it
 * is an uncaught exception. pythonia reaches for the same handle to write. */
function guardChannel(proc: ChildProcess, onError: (error: unknown) => void): void {
  const symbol = Object.getOwnPropertySymbols(proc).find((one) => one.description === 'kChannelHandle');
  const channel: { onread(...args: unknown[]): unknown } = Reflect.get(proc, symbol ?? '');
  const read = channel.onread;
  channel.onread = function (...args) {
    try {
      return read.apply(this, args);
    } catch (error) {
      return onError(error);
    }
  };
}
