/** The embedded transport: one Python, a child of this process, over pythonia's channel. Nothing else imports pythonia. */
import type { ChildProcess } from 'node:child_process';
import { join } from 'node:path';
import { PythonBug, RuntimeFailure } from '../../base/errors.ts';
import { PROJECT } from '../../base/paths.ts';
import { countMemoryKills } from '../../base/process/processes.ts';
import type { Transport } from '../supervisor.ts';
import { describeExit, type Ending } from './endings.ts';

const SETTLE_SECONDS = 1; // between losing the channel (or SIGKILL) and giving the process up; errors are due within 2 s

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

/** Throws where one is there already: pythonia has one channel. */
export async function startEmbedded(python: string, logFile: string, module: string): Promise<Transport> {
  if (isEmbedded) throw new Error('a Python runtime is running in this process already');
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
  proc.once('exit', (code, signal) => settle(describeExit(code, signal, killsBefore())));
  proc.on('error', (error) => (proc.pid ? giveUp(`lost its channel (${error.message})`) : lose(error.message)));
  proc.once('disconnect', () => giveUp('closed its channel'));
  guardChannel(proc, (error) => lose(`sent what is not JSON (${error})`));
  return { ended, giveUp };
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
