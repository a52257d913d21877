/** The bridge against a hostile Python: real interpreters over the real channel. What holds of several processes, too, is in
 * transports.test.ts. */
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from '@jest/globals';
import { CLOSE, call, drive, folder, isAlive, pidOf, pidsOf, play, START, signalGroup } from './driven.ts';
import type { Outcome, Step } from './fixtures/runtime-driver.ts';
import { until } from './support.ts';

describe('a call', () => {
  test('without a log of the run writes a temporary one, which is gone with it', async () => {
    await play([START, call('shout'), CLOSE]);
    expect(readdirSync(folder).filter((name) => name.startsWith('coldframe-'))).toEqual([]);
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

  test('may start workers by spawn, and end them by SIGTERM', async () => {
    const [, spawned] = await play([START, call('spawn_worker'), CLOSE]);
    expect(spawned?.value).toEqual({ length: 4 });
  });
});

describe('a runtime that cannot go on', () => {
  test('killed from outside in a call: an error within 2 s that names the signal; its workers go too', async () => {
    const path = join(folder, 'gate');
    const { driver, next } = drive([START, call('fork_workers', { num_workers: 2 }), call('gate', { path }), CLOSE]);
    const exit = once(driver, 'exit');
    const pid = pidOf(await next());
    const workers = pidsOf(await next());
    await until(() => existsSync(`${path}.ready`), 60);
    expect(workers.filter(isAlive)).toHaveLength(2);
    const begin = performance.now();
    process.kill(pid, 'SIGKILL');
    const { error } = await next();
    expect(performance.now() - begin).toBeLessThan(2000);
    expect(error?.message).toMatch(/killed by SIGKILL .*during `gate`/);
    expect(await exit).toEqual([0, null]);
    await until(() => !workers.some(isAlive), 60);
  });

  test('hanging without progress: killed, and the error shows where it hung', async () => {
    const [, failed] = await play([{ do: 'start', options: { stallSeconds: 1 } }, call('hang'), CLOSE]);
    expect(failed?.error?.message).toMatch(/killed after 1 s without progress during `hang`/);
    expect(failed?.error?.lines?.join('\n')).toMatch(/in stuck_here/);
    expect(failed?.seconds).toBeGreaterThan(1);
    expect(failed?.seconds).toBeLessThan(5);
  });

  test('slow to start, when it cannot report progress yet: survives', async () => {
    const gate = join(folder, 'slow-import');
    const start: Step = { do: 'start', options: { stallSeconds: 0.2 } };
    const { next } = drive([start, call('echo', { first: 1 }), CLOSE], { IMPORT_GATE: gate });
    await until(() => existsSync(`${gate}.ready`), 60);
    await sleep(1000); // five times what it may be silent later
    writeFileSync(`${gate}.go`, '');
    expect((await next()).error).toBeUndefined();
    await next();
    await next();
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
      await until(() => existsSync(`${gate}.ready`), 60);
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
    await until(() => existsSync(`${path}.ready`), 60);
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
    await until(() => existsSync(`${path}.ready`), 60);
    expect(family.filter(isAlive)).toHaveLength(3);
    driver.kill('SIGKILL');
    await until(() => !family.some(isAlive), 60);
  });
});
