/** What a run tells a person: at once, while it goes on, and at its end. */
import { execFile } from 'node:child_process';
import { mkdtempSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { coldframe, ENVIRONMENT, type Ended, makeClips, PROJECT, readJson, writeConfig } from './support.ts';

jest.setTimeout(300_000); // torch is loaded four times, on a machine that others keep busy
const folder = realpathSync(mkdtempSync(join(tmpdir(), "it's spoken-")));
let config = '';
const train = (runDir: string, env: NodeJS.ProcessEnv = {}): Promise<Ended> =>
  coldframe(['train', '--config', config, '--run-dir', runDir], { cwd: folder, env });

beforeAll(async () => {
  await makeClips();
  config = writeConfig(folder);
});
afterAll(() => rmSync(folder, { recursive: true }));

test('the first lines need no Python: folder, device, and what is loaded', async () => {
  const { stdout, stderr } = await train('early', { COLDFRAME_PYTHON: '/none/python' });
  expect(stdout).toMatch(
    /^Run folder: early\nDevice: cpu\. Loading PyTorch, tiny \(random weights\), .*train\.txt, .*val\.txt \.\.\.\n$/,
  );
  expect(stderr).toContain('/none/python');
  expect(stderr).not.toContain('\x1b');
});

test('the end says result, best step, place and commands that can be pasted; a finished run says it again', async () => {
  const { stdout, stderr } = await train('run', { FORCE_COLOR: '1' });
  expect(stderr).toBe(''); // no bar without a terminal
  expect(stdout).toContain('\n24 clips to train on, 12 to evaluate on; 8 steps of 4 clips\n');
  const [, end = ''] = stdout.split('finished at step 8\n');
  const { results } = readJson<{ results: { main: { top1: number } } }>(folder, 'run/evaluations/step-8/result.json');
  const top1 = (100 * results.main.top1).toFixed(2);
  expect(end).toMatch(
    new RegExp(`^result  top-1 ${top1} % \\(95 %: [\\d.]+ to [\\d.]+ %\\), top-5 .* on 12 videos, at step 8\\n`),
  );
  expect(end).toMatch(/\nbest {4}step [48](, the last,)? of 2 evaluations/);
  expect(end).toMatch(/\nplace {3}run \(/);
  const commands = end.split('\n').flatMap((line) => /(coldframe .*)/.exec(line)?.[1] ?? []);
  expect(commands.map((command) => command.split(' ')[1])).toEqual(['evaluate', 'predict']);

  const path = [join(PROJECT, 'scripts'), process.env.PATH].join(delimiter);
  const pasted = await promisify(execFile)('bash', ['-ec', commands.join('\n')], {
    cwd: folder,
    env: { ...ENVIRONMENT, PATH: path },
  });
  expect(pasted.stdout).toContain('evaluated at step 8: top-1');
  expect(pasted.stdout).toMatch(/val\/.*\.mp4\n +[\d.]+ % {2}/);

  const again = await train('run');
  expect(again.stdout.endsWith(`finished at step 8\n${end}`)).toBe(true);
});
