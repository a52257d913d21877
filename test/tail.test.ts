/** `tail`: journals as runs write them, while they go on and after. */
import { appendFileSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { expect, test } from '@jest/globals';
import { Report } from '../src/base/printer.ts';
import { JournalReader, tailRun } from '../src/results/tail.ts';
import { describeWriter } from '../src/run/liveness.ts';
import { useOwnFolder } from './own-folder.ts';
import { coldframe, Running } from './support.ts';

const { folder, at, said } = useOwnFolder('tail-test-');
const event = (kind: string, step: number, more: object = {}): string =>
  `${JSON.stringify({ time: '2026-11-28T00:00:00.000Z', kind, step, ...more })}\n`;
const saved = (step: number): string => event('saved', step, { path: `/runs/a/checkpoints/step-${step}` });
const finished = event('finished', 8, { trials: { main: { top1: 0.5, top5: 1 } } });
const journal = (text: string): void => writeFileSync(at('events.jsonl'), text);
const status = (state: string, more: object = {}): void => {
  writeFileSync(at('new'), JSON.stringify({ state, step: 4, steps: 8, ...describeWriter(), ...more }));
  renameSync(at('new'), at('status.json'));
};
const tail = (lines: number, json = false): Promise<void> => tailRun(folder, lines, new Report({ json }));

test('of a run that has ended the last events are told, in words or as they were written', async () => {
  journal(saved(2) + saved(4) + finished);
  status('finished');
  await tail(2);
  expect(said.join('')).toBe('saved /runs/a/checkpoints/step-4\nfinished at step 8\n');
  said.length = 0;
  await tail(1, true);
  expect(said.join('')).toBe(finished);
  said.length = 0;
  await tail(0);
  expect(said).toEqual([]);
});

test('what comes is told as it comes, whole lines only; it ends when the run says that it has', async () => {
  journal(saved(2));
  status('running');
  const running = new Running(['tail', folder, '--json']);
  await running.event('saved', 2);
  const line = saved(4);
  appendFileSync(at('events.jsonl'), line.slice(0, 40));
  appendFileSync(at('events.jsonl'), line.slice(40) + saved(6));
  await running.event('saved', 6);
  status('finished'); // a run writes its status first
  appendFileSync(at('events.jsonl'), finished);
  const { code, stdout, stderr } = await running.ended;
  expect([code, stderr]).toEqual([0, '']);
  expect(stdout).toBe(readFileSync(at('events.jsonl'), 'utf8'));
});

test('half a line is told when it is whole; a journal in the place of another is read from its beginning', () => {
  const reader = new JournalReader(at('events.jsonl'));
  const steps = () => reader.readEvents(folder).map(({ step }) => step);
  expect(steps()).toEqual([]); // not there yet
  journal(saved(2) + saved(4).slice(0, 40));
  expect(steps()).toEqual([2]);
  appendFileSync(at('events.jsonl'), saved(4).slice(40));
  expect([steps(), steps()]).toEqual([[4], []]);
  renameSync(at('events.jsonl'), at('aside.jsonl'));
  journal(saved(1) + saved(2) + saved(3));
  expect(steps()).toEqual([1, 2, 3]);
});

test('a run that was killed, and one that failed, say so, and where the next start goes on', async () => {
  journal(saved(2) + event('failed', 4, { where: 'UserError', message: 'a.mp4  cannot be read' }));
  status('running', { birth: 'gone:1' });
  mkdirSync(at('checkpoints', 'step-2'), { recursive: true });
  writeFileSync(at('checkpoints', 'step-2', 'checkpoint.json'), '{}');
  await tail(1);
  expect(said.join('')).toMatch(
    / {2}is stopped: its process is gone\nThe same `train` command goes on from step 2\.\n$/,
  );
  status('failed', { message: 'a.mp4  cannot be read' });
  said.length = 0;
  await tail(1);
  expect(said.join('')).toMatch(/ {2}failed: a\.mp4 {2}cannot be read\n/);
});

test('trials of a cohort are told together, and a line of another version as it is', async () => {
  const evaluated = { top1: 0.5, top5: 1, num_videos: 40, num_bad: 0, views: 3, list: null };
  const trials = ['t1', 't2'].map((trial, index) =>
    event('evaluated', 4, { trial, ...evaluated, top1: 0.5 + index / 10 }),
  );
  const odd = event('predicted', 4, { unknown: true }); // words for it need fields that it has not
  journal(trials.join('') + odd + event('interrupted', 4));
  status('interrupted');
  await tail(3);
  expect(said.join('')).toBe(
    'evaluated 2 trials at step 4: top-1 best 60.00 % (t2), mean 55.00 % on 40 videos, 3 views\n' +
      `${odd}interrupted at step 4; the same command goes on from there\n`,
  );
});

test('a folder without a run, a sweep and a torn journal are named with what to do', async () => {
  await expect(tailRun(at('none'), 9, new Report())).rejects.toThrow('none  does not exist. Give a run folder');
  await expect(tail(9)).rejects.toThrow('holds no events.jsonl: no run has begun there');
  mkdirSync(at('cohorts', 'c0002'), { recursive: true });
  writeFileSync(at('journal.jsonl'), '');
  await expect(tail(9)).rejects.toThrow(`coldframe tail ${at('cohorts', 'c0002')}.`);
  journal(`${saved(2)}half a li\n`);
  expect(await coldframe(['tail', folder])).toMatchObject({
    ...{ code: 2, stderr: `${at('events.jsonl')}:2  is not valid JSON. Remove this line.\n` },
  });
});
