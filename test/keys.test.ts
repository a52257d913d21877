/** `keys`, and the small languages inside values. */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import { explainPolicy } from '../src/config/augment-policy.ts';
import { findKey, KEYS } from '../src/config/keys.ts';
import { coldframe, ENVIRONMENT, PROJECT, PYTHON } from './support.ts';

describe('keys', () => {
  test('names every key with its type, default and meaning', async () => {
    const { code, stdout } = await coldframe(['keys', '--json']);
    expect(code).toBe(0);
    const events = stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(events.map(({ key }) => key)).toEqual([...KEYS.keys()]);
    expect(events.filter(({ about }) => about === '')).toEqual([]);
    expect(events.find(({ key }) => key === 'train.lr')).toMatchObject({
      kind: 'key',
      allowed: 'a number above 0',
      default: 4e-4,
    });
  });

  test.each([
    ['learning_rate', ['train.lr']],
    ['model.head', ['model.head.dropout']],
    ['RandAugment', ['data.augment']],
  ])('finds "%s" by name, other name or meaning', async (pattern, keys) => {
    const { stdout } = await coldframe(['keys', pattern]);
    expect([...stdout.matchAll(/^(\S+) {2}\[/gm)].map(([, key]) => key)).toEqual(keys);
  });

  test('says when there is none', async () => {
    expect(await coldframe(['keys', 'zzz'])).toMatchObject({
      code: 2,
      stderr: expect.stringMatching(/^keys {2}none has zzz/),
    });
  });
});

test.each([
  ['lr', 'train.lr'],
  ['batch-size', 'train.batch_size'],
  ['data.num_workers', 'data.num_workers'],
  ['constructor', undefined], // no name of JavaScript's own
])('the word %s means the key %s', (word, key) => expect(findKey(word)?.key).toBe(key));

test('a policy of RandAugment is refused here exactly where Python refuses it', () => {
  const policies = [
    'rand',
    'rand-m7-n4-mstd0.5-inc1',
    'rand-w0-n13',
    'rand-w0-n14',
    'rand-n99',
    'rand-n100',
    'rand-n0',
  ];
  policies.push(
    'foo',
    'rand-',
    'rand-m11',
    'rand-m5.5',
    'rand-m1-m2',
    'rand-mstd',
    'rand-mstd2',
    'rand-inc2',
    'rand-w1',
    'Rand',
    '',
  );
  const program = `
import json, sys
from coldframe.data.augment import RandAugment
def takes(policy):
    try:
        return RandAugment(policy) is not None
    except Exception:
        return False
print(json.dumps([takes(policy) for policy in json.load(sys.stdin)]))`;
  const output = execFileSync(PYTHON, ['-c', program], {
    ...{ input: JSON.stringify(policies), encoding: 'utf8', env: { ...ENVIRONMENT, PYTHONPATH: join(PROJECT, 'py') } },
  });
  const taken: boolean[] = JSON.parse(output);
  expect(taken).toContain(true);
  expect(taken).toContain(false);
  expect(policies.map((policy) => explainPolicy(policy) === undefined)).toEqual(taken);
});
