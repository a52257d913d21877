/** The bridge against a hostile Python: real interpreters over the real channel, each driven by a Node process of its own. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { signal } from '../src/base/process/processes.ts';
import type { Outcome, Step } from './fixtures/runtime-driver.ts';
import { bundle, FIXTURES, until } from './support.ts';

const NEXT_SECONDS = 90;
const START: Step = { do: 'start' };
const CLOSE: Step = { do: 'close' };
const call = (verb: string, args: object = {}): Step => ({ do: 'call', verb, args });

let program: string;
beforeAll(() => {
  program = bundle('runtime-driver');
});

let folder: string;
let leftOver: number[] = []; // what a failing test may have left running
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'runtime-test-'));
});
afterEach(() => {
  for (const pid of leftOver.filter(isAlive)) signal(pid, 'SIGKILL');
  leftOver = [];
  rmSync(folder, { recursive: true });
});

/** A running driver: `next()` is its next line on stdout; every line must be one of its own. */
function drive(steps: Step[], env: NodeJS.ProcessEnv = {}) {
  const driver = spawn(process.execPath, [program, JSON.stringify(steps)], {
    detached: true, // a process group of its own, as a terminal gives it
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, NODE_OPTIONS: '', COLDFRAME_PYTHONPATH: FIXTURES, TMPDIR: folder, ...env },
  });
  const lines = createInterface({ input: driver.stdout })[Symbol.asyncIterator]();
  const next = async (): Promise<Outcome> => {
    // A call that never settles is the fault that these tests look for: what hangs is ended by `afterEach`.
    const limit = AbortSignal.timeout(NEXT_SECONDS * 1000);
    const late = once(limit, 'abort').then(() => Promise.reject(new Error(`nothing within ${NEXT_SECONDS} s`)));
    const outcome: Outcome = JSON.parse((await Promise.race([lines.next(), late])).value);
    const { pid, pids = [] } = (outcome.value ?? {}) as { pid?: number; pids?: number[] };
    leftOver.push(...pids, ...(pid ? [pid] : []));
    return outcome;
  };
  if (driver.pid) leftOver.push(driver.pid);
  return { driver, next };
}

/** Plays the steps to the end; the driver leaves by itself, so no handle of the runtime keeps it. */
async function play(steps: Step[], env: NodeJS.ProcessEnv = {}): Promise<Outcome[]> {
  const { driver, next } = drive(steps, env);
  const exit = once(driver, 'exit');
  const outcomes: Outcome[] = [];
  for (const _ of steps) outcomes.push(await next());
  const begin = performance.now();
  expect(await exit).toEqual([0, null]);
  expect(performance.now() - begin).toBeLessThan(2000);
  return outcomes;
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return !/^\d+ \(.*\) Z/.test(readFileSync(`/proc/${pid}/stat`, 'utf8')); // nobody may have reaped it yet
  } catch {
    return false;
  }
}

function contentOf<T>(outcome: Outcome | undefined): T {
  if (outcome?.value === undefined) throw new Error(`no value: ${JSON.stringify(outcome)}`);
  return outcome.value as T;
}
const pidOf = (outcome: Outcome | undefined): number => contentOf<{ pid: number }>(outcome).pid;
const pidsOf = (outcome: Outcome | undefined): number[] => contentOf<{ pids: number[] }>(outcome).pids;
const signalGroup = (driver: ChildProcess, name: NodeJS.Signals): boolean => process.kill(-(driver.pid ?? 0), name);

