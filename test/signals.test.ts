/** A closed terminal: the run is saved, or under nohup goes on. Ctrl-C and kills are in train.test.ts. */
import { mkdtempSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { makeClips, Running, writeConfig } from './support.ts';

const folder = realpathSync(mkdtempSync(join(tmpdir(), 'signals-test-')));
const config = writeConfig(folder);

beforeAll(makeClips);
afterAll(() => rmSync(folder, { recursive: true }));

test.each([
  ['saves the run and ends', 'saved', [], 130],
  ['changes nothing under nohup', 'kept', ['nohup'], 0],
] as const)('a closed terminal %s', async (_, name, before, code) => {
  const args = ['train', '--config', config, '--run-dir', join(folder, name), '--set', 'train.steps=6', '--json'];
  const running = new Running(args, { before: [...before] });
  await running.event('step', 1);
  running.signalGroup('SIGHUP');
  expect((await running.ended).code).toBe(code);
  const last = running.events.at(-1);
  expect(last?.kind).toBe(code === 0 ? 'finished' : 'interrupted');
});
