/** Several processes behind the bridge: which of them is to blame, what hangs, and that none outlives the rest. */
import { once } from 'node:events';
import { existsSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { expect, jest, test } from '@jest/globals';
import { findByVariable } from '../src/base/process/processes.ts';
import { CLOSE, call, drive, findLeft, folder, isAlive, pidOf, pidsOf, play } from './driven.ts';
import type { Step } from './fixtures/runtime-driver.ts';
import { until } from './support.ts';

jest.setTimeout(120_000);
const start = (hangSeconds = 60): Step => ({ do: 'start', options: { ranks: { devices: 2, hangSeconds } } });

test.each([
  ['crashes', 1, { inner: 'segfault' }, /rank 1 on \S+ was killed by SIGSEGV during/, /in segfault/, 60],
  ['raises', 1, { inner: 'value_error' }, /rank 1 on \S+: ValueError: zip\(\)/, /in value_error/, 60],
  [
    'hangs',
    0,
    { inner: 'hang' },
    /rank 0 on \S+ made no progress for 3 s \(launch\.hang_seconds\), and rank 1 on \S+ waited for it during/,
    /in stuck_here/,
    3,
  ],
  ['is stopped', 1, { inner: 'stop_here' }, /rank 1 on \S+ gave no sign of life for 4 s during/, /^$/, 4],
] as const)(
  'a rank that %s while the other waits for it is named, and both go',
  async (_, rank, how, message, line, seconds) => {
    const [started, failed, closed] = await play([start(seconds), call('advance', { rank, ...how }), CLOSE]);
    expect(failed?.error).toMatchObject({ name: 'RuntimeFailure', message: expect.stringMatching(message) });
    expect(failed?.error?.lines?.join('\n')).toMatch(line);
    expect(failed?.error?.message).not.toMatch(/closed by peer|reset by peer/);
    expect(closed?.error).toBeUndefined();
    expect([isAlive(pidOf(started)), findLeft()]).toEqual([false, []]);
  },
);

test.each(['the program', 'torchrun'])('a kill of %s ends all ranks with what they have started', async (whom) => {
  const [importing, path] = [join(folder, 'import'), join(folder, 'gate')];
  const family = call('family', { num_workers: 1 });
  const env = { IMPORT_GATE: importing };
  const { driver, next } = drive([start(), family, call('gate', { path }), CLOSE], env);
  const exit = once(driver, 'exit');
  await until(() => existsSync(`${importing}.ready`), 60);
  await refuseStranger();
  writeFileSync(`${importing}.go`, '');
  const torchrun = pidOf(await next());
  const pids = [torchrun, ...pidsOf(await next())];
  await until(() => existsSync(`${path}.ready`), 60);
  expect(pids.filter(isAlive)).toHaveLength(5);
  if (whom === 'the program') driver.kill('SIGKILL');
  else {
    process.kill(torchrun, 'SIGKILL');
    expect((await next()).error?.message).toMatch(/python {2}torchrun was killed by SIGKILL .*during `gate`/);
    expect(await exit).toEqual([0, null]);
  }
  await until(() => !pids.some(isAlive), 60);
});

test('a kill of the program while ranks are starting ends them: torchrun goes by itself', async () => {
  const importing = join(folder, 'import');
  const { driver } = drive([start(), CLOSE], { IMPORT_GATE: importing });
  await until(() => existsSync(`${importing}.ready`), 60);
  expect(findLeft().length).toBeGreaterThan(2);
  driver.kill('SIGKILL');
  await until(() => findLeft().length === 0, 60);
});

/** Nobody but a rank knows the token, and the way stays open for that. */
async function refuseStranger(): Promise<void> {
  const port = findByVariable('COLDFRAME_PORT').find(({ pid }) => findLeft().includes(pid)); // others run beside this
  const stranger = connect(Number(port?.value), '127.0.0.1');
  stranger.write(`${JSON.stringify({ token: '0'.repeat(64), pid: 1 })}\n`);
  await once(stranger, 'close');
}
