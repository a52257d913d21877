/** A plan in hours: only from a step of the same work. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from '@jest/globals';
import { loadConfig } from '../src/config/load.ts';
import { findMeasuredStep } from '../src/run/measured-step.ts';
import { writeConfig } from './support.ts';

const folder = mkdtempSync(join(tmpdir(), 'measured-'));
afterAll(() => rmSync(folder, { recursive: true }));

test("the median of the last steps of the base's run, where that did the same work", () => {
  const base = writeConfig(folder, 'base');
  const { config } = loadConfig(base, { set: ['data.classes=null', 'data.num_classes=8'] });
  expect(findMeasuredStep(base, config, folder)).toBeNull(); // no run yet
  const dir = join(folder, 'base');
  mkdirSync(dir);
  const stepOf = (step: number) =>
    JSON.stringify({ time: '', kind: 'step', step, step_seconds: step < 5 ? 90 : step / 10 });
  const lines = Array.from({ length: 24 }, (_, index) => stepOf(index + 1));
  writeFileSync(join(dir, 'events.jsonl'), `{"kind":"started"}\n${lines.join('\n')}\n`);
  writeFileSync(join(dir, 'config.json'), JSON.stringify({ format: 2, ...config }));
  expect(findMeasuredStep(base, config, folder)).toEqual({ seconds: 1.5, dir }); // of 0.5 to 2.4
  const other = { ...config, train: { ...config.train, batch_size: 32 } };
  expect(findMeasuredStep(base, other, folder)).toBeNull();
});
