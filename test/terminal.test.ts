/** The line that moves, and when there is colour. */
import { describe, expect, test } from '@jest/globals';
import { canMove, formatEta, layOut, MovingLine, paint, paintPlaces, wantsColour } from '../src/base/terminal.ts';

const TRAIN = { what: 'train', value: 120, total: 300, loss: 1.23456, etaSeconds: 83, detail: '3.1 clips/s' };
const SWEEP = { what: 'sweep', value: 0, total: 12, share: 0.4, place: 'c0001 120/300', loss: 0.5, etaSeconds: 3723 };

describe('the line of a progress', () => {
  test.each([
    [100, 'train 120/300 loss 1.235 [===========                 ] 3.1 clips/s ETA 01:23'],
    [59, 'train 120/300 loss 1.235 [====      ] 3.1 clips/s ETA 01:23'],
    [39, 'train 120/300 loss 1.235 ETA 01:23'],
    [20, '120/300 ETA 01:23'],
    [12, 'ETA 01:23'],
  ])('on %s columns', (width, line) => expect(layOut(TRAIN, width)).toBe(line));

  test.each([
    [79, 'sweep 0/12 c0001 120/300 loss 0.5 [===========                 ] ETA 1:02:03'],
    [39, '0/12 c0001 120/300 loss 0.5 ETA 1:02:03'],
  ])('of a sweep on %s columns shows its cohort', (width, line) => expect(layOut(SWEEP, width)).toBe(line));

  test('fits every width, however long its numbers, and keeps the ETA', () => {
    const long = { ...SWEEP, value: 12345, total: 30000, place: 'c0001 evaluates 1234/20000', etaSeconds: 360000 };
    for (let width = 13; width <= 160; width++) {
      expect(layOut(long, width).length).toBeLessThanOrEqual(width);
      expect(layOut(long, width)).toMatch(/ETA 100:00:00$/);
    }
    expect(layOut({ ...TRAIN, value: 12345, total: 50000 }, 39)).toBe('train 12345/50000 loss 1.235 ETA 01:23');
  });

  test('says so where it does not know how long', () => {
    expect(layOut({ what: 'clips', value: 0, total: 0 }, 39)).toMatch(/^clips 0\/0 \[ +\] ETA --:--$/);
    expect([formatEta(59.6), formatEta(3599), formatEta(3600)]).toEqual(['01:00', '59:59', '1:00:00']);
  });
});

describe('the moving line', () => {
  const open = (columns: number) => {
    const written: string[] = [];
    const stream = { columns, isTTY: true, write: (text: string) => written.push(text) };
    return { line: new MovingLine(stream as never), written, stream };
  };

  test('leaves the last column free, as wide as the terminal is now', () => {
    const { line, written, stream } = open(40);
    line.show(TRAIN);
    stream.columns = 61;
    line.show({ ...TRAIN, value: 300 });
    expect(written.map((text) => text.length - '\r\x1b[K'.length)).toEqual([
      'train 120/300 loss 1.235 ETA 01:23'.length,
      60,
    ]);
    line.clear();
    line.clear();
    expect(written.slice(2)).toEqual(['\r\x1b[K']);
  });

  test('has the total of what goes on now, not of what went on before', () => {
    const { line, written } = open(80);
    line.show(TRAIN);
    line.show({ what: 'evaluate', value: 10, total: 200 });
    expect(written[1]).toContain('evaluate 10/200');
  });

  test('is drawn where a cursor can move only', () => {
    expect(canMove({ isTTY: true }, { TERM: 'xterm' })).toBe(true);
    expect(canMove({ isTTY: true }, { TERM: 'dumb' })).toBe(false);
    expect(canMove({}, { TERM: 'xterm' })).toBe(false);
  });
});

describe('colour', () => {
  test.each([
    [true, {}, true],
    [false, {}, false],
    [true, { NO_COLOR: '1' }, false],
    [true, { NO_COLOR: '' }, true],
    [true, { TERM: 'dumb' }, false],
    [false, { FORCE_COLOR: '1' }, true],
    [false, { FORCE_COLOR: '' }, true],
    [true, { FORCE_COLOR: '0' }, false],
    [true, { FORCE_COLOR: '1', NO_COLOR: '1' }, true],
  ])('on a terminal: %s, with %j: %s', (isTTY, env, wanted) => expect(wantsColour({ isTTY }, env)).toBe(wanted));

  test('is on each line by itself, and of a problem on its place only', () => {
    const terminal = { isTTY: true };
    delete process.env.NO_COLOR;
    process.env.TERM = 'xterm';
    expect(paint('a\n\nb', 'yellow', terminal)).toBe('\x1b[33ma\x1b[0m\n\n\x1b[33mb\x1b[0m');
    expect(paint('a', 'red', {})).toBe('a');
    expect(paintPlaces('train.lr  is odd.  Twice.\nSee --help\n  at x', 'red', terminal)).toBe(
      '\x1b[31mtrain.lr\x1b[0m  is odd.  Twice.\n\x1b[31mSee --help\x1b[0m\n  at x',
    );
  });
});
