/** How counts and other people's names are written. */
import { stripVTControlCharacters } from 'node:util';
import { describe, expect, jest, test } from '@jest/globals';
import { showPath, UserError } from '../src/base/errors.ts';
import { formatTable } from '../src/base/format.ts';
import { Report, reportError } from '../src/base/printer.ts';
import { makeSafe, plural, wrapWords } from '../src/base/words.ts';
import { fitTable } from '../src/results/sweep-status.ts';

test.each([
  [0, 'video', '0 videos'],
  [1, 'video', '1 video'],
  [2, 'video', '2 videos'],
  [1, 'class', '1 class'],
  [3, 'class', '3 classes'],
  ['1', 'train clip', '1 train clips'], // a text is not a count
])('%s %s is written "%s"', (count, noun, words) => expect(plural(count, noun)).toBe(words));

describe('a name from outside', () => {
  const evil = 'a\x1b[31m\x07\x9bred\u202egpj.mp4\r';
  const safe = 'a\\u001b[31m\\u0007\\u009bred\\u202egpj.mp4\\u000d';

  test('is written so that a terminal does not obey it; tab, line feed and letters stay', () => {
    expect(makeSafe(evil)).toBe(safe);
    expect(makeSafe('Ünï 目\t-\n')).toBe('Ünï 目\t-\n');
  });

  test('is safe wherever it is printed, and the same name in a line of JSON', () => {
    const written: string[] = [];
    const take = (text: unknown): boolean => written.push(String(text)) > 0;
    const spies = [process.stdout, process.stderr].map((stream) =>
      jest.spyOn(stream, 'write').mockImplementation(take as never),
    );
    try {
      for (const json of [false, true]) {
        const report = new Report({ json });
        report.print(evil);
        report.note(evil);
        report.event({ kind: 'bad_video', path: evil, reason: evil, num_bad: 1, num_videos: 2 });
        reportError(new UserError(`${evil}  does not exist.`), json);
      }
    } finally {
      for (const spy of spies) spy.mockRestore();
    }
    expect(written).toHaveLength(9);
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must not be there
    for (const text of written) expect(text).not.toMatch(/[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]/);
    const events = written.filter((text) => text.startsWith('{')).map((text) => JSON.parse(text));
    expect(events).toMatchObject([{ path: evil }, { message: `${evil}  does not exist.` }]);
  });

  test('a status that is drawn again takes the place of the last one, and what it shows moves nothing', async () => {
    let written = '';
    const take = (text: string): boolean => {
      written += text;
      return true;
    };
    const spy = jest.spyOn(process.stdout, 'write').mockImplementation(take as never);
    try {
      const report = new Report();
      await report.redraw(`one\n${evil}`);
      expect(stripVTControlCharacters(written)).toBe(`one\n${safe}\n`);
      written = '';
      await report.redraw('two');
      expect(stripVTControlCharacters(written)).toBe('two\n');
      expect(written.split('\u001b[2K')).toHaveLength(4); // the two lines and the one below are wiped
    } finally {
      spy.mockRestore();
    }
  });
});

test('a table that is wider than the terminal is told row by row', () => {
  const rows = [
    ['cohort', 'state', 'step', 'left'],
    ['c0001', 'running', '120/300', '00:10:00'],
    ['c0002', 'waiting', '-', '-'],
  ];
  expect(fitTable(rows, 40)).toBe(formatTable(rows));
  expect(fitTable(rows, 30)).toBe(
    'cohort c0001, state running,\n  step 120/300, left 00:10:00\ncohort c0002, state waiting',
  );
});

test('a name with a line feed stays on its line', () => {
  expect(showPath('/a\nb/c.mp4')).toBe('/a\\u000ab/c.mp4');
});

test('text is broken at blanks, a long path behind a slash, and what has neither where the line ends', () => {
  expect(wrapWords('its log is /data/runs/one/cohorts/c0001/cohort.log', 24)).toBe(
    'its log is\n  /data/runs/one/\n  cohorts/c0001/\n  cohort.log',
  );
  expect(wrapWords(`c0001  failed\n${'x'.repeat(15)} a`, 10)).toBe('c0001\n  failed\nxxxxxxxx\n  xxxxxxx\n  a');
  expect(wrapWords('fits as it is', Number.POSITIVE_INFINITY)).toBe('fits as it is');
});
