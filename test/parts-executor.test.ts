/** Where `features build --parts` runs: the description of a cluster that sweeps have, too. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from '@jest/globals';
import { chooseExecutor } from '../src/caches/parts/executor-choice.ts';
import { problemsOf } from './support.ts';

const folder = mkdtempSync(join(tmpdir(), 'parts-executor-test-'));
afterAll(() => rmSync(folder, { recursive: true }));

test('an executor is a word, or a file with the section of a sweep', () => {
  expect(chooseExecutor('slurm', 8, 'cpu')).toMatchObject({ kind: 'slurm', slots: 8, max_attempts: 3 });
  expect(chooseExecutor(undefined, 8, 'cpu')).toMatchObject({ kind: 'local', slots: 1 });
  const cluster = join(folder, 'cluster.yaml');
  writeFileSync(cluster, 'executor: {kind: local, slots: 2}\n');
  expect(chooseExecutor(cluster, 8, 'cpu')).toMatchObject({ kind: 'local', slots: 2 });
  const bad = join(folder, 'bad.yaml');
  writeFileSync(bad, 'base: x.yaml\nexecutor:\n  kind: slurn\n  slot: 2\n');
  const problems = problemsOf(() => chooseExecutor(bad, 2, 'cpu'));
  expect(problems).toHaveLength(2);
  expect(problems.join('\n')).toMatch(/bad\.yaml:4:3 {2}executor\.slot: unknown key\. Did you mean executor\.slots\?/);
  expect(problems.join('\n')).toMatch(/bad\.yaml:3:9 {2}executor\.kind: found "slurn"\. Allowed: .*slurm/);
  expect(problemsOf(() => chooseExecutor('slurn', 2, 'cpu')).join()).toMatch(
    /^--executor {2}there is no file slurn\. Allowed: local, slurm, ray, or a file with/,
  );
  writeFileSync(bad, 'base: x.yaml\n');
  expect(problemsOf(() => chooseExecutor(bad, 2, 'cpu')).join()).toMatch(/has no section executor/);
});
