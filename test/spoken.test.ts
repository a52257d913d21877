/** What a run tells a person: at once, while it goes on, and at its end. */
import { execFile } from 'node:child_process';
import { mkdtempSync, readdirSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { percent } from '../src/base/format.ts';
import { loadConfig } from '../src/config/load.ts';
import { plainCohort } from '../src/run/cohort-file.ts';
import { RunFolder } from '../src/run/folder.ts';
import { describeOutcome } from '../src/run/outcome.ts';
import { coldframe, ENVIRONMENT, type Ended, makeClips, PROJECT, readJson, writeConfig } from './support.ts';

jest.setTimeout(300_000); // torch is loaded four times, on a machine that others keep busy
const folder = realpathSync(mkdtempSync(join(tmpdir(), "it's spoken-")));
let config = '';
const set = ['run.keep_best=true', 'run.keep_checkpoints=1', 'run.save_every=100', 'eval.every=1', 'train.lr=0.003'];
const train = (runDir: string, env: NodeJS.ProcessEnv = {}): Promise<Ended> => {
  const more = set.flatMap((pair) => ['--set', pair]);
  return coldframe(['train', '--config', config, '--run-dir', runDir, ...more], { cwd: folder, env });
};
interface Stored {
  list: { sha256: string };
  results: { main: { top1: number } };
}
const readResult = (step: number): Stored => readJson(folder, `run/evaluations/step-${step}/result.json`);

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
  const top1s = [1, 2, 3, 4, 5, 6, 7, 8].map((step) => readResult(step).results.main.top1);
  const interval = '\\(95 %: [\\d.]+ to [\\d.]+ %\\)';
  const top1 = percent(top1s.at(-1));
  expect(end).toMatch(new RegExp(`^result  top-1 ${top1} ${interval}, top-5 .* ${interval} on 12 videos, at step 8\n`));
  const best = top1s.lastIndexOf(Math.max(...top1s)) + 1;
  const more = `: top-1 ${percent(top1s[best - 1])}; run/checkpoints/best; chosen on val.txt, where this is too good to be true`;
  expect(end).toContain(
    `\nbest    step ${best}${best === 8 ? ', the last,' : ''} of 8 evaluations${best === 8 ? '' : more}\n`,
  );
  const steps = new Set([`step-${best}`, 'step-8']);
  expect(readdirSync(join(folder, 'run/checkpoints')).sort()).toEqual(['best', 'latest', ...steps]);
  expect(readJson(folder, 'run/checkpoints/best/checkpoint.json')).toMatchObject({ step: best });
  const { sha256 } = readResult(8).list;
  const trials = { main: { step: best, value: Math.max(...top1s) } };
  expect(readJson(folder, 'run/evaluations/best.json')).toMatchObject({ metric: 'top1', list: { sha256 }, trials });
  expect(end).toMatch(/\nplace {3}run: checkpoints\/latest, evaluations\/step-8 \(result\.json, scores\.npz, /);
  const [exporting, ...commands] = end
    .split('\n')
    .flatMap((line) => /(coldframe .*)/.exec(line)?.[1] ?? [])
    .reverse();
  expect(exporting).toBe('coldframe export onnx run/checkpoints/best --output run/model.onnx'); // test/export.test.ts
  expect(commands.map((command) => command.split(' ')[1])).toEqual(['predict', 'report']);

  const path = [join(PROJECT, 'scripts'), process.env.PATH].join(delimiter);
  const pasted = await promisify(execFile)('bash', ['-ec', commands.join('\n')], {
    cwd: folder,
    env: { ...ENVIRONMENT, PATH: path },
  });
  expect(pasted.stdout).toMatch(/val\/.*\.mp4\n +[\d.]+ % {2}/);

  const again = await train('run');
  expect(again.stdout.endsWith(`finished at step 8\n${end}`)).toBe(true);

  expect(end).not.toContain('could not be read');
  writeFileSync(join(folder, 'run/bad-videos.tsv'), 'a.mp4\tis cut off\ttrain\nb.mp4\tis empty\tval\n');
  const run = new RunFolder(join(folder, 'run'));
  expect(describeOutcome(run, plainCohort(loadConfig(config).config))).toMatch(
    /\nbad +2 videos could not be read: .*run\/bad-videos\.tsv'?\. `coldframe check --probe \S*train\.txt \S*val\.txt` finds the rest\.\n/,
  );
});
