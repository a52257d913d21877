/** The small language of `data.augment`, which py/coldframe/data/augment.py reads. */

import { show } from './keys.ts';

/** Operations with a weight above 0, of which `w0` draws without repeats (timm's weights, as in augment.py). */
const NUM_WEIGHTED = 13;

/** Returns what Python would refuse in a policy of RandAugment, undefined when nothing. */
export function explainPolicy(policy: string): string | undefined {
  const [kind, ...sections] = policy.split('-');
  const problems = kind === 'rand' ? [] : [`${show(kind)} is not "rand"`];
  const options = new Map<string, number>();
  for (const section of sections) {
    const [, name, value = ''] = /^(mstd(?=\d)|m|n|w|inc)(\d+(?:\.\d+)?)$/.exec(section) ?? [];
    if (name === undefined || (value.includes('.') && name !== 'mstd')) problems.push(`${show(section)} is not known`);
    else if (options.has(name)) problems.push(`${name} is given twice`);
    else options.set(name, Number(value));
  }
  const limits = { m: [0, 10], n: [1, options.has('w') ? NUM_WEIGHTED : 99], w: [0, 0], inc: [0, 1] } as const;
  for (const [name, [low, high]] of Object.entries(limits)) {
    const value = options.get(name) ?? low;
    if (value < low || value > high) problems.push(`${name}${value} is outside ${low}..${high}`);
  }
  if (problems.length === 0) return undefined;
  return (
    `found ${show(policy)}: ${problems.join('; ')}. Allowed: null, or rand, then any of -m<0..10> (magnitude), ` +
    '-n<count> (operations), -mstd<number> (deviation), -inc<0|1>, -w0, as in rand-m7-n4-mstd0.5-inc1.'
  );
}