describe('a call', () => {
  test('gives back what Python answered, in the order asked, and leaves nothing behind', async () => {
    const both: Step = { do: 'callBoth', verbs: ['echo', 'echo'] };
    const outcomes = await play([START, call('echo', { path: 'ä\u2028\ud800"', n: [1, 2.5, null] }), both, CLOSE]);
    expect(outcomes[1]?.value).toEqual({ path: 'ä\u2028\ud800"', n: [1, 2.5, null] });
    expect(outcomes[2]?.value).toEqual([{ place: 0 }, { place: 1 }]);
    expect(outcomes[3]?.error).toBeUndefined();
    expect(isAlive(pidOf(outcomes[0]))).toBe(false);
    expect(readdirSync(folder).filter((name) => name.startsWith('coldframe-'))).toEqual([]); // the temporary log
  });

  test('that fails in closing is an error, but never in place of an earlier one', async () => {
    const env = { CLOSE_ERROR: '1' };
    const [, alone] = await play([START, CLOSE], env);
    const [, bug, after] = await play([START, call('bug'), CLOSE], env);
    expect(alone?.error?.message).toBe('RuntimeError: cannot flush');
    expect([bug?.error?.message, after?.error]).toEqual(['ZeroDivisionError: division by zero', undefined]);
  });

  test('lets Python finish its exit after close, however long that takes it', async () => {
    const path = join(folder, 'left');
    await play([START, call('leave_slowly', { path, seconds: 1.5 }), CLOSE]);
    expect(existsSync(path)).toBe(true);
    expect(existsSync(`${path}.modules`)).toBe(false); // to take down every module of torch takes a second, for nothing
  });

  test('to close may take its time as long as there are signs of life, and ends what gives none', async () => {
    const start: Step = { do: 'start', options: { stallSeconds: 2 } };
    const [, patient] = await play([start, CLOSE], { CLOSE_SECONDS: '5' });
    expect(patient).toEqual({ seconds: expect.any(Number) });
    const [, silent] = await play([start, CLOSE], { CLOSE_SECONDS: 'never' });
    expect(silent?.error).toMatchObject({
      name: 'RuntimeFailure',
      message: expect.stringMatching(/did not close: no sign of life for 2 s/),
    });
  });

  test('carries 20 MB', async () => {
    const [, big] = await play([START, call('big', { num_bytes: 20e6 }), CLOSE]);
    expect(contentOf<{ text: string }>(big).text).toHaveLength(10e6);
  });

  test('goes by the code of an error: whose it is, and what may be done about it', async () => {
    const verbs = ['mistake', 'held', 'disk', 'no_memory', 'worker', 'value_error', 'bug', 'not_json', 'system_exit'];
    const steps = verbs.map((verb) => call(verb));
    const outcomes = await play([START, ...steps, call('echo', { still: 'there' }), CLOSE]);
    const [, mistake, held, disk, noMemory, worker, valueError, bug, notJson, systemExit, echo] = outcomes.map(
      (outcome) => outcome.error ?? outcome.value,
    );
    expect(mistake).toMatchObject({
      name: 'UserError',
      problems: ['lists/val.txt:118  label 400 is outside 0..399', 'lists/val.txt:119  no label'],
    });
    expect(held).toMatchObject({ name: 'InUse', problems: ['runs/a  is in use by process 7'] });
    expect(disk).toMatchObject({
      name: 'UserError',
      problems: ['/proc/nope  does not exist, or cannot be made there. Name another place.'],
    });
    expect(noMemory).toMatchObject({ name: 'OutOfMemory', message: expect.stringMatching('train.micro_batches') });
    expect(worker).toMatchObject({
      name: 'RuntimeFailure',
      message: 'python  DataLoader worker is gone. Lower data.num_workers, or give it more (shared) memory.',
    });
    expect(valueError).toMatchObject({ name: 'PythonBug', message: expect.stringMatching(/^ValueError: zip/) });
    expect(bug).toMatchObject({ name: 'PythonBug', message: 'ZeroDivisionError: division by zero' });
    expect(bug).toMatchObject({ traceback: expect.stringMatching(/hostile_runtime\.py.*line \d+, in bug/) });
    expect(notJson).toMatchObject({ name: 'PythonBug', message: expect.stringMatching('TypeError') });
    expect(systemExit).toMatchObject({ name: 'PythonBug', message: 'SystemExit: 3' });
    expect(echo).toEqual({ still: 'there' });
  });

  test('gets null for what is not finite, and says so where a number was required', async () => {
    const [, open, typed] = await play([START, call('non_finite'), { do: 'callTyped', verb: 'non_finite' }, CLOSE]);
    expect(open?.value).toEqual({
      steps: [
        { loss: null, lr: 0.5 },
        { loss: 1.5, norm: [null, 2] },
      ],
    });
    expect(typed?.error?.name).toBe('PythonBug');
    expect(typed?.error?.message).toMatch('not finite in Python: steps.0.loss, steps.1.norm.0');
  });

  test('keeps every print off stdout and in the log, and DEBUG does not change that', async () => {
    const logFile = join(folder, 'runtime.log');
    writeFileSync(logFile, 'an earlier run\n');
    // `play` fails on any line of stdout that is not the driver's.
    await play([{ do: 'start', options: { logFile } }, call('shout'), CLOSE], { DEBUG: '*' });
    const log = readFileSync(logFile, 'utf8').trimEnd().split('\n');
    expect(log[0]).toBe('an earlier run');
    expect(log.slice(1).sort()).toEqual(
      ['print', 'puts', 'subprocess', 'system', 'write'].map((how) => `shout: ${how}`),
    );
  });

  test('may start workers by spawn, and end them by SIGTERM', async () => {
    const [, spawned] = await play([START, call('spawn_worker'), CLOSE]);
    expect(spawned?.value).toEqual({ length: 4 });
  });
});

