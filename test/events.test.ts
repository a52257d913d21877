/** Events: what is documented is what is printed. Every run of the other tests with `--json` is checked by `checkEvent`. */
import { describe, expect, test } from '@jest/globals';
import { checkEvent, coldframe, type Event } from './support.ts';

describe('an event', () => {
  const saved: Event = { time: '2026-11-27T13:08:21.107Z', kind: 'saved', step: 2, path: 'runs/a' };

  test('has the fields of its kind', () => expect(checkEvent(saved)).toBe(saved));

  test.each([
    ['a field that is not documented', { ...saved, size: 3 }],
    ['a field of another type', { ...saved, path: 3 }],
    ['none of a field', { time: saved.time, kind: 'saved', step: 2 }],
    ['a kind that is not documented', { ...saved, kind: 'stored' }],
    ['no time', { ...saved, time: '' }],
  ])('with %s is refused', (_what, event) => expect(() => checkEvent(event)).toThrow('is no event'));

  test('of a short verb is checked as it is printed', async () => {
    const { stdout } = await coldframe(['keys', 'train.lr', '--json']);
    expect(JSON.parse(stdout)).toMatchObject({ kind: 'key', key: 'train.lr', default: 4e-4, step: null });
  });
});
