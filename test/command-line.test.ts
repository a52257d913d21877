/** The words of a command line, before anything parses them. */
import { describe, expect, test } from '@jest/globals';
import { arrangeWords, readName, wantsJson } from '../src/commands/command-line.ts';

const VERBS = ['train', 'predict', 'doctor', 'import-command', 'bench', 'weights', 'sweep'];
const arrange = (line: string): string[] => arrangeWords(line.split(' ').filter(Boolean), VERBS);

test.each([
  ['', '--help'],
  ['help', '--help'],
  ['help weights fetch', 'weights fetch --help'],
  ['weights', 'weights --help'],
  ['sweep', 'sweep'],
  ['--json doctor', 'doctor --json'],
  ['--config a.yaml train --dry-run', 'train --config a.yaml --dry-run'],
  ['bench step -- --device cuda', 'bench step -- --device cuda'],
  ['import-command python main.py --lr 1', 'import-command -- python main.py --lr 1'],
  ['import-command --output a.yaml torchrun main.py', 'import-command --output a.yaml -- torchrun main.py'],
  ['import-command -- python main.py', 'import-command -- python main.py'],
  ['import-command --script run.sh', 'import-command --script run.sh'],
])('"%s" is read as "%s"', (given, arranged) => expect(arrange(given).join(' ')).toBe(arranged));

describe('a name may begin with a dash', () => {
  test('after --, where every word is a name, and alone', () => {
    const words = arrange('predict --checkpoint x - -- -3B.mp4 --json a.mp4');
    expect(words.slice(0, 3)).toEqual(['predict', '--checkpoint', 'x']);
    expect(words.slice(3).some((word) => word.startsWith('-'))).toBe(false);
    expect(words.slice(3).map(readName)).toEqual(['-', '-3B.mp4', '--json', 'a.mp4']);
  });
});

test.each([
  ['doctor --json', true],
  ['doctor --json=true', true],
  ['--json doctor', true],
  ['doctor', false],
  ['doctor --json=false', false],
  ['doctor --json false', false],
  ['doctor --json=false --json', true],
  ['predict x -- --json', false],
])('"%s": JSON lines: %s', (line, wants) => expect(wantsJson(line.split(' '))).toBe(wants));