describe('a runtime that cannot go on', () => {
  test.each([
    ['exits', call('leave', { code: 7 }), /left with exit code 7 during `leave`/, []],
    ['crashes', call('segfault'), /killed by SIGSEGV during `segfault`/, [/in segfault/]],
    ['answers a bare NaN', call('bare_nan'), /not JSON \(SyntaxError.*NaN.*during `bare_nan`/, []],
    ['closes its channel', call('close_channel'), /closed its channel during `close_channel`/, []],
    ['is killed by us', { do: 'killDuring', verb: 'hang' } as Step, /was stopped during `hang`/, []],
  ])(
    '%s: an error within 2 s, a second call fails too, and another runtime starts',
    async (_, step, message, lines) => {
      const outcomes = await play([START, step, call('echo'), CLOSE, START, call('echo', { back: 1 }), CLOSE]);
      const [start, failed, again, close, restart, echo] = outcomes;
      expect(failed?.error).toMatchObject({ name: 'RuntimeFailure', message: expect.stringMatching(message) });
      expect(failed?.seconds).toBeLessThan(2);
      for (const line of lines) expect(failed?.error?.lines?.join('\n')).toMatch(line);
      expect(again?.error).toMatchObject({ name: 'RuntimeFailure', message: failed?.error?.message });
      expect(close?.error).toBeUndefined();
      expect(echo?.value).toEqual({ back: 1 });
      expect([pidOf(start), pidOf(restart)].filter(isAlive)).toEqual([]);
    },
  );

  test('killed from outside in a call: an error within 2 s that names the signal; its workers go too', async () => {
    const path = join(folder, 'gate');
    const { driver, next } = drive([START, call('fork_workers', { num_workers: 2 }), call('gate', { path }), CLOSE]);
    const exit = once(driver, 'exit');
    const pid = pidOf(await next());
    const workers = pidsOf(await next());
    await until(() => existsSync(`${path}.ready`), 10);
    expect(workers.filter(isAlive)).toHaveLength(2);
    const begin = performance.now();
    process.kill(pid, 'SIGKILL');
    const { error } = await next();
    expect(performance.now() - begin).toBeLessThan(2000);
    expect(error?.message).toMatch(/killed by SIGKILL .*during `gate`/);
    expect(await exit).toEqual([0, null]);
    await until(() => !workers.some(isAlive), 5);
  });

  test('hanging without progress: killed, and the error shows where it hung', async () => {
    const [, failed] = await play([{ do: 'start', options: { stallSeconds: 1 } }, call('hang'), CLOSE]);
    expect(failed?.error?.message).toMatch(/killed after 1 s without progress during `hang`/);
    expect(failed?.error?.lines?.join('\n')).toMatch(/in stuck_here/);
    expect(failed?.seconds).toBeGreaterThan(1);
    expect(failed?.seconds).toBeLessThan(5);
  });

  test('slow, but reporting progress for longer than the watchdog waits: survives', async () => {
    const [, slow] = await play([
      { do: 'start', options: { stallSeconds: 2 } }, // a busy machine may not let it beat for a second
      call('beat', { seconds: 5 }),
      CLOSE,
    ]);
    expect(slow?.value).toEqual({ seconds: 5 });
  });

  test('a handler that answers no string is a bug, not a hang', async () => {
    const [, failed] = await play([START, call('number'), CLOSE]);
    expect(failed?.error).toMatchObject({ name: 'PythonBug', message: expect.stringMatching('number, not a string') });
  });
});

describe('starting', () => {
  test('does not mind what the shell says to other Pythons', async () => {
    const other = join(folder, 'other');
    mkdirSync(other);
    for (const name of ['json', 'coldframe', 'torch', 'usercustomize'])
      writeFileSync(join(other, `${name}.py`), 'raise ImportError("of another Python")');
    const environment = {
      ...{ PYTHONHOME: other, PYTHONPATH: other, PYTHONUSERBASE: other, PYTHONSTARTUP: join(other, 'json.py') },
      ...{ PYTHONOPTIMIZE: '2', PYTHONWARNINGS: 'error', PYTHONHASHSEED: 'none', PYTHONIOENCODING: 'latin-9' },
    };
    const [, mode] = await play([START, call('mode'), CLOSE], environment);
    expect(mode?.value).toEqual({ optimize: 0, warnings: [], has_user_site: false });
  });

  test('without an interpreter tells the user to run `make setup`', async () => {
    const [failed] = await play([{ do: 'start', options: { python: '/nowhere/bin/python' } }]);
    expect(failed?.error).toMatchObject({
      name: 'UserError',
      message: expect.stringMatching('/nowhere/bin/python .*make setup'),
    });
  });

  test('a module that does not import is an error with its traceback', async () => {
    const [failed] = await play([START], { IMPORT_ERROR: '1' });
    expect(failed?.error?.name).toBe('RuntimeFailure');
    expect(failed?.error?.message).toMatch(/cannot load hostile_runtime: ModuleNotFoundError.*make setup/);
    expect(failed?.error?.lines?.join('\n')).toMatch(/hostile_runtime\.py", line \d+/);
  });

  test('two at a time in one process is refused, and the first goes on', async () => {
    const [, second, echo] = await play([START, START, call('echo', { first: 1 }), CLOSE]);
    expect(second?.error?.message).toMatch('running in this process already');
    expect(echo?.value).toEqual({ first: 1 });
  });
});

describe('signals', () => {
  test('Ctrl-C (SIGINT to the whole group) while Python imports and in a call: it finishes both', async () => {
    const [importing, path] = [join(folder, 'import'), join(folder, 'gate')];
    const { driver, next } = drive([START, call('gate', { path }), CLOSE], { IMPORT_GATE: importing });
    const exit = once(driver, 'exit');
    const outcomes: Outcome[] = [];
    for (const gate of [importing, path]) {
      await until(() => existsSync(`${gate}.ready`), 10);
      signalGroup(driver, 'SIGINT');
      outcomes.push(await next()); // Node's own handler: it has been delivered
      writeFileSync(`${gate}.go`, '');
      outcomes.push(await next());
    }
    expect(outcomes.map((outcome) => outcome.value)).toEqual([
      'SIGINT',
      { pid: expect.any(Number) },
      'SIGINT',
      { whole: true },
    ]);
    expect(await exit).toEqual([0, null]);
  });

  test('SIGTERM and SIGHUP to Python in a call do not end the call', async () => {
    const path = join(folder, 'gate');
    const { driver, next } = drive([START, call('gate', { path }), CLOSE]);
    const exit = once(driver, 'exit');
    const pid = pidOf(await next());
    await until(() => existsSync(`${path}.ready`), 10);
    process.kill(pid, 'SIGTERM');
    process.kill(pid, 'SIGHUP');
    writeFileSync(`${path}.go`, '');
    expect((await next()).value).toEqual({ whole: true });
    expect(await exit).toEqual([0, null]);
  });

  test('SIGKILL of Node in the middle of a call takes Python and its workers along within 5 s', async () => {
    const path = join(folder, 'gate');
    const { driver, next } = drive([START, call('fork_workers', { num_workers: 2 }), call('gate', { path })]);
    const python = pidOf(await next());
    const family = [python, ...pidsOf(await next())];
    await until(() => existsSync(`${path}.ready`), 10);
    expect(family.filter(isAlive)).toHaveLength(3);
    driver.kill('SIGKILL');
    await until(() => !family.some(isAlive), 5);
  });
});
