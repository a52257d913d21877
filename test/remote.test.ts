/** Controllers elsewhere: answers that lack a job, and jobs of others among ours. The real ones are in heavy/. */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setImmediate } from 'node:timers/promises';
import { expect, test } from '@jest/globals';
import type { JobState } from '../src/executors/executor.ts';
import { RayExecutor } from '../src/executors/ray.ts';
import { Remote } from '../src/executors/remote.ts';

const about = { pollSeconds: 0, note: () => {}, stop: { requested: 0 } };
const RUNNING: JobState = { state: 'running' };

test('a job that one answer lacks goes on; one that two in a row lack is gone', async () => {
  const answers = [true, false, true, false, false].map((isThere) => new Map(isThere ? [['job', RUNNING]] : []));
  let numAsked = 0;
  const ask = async (): Promise<Map<string, JobState>> => answers[numAsked++] ?? new Map();
  const remote = new Remote({ ...about, name: 'It' });
  const states: string[] = [];
  for (let num = 1; num <= answers.length; num++) {
    while (numAsked < num) {
      remote.watch(['job'], ask);
      await setImmediate();
    }
    await setImmediate();
    states.push(remote.watch(['job'], ask).get('job')?.state ?? '');
  }
  expect(states).toEqual(['running', 'running', 'running', 'running', 'ended']);
});

test('jobs of others in a Ray, of whatever form, are no business of ours; a new state of ours is no end', async () => {
  const foreign = [{ type: 'DRIVER', submission_id: null }, { submission_id: 'theirs', status: 7 }, 'odd', null];
  let status = 'RUNNING';
  const server = createServer((_, response) => {
    const mine = { submission_id: 'ours', status, message: null, driver_exit_code: status === 'FAILED' ? 2 : null };
    response.end(JSON.stringify([...foreign, mine]));
  });
  await new Promise<void>((settle) => server.listen(0, '127.0.0.1', settle));
  const address = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const executor = new RayExecutor({
    ...about,
    slots: 1,
    settings: { address, num_cpus: null, num_gpus: null, python: 'python3' },
  });
  const until = async (state: string): Promise<JobState | undefined> => {
    for (;;) {
      const now = (await executor.watch(['ours'])).get('ours');
      if (now?.state === state) return now;
      await setImmediate();
    }
  };
  try {
    expect(await until('running')).toEqual({ state: 'running' });
    status = 'PENDING';
    expect(await until('waiting')).toEqual({ state: 'waiting' });
    status = 'RESTARTING';
    expect(await until('running')).toEqual({ state: 'running' });
    status = 'FAILED';
    expect(await until('ended')).toEqual({ state: 'ended', code: 2, why: 'ended with exit code 2' });
  } finally {
    await executor.close();
    server.close();
  }
});
