/** A Python that dies before the run has begun; one that dies on the way is in train.test.ts. */
import { mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { coldframe, hashTensors, makeClips, PYTHON, Running, writeConfig } from './support.ts';

jest.setTimeout(300_000); // on a machine that others keep busy
const folder = realpathSync(mkdtempSync(join(tmpdir(), 'restarts-test-')));

beforeAll(makeClips);
afterAll(() => rmSync(folder, { recursive: true }));

test('a first start that fails is a restart, where restarts are allowed', async () => {
  const python = join(folder, 'python');
  const fails = `[ -e ${python}.failed ] || { touch ${python}.failed; exit 9; }`;
  writeFileSync(python, `#!/bin/sh\n${fails}\nexec ${PYTHON} "$@"\n`, { mode: 0o755 });
  const set = ['train.steps=2', 'launch.max_restarts=1'].flatMap((pair) => ['--set', pair]);
  const args = (name: string) => ['train', '--config', writeConfig(folder), ...set, '--run-dir', join(folder, name)];

  const late = new Running([...args('late'), '--json'], { env: { COLDFRAME_PYTHON: python } });
  expect((await late.ended).code).toBe(0);
  expect(late.events.slice(0, 2)).toMatchObject([
    { kind: 'restarted', why: expect.stringContaining('left with exit code 9') },
    { kind: 'started', step: 0 },
  ]);
  expect(await coldframe(args('at-once'))).toMatchObject({ code: 0 });
  expect(hashTensors(join(folder, 'late'), 2)).toEqual(hashTensors(join(folder, 'at-once'), 2));
});
