/** What holds of every transport: one Python embedded, and two ranks of torchrun, answer and die alike for who asks. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, jest, test } from '@jest/globals';
import type { RuntimeOptions } from '../src/runtime/runtime.ts';
import { CLOSE, call, contentOf, findLeft, folder, isAlive, pidOf, play } from './driven.ts';
import type { Step } from './fixtures/runtime-driver.ts';

jest.setTimeout(120_000);
const start = (options: RuntimeOptions): Step => ({ do: 'start', options });

const SHOUTS = ['print', 'puts', 'subprocess', 'system', 'write'].map((how) => `shout: ${how}`);
/** Its code says whose an error is, and what may be done about it. */
const ERRORS: [string, object][] = [
  [
    'mistake',
    { name: 'UserError', problems: ['lists/val.txt:118  label 400 is outside 0..399', 'lists/val.txt:119  no label'] },
  ],
  ['held', { name: 'InUse', problems: ['runs/a  is in use by process 7'] }],
  [
    'disk',
    { name: 'UserError', problems: ['/proc/nope  does not exist, or cannot be made there. Name another place.'] },
  ],
  ['no_memory', { name: 'OutOfMemory', message: expect.stringMatching('train.micro_batches') }],
  [
    'worker',
    {
      name: 'RuntimeFailure',
      message: 'python  DataLoader worker is gone. Lower data.num_workers, or give it more memory.',
    },
  ],
  ['value_error', { name: 'PythonBug', message: expect.stringMatching(/^ValueError: zip/) }],
  ['bug', { message: 'ZeroDivisionError: division by zero', traceback: expect.stringMatching(/_runtime\.py.*in bug/) }],
  ['not_json', { name: 'PythonBug', message: expect.stringMatching('TypeError') }],
  ['system_exit', { name: 'PythonBug', message: 'SystemExit: 3' }],
];

describe.each([
  ['one process', 2, {}],
  ['two ranks', 6, { ranks: { devices: 2, hangSeconds: 60 } }],
] as const)('%s', (_, seconds, options) => {
  test('answers in the order asked, whatever it is, and leaves nothing behind', async () => {
    const logFile = join(folder, 'runtime.log');
    writeFileSync(logFile, 'an earlier run\n');
    const outcomes = await play(
      [
        start({ ...options, logFile }),
        call('echo', { path: 'ä\u2028\ud800"', n: [1, 2.5, null] }),
        { do: 'callBoth', verbs: ['echo', 'echo'] },
        call('big', { num_bytes: 20e6 }),
        call('non_finite'),
        { do: 'callTyped', verb: 'non_finite' },
        call('shout'),
        ...ERRORS.map(([verb]) => call(verb)),
        call('echo', { still: 'there' }),
        CLOSE,
      ],
      { DEBUG: '*' }, // pythonia would print every message: `play` fails on any line of stdout that is not the driver's
    );
    const [started, echo, both, big, open, typed, shout, ...rest] = outcomes;
    expect(echo?.value).toEqual({ path: 'ä\u2028\ud800"', n: [1, 2.5, null] });
    expect(both?.value).toEqual([{ place: 0 }, { place: 1 }]);
    expect(contentOf<{ text: string }>(big).text).toHaveLength(10e6);
    expect(open?.value).toEqual({
      steps: [
        { loss: null, lr: 0.5 },
        { loss: 1.5, norm: [null, 2] },
      ],
    });
    expect(typed?.error?.name).toBe('PythonBug');
    expect(typed?.error?.message).toMatch('not finite in Python: steps.0.loss, steps.1.norm.0');
    expect(shout?.value).toEqual({});
    for (const [place, [, error]] of ERRORS.entries()) expect(rest[place]?.error).toMatchObject(error);
    expect(rest.slice(ERRORS.length)).toMatchObject([{ value: { still: 'there' } }, {}]);
    expect(rest.at(-1)?.error).toBeUndefined();
    const logs = [logFile, join(folder, 'runtime-rank-1.log')].filter(existsSync); // a rank's lines stand by themselves
    expect(logs).toHaveLength('ranks' in options ? options.ranks.devices : 1);
    for (const log of logs) {
      const lines = readFileSync(log, 'utf8').split('\n');
      expect(lines[0] === 'an earlier run').toBe(log === logFile);
      expect(lines.filter((line) => line.startsWith('shout')).sort()).toEqual(SHOUTS);
    }
    expect([isAlive(pidOf(started)), findLeft()]).toEqual([false, []]);
  });

  test.each([
    ['exits', call('leave', { code: 7 }), /left with exit code 7 during `leave`/, [], []],
    ['crashes', call('segfault'), /was killed by SIGSEGV during `segfault`/, [/in segfault/], []],
    [
      'is killed by us',
      { do: 'killDuring', verb: 'hang' } as Step,
      /was stopped during `hang`/,
      [],
      [start(options), call('echo', { back: 1 }), CLOSE], // another one starts
    ],
  ])('%s: an error at once, and a second call fails too', async (_how, step, message, lines, again) => {
    const outcomes = await play([start(options), step, call('echo'), CLOSE, ...again]);
    const [started, failed, second, close, restarted = {}, echo = {}] = outcomes;
    expect(failed?.error).toMatchObject({ name: 'RuntimeFailure', message: expect.stringMatching(message) });
    expect(failed?.seconds).toBeLessThan(seconds);
    for (const line of lines) expect(failed?.error?.lines?.join('\n')).toMatch(line);
    expect(second?.error).toMatchObject({ name: 'RuntimeFailure', message: failed?.error?.message });
    expect(close?.error).toBeUndefined();
    expect(echo?.value).toEqual(again.length === 0 ? undefined : { back: 1 });
    const pids = [started, ...(again.length === 0 ? [] : [restarted])].map(pidOf);
    expect([pids.filter(isAlive), findLeft()]).toEqual([[], []]);
  });
});
